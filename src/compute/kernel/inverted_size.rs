//! The sizes of a block of inverted residuals: which rows are under which, and how many are held at a time.

use std::ops::Range;

use super::stem::CHANNELS;

/// Floats of a whole image's widened rows of one panel up to which it is small: three quarters of the first-level
/// cache.
const SMALL: usize = 9 << 10;

/// Floats of the widened rows of all panels that are held in a strip: a part of the second-level cache.
const HELD: usize = 64 << 10;

/// The sizes of a block, from which everything about it follows.
#[derive(Clone, Copy, Debug)]
pub(super) struct Size {
    /// Side of what the depthwise convolution reads.
    pub(super) side: usize,
    /// Zeros before each row and column of it.
    pub(super) before: usize,
    pub(super) kernel: usize,
    pub(super) stride: usize,
    /// Side of the output.
    pub(super) output_side: usize,
    /// Floats of a pixel of the input.
    pub(super) input_stride: usize,
    /// Floats of a pixel in the middle.
    pub(super) middle_stride: usize,
    /// Floats of a pixel of the output.
    pub(super) output_stride: usize,
    /// Panels in the middle.
    pub(super) panels: usize,
    /// Floats of a widened and padded row of one panel.
    pub(super) row_len: usize,
}

/// The sizes of the stem's input.
pub(super) struct Image {
    pub(super) side: usize,
    /// Zeros before each row and column.
    pub(super) before: usize,
    pub(super) kernel: usize,
    pub(super) stride: usize,
    /// Floats of a padded row.
    pub(super) row_len: usize,
}

impl Size {
    /// Floats of an image of the output.
    pub(super) fn output_len(&self) -> usize {
        self.output_side * self.output_side * self.output_stride
    }

    /// Floats of an image in the middle, behind the depthwise convolution.
    pub(super) fn middle_len(&self) -> usize {
        self.output_side * self.output_side * self.middle_stride
    }

    /// Widened rows, those above and below the image left out, under some rows of the output.
    pub(super) fn under(&self, outputs: &Range<usize>) -> Range<usize> {
        let end = (outputs.end - 1) * self.stride + self.kernel;
        (outputs.start * self.stride).saturating_sub(self.before)..end.saturating_sub(self.before).min(self.side)
    }

    /// Widened rows under so many rows of the output.
    pub(super) const fn rows_under(&self, outputs: usize) -> usize {
        (outputs - 1) * self.stride + self.kernel
    }

    /// Whether all widened rows of one panel are few enough to be held at once.
    pub(super) const fn is_small(&self) -> bool {
        self.row_len * self.side <= SMALL
    }

    /// Rows of the output that are computed together in a strip.
    pub(super) fn group(&self) -> usize {
        let held = HELD / (self.row_len * self.panels);
        (held.saturating_sub(self.kernel) / self.stride + 1).clamp(1, self.output_side)
    }

    /// Widened rows of a panel that are held in a strip.
    pub(super) fn ring(&self) -> usize {
        self.rows_under(self.group()).min(self.side)
    }
}

impl Image {
    /// Rows of the image under so many rows of the stem's output.
    pub(super) const fn rows_under(&self, outputs: usize) -> usize {
        (outputs - 1) * self.stride + self.kernel
    }

    /// Copies the rows under some of the stem's output, with zeros around.
    pub(super) fn pad(&self, image: &[f32], outputs: &Range<usize>, padded: &mut [f32]) {
        let (len, margin) = (self.side * CHANNELS, self.before * CHANNELS);
        let rows = padded.chunks_exact_mut(self.row_len).take(self.rows_under(outputs.len()));
        for (row, padded) in rows.enumerate() {
            match (outputs.start * self.stride + row).checked_sub(self.before).filter(|&y| y < self.side) {
                Some(y) => {
                    padded[..margin].fill(0.0);
                    padded[margin..margin + len].copy_from_slice(&image[y * len..][..len]);
                    padded[margin + len..].fill(0.0);
                }
                None => padded.fill(0.0),
            }
        }
    }
}
