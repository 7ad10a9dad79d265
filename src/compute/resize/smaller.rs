//! What pixels were of which only the lowest frequencies are left.
//!
//! A JPEG that is decoded at 1/8, 1/4 or 1/2 of its size has 1, 2 or 4 samples for each eight pixels in a row, with as
//! many of their lowest frequencies. A resize of the pixels is to be told from these. Weights by distance would take
//! each sample for a point; it stands for all of its pixels, of which some count more than others, and its neighbours
//! tell how they differ. So each pixel is estimated first: as the weighted sum of the samples around it that is nearest
//! on average, in pictures whose pixels are as alike as [`LIKENESS`] says (the conditional mean of a Gauss-Markov
//! process, as in Wiener's filter). A resize of estimates is a weighted sum of samples again.

use std::sync::OnceLock;

use super::filter::{Filter, Part, by_distance};

/// Pixels of a block, along a side.
const BLOCK: usize = 8;

/// Samples on either side of a pixel's own that its estimate is of.
const REACH: usize = 3;

/// Samples that an estimate is of.
const SPAN: usize = 2 * REACH + 1;

/// The correlation of neighbours. Estimates hardly depend on it: with 0.9 to 0.995 they are the same within 2 %.
const LIKENESS: f64 = 0.98;

/// The share of a sample's square that is noise: of quantisation and rounding.
const NOISE: f64 = 1e-4;

/// A side of a smaller picture.
#[derive(Debug, Clone, Copy)]
pub struct Smaller {
    /// Samples for eight pixels: 1, 2, 4 or 8.
    pub per_block: usize,
    /// Pixels of the whole picture.
    pub pixels: usize,
    /// The first sample that there is.
    pub first: usize,
    /// How many there are.
    pub count: usize,
}

/// Of each pixel of a block, the weights of the samples around its own.
type Estimates = [[f64; SPAN]; BLOCK];

/// The first sample that counts for what is made of a part of a side's pixels, counted from the first there is, and the
/// weights from there on. `None` without pixels or samples.
pub(super) fn by_estimate(
    filter: Filter,
    part: Part,
    at: usize,
    side: Smaller,
    estimates: &Estimates,
) -> Option<(usize, Vec<f64>)> {
    let Smaller { per_block, pixels, first, count } = side;
    let (pixel, weights) = by_distance(filter, part, at, pixels)?;
    let last = (first + count).checked_sub(1)?;
    // Beyond the picture is what is at its edge.
    let place = |sample: isize| sample.clamp(first as isize, last as isize) as usize - first;
    let own = |pixel: usize| (pixel * per_block / BLOCK) as isize;
    let reach = REACH as isize;
    let start = place(own(pixel) - reach);
    let mut sums = vec![0.0; place(own(pixel + weights.len() - 1) + reach) + 1 - start];
    for (pixel, weight) in (pixel..).zip(weights) {
        for (sample, estimate) in (own(pixel) - reach..).zip(estimates[pixel % BLOCK]) {
            sums[place(sample) - start] += weight * estimate;
        }
    }
    Some((start, sums))
}

/// The best estimate of each pixel from `per_block` samples of its block and those beside it: computed once.
pub(super) fn estimates(per_block: usize) -> &'static Estimates {
    static ESTIMATES: [OnceLock<Estimates>; BLOCK + 1] = [const { OnceLock::new() }; BLOCK + 1];
    ESTIMATES[per_block].get_or_init(|| estimated(per_block))
}

fn estimated(per_block: usize) -> Estimates {
    let samples = samples(per_block);
    let mut estimates = [[0.0; SPAN]; BLOCK];
    for (pixel, estimate) in estimates.iter_mut().enumerate() {
        // Pixels and samples are counted from one block before, so that none is negative.
        let blocks = REACH.div_ceil(per_block);
        let at = blocks * BLOCK + pixel;
        let own = at * per_block / BLOCK;
        let near: Vec<(usize, &[f64; BLOCK])> =
            (own - REACH..=own + REACH).map(|s| (s / per_block * BLOCK, &samples[s % per_block])).collect();
        let alike = |a: usize, b: usize| LIKENESS.powi(a.abs_diff(b) as i32);
        let with_pixel = |&(start, sample): &(usize, &[f64; BLOCK]), pixel: usize| -> f64 {
            sample.iter().enumerate().map(|(i, part)| part * alike(start + i, pixel)).sum()
        };
        let mut system = [[0.0; SPAN + 2]; SPAN];
        for (row, one) in system.iter_mut().zip(&near) {
            for (to, (start, other)) in row.iter_mut().zip(&near) {
                *to = other.iter().enumerate().map(|(i, part)| part * with_pixel(one, start + i)).sum();
            }
            (row[SPAN], row[SPAN + 1]) = (with_pixel(one, at), 1.0);
        }
        for (i, row) in system.iter_mut().enumerate() {
            row[i] += NOISE;
        }
        let solved = solve(system);
        // An even surface stays as it is.
        let (sum, of_ones): (f64, f64) = (solved.iter().map(|s| s[0]).sum(), solved.iter().map(|s| s[1]).sum());
        for (to, [weight, one]) in estimate.iter_mut().zip(solved) {
            *to = weight + one * (1.0 - sum) / of_ones;
        }
    }
    estimates
}

/// What each of a block's samples is of its pixels: the inverse transform of the lowest frequencies.
pub(super) fn samples(per_block: usize) -> Vec<[f64; BLOCK]> {
    let wave = |points: usize, frequency: usize, at: usize| {
        let norm = if frequency == 0 { 1.0 } else { 2.0 } / points as f64;
        norm.sqrt() * (std::f64::consts::PI * ((2 * at + 1) * frequency) as f64 / (2 * points) as f64).cos()
    };
    let scale = (per_block as f64 / BLOCK as f64).sqrt();
    let part = |sample: usize, pixel: usize| -> f64 {
        (0..per_block).map(|f| scale * wave(per_block, f, sample) * wave(BLOCK, f, pixel)).sum()
    };
    (0..per_block).map(|sample| std::array::from_fn(|pixel| part(sample, pixel))).collect()
}

/// Solves a system for two right sides, which are its last columns, by Gauss and Jordan's elimination. It is symmetric
/// and positive definite, so no rows need to change places.
fn solve(mut system: [[f64; SPAN + 2]; SPAN]) -> [[f64; 2]; SPAN] {
    for pivot in 0..SPAN {
        let own = system[pivot].map(|v| v / system[pivot][pivot]);
        for (i, row) in system.iter_mut().enumerate() {
            let factor = row[pivot];
            if i == pivot {
                *row = own;
            } else {
                row.iter_mut().zip(own).for_each(|(v, own)| *v -= factor * own);
            }
        }
    }
    system.map(|row| [row[SPAN], row[SPAN + 1]])
}
