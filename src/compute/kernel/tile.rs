//! The two-dimensional transforms of one Winograd tile: a one-dimensional [`Transform`] down the columns, then along
//! the rows.

use std::marker::PhantomData;
use std::mem::MaybeUninit;

use super::simd::{Body, Simd};
use super::transforms::Transform;

/// Data of one tile to its planes.
pub(super) struct InputTransform<'a, T, const POINTS: usize, const FILTER: usize, const OUTPUTS: usize> {
    /// The pixel of each point, with `depth` channels.
    pub(super) pixels: &'a [[*const f32; POINTS]; POINTS],
    /// Channels, whole vectors of them.
    pub(super) depth: usize,
    /// This tile in the first plane.
    pub(super) planes: *mut f32,
    /// Where the plane of each point starts.
    pub(super) offsets: &'a [[usize; POINTS]; POINTS],
    pub(super) transform: PhantomData<fn() -> T>,
}

impl<T: Transform<POINTS, FILTER, OUTPUTS>, const POINTS: usize, const FILTER: usize, const OUTPUTS: usize> Body
    for InputTransform<'_, T, POINTS, FILTER, OUTPUTS>
{
    #[inline(always)]
    unsafe fn run<S: Simd>(self, simd: S) {
        // SAFETY: the fields say what the pointers hold.
        unsafe {
            let mut half = [[MaybeUninit::uninit(); POINTS]; POINTS];
            for c in (0..self.depth).step_by(S::LANES) {
                for j in 0..POINTS {
                    let mut column = [simd.splat(0.0); POINTS];
                    for i in 0..POINTS {
                        column[i] = simd.load(self.pixels[i][j].add(c));
                    }
                    let column = T::input(simd, column);
                    for i in 0..POINTS {
                        half[i][j].write(column[i]);
                    }
                }
                for i in 0..POINTS {
                    let row = T::input(simd, init(simd, &half[i]));
                    for j in 0..POINTS {
                        simd.store(self.planes.add(self.offsets[i][j] + c), row[j]);
                    }
                }
            }
        }
    }
}

/// Filters of one panel to their values at the points.
pub(super) struct FilterTransform<T, const POINTS: usize, const FILTER: usize, const OUTPUTS: usize> {
    /// The first input channel of the first of nine taps: `[depth][PANEL]`.
    pub(super) from: *const f32,
    /// Distance between taps.
    pub(super) tap_stride: usize,
    /// The first filter value: `[depth][PANEL]`.
    pub(super) to: *mut f32,
    /// Distance between filter values.
    pub(super) to_stride: usize,
    /// Input channels.
    pub(super) depth: usize,
    pub(super) transform: PhantomData<fn() -> T>,
}

impl<T: Transform<POINTS, FILTER, OUTPUTS>, const POINTS: usize, const FILTER: usize, const OUTPUTS: usize> Body
    for FilterTransform<T, POINTS, FILTER, OUTPUTS>
{
    #[inline(always)]
    unsafe fn run<S: Simd>(self, simd: S) {
        // SAFETY: the fields say what the pointers hold.
        unsafe {
            let mut half = [[MaybeUninit::uninit(); 3]; FILTER];
            for c in (0..self.depth * S::PANEL).step_by(S::LANES) {
                let tap = |tap: usize| {
                    let at = self.from.add(tap * self.tap_stride + c);
                    // Nine short streams are too many for the processor to foresee.
                    simd.prefetch(at.wrapping_add(4 * S::PANEL));
                    simd.load(at)
                };
                for j in 0..3 {
                    let column = T::filter(simd, [tap(j), tap(3 + j), tap(6 + j)]);
                    for i in 0..FILTER {
                        half[i][j].write(column[i]);
                    }
                }
                for i in 0..FILTER {
                    let row = T::filter(simd, init(simd, &half[i]));
                    for j in 0..FILTER {
                        simd.store(self.to.add((i * FILTER + j) * self.to_stride + c), row[j]);
                    }
                }
            }
        }
    }
}

