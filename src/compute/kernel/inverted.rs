//! The blocks of a network of inverted residuals, folded and packed, and the work on one image that they share out.

use std::ops::Range;

use super::super::architecture::{self, Activation};
use super::depthwise::{self, Depthwise, Held};
use super::inverted_size::{Image, Size};
use super::memory::Buffer;
use super::pointwise::{Matrix, Odd};
use super::product::Rows;
use super::simd::Simd;
use super::stem::CHANNELS;
use super::threads::Threads;
use super::weights::{self, KernelError, Weights};

/// A block.
pub(super) struct Block {
    /// 1x1; in the first block the stem.
    expand: Matrix,
    expand_activation: Activation,
    /// What the stem reads: of the first block only.
    image: Option<Image>,
    depthwise: Depthwise,
    project: Matrix,
    pub(super) identity: bool,
    pub(super) size: Size,
    /// Place of each pixel of the widened rows, row by row.
    widened: Vec<u32>,
    /// Place of each pixel of the output.
    narrowed: Vec<u32>,
}

/// Where a strip of an image is read and written.
#[derive(Clone, Copy)]
pub(super) struct Strip<'a> {
    /// The network's input, for the first block.
    pub(super) image: &'a [f32],
    /// The block's input, for the others: `[row][column][input_stride]`.
    pub(super) input: *const f32,
    /// The block's output.
    pub(super) output: *mut f32,
    /// Memory of this thread.
    pub(super) scratch: *mut f32,
}

impl Block {
    /// Packs a block for inputs of `side`.
    pub(super) fn new<S: Simd>(
        block: &architecture::InvertedBlock,
        epsilon: f64,
        weights: &dyn Weights,
        side: usize,
        threads: &mut Threads,
    ) -> Result<Self, KernelError> {
        let architecture::InvertedBlock { expand, depthwise, project, identity } = block;
        let filters = |conv| weights::convolution(weights, conv, epsilon);
        let image = (expand.inputs == CHANNELS).then(|| {
            let [before, behind] = expand.padding(side);
            let row_len = (before + side + behind) * CHANNELS;
            Image { side, before, kernel: expand.kernel, stride: expand.stride, row_len }
        });
        let widened = Matrix::new::<S>(&filters(expand)?, expand.kernel, Odd::Alone, threads);
        let projection = Matrix::new::<S>(&filters(project)?, 1, Odd::Joined, threads);
        let side = expand.output_side(side);
        let [before, _] = depthwise.padding(side);
        let (kernel, stride, output_side) = (depthwise.kernel, depthwise.stride, depthwise.output_side(side));
        let columns = ((output_side - 1) * stride + kernel).max(before + side);
        let size = Size {
            side,
            before,
            kernel,
            stride,
            output_side,
            input_stride: expand.inputs.next_multiple_of(S::LANES),
            middle_stride: widened.stride::<S>(),
            output_stride: projection.stride::<S>(),
            panels: widened.panels::<S>(),
            row_len: columns * S::PANEL,
        };
        let places = |pixels: usize, place: &dyn Fn(usize) -> usize| (0..pixels).map(|i| place(i) as u32).collect();
        let pixels = if size.is_small() { output_side } else { size.group() } * output_side;
        Ok(Self {
            expand: widened,
            expand_activation: expand.activation,
            image,
            depthwise: Depthwise::new::<S>(&filters(depthwise)?, kernel, stride, depthwise.activation),
            project: projection,
            identity: *identity,
            size,
            // Of the whole image, as a block behind the first small one widens, small or not.
            widened: places(side * side, &|i| i / side * size.row_len + i % side * S::PANEL),
            narrowed: places(pixels, &|i| i * size.output_stride),
        })
    }

    /// All of its weights, in the order they are read.
    pub(super) fn buffers(&mut self) -> impl Iterator<Item = &mut Buffer> {
        self.expand.buffers().chain(self.depthwise.buffers()).chain(self.project.buffers())
    }

