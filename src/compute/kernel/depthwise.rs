//! Depthwise convolution: each channel has a filter of its own. One panel of channels and one row of outputs at a time.

use std::sync::atomic::{Ordering, compiler_fence};

use super::super::architecture::Activation;
use super::memory::Buffer;
use super::pack::Filters;
use super::simd::{Body, Simd};

/// Largest filter.
pub(super) const MOST_TAPS: usize = 5;

/// Pixels of a tile: for two vectors, 14 sums and the weights fit 16 registers, and 7 divides the rows of 224 and what
/// becomes of them.
const TILE: usize = 7;

/// Folded filters.
pub(super) struct Depthwise {
    /// `[panel][tap][PANEL]`, the last panel filled up with zeros.
    weights: Buffer,
    /// One per channel, filled up to whole panels.
    bias: Buffer,
    kernel: usize,
    stride: usize,
    activation: Activation,
}

/// A row of outputs of one panel.
pub(super) struct Row {
    /// The padded rows of the input under the filter, `[pixel][PANEL]`; only as many as the filter has.
    pub(super) inputs: [*const f32; MOST_TAPS],
    /// The first output of the row.
    pub(super) output: *mut f32,
    /// Distance between outputs.
    pub(super) stride: usize,
    /// Number of outputs.
    pub(super) count: usize,
    /// Channels: one or two vectors.
    pub(super) width: usize,
}

impl Depthwise {
    /// Folds `filters`, one input each.
    pub(super) fn new<S: Simd>(filters: &Filters, kernel: usize, stride: usize, activation: Activation) -> Self {
        let taps = kernel * kernel;
        assert!(
            matches!((kernel, stride), (3 | 5, 1 | 2)),
            "there is no depthwise kernel of side {kernel}, stride {stride}"
        );
        let mut weights = Buffer::zeroed(filters.outputs.next_multiple_of(S::PANEL) * taps);
        for (channel, filter) in filters.weights.chunks_exact(taps).enumerate() {
            let scale = filters.scale.as_ref().map_or(1.0, |scale| scale[channel]);
            for (tap, weight) in filter.iter().enumerate() {
                weights[(channel / S::PANEL * taps + tap) * S::PANEL + channel % S::PANEL] = weight * scale;
            }
        }
        Self { weights, bias: filters.pack_bias(S::PANEL), kernel, stride, activation }
    }

    /// All of its memory.
    pub(super) fn buffers(&mut self) -> impl Iterator<Item = &mut Buffer> {
        [&mut self.weights, &mut self.bias].into_iter()
    }

    /// Asks for the weights of one panel.
    pub(super) fn fetch<S: Simd>(&self, simd: S, panel: usize) {
        let len = self.kernel * self.kernel * S::PANEL;
        self.weights[panel * len..][..len].chunks(16).for_each(|line| simd.prefetch(line.as_ptr()));
    }

    /// Computes a row of one panel.
    ///
    /// # Safety
    /// The inputs have the pixels under the filters of all outputs, and there is room for the outputs.
    pub(super) unsafe fn run<S: Simd>(&self, simd: S, panel: usize, row: Row) {
        /// Launches the body for the filter and the panel's width.
        macro_rules! launch {
            ($($kernel:literal $stride:literal),+) => {
                match (self.kernel, self.stride, row.width > S::LANES) {
                    // SAFETY: the caller's promise.
                    $(($kernel, $stride, true) => unsafe {
                        simd.launch(Filter::<$kernel, $stride, 2>(self, panel, row))
                    },
                    // SAFETY: as above.
                    ($kernel, $stride, false) => unsafe {
                        simd.launch(Filter::<$kernel, $stride, 1>(self, panel, row))
                    },)+
                    _ => unreachable!("checked when it was made"),
                }
            };
        }
        launch!(3 1, 3 2, 5 1, 5 2);
    }
}

/// One row by filters of side `K` with stride `D` on `V` vectors of channels.
struct Filter<'a, const K: usize, const D: usize, const V: usize>(&'a Depthwise, usize, Row);

impl<const K: usize, const D: usize, const V: usize> Body for Filter<'_, K, D, V> {
    #[inline(always)]
    unsafe fn run<S: Simd>(self, simd: S) {
        let count = self.2.count;
        // SAFETY: the caller of `Depthwise::run` answers for what the pointers hold.
        unsafe {
            if count < TILE {
                for x in 0..count {
                    self.tile::<S, 1>(simd, x);
                }
            } else {
                for x in (0..count).step_by(TILE) {
                    // The last tile overlaps the one before if it must.
                    self.tile::<S, TILE>(simd, x.min(count - TILE));
                }
            }
        }
    }
}

impl<const K: usize, const D: usize, const V: usize> Filter<'_, K, D, V> {
    /// Computes `N` outputs from `x` on.
    #[inline(always)]
    unsafe fn tile<S: Simd, const N: usize>(&self, simd: S, x: usize) {
        let Self(layer, panel, ref row) = *self;
        // SAFETY: as for `run`; weights and bias are whole panels.
        unsafe {
            let bias = layer.bias.as_ptr().add(panel * S::PANEL);
            let mut sums = [[simd.splat(0.0); V]; N];
            for v in 0..V {
                let bias = simd.load(bias.add(v * S::LANES));
                for n in 0..N {
                    sums[n][v] = bias;
                }
            }
            let weights = layer.weights.as_ptr().add(panel * K * K * S::PANEL);
            for i in 0..K {
                let input = row.inputs[i].add(x * D * S::PANEL);
                for j in 0..K {
                    for v in 0..V {
                        let weight = simd.load(weights.add((i * K + j) * S::PANEL + v * S::LANES));
                        for n in 0..N {
                            let at = input.add((n * D + j) * S::PANEL + v * S::LANES);
                            sums[n][v] = simd.mul_add(simd.load(at), weight, sums[n][v]);
                        }
                    }
                    if S::REGISTERS < 32 {
                        // What neighbouring columns share is read again: to keep it, the compiler would move sums out
                        // of their registers.
                        compiler_fence(Ordering::SeqCst);
                    }
                }
            }
            if let Some(most) = layer.activation.ceiling() {
                let most = simd.splat(most);
                for n in 0..N {
                    for v in 0..V {
                        sums[n][v] = simd.within(sums[n][v], most);
                    }
                }
            }
            for n in 0..N {
                for v in 0..V {
                    simd.store(row.output.add((x + n) * row.stride + v * S::LANES), sums[n][v]);
                }
            }
        }
    }
}
