//! What is summed, and by what weights.

use std::{marker::PhantomData, ops::Range};

use super::{
    Sample,
    filter::{Filter, Part, by_distance},
    smaller::{self, Smaller},
};

/// Bits behind the point of a weighted sum: with eight before it, a sign, and one for filters that overshoot, as many as
/// there are. Pillow's `PRECISION_BITS`.
pub(super) const SUM_BITS: u32 = 22;

/// Of each sample that is made along a side: those that are summed, and their weights.
#[derive(Debug, Clone)]
pub struct Weights<S> {
    windows: Vec<Window>,
    weights: Vec<i32>,
    sample: PhantomData<S>,
}

#[derive(Debug, Clone)]
struct Window {
    /// The first sample.
    first: usize,
    /// Its weight, and those of the samples behind it.
    weights: Range<usize>,
}

impl<S: Sample> Weights<S> {
    /// Weights by distance for a part of a side of `size` samples. `None` without samples.
    pub fn new(filter: Filter, part: Part, size: usize) -> Option<Self> {
        let mut weights = Self { windows: Vec::with_capacity(part.to), weights: Vec::new(), sample: PhantomData };
        for at in 0..part.to {
            let (first, own) = by_distance(filter, part, at, size)?;
            weights.push(first, &own);
        }
        Some(weights)
    }

    /// Weights for a part of a side's pixels, of which there are only the samples of a smaller picture. `None` without
    /// them.
    pub fn of_smaller(filter: Filter, part: Part, side: Smaller) -> Option<Self> {
        let mut weights = Self { windows: Vec::with_capacity(part.to), weights: Vec::new(), sample: PhantomData };
        let estimates = smaller::estimates(side.per_block);
        for at in 0..part.to {
            let (first, own) = smaller::by_estimate(filter, part, at, side, estimates)?;
            weights.push(first, &own);
        }
        Some(weights)
    }

    /// How many samples are made.
    pub fn len(&self) -> usize {
        self.windows.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.windows.is_empty()
    }

    /// The samples that count for any.
    pub fn reads(&self) -> Range<usize> {
        let start = self.windows.iter().map(|window| window.first).min().unwrap_or(0);
        let end = self.windows.iter().map(|window| window.first + window.weights.len()).max().unwrap_or(0);
        start..end
    }

    /// The first sample that counts for each, and the weights from there on.
    pub(super) fn windows(&self) -> impl Iterator<Item = (usize, &[i32])> {
        self.windows.iter().map(|window| (window.first, &self.weights[window.weights.clone()]))
    }

    fn push(&mut self, first: usize, weights: &[f64]) {
        let start = self.weights.len();
        let one = f64::from(1u32 << (SUM_BITS - S::FRACTION));
        self.weights.extend(weights.iter().map(|weight| (weight * one).round() as i32));
        self.windows.push(Window { first, weights: start..self.weights.len() });
    }
}
