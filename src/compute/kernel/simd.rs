//! Vector width as one small abstraction: the same kernels run on AVX-512, AVX2 and plain Rust.
//!
//! A [`Simd`] value is a token: holding one proves that this processor has the instructions. A [`Body`] is an argument
//! list with a body generic over the token; [`Simd::launch`] compiles that body once per instruction set. Everything a
//! body calls is `#[inline(always)]`, or it would be compiled without the instructions.

use std::sync::atomic::{Ordering, compiler_fence};

/// A loop body that [`Simd::launch`] compiles for one instruction set.
pub(super) trait Body {
    /// Runs the body.
    ///
    /// # Safety
    /// The pointers that the body carries must be valid for what its documentation says it touches.
    unsafe fn run<S: Simd>(self, simd: S);
}

/// Vectors of [`Simd::LANES`] `f32`, and the register tile that suits them.
pub(super) trait Simd: Copy + Send + Sync + 'static {
    /// One register.
    type Vector: Copy;
    /// `f32` in one register.
    const LANES: usize;
    /// Most rows of a register tile (at most [`super::gemm::MAX_ROWS`]): `2 * ROWS` accumulators, two weights and a
    /// broadcast fit the register file.
    const ROWS: usize;
    /// Most rows of a tile of three vectors: `3 * WIDE_ROWS` accumulators, two weights and a broadcast fit.
    const WIDE_ROWS: usize;
    /// Output channels side by side in one packed panel of weights, and in one tile: two registers.
    const PANEL: usize = 2 * Self::LANES;

    /// The token, if this processor has the instructions.
    fn detect() -> Option<Self>;

    /// Compiles `body` with these instructions and runs it.
    ///
    /// # Safety
    /// As [`Body::run`].
    unsafe fn launch<B: Body>(self, body: B);

    /// Reads [`Simd::LANES`] floats, unaligned.
    ///
    /// # Safety
    /// `at` must be readable for as many.
    unsafe fn load(self, at: *const f32) -> Self::Vector;

    /// Writes [`Simd::LANES`] floats, unaligned.
    ///
    /// # Safety
    /// `at` must be writable for as many.
    unsafe fn store(self, at: *mut f32, value: Self::Vector);

    /// Asks for the cache line at `at` to be fetched into the second-level cache. Any address will do.
    fn prefetch(self, at: *const f32);

    /// `x` in every lane.
    fn splat(self, x: f32) -> Self::Vector;
    /// `a + b`
    fn add(self, a: Self::Vector, b: Self::Vector) -> Self::Vector;
    /// `a - b`
    fn sub(self, a: Self::Vector, b: Self::Vector) -> Self::Vector;
    /// `a * b`
    fn mul(self, a: Self::Vector, b: Self::Vector) -> Self::Vector;
    /// `a * b + c`, fused where the processor can.
    fn mul_add(self, a: Self::Vector, b: Self::Vector, c: Self::Vector) -> Self::Vector;
    /// `c - a * b`, fused where the processor can.
    fn neg_mul_add(self, a: Self::Vector, b: Self::Vector, c: Self::Vector) -> Self::Vector;
    /// The larger of each lane.
    fn max(self, a: Self::Vector, b: Self::Vector) -> Self::Vector;
    /// Each lane, or 0 if it is negative, or `most` if it is larger; `most` is not negative. Of what is no number any of
    /// these.
    fn within(self, a: Self::Vector, most: Self::Vector) -> Self::Vector;
    /// `a`. The compiler moves no access to memory from behind this to before, and where it can be told to has `a` in a
    /// register here. Without it nothing is lost but speed.
    fn pin(self, a: Self::Vector) -> Self::Vector;
}

/// Plain Rust for any processor. Four lanes are what every 64-bit one has (SSE2, NEON), so the compiler maps each
/// operation to one instruction; multiply and add stay apart, because a fused one without hardware for it is a library
/// call.
#[derive(Clone, Copy)]
pub(super) struct Portable;

/// Applies `f` lane by lane.
#[inline(always)]
fn lanes(f: impl Fn(usize) -> f32) -> [f32; 4] {
    [f(0), f(1), f(2), f(3)]
}

impl Simd for Portable {
    type Vector = [f32; 4];
    const LANES: usize = 4;
    const ROWS: usize = 6;
    const WIDE_ROWS: usize = 4;

    fn detect() -> Option<Self> {
        Some(Self)
    }

    #[inline(always)]
    unsafe fn launch<B: Body>(self, body: B) {
        // SAFETY: the caller's promise.
        unsafe { body.run(self) }
    }

    #[inline(always)]
    unsafe fn load(self, at: *const f32) -> [f32; 4] {
        // SAFETY: four floats are readable, and an array of them has the alignment of one.
        unsafe { at.cast::<[f32; 4]>().read() }
    }

    #[inline(always)]
    unsafe fn store(self, at: *mut f32, value: [f32; 4]) {
        // SAFETY: four floats are writable, and an array of them has the alignment of one.
        unsafe { at.cast::<[f32; 4]>().write(value) }
    }

    #[inline(always)]
    fn prefetch(self, _: *const f32) {}

    #[inline(always)]
    fn splat(self, x: f32) -> [f32; 4] {
        [x; 4]
    }
    #[inline(always)]
    fn add(self, a: [f32; 4], b: [f32; 4]) -> [f32; 4] {
        lanes(|i| a[i] + b[i])
    }
    #[inline(always)]
    fn sub(self, a: [f32; 4], b: [f32; 4]) -> [f32; 4] {
        lanes(|i| a[i] - b[i])
    }
    #[inline(always)]
    fn mul(self, a: [f32; 4], b: [f32; 4]) -> [f32; 4] {
        lanes(|i| a[i] * b[i])
    }
    #[inline(always)]
    fn mul_add(self, a: [f32; 4], b: [f32; 4], c: [f32; 4]) -> [f32; 4] {
        lanes(|i| a[i] * b[i] + c[i])
    }
    #[inline(always)]
    fn neg_mul_add(self, a: [f32; 4], b: [f32; 4], c: [f32; 4]) -> [f32; 4] {
        lanes(|i| c[i] - a[i] * b[i])
    }
    #[inline(always)]
    fn max(self, a: [f32; 4], b: [f32; 4]) -> [f32; 4] {
        lanes(|i| if a[i] > b[i] { a[i] } else { b[i] })
    }
    #[inline(always)]
    fn within(self, a: [f32; 4], most: [f32; 4]) -> [f32; 4] {
        let a = self.max(a, [0.0; 4]);
        lanes(|i| if a[i] < most[i] { a[i] } else { most[i] })
    }
    #[inline(always)]
    fn pin(self, a: [f32; 4]) -> [f32; 4] {
        compiler_fence(Ordering::SeqCst);
        a
    }
}
