//! The two-dimensional transforms of one Winograd tile: a one-dimensional [`Transform`] down the columns, then along the rows.

use std::marker::PhantomData;
use std::mem::MaybeUninit;

use super::simd::{Kernel, Simd};
use super::transforms::Transform;

/// Data of one tile to its planes.
pub(super) struct InputTransform<'a, T, const P: usize, const F: usize, const M: usize> {
    /// The pixel of each point, with `depth` channels.
    pub(super) pixels: &'a [[*const f32; P]; P],
    /// Channels, whole vectors of them.
    pub(super) depth: usize,
    /// This tile in the first plane.
    pub(super) planes: *mut f32,
    /// Where the plane of each point starts.
    pub(super) offsets: &'a [[usize; P]; P],
    pub(super) transform: PhantomData<fn() -> T>,
}

impl<T: Transform<P, F, M>, const P: usize, const F: usize, const M: usize> Kernel for InputTransform<'_, T, P, F, M> {
    #[inline(always)]
    unsafe fn run<S: Simd>(self, simd: S) {
        // SAFETY: the fields say what the pointers hold.
        unsafe {
            let mut half = [[MaybeUninit::uninit(); P]; P];
            for c in (0..self.depth).step_by(S::LANES) {
                for j in 0..P {
                    let mut column = [simd.splat(0.0); P];
                    for i in 0..P {
                        column[i] = simd.load(self.pixels[i][j].add(c));
                    }
                    let column = T::input(simd, column);
                    for i in 0..P {
                        half[i][j].write(column[i]);
                    }
                }
                for i in 0..P {
                    let row = T::input(simd, init(simd, &half[i]));
                    for j in 0..P {
                        simd.store(self.planes.add(self.offsets[i][j] + c), row[j]);
                    }
                }
            }
        }
    }
}

/// Filters of one panel to their values at the points.
pub(super) struct FilterTransform<T, const P: usize, const F: usize, const M: usize> {
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

impl<T: Transform<P, F, M>, const P: usize, const F: usize, const M: usize> Kernel for FilterTransform<T, P, F, M> {
    #[inline(always)]
    unsafe fn run<S: Simd>(self, simd: S) {
        // SAFETY: the fields say what the pointers hold.
        unsafe {
            let mut half = [[MaybeUninit::uninit(); 3]; F];
            for c in (0..self.depth * S::PANEL).step_by(S::LANES) {
                let tap = |tap: usize| {
                    let at = self.from.add(tap * self.tap_stride + c);
                    // Nine short streams are too many for the processor to foresee.
                    simd.prefetch(at.wrapping_add(4 * S::PANEL));
                    simd.load(at)
                };
                for j in 0..3 {
                    let column = T::filter(simd, [tap(j), tap(3 + j), tap(6 + j)]);
                    for i in 0..F {
                        half[i][j].write(column[i]);
                    }
                }
                for i in 0..F {
                    let row = T::filter(simd, init(simd, &half[i]));
                    for j in 0..F {
                        simd.store(self.to.add((i * F + j) * self.to_stride + c), row[j]);
                    }
                }
            }
        }
    }
}

/// Products of one tile and panel to outputs, with bias, residual and ReLU.
pub(super) struct OutputTransform<'a, T, const P: usize, const F: usize, const M: usize> {
    /// This tile in the first plane of products, `PANEL` floats.
    pub(super) products: *const f32,
    /// Where the plane of each point starts.
    pub(super) offsets: &'a [[usize; P]; P],
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

impl<T: Transform<P, F, M>, const P: usize, const F: usize, const M: usize> Kernel for OutputTransform<'_, T, P, F, M> {
    #[inline(always)]
    unsafe fn run<S: Simd>(self, simd: S) {
        let floor = simd.splat(if self.relu { 0.0 } else { f32::NEG_INFINITY });
        let mut half = [[MaybeUninit::uninit(); P]; M];
        for c in [0, S::LANES] {
            let width = S::LANES.min(self.channels.saturating_sub(c));
            // SAFETY: the fields say what the pointers hold.
            unsafe {
                let bias = simd.load(self.bias.add(c));
                for j in 0..P {
                    let mut column = [simd.splat(0.0); P];
                    for i in 0..P {
                        column[i] = simd.load(self.products.add(self.offsets[i][j] + c));
                    }
                    let column = T::output(simd, column);
                    for i in 0..M {
                        half[i][j].write(column[i]);
                    }
                }
                for i in 0..M {
                    if i >= self.rows {
                        break;
                    }
                    let row = T::output(simd, init(simd, &half[i]));
                    for j in 0..M {
                        if j >= self.columns {
                            break;
                        }
                        let at = i * self.row_stride + j * self.pixel_stride + c;
                        let mut value = simd.add(row[j], bias);
                        if width == S::LANES {
                            if self.has_residual {
                                value = simd.add(value, simd.load(self.residual.add(at)));
                            }
                            simd.store(self.output.add(at), simd.max(value, floor));
                        } else {
                            part(
                                simd,
                                value,
                                self.has_residual.then(|| self.residual.add(at)),
                                self.output.add(at),
                                width,
                                self.relu,
                            );
                        }
                    }
                }
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

/// Finishes and stores the first `width` lanes.
#[inline(always)]
unsafe fn part<S: Simd>(
    simd: S,
    value: S::Vector,
    residual: Option<*const f32>,
    output: *mut f32,
    width: usize,
    relu: bool,
) {
    let mut lanes = [0.0; 16];
    // SAFETY: no vector has more than 16 lanes; the caller answers for `width` floats.
    unsafe {
        simd.store(lanes.as_mut_ptr(), value);
        for (c, lane) in lanes[..width].iter().enumerate() {
            let sum = lane + residual.map_or(0.0, |residual| *residual.add(c));
            *output.add(c) = if relu { sum.max(0.0) } else { sum };
        }
    }
}
