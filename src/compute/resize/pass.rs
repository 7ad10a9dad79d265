//! One direction of a resize.

use std::ops::Range;

use super::{Sample, Turned, Weights, weights::SUM_BITS};

/// Rows that are resized side by side.
pub const LANES: usize = 16;

/// Rows that are best made and resized at once: few enough to stay in the cache in between.
pub const STRIP: usize = 2 * LANES;

/// One channel of a picture, by rows.
pub trait Rows<S> {
    /// The samples of some columns of a row.
    fn row(&self, y: usize, columns: Range<usize>) -> impl Iterator<Item = S>;
}

impl<S: Sample> Rows<S> for Turned<'_, S> {
    #[inline(always)]
    fn row(&self, y: usize, columns: Range<usize>) -> impl Iterator<Item = S> {
        self.samples[y * self.length..][columns.start - self.first..columns.end - self.first].iter().copied()
    }
}

/// Resizes `rows` of a channel along their length. What is made of the first of them is written to `out[0]`,
/// `out[stride]`, and so on; of the next to `out[1]`, `out[1 + stride]`: rows become columns.
pub fn pass<S: Sample, T: Sample>(
    channel: &impl Rows<S>,
    rows: Range<usize>,
    weights: &Weights<S>,
    out: &mut [T],
    stride: usize,
) {
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx2") {
        #[target_feature(enable = "avx2")]
        fn with_avx2<S: Sample, T: Sample>(
            channel: &impl Rows<S>,
            rows: Range<usize>,
            weights: &Weights<S>,
            out: &mut [T],
            stride: usize,
        ) {
            portable(channel, rows, weights, out, stride);
        }
        // SAFETY: the processor has the instructions.
        return unsafe { with_avx2(channel, rows, weights, out, stride) };
    }
    portable(channel, rows, weights, out, stride);
}

/// [`pass()`] with the instructions of whatever it is compiled into.
#[inline(always)]
pub(super) fn portable<S: Sample, T: Sample>(
    channel: &impl Rows<S>,
    rows: Range<usize>,
    weights: &Weights<S>,
    out: &mut [T],
    stride: usize,
) {
    let columns = weights.reads();
    let mut block = vec![[S::default(); LANES]; columns.len()];
    for top in rows.clone().step_by(LANES) {
        let lanes = LANES.min(rows.end - top);
        for lane in 0..lanes {
            for (side_by_side, sample) in block.iter_mut().zip(channel.row(top + lane, columns.clone())) {
                side_by_side[lane] = sample;
            }
        }
        for (at, (first, weights)) in weights.windows().enumerate() {
            let samples = summed::<S, T>(&block[first - columns.start..], weights);
            out[at * stride + top - rows.start..][..lanes].copy_from_slice(&samples[..lanes]);
        }
    }
}

/// The weighted sums of samples side by side.
#[inline(always)]
fn summed<S: Sample, T: Sample>(block: &[[S; LANES]], weights: &[i32]) -> [T; LANES] {
    let beyond = SUM_BITS - T::FRACTION;
    let mut sums = [1 << (beyond - 1); LANES];
    for (samples, weight) in block.iter().zip(weights) {
        for lane in 0..LANES {
            sums[lane] += weight * samples[lane].raw();
        }
    }
    let mut samples = [T::default(); LANES];
    for lane in 0..LANES {
        samples[lane] = T::nearest(sums[lane] >> beyond);
    }
    samples
}
