//! A convolution layer: folded, packed weights and the call that every algorithm shares.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use super::memory::{Buffer, Shared};
use super::pack::Filters;
use super::plan::{Algorithm, Plan};
use super::simd::Simd;
use super::threads::Threads;
use super::{direct, winograd};

/// Where a convolution stands: its filters and the size of its input.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Shape {
    /// Input channels.
    pub(super) inputs: usize,
    /// Output channels.
    pub(super) outputs: usize,
    /// Side of the filter.
    pub(super) kernel: usize,
    /// Distance between the inputs of neighbouring outputs.
    pub(super) stride: usize,
    /// Zeros around the input.
    pub(super) padding: usize,
    /// Rows of the input.
    pub(super) height: usize,
    /// Columns of the input.
    pub(super) width: usize,
}

impl Shape {
    /// Rows of the output.
    pub(super) fn output_height(&self) -> usize {
        (self.height + 2 * self.padding - self.kernel) / self.stride + 1
    }

    /// Columns of the output.
    pub(super) fn output_width(&self) -> usize {
        (self.width + 2 * self.padding - self.kernel) / self.stride + 1
    }

    /// Filter taps.
    pub(super) fn taps(&self) -> usize {
        self.kernel * self.kernel
    }

    /// Floats of one input image.
    pub(super) fn input_len(&self) -> usize {
        self.height * self.width * self.inputs
    }

    /// Floats of one output image.
    pub(super) fn output_len(&self) -> usize {
        self.output_height() * self.output_width() * self.outputs
    }
}

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
    /// Whether the layer has run: the first call, often the only one, does not stop to make what only later ones gain from.
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

    /// Whether this is not the layer's first call.
    pub(super) fn used_before(&self) -> bool {
        self.used.load(Ordering::Relaxed)
    }

    /// Runs the layer by the algorithm of `plan`.
    ///
    /// # Safety
    /// `data` must describe memory of this layer's shape, `plan` must be made for this layer's shape, batch and number of threads, and `scratch`
    /// must be as large as the plan asks.
    pub(super) unsafe fn run<S: Simd>(
        &self,
        simd: S,
        threads: &mut Threads,
        plan: &Plan,
        scratch: Scratch,
        data: Data,
    ) {
        // SAFETY: the caller's promise.
        unsafe {
            match plan.algorithm {
                Algorithm::Direct => direct::run(simd, threads, self, plan, scratch, data),
                _ => winograd::run(simd, threads, self, plan, scratch, data),
            }
        }
        self.used.store(true, Ordering::Relaxed);
    }
}
