//! Where the planes of a Winograd convolution lie in memory.

use super::transforms::Transform;

/// Floats between planes, so that the lines of one tile do not all fall into one set of the cache.
pub(super) const GAP: usize = 32;

/// Most filter values of any algorithm.
const MAX_FILTERS: usize = 81;

/// The order of planes in memory, of one for each of `P` by `P` points: those that meet the same filters are neighbours, and so are one product.
pub(super) struct Planes<const P: usize> {
    /// Place of the plane of a point.
    place: [[usize; P]; P],
    /// Filters that it meets.
    group: [[usize; P]; P],
    /// First place of each group, and the end.
    first: [usize; MAX_FILTERS + 1],
    /// Groups.
    groups: usize,
}

impl<const P: usize> Planes<P> {
    pub(super) fn new<T: Transform<P, F, M>, const F: usize, const M: usize>() -> Self {
        let group = std::array::from_fn(|i| std::array::from_fn(|j| T::filter_of(i) * F + T::filter_of(j)));
        let mut first = [0; MAX_FILTERS + 1];
        for &group in group.iter().flatten() {
            first[group + 1] += 1;
        }
        for group in 0..F * F {
            first[group + 1] += first[group];
        }
        let mut next = first;
        let place = group.map(|row: [usize; P]| {
            row.map(|group| {
                next[group] += 1;
                next[group] - 1
            })
        });
        Self { place, group, first, groups: F * F }
    }

    /// Floats of all planes of `tiles` tiles with `depth` floats for each tile and plane.
    pub(super) fn len(&self, tiles: usize, depth: usize) -> usize {
        self.first[self.groups] * tiles * depth + self.groups * GAP
    }

    /// Planes in a group.
    pub(super) fn group_len(&self, group: usize) -> usize {
        self.first[group + 1] - self.first[group]
    }

    /// Most planes in one group.
    pub(super) fn most(&self) -> usize {
        (0..self.groups).map(|group| self.group_len(group)).max().unwrap_or(0)
    }

    /// Where the first tile of the first plane of a group is.
    pub(super) fn group_offset(&self, group: usize, tiles: usize, depth: usize) -> usize {
        self.first[group] * tiles * depth + group * GAP
    }

    /// Where each point's plane starts.
    pub(super) fn offsets(&self, tiles: usize, depth: usize) -> [[usize; P]; P] {
        std::array::from_fn(|i| std::array::from_fn(|j| self.place[i][j] * tiles * depth + self.group[i][j] * GAP))
    }
}
