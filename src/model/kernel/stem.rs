//! The first layers as one pass: 7x7 convolution with stride 2, batch norm, ReLU, and 3x3 max-pooling with stride 2.
//!
//! With three channels, a row of the filter is 21 neighbouring floats of the image, so the convolution is a product with seven
//! "taps" of depth 21. Its output, the largest of the network, never reaches memory: each row is pooled at once.

use super::conv::Scratch;
use super::gemm::{Product, Start};
use super::memory::{Buffer, Shared};
use super::pack::Filters;
use super::simd::{Kernel, Simd};
use super::threads::Threads;

const CHANNELS: usize = 3;
const KERNEL: usize = 7;
const PADDING: usize = 3;
/// Floats of one row of the filter.
const DEPTH: usize = KERNEL * CHANNELS;

/// Most pooled rows that one task computes: their part of the image fits the second-level cache at any side up to 512.
const STRIP: usize = 28;

/// The stem for square images of one side.
pub(super) struct Stem {
    /// `[panel][row of the filter][21][PANEL]`
    weights: Buffer,
    bias: Buffer,
    /// Output channels, whole panels.
    outputs: usize,
    /// Side of the image.
    side: usize,
    /// Where pixel `x` of a row of the convolution reads row `t` of the filter, at `x * 7 + t`, from the padded row above it.
    offsets: Vec<u32>,
}

impl Stem {
    /// Packs the filters `[outputs][3][7][7]` as seven taps of 21 floats.
    pub(super) fn new<S: Simd>(side: usize, filters: &Filters, threads: &mut Threads) -> Self {
        let (outputs, area) = (filters.outputs, KERNEL * KERNEL);
        // From [output][channel][row][column] to [output][column][channel] for each row.
        let mut weights = vec![0.0; outputs * area * CHANNELS];
        for output in 0..outputs {
            for channel in 0..CHANNELS {
                for tap in 0..area {
                    let (row, column) = (tap / KERNEL, tap % KERNEL);
                    weights[(output * DEPTH + column * CHANNELS + channel) * KERNEL + row] =
                        filters.weights[(output * CHANNELS + channel) * area + tap];
                }
            }
        }
        let rows = Filters {
            weights,
            outputs,
            inputs: DEPTH,
            taps: KERNEL,
            scale: filters.scale.clone(),
            bias: filters.bias.clone(),
        };
        let mut stem = Self {
            weights: rows.pack(S::PANEL, threads),
            bias: rows.pack_bias(S::PANEL),
            outputs,
            side,
            offsets: Vec::new(),
        };
        let padded_row = stem.padded_row();
        let pixels = (0..stem.convolved())
            .flat_map(|x| (0..KERNEL).map(move |row| (x * 2 * CHANNELS + row * padded_row) as u32));
        stem.offsets = pixels.collect();
        stem
    }

    /// Side of the convolution's output.
    fn convolved(&self) -> usize {
        (self.side - 1) / 2 + 1
    }

    /// Side of the pooled output.
    pub(super) fn pooled(&self) -> usize {
        (self.convolved() - 1) / 2 + 1
    }

    /// Floats of one row of the padded image.
    fn padded_row(&self) -> usize {
        (self.side + 2 * PADDING) * CHANNELS
    }

    /// Pooled rows in one task.
    fn strip(&self, batch: usize, threads: usize) -> usize {
        let pooled = self.pooled();
        let wanted = if threads == 1 { 1 } else { (2 * threads).div_ceil(batch) };
        pooled.div_ceil(wanted.clamp(pooled.div_ceil(STRIP), pooled.div_ceil(4)))
    }

    /// Floats of scratch for each thread: padded rows of the image, and a row of the convolution.
    pub(super) fn scratch(&self, batch: usize, threads: usize) -> usize {
        (4 * self.strip(batch, threads) + KERNEL + 2) * self.padded_row() + self.convolved() * self.outputs
    }

