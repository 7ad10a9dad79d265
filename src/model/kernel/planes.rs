//! Where the planes of a Winograd convolution lie in memory.

use super::tile::MAX_PLANES;
use super::transforms::Transform;

/// Floats between planes, so that the lines of one tile do not all fall into one set of the cache.
pub(super) const GAP: usize = 32;

/// Most filter values of any algorithm.
const MAX_FILTERS: usize = 81;

/// The order of planes in memory: those that meet the same filters are neighbours, and so are one product.
pub(super) struct Planes {
    /// Place of the plane of point (i, j), at `i * P + j`.
    pub(super) place: [usize; MAX_PLANES],
    /// Filters that this plane meets.
    pub(super) group: [usize; MAX_PLANES],
    /// First place of each group, and the end.
    pub(super) first: [usize; MAX_FILTERS + 1],
    /// Groups.
    pub(super) groups: usize,
    /// Most planes in one group.
    pub(super) most: usize,
}

impl Planes {
    pub(super) fn new<T: Transform<P, F, M>, const P: usize, const F: usize, const M: usize>() -> Self {
        let mut planes = Self {
            place: [0; MAX_PLANES],
            group: [0; MAX_PLANES],
            first: [0; MAX_FILTERS + 1],
            groups: F * F,
            most: 0,
        };
        let mut place = 0;
        for group in 0..F * F {
            planes.first[group] = place;
            for plane in 0..P * P {
                if T::filter_of(plane / P) * F + T::filter_of(plane % P) == group {
                    planes.place[plane] = place;
                    planes.group[plane] = group;
                    place += 1;
                }
            }
            planes.first[group + 1] = place;
            planes.most = planes.most.max(place - planes.first[group]);
        }
        planes
    }

    /// Floats of all planes of `tiles` tiles with `depth` floats for each tile and plane.
    pub(super) fn len(&self, tiles: usize, depth: usize) -> usize {
        self.first[self.groups] * tiles * depth + self.groups * GAP
    }

    /// Where the first tile of the first plane of a group is.
    pub(super) fn group_offset(&self, group: usize, tiles: usize, depth: usize) -> usize {
        self.first[group] * tiles * depth + group * GAP
    }

    /// Where each point's plane starts.
    pub(super) fn offsets(&self, tiles: usize, depth: usize) -> [usize; MAX_PLANES] {
        std::array::from_fn(|plane| self.place[plane] * tiles * depth + self.group[plane] * GAP)
    }
}
