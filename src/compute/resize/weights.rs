//! What is summed, and by what weights.

use std::{marker::PhantomData, ops::Range};

use super::{
    Sample,
    smaller::{self, Smaller},
};

/// Bits behind the point of a weighted sum: with eight before it, a sign, and one for filters that overshoot, as many as
/// there are. Pillow's `PRECISION_BITS`.
pub(super) const SUM_BITS: u32 = 22;

/// How much the samples around a place count, by their distance. Filters are as wide as what becomes one sample, so
/// that smaller pictures are smooth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Filter {
    /// Less in proportion to the distance: Pillow's `BILINEAR`, as torchvision's `antialias=True`.
    Triangle,
    /// A cubic that sharpens: Pillow's `BICUBIC`.
    CatmullRom,
}

impl Filter {
    /// The distance beyond which nothing counts.
    const fn support(self) -> f64 {
        match self {
            Self::Triangle => 1.0,
            Self::CatmullRom => 2.0,
        }
    }

    fn at(self, distance: f64) -> f64 {
        let x = distance.abs();
        match self {
            Self::Triangle => (1.0 - x).max(0.0),
            // Keys, "Cubic convolution interpolation for digital image processing" (1981), with a = -1/2.
            Self::CatmullRom if x < 1.0 => (1.5 * x - 2.5) * x * x + 1.0,
            Self::CatmullRom if x < 2.0 => ((-0.5 * x + 2.5) * x - 4.0) * x + 2.0,
            Self::CatmullRom => 0.0,
        }
    }
}

/// A part of a side that becomes some samples: it begins at `start` and is `length` long, in the samples there are.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Part {
    /// Where it begins.
    pub start: f64,
    /// How long it is.
    pub length: f64,
    /// Samples that are made of it.
    pub to: usize,
}

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

/// The first of `size` samples that counts for the one at `at`, and the weights from there on: in the order of sums and
/// products of Pillow's `precompute_coeffs`, since they decide how the last bit is rounded.
pub(super) fn by_distance(filter: Filter, part: Part, at: usize, size: usize) -> Option<(usize, Vec<f64>)> {
    let last = size.checked_sub(1)?;
    let scale = part.length / part.to as f64;
    let wide = scale.max(1.0);
    let support = filter.support() * wide;
    let centre = part.start + (at as f64 + 0.5) * scale;
    // Saturates at 0.
    let first = (centre - support + 0.5) as usize;
    let end = ((centre + support + 0.5) as usize).min(size);
    let mut weights: Vec<f64> = (first..end).map(|x| filter.at((x as f64 - centre + 0.5) * (1.0 / wide))).collect();
    let sum: f64 = weights.iter().sum();
    if sum == 0.0 {
        // Beyond the last sample, by rounding.
        return Some((first.min(last), vec![1.0]));
    }
    // Pillow multiplies by the inverse.
    weights.iter_mut().for_each(|weight| *weight *= 1.0 / sum);
    Some((first, weights))
}