    /// `input` is `[batch][side][side][3]`, `output` `[batch][pooled][pooled][outputs]`.
    ///
    /// # Safety
    /// Both must be that large, and `scratch` as [`Stem::scratch`] says.
    pub(super) unsafe fn run<S: Simd>(
        &self,
        simd: S,
        threads: &mut Threads,
        scratch: Scratch,
        batch: usize,
        input: &[f32],
        output: Shared<f32>,
    ) {
        let (convolved, pooled, outputs) = (self.convolved(), self.pooled(), self.outputs);
        let strip = self.strip(batch, threads.count());
        let strips = pooled.div_ceil(strip);
        threads.run(batch * strips, &|task, thread| {
            let (image, first) = (task / strips, task % strips * strip);
            let last = pooled.min(first + strip);
            // The rows of the convolution under these pooled rows.
            let rows = (2 * first).saturating_sub(1)..convolved.min(2 * last);
            // SAFETY: the scratch is this thread's; each task writes its own rows of the output.
            unsafe {
                let padded_len = (2 * rows.len() + KERNEL - 2) * self.padded_row();
                let padded = std::slice::from_raw_parts_mut(scratch.private(thread), padded_len);
                self.pad(&input[image * self.side * self.side * CHANNELS..], 2 * rows.start, padded);
                let row = scratch.private(thread).add(padded_len);
                for y in rows.clone() {
                    for panel in 0..outputs / S::PANEL {
                        let product = Product {
                            input: padded.as_ptr().add(2 * (y - rows.start) * self.padded_row()),
                            offsets: self.offsets.as_ptr(),
                            offset_stride: KERNEL,
                            taps: KERNEL,
                            depth: DEPTH,
                            weights: self.weights.as_ptr().add(panel * KERNEL * DEPTH * S::PANEL),
                            output: row.add(panel * S::PANEL),
                            output_stride: outputs,
                            start: Start::Bias(self.bias.as_ptr().add(panel * S::PANEL)),
                        };
                        product.multiply(simd, convolved);
                    }
                    // An odd row belongs to two windows, an even one to the window it is the middle of.
                    for window in y / 2..=y.div_ceil(2) {
                        if (first..last).contains(&window) {
                            let to = output.get().add((image * pooled + window) * pooled * outputs);
                            simd.launch(PoolRow {
                                row,
                                convolved,
                                to,
                                pooled,
                                channels: outputs,
                                fresh: y == 0 || y + 1 == 2 * window,
                            });
                        }
                    }
                }
            }
        });
    }

    /// Copies rows of an image from row `first - 3` on, with three zeros' worth of pixels around.
    fn pad(&self, image: &[f32], first: usize, padded: &mut [f32]) {
        let (row_len, margin) = (self.side * CHANNELS, PADDING * CHANNELS);
        for (i, to) in padded.chunks_exact_mut(self.padded_row()).enumerate() {
            match (first + i).checked_sub(PADDING) {
                Some(y) if y < self.side => {
                    to[..margin].fill(0.0);
                    to[margin..margin + row_len].copy_from_slice(&image[y * row_len..][..row_len]);
                    to[margin + row_len..].fill(0.0);
                }
                _ => to.fill(0.0),
            }
        }
    }
}

/// Takes a row of the convolution into a row of pooled windows. The first one starts from zero, which is the ReLU.
struct PoolRow {
    row: *const f32,
    /// Pixels in `row`.
    convolved: usize,
    to: *mut f32,
    /// Pixels in `to`.
    pooled: usize,
    /// Channels, whole panels.
    channels: usize,
    /// Whether this is the window's first row.
    fresh: bool,
}

impl Kernel for PoolRow {
    #[inline(always)]
    unsafe fn run<S: Simd>(self, simd: S) {
        for x in 0..self.pooled {
            let columns = (2 * x).saturating_sub(1)..=(2 * x + 1).min(self.convolved - 1);
            for c in (0..self.channels).step_by(S::LANES) {
                // SAFETY: the fields say what the pointers hold.
                unsafe {
                    let to = self.to.add(x * self.channels + c);
                    let mut most = if self.fresh { simd.splat(0.0) } else { simd.load(to) };
                    for column in columns.clone() {
                        most = simd.max(most, simd.load(self.row.add(column * self.channels + c)));
                    }
                    simd.store(to, most);
                }
            }
        }
    }
}