    /// Floats of scratch that a strip needs.
    pub(super) fn strip_scratch(&self) -> usize {
        let Size { row_len, panels, output_side, middle_stride, .. } = self.size;
        let image = self.image.as_ref().map_or(0, |image| image.rows_under(self.size.ring()) * image.row_len);
        (panels * self.size.ring() + 1) * row_len + self.size.group() * output_side * middle_stride + image
    }

    /// Computes some rows of the output, a group at a time: each panel widens what rows it lacks and filters the group,
    /// then the group is narrowed.
    ///
    /// # Safety
    /// Input and output are whole images of this block, and the scratch is as [`Block::strip_scratch`] says.
    pub(super) unsafe fn strip<S: Simd>(&self, simd: S, rows: Range<usize>, strip: Strip<'_>) {
        let Size { row_len, panels, output_side, middle_stride, output_stride, input_stride, .. } = self.size;
        let (ring, at_once) = (self.size.ring(), self.size.group());
        let zeros = strip.scratch.wrapping_add(panels * ring * row_len);
        let middle = zeros.wrapping_add(row_len);
        let padded = middle.wrapping_add(at_once * output_side * middle_stride);
        // SAFETY: the scratch has room for all of it.
        unsafe { zeros.write_bytes(0, row_len) };
        let mut widened = self.size.under(&rows).start;
        for first in rows.clone().step_by(at_once) {
            let group = first..rows.end.min(first + at_once);
            let lacking = widened..self.size.under(&group).end;
            widened = widened.max(lacking.end);
            if let Some(image) = &self.image
                && !lacking.is_empty()
            {
                let len = image.rows_under(lacking.len()) * image.row_len;
                // SAFETY: as above.
                image.pad(strip.image, &lacking, unsafe { std::slice::from_raw_parts_mut(padded, len) });
            }
            for panel in 0..panels {
                let held = self.held(strip.scratch.wrapping_add(panel * ring * row_len), ring, zeros);
                // SAFETY: as above.
                unsafe {
                    self.widen(simd, panel, strip.input, padded, lacking.clone(), &held);
                    let to = middle.add(panel * S::PANEL);
                    self.filter(simd, panel, held, group.clone(), to);
                }
            }
            let pixels = first * output_side;
            let residual =
                if self.identity { strip.input.wrapping_add(pixels * input_stride) } else { std::ptr::null() };
            let output = strip.output.wrapping_add(pixels * output_stride);
            for panel in 0..self.project.panels::<S>() {
                // SAFETY: the group is part of the output, and of the input if they have one shape.
                unsafe { self.narrow(simd, panel, middle, group.len() * output_side, output, residual) };
            }
        }
    }

    /// Floats of scratch that [`Block::panel`] needs.
    pub(super) fn panel_scratch(&self) -> usize {
        (self.size.side + 1) * self.size.row_len
    }

    /// Widens and filters one panel of a small image, into `middle`, which is `[row][column][middle_stride]`.
    ///
    /// # Safety
    /// The input is a whole image, `scratch` as [`Block::panel_scratch`] says.
    pub(super) unsafe fn panel<S: Simd>(
        &self,
        simd: S,
        panel: usize,
        input: *const f32,
        scratch: *mut f32,
        middle: *mut f32,
    ) {
        let Size { side, row_len, output_side, .. } = self.size;
        let held = self.held(scratch, side, scratch.wrapping_add(side * row_len));
        // SAFETY: the caller's promise.
        unsafe {
            held.zeros.write_bytes(0, row_len);
            self.widen(simd, panel, input, std::ptr::null_mut(), 0..side, &held);
            self.filter(simd, panel, held, 0..output_side, middle.add(panel * S::PANEL));
        }
    }

    /// Asks for the filters that [`Block::panel`] reads in the end.
    pub(super) fn fetch<S: Simd>(&self, simd: S, panel: usize) {
        self.depthwise.fetch(simd, panel);
    }

    /// Panels of the output.
    pub(super) fn output_panels<S: Simd>(&self) -> usize {
        self.project.panels::<S>()
    }

