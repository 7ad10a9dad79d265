//! Where the planes of a Winograd convolution lie in memory.

use super::transforms::Transform;

/// Floats between planes, so that the lines of one tile do not all fall into one set of the cache.
pub(super) const GAP: usize = 32;

/// Most filter values of any algorithm.
const MAX_FILTERS: usize = 81;

/// The order of planes in memory, of one for each of `POINTS` by `POINTS` points: those that meet the same filters are
/// neighbours, and so are one product.
pub(super) struct Planes<const POINTS: usize> {
    /// Place of the plane of a point.
    place: [[usize; POINTS]; POINTS],
    /// Filters that it meets.
    group: [[usize; POINTS]; POINTS],
    /// First place of each group, and the end.
    first: [usize; MAX_FILTERS + 1],
    /// Groups.
    groups: usize,
}

impl<const POINTS: usize> Planes<POINTS> {
    pub(super) fn new<T: Transform<POINTS, FILTER, OUTPUTS>, const FILTER: usize, const OUTPUTS: usize>() -> Self {
        let group = std::array::from_fn(|i| std::array::from_fn(|j| T::filter_of(i) * FILTER + T::filter_of(j)));
        let mut first = [0; MAX_FILTERS + 1];
        for &group in group.iter().flatten() {
            first[group + 1] += 1;
        }
        for group in 0..FILTER * FILTER {
            first[group + 1] += first[group];
        }
        let mut next = first;
        let place = group.map(|row: [usize; POINTS]| {
            row.map(|group| {
                next[group] += 1;
                next[group] - 1
            })
        });
        Self { place, group, first, groups: FILTER * FILTER }
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
    pub(super) fn offsets(&self, tiles: usize, depth: usize) -> [[usize; POINTS]; POINTS] {
        std::array::from_fn(|i| std::array::from_fn(|j| self.place[i][j] * tiles * depth + self.group[i][j] * GAP))
    }
}
