//! A convolution layer: its folded and packed weights, and what one call of it reads and writes.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use super::memory::{Buffer, Shared};
use super::pack::Filters;
use super::plan::{Algorithm, Plan};
use super::shape::Shape;
use super::simd::Simd;
use super::threads::Threads;

/// A layer's filters with the batch norm folded in.
pub(super) struct Conv {
    /// What it computes.
    pub(super) shape: Shape,
    /// `[panel][tap][input channel][PANEL]`, the last panel filled up with zeros.
    pub(super) weights: Buffer,
    /// One per output channel, filled up to whole panels.
    pub(super) bias: Buffer,
    /// Winograd-domain filters by [`Algorithm`], made when first needed.
    pub(super) transformed: [OnceLock<Buffer>; Algorithm::COUNT],
    /// Whether the layer has run: the first call, often the only one, does not stop to make what only later ones gain
    /// from.
    used: AtomicBool,
}

/// What a layer reads and writes. Activations are `[batch][row][column][channel]`.
#[derive(Clone, Copy)]
pub(super) struct Data {
    /// Images.
    pub(super) batch: usize,
    /// The input, followed by zeros at the distance that the plan knows.
    pub(super) input: Shared<f32>,
    /// Added to the output, of the same shape; null for none.
    pub(super) residual: Shared<f32>,
    /// The output.
    pub(super) output: Shared<f32>,
    /// Whether negative outputs become zero.
    pub(super) relu: bool,
}

/// Memory for intermediate results, as large as the plan of the largest layer asks.
#[derive(Clone, Copy)]
pub(super) struct Scratch {
    /// Seen by all threads.
    pub(super) shared: Shared<f32>,
    /// The threads' own parts, one after the other.
    pub(super) private: Shared<f32>,
    /// Floats of one thread's part.
    pub(super) private_len: usize,
}

impl Scratch {
    /// The memory of one thread.
    #[inline(always)]
    pub(super) fn private(&self, thread: usize) -> *mut f32 {
        self.private.get().wrapping_add(thread * self.private_len)
    }
}

impl Conv {
    /// Folds batch norm into the filters and packs them.
    pub(super) fn new<S: Simd>(shape: Shape, filters: &Filters, threads: &mut Threads) -> Self {
        Self {
            weights: filters.pack(S::PANEL, threads),
            bias: filters.pack_bias(S::PANEL),
            transformed: Default::default(),
            used: AtomicBool::new(false),
            shape,
        }
    }

    /// A linear layer: a convolution of one pixel.
    pub(super) fn linear<S: Simd>(filters: &Filters, threads: &mut Threads) -> Self {
        let Filters { inputs, outputs, .. } = *filters;
        let shape = Shape { inputs, outputs, kernel: 1, stride: 1, padding: 0, height: 1, width: 1 };
        Self::new::<S>(shape, filters, threads)
    }

    /// All of its memory but what later calls make.
    pub(super) fn buffers(&mut self) -> impl Iterator<Item = &mut Buffer> {
        [&mut self.weights, &mut self.bias].into_iter()
    }

    /// Whether this is not the layer's first call.
    pub(super) fn used_before(&self) -> bool {
        self.used.load(Ordering::Relaxed)
    }

    /// Notes a call.
    pub(super) fn mark_used(&self) {
        self.used.store(true, Ordering::Relaxed);
    }
}

/// One call of one layer.
pub(super) struct Call<'a, S> {
    pub(super) simd: S,
    pub(super) threads: &'a mut Threads,
    pub(super) conv: &'a Conv,
    /// Made for this layer's shape, the batch in `data` and as many threads.
    pub(super) plan: &'a Plan,
    /// As large as the plan asks.
    pub(super) scratch: Scratch,
    /// Memory of this layer's shape.
    pub(super) data: Data,
}