    /// Most pixels that [`Block::narrow`] takes.
    pub(super) fn most_pixels(&self) -> usize {
        self.narrowed.len()
    }

    /// Multiplies `pixels` of the middle with one panel of the projection and adds the residual, if there is one.
    ///
    /// # Safety
    /// As many pixels must be at each pointer; the output is of the whole pixels, not of the panel alone.
    pub(super) unsafe fn narrow<S: Simd>(
        &self,
        simd: S,
        panel: usize,
        middle: *const f32,
        pixels: usize,
        output: *mut f32,
        residual: *const f32,
    ) {
        debug_assert!(pixels <= self.narrowed.len());
        let residual = if residual.is_null() { residual } else { residual.wrapping_add(panel * S::PANEL) };
        let rows = Rows {
            input: middle,
            stride: self.size.middle_stride,
            tap_stride: 0,
            count: pixels,
            output: output.wrapping_add(panel * S::PANEL),
            places: self.narrowed.as_ptr(),
            residual,
            activation: Activation::None,
            next: &[],
        };
        // SAFETY: the caller's promise.
        unsafe { self.project.multiply(simd, panel, rows) };
    }

    /// Widens some rows of the input for one panel.
    ///
    /// # Safety
    /// `input` is an image of this block, or `padded` has the rows of the image under these rows. The slots are ours.
    unsafe fn widen<S: Simd>(
        &self,
        simd: S,
        panel: usize,
        input: *const f32,
        padded: *const f32,
        rows: Range<usize>,
        held: &Held,
    ) {
        let Size { side, before, row_len, input_stride, .. } = self.size;
        let mut row = rows.start;
        while row < rows.end {
            let slot = row % held.ring;
            let count = match self.image {
                Some(_) => 1,
                None => (rows.end - row).min(held.ring - slot),
            };
            debug_assert!(count * side <= self.widened.len());
            let to = held.row(row);
            // SAFETY: the ring has as many slots; each has room for the row and the zeros around it.
            unsafe {
                for slot in 0..count {
                    let (start, end) = (before * S::PANEL, (before + side) * S::PANEL);
                    to.add(slot * row_len).write_bytes(0, start);
                    to.add(slot * row_len + end).write_bytes(0, row_len - end);
                }
                let (input, stride, tap_stride) = match &self.image {
                    Some(image) => {
                        let at = (row - rows.start) * image.stride * image.row_len;
                        (padded.add(at), image.stride * CHANNELS, image.row_len)
                    }
                    None => (input.add(row * side * input_stride), input_stride, 0),
                };
                self.expand.multiply(
                    simd,
                    panel,
                    Rows {
                        input,
                        stride,
                        tap_stride,
                        count: count * side,
                        output: to.add(before * S::PANEL),
                        places: self.widened.as_ptr(),
                        residual: std::ptr::null(),
                        activation: self.expand_activation,
                        next: &[],
                    },
                );
            }
            row += count;
        }
    }

    /// Filters one panel for some rows of the output.
    ///
    /// # Safety
    /// The rows under them are held; `output` is this panel of the first pixel, with room for the rows.
    unsafe fn filter<S: Simd>(&self, simd: S, panel: usize, held: Held, outputs: Range<usize>, output: *mut f32) {
        debug_assert!(self.expand.width::<S>(panel) <= S::PANEL, "a row of it has a panel's room");
        let rows = depthwise::Rows {
            held,
            first: outputs.start,
            rows: outputs.len(),
            output,
            stride: self.size.middle_stride,
            count: self.size.output_side,
            width: self.expand.width::<S>(panel),
        };
        // SAFETY: the caller's promise.
        unsafe { self.depthwise.run(simd, panel, rows) };
    }

    /// Slots for widened rows of one panel.
    fn held(&self, slots: *mut f32, ring: usize, zeros: *mut f32) -> Held {
        let Size { side, before, row_len, .. } = self.size;
        Held { slots, ring, len: row_len, zeros, side, before }
    }
}
