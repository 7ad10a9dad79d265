//! Depthwise convolution: each channel has a filter of its own. One panel of channels and some rows of outputs at a
//! time.

use super::super::architecture::Activation;
use super::memory::Buffer;
use super::pack::Filters;
use super::simd::{Body, Simd};

/// Outputs of a tile: with the weights of a row of the filter and one input they fit 16 registers, and 7 divides the
/// rows of 224 and what becomes of them.
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

/// Rows of the input of one panel, `[pixel][PANEL]`, padded on both sides.
#[derive(Clone, Copy)]
pub(super) struct Held {
    /// The slots; row `r` of the image is in slot `r % ring`.
    pub(super) slots: *mut f32,
    /// Number of slots.
    pub(super) ring: usize,
    /// Floats of a slot.
    pub(super) len: usize,
    /// A row above or below the image.
    pub(super) zeros: *mut f32,
    /// Rows of the image.
    pub(super) side: usize,
    /// Rows above the image that the first outputs see.
    pub(super) before: usize,
}

/// Rows of outputs of one panel, one behind the other.
#[derive(Clone, Copy)]
pub(super) struct Rows {
    pub(super) held: Held,
    /// The first row.
    pub(super) first: usize,
    /// Number of rows.
    pub(super) rows: usize,
    /// The first output of the first row.
    pub(super) output: *mut f32,
    /// Distance between outputs.
    pub(super) stride: usize,
    /// Number of outputs in a row.
    pub(super) count: usize,
    /// Channels: one or two vectors.
    pub(super) width: usize,
}

impl Held {
    /// The place of a row of the image.
    pub(super) fn row(&self, row: usize) -> *mut f32 {
        self.slots.wrapping_add(row % self.ring * self.len)
    }

    /// The `K` rows under a filter whose first row is `top`, counted from the first row above the image.
    #[inline(always)]
    fn under<const K: usize>(&self, top: usize) -> [*const f32; K] {
        std::array::from_fn(|tap| match (top + tap).checked_sub(self.before) {
            Some(row) if row < self.side => self.row(row).cast_const(),
            _ => self.zeros.cast_const(),
        })
    }
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

    /// Computes some rows of one panel.
    ///
    /// # Safety
    /// The rows under the filters of all outputs are held, and there is room for the outputs.
    pub(super) unsafe fn run<S: Simd>(&self, simd: S, panel: usize, rows: Rows) {
        // SAFETY: the caller's promise.
        unsafe {
            match (self.kernel, self.stride) {
                (3, 1) => simd.launch(Filter::<3, 1>(self, panel, rows)),
                (3, 2) => simd.launch(Filter::<3, 2>(self, panel, rows)),
                (5, 1) => simd.launch(Filter::<5, 1>(self, panel, rows)),
                (5, 2) => simd.launch(Filter::<5, 2>(self, panel, rows)),
                _ => unreachable!("checked when it was made"),
            }
        }
    }
}

/// Rows by filters of side `K` with stride `D`.
struct Filter<'a, const K: usize, const D: usize>(&'a Depthwise, usize, Rows);

impl<const K: usize, const D: usize> Body for Filter<'_, K, D> {
    #[inline(always)]
    unsafe fn run<S: Simd>(self, simd: S) {
        let Self(layer, panel, Rows { held, first, rows, output, stride, count, width }) = self;
        let at_once = if count < TILE { 1 } else { TILE };
        // SAFETY: the caller of `Depthwise::run` answers for what the pointers hold; weights and bias are whole panels.
        unsafe {
            let weights = layer.weights.as_ptr().add(panel * K * K * S::PANEL);
            let bias = layer.bias.as_ptr().add(panel * S::PANEL);
            for row in 0..rows {
                let inputs = held.under((first + row) * D);
                let output = output.add(row * count * stride);
                for x in (0..count).step_by(at_once) {
                    // The last tile overlaps the one before if it must.
                    let x = x.min(count - at_once);
                    for lane in (0..width).step_by(S::LANES) {
                        let tile = Tile::<K, D> {
                            inputs: inputs.map(|input| input.add(x * D * S::PANEL + lane)),
                            weights: weights.add(lane),
                            bias: bias.add(lane),
                            activation: layer.activation,
                            output: output.add(x * stride + lane),
                            stride,
                        };
                        if count < TILE { tile.run::<S, 1>(simd) } else { tile.run::<S, TILE>(simd) }
                    }
                }
            }
        }
    }
}

/// Outputs side by side, one vector of channels each.
struct Tile<const K: usize, const D: usize> {
    /// The first pixel under the filter in each row.
    inputs: [*const f32; K],
    weights: *const f32,
    bias: *const f32,
    activation: Activation,
    output: *mut f32,
    stride: usize,
}

impl<const K: usize, const D: usize> Tile<K, D> {
    /// Computes `N` outputs. Each pixel is read once for all of them that see it.
    ///
    /// # Safety
    /// All pixels under the filters of as many outputs are there, and room for these.
    #[inline(always)]
    unsafe fn run<S: Simd, const N: usize>(&self, simd: S) {
        /// Adds the products of these pixels. A loop over them would not be unrolled, and the sums would be in memory.
        macro_rules! pixels {
            ($input:expr, $weights:expr, $sums:expr, $($pixel:literal)+) => {
                $(Self::pixel::<S, N, $pixel>(simd, $input, $weights, $sums);)+
            };
        }
        const { assert!((N - 1) * D + K <= 17) };
        // SAFETY: the caller's promise.
        unsafe {
            let mut sums = [simd.load(self.bias); N];
            for i in 0..K {
                let mut weights = [simd.splat(0.0); K];
                for j in 0..K {
                    weights[j] = simd.load(self.weights.add((i * K + j) * S::PANEL));
                }
                pixels!(self.inputs[i], &weights, &mut sums, 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16);
            }
            if let Some(most) = self.activation.ceiling() {
                let most = simd.splat(most);
                for sum in &mut sums {
                    *sum = simd.within(*sum, most);
                }
            }
            for n in 0..N {
                simd.store(self.output.add(n * self.stride), sums[n]);
            }
        }
    }

    /// Adds the products of pixel `P` of a row, if it is one of those under the filters of `N` outputs, with a row of the
    /// filter.
    ///
    /// # Safety
    /// The pixel is there if it is one of them.
    #[inline(always)]
    unsafe fn pixel<S: Simd, const N: usize, const P: usize>(
        simd: S,
        input: *const f32,
        weights: &[S::Vector; K],
        sums: &mut [S::Vector; N],
    ) {
        if P >= (N - 1) * D + K {
            return;
        }
        // SAFETY: the caller's promise.
        let pixel = simd.pin(unsafe { simd.load(input.add(P * S::PANEL)) });
        for j in 0..K {
            if P >= j && (P - j).is_multiple_of(D) && (P - j) / D < N {
                let sum = &mut sums[(P - j) / D];
                *sum = simd.mul_add(pixel, weights[j], *sum);
            }
        }
    }
}
