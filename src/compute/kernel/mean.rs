//! The mean over all pixels of each channel.

use super::simd::{Body, Simd};

/// Channels are whole vectors on every instruction set.
pub(super) struct Mean {
    /// The first pixel of the first image; the images follow each other.
    pub(super) from: *const f32,
    /// Distance between pixels.
    pub(super) from_stride: usize,
    pub(super) pixels: usize,
    pub(super) channels: usize,
    pub(super) batch: usize,
    /// The means of the first image.
    pub(super) to: *mut f32,
    /// Distance between the means of neighbouring images.
    pub(super) stride: usize,
}

impl Body for Mean {
    #[inline(always)]
    unsafe fn run<S: Simd>(self, simd: S) {
        let scale = simd.splat(1.0 / self.pixels as f32);
        for image in 0..self.batch {
            for c in (0..self.channels).step_by(S::LANES) {
                // SAFETY: the fields say what the pointers hold.
                unsafe {
                    let mut sum = simd.splat(0.0);
                    for pixel in image * self.pixels..(image + 1) * self.pixels {
                        sum = simd.add(sum, simd.load(self.from.add(pixel * self.from_stride + c)));
                    }
                    simd.store(self.to.add(image * self.stride + c), simd.mul(sum, scale));
                }
            }
        }
    }
}