/// Products of one tile and panel to outputs, with bias, residual and ReLU.
pub(super) struct OutputTransform<'a, T, const POINTS: usize, const FILTER: usize, const OUTPUTS: usize> {
    /// This tile in the first plane of products, `PANEL` floats.
    pub(super) products: *const f32,
    /// Where the plane of each point starts.
    pub(super) offsets: &'a [[usize; POINTS]; POINTS],
    /// `PANEL` floats.
    pub(super) bias: *const f32,
    /// The residual of the first output; read only if there is one.
    pub(super) residual: *const f32,
    pub(super) has_residual: bool,
    /// The first output.
    pub(super) output: *mut f32,
    /// Output channels in this panel.
    pub(super) channels: usize,
    /// Distance between rows of the output, and residual.
    pub(super) row_stride: usize,
    /// Distance between their pixels.
    pub(super) pixel_stride: usize,
    /// Rows of the tile inside the image.
    pub(super) rows: usize,
    /// Columns of the tile inside the image.
    pub(super) columns: usize,
    pub(super) relu: bool,
    pub(super) transform: PhantomData<fn() -> T>,
}

impl<T: Transform<POINTS, FILTER, OUTPUTS>, const POINTS: usize, const FILTER: usize, const OUTPUTS: usize> Body
    for OutputTransform<'_, T, POINTS, FILTER, OUTPUTS>
{
    #[inline(always)]
    unsafe fn run<S: Simd>(self, simd: S) {
        let mut half = [[MaybeUninit::uninit(); POINTS]; OUTPUTS];
        for c in [0, S::LANES] {
            // SAFETY: the fields say what the pointers hold.
            unsafe {
                let bias = simd.load(self.bias.add(c));
                for j in 0..POINTS {
                    let mut column = [simd.splat(0.0); POINTS];
                    for i in 0..POINTS {
                        column[i] = simd.load(self.products.add(self.offsets[i][j] + c));
                    }
                    let column = T::output(simd, column);
                    for i in 0..OUTPUTS {
                        half[i][j].write(column[i]);
                    }
                }
                for i in 0..OUTPUTS {
                    if i >= self.rows {
                        break;
                    }
                    let row = T::output(simd, init(simd, &half[i]));
                    for j in 0..OUTPUTS {
                        if j >= self.columns {
                            break;
                        }
                        self.finish(simd, i * self.row_stride + j * self.pixel_stride, c, simd.add(row[j], bias));
                    }
                }
            }
        }
    }
}

impl<T, const POINTS: usize, const FILTER: usize, const OUTPUTS: usize>
    OutputTransform<'_, T, POINTS, FILTER, OUTPUTS>
{
    /// Adds the residual to the channels from `c` on of the pixel at `at`, applies ReLU and stores them.
    ///
    /// # Safety
    /// The pixel must be one of the tile's inside the image.
    #[inline(always)]
    unsafe fn finish<S: Simd>(&self, simd: S, at: usize, c: usize, mut value: S::Vector) {
        let floor = if self.relu { 0.0 } else { f32::NEG_INFINITY };
        let width = S::LANES.min(self.channels.saturating_sub(c));
        // SAFETY: the fields say what the pointers hold; only channels that exist are touched, and no vector has more
        // than 16 lanes.
        unsafe {
            let (residual, output) = (self.residual.wrapping_add(at + c), self.output.wrapping_add(at + c));
            if width == S::LANES {
                if self.has_residual {
                    value = simd.add(value, simd.load(residual));
                }
                simd.store(output, simd.max(value, simd.splat(floor)));
                return;
            }
            let mut lanes = [0.0; 16];
            simd.store(lanes.as_mut_ptr(), value);
            for (lane, value) in lanes[..width].iter().enumerate() {
                let sum = value + if self.has_residual { *residual.add(lane) } else { 0.0 };
                *output.add(lane) = sum.max(floor);
            }
        }
    }
}

/// Vectors that have been written. To zero an array of them first would take as long as to fill it.
///
/// # Safety
/// All must have been.
#[inline(always)]
unsafe fn init<S: Simd, const N: usize>(simd: S, vectors: &[MaybeUninit<S::Vector>; N]) -> [S::Vector; N] {
    let mut all = [simd.splat(0.0); N];
    for (vector, written) in all.iter_mut().zip(vectors) {
        // SAFETY: the caller's promise.
        *vector = unsafe { written.assume_init() };
    }
    all
}
