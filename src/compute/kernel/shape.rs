//! The sizes of a convolution, from which everything about it follows.

use super::super::architecture;

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
    /// Of `conv` on square images of `side`.
    pub(super) fn of(conv: &architecture::Conv, side: usize) -> Self {
        let architecture::Conv { inputs, outputs, kernel, stride, .. } = *conv;
        let [padding, _] = conv.padding(side);
        Self { inputs, outputs, kernel, stride, padding, height: side, width: side }
    }

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
