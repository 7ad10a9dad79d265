//! Packed matrices.
//!
//! A 1x1 convolution is one: the rows that it multiplies are pixels. So is a small convolution over few channels: the
//! pixels under a row of its filter lie side by side in memory and are one long tap.

use super::super::architecture::Activation;
use super::memory::Buffer;
use super::pack::Filters;
use super::product::{Product, Rows};
use super::simd::Simd;
use super::threads::Threads;
use super::workspace::even_parts;

/// Floats of weights that rows meet at once. Tile by tile they come from the first-level cache, or the second, which
/// is as quick when they are read in order.
const WEIGHTS: usize = 8 << 10;

/// What becomes of the last vector of outputs if panels of two leave one.
#[derive(Clone, Copy, Debug)]
pub(super) enum Odd {
    /// It is a panel.
    Alone,
    /// The panel before it takes it, and so has three: more than `PANEL` outputs, for which whoever reads them must have
    /// room. With one vector alone, loads would take longer than multiplications.
    Joined,
}

/// A packed matrix.
pub(super) struct Matrix {
    /// `[panel][tap][input][PANEL]`, the last panel filled up with zeros.
    weights: Buffer,
    /// One per output, filled up to whole panels.
    bias: Buffer,
    /// Rows of the filter.
    taps: usize,
    /// Columns of the matrix for each tap.
    depth: usize,
    outputs: usize,
    odd: Odd,
}

impl Matrix {
    /// Folds and packs `filters`, whose taps come in `rows` rows of a filter.
    pub(super) fn new<S: Simd>(filters: &Filters, rows: usize, odd: Odd, threads: &mut Threads) -> Self {
        Self {
            weights: filters.pack(S::PANEL, threads),
            bias: filters.pack_bias(S::PANEL),
            taps: rows,
            depth: filters.inputs * filters.taps / rows,
            outputs: filters.outputs,
            odd,
        }
    }

    /// All of its memory.
    pub(super) fn buffers(&mut self) -> impl Iterator<Item = &mut Buffer> {
        [&mut self.weights, &mut self.bias].into_iter()
    }

    /// Panels of outputs.
    pub(super) fn panels<S: Simd>(&self) -> usize {
        match self.odd {
            Odd::Alone => self.outputs.div_ceil(S::PANEL),
            Odd::Joined => (self.stride::<S>() / S::PANEL).max(1),
        }
    }

    /// Outputs in a panel: whole vectors, two but in the last one.
    pub(super) fn width<S: Simd>(&self, panel: usize) -> usize {
        let is_last = panel + 1 == self.panels::<S>();
        if is_last { self.stride::<S>() - panel * S::PANEL } else { S::PANEL }
    }

    /// Distance between pixels of the output: whole vectors.
    pub(super) fn stride<S: Simd>(&self) -> usize {
        self.outputs.next_multiple_of(S::LANES)
    }

    /// Multiplies the rows with one panel.
    ///
    /// # Safety
    /// There is a row, and each has as many columns as the matrix, `places` one for each row, and output and residual [`Matrix::width`]
    /// floats at each place.
    pub(super) unsafe fn multiply<S: Simd>(&self, simd: S, panel: usize, rows: Rows<'_>) {
        let (columns, width) = (self.taps * self.depth, self.width::<S>(panel));
        let most = if self.taps == 1 { WEIGHTS / width } else { columns };
        let mut next = rows.next;
        for part in even_parts(0..columns, most) {
            let is_last = part.end == columns;
            let taken;
            (taken, next) = next.split_at(next.len() * part.len() / (columns - part.start));
            let product = Product {
                rows: Rows {
                    input: rows.input.wrapping_add(part.start),
                    residual: if is_last { rows.residual } else { std::ptr::null() },
                    activation: if is_last { rows.activation } else { Activation::None },
                    next: taken,
                    ..rows
                },
                taps: self.taps,
                depth: part.len() / self.taps,
                weights: self.weights[(panel * columns + part.start) * S::PANEL..].as_ptr(),
                panel_len: columns * S::PANEL,
                bias: (part.start == 0).then(|| self.bias[panel * S::PANEL..].as_ptr()),
            };
            // SAFETY: the parts are of the matrix and the rows; the caller answers for these.
            unsafe { product.run(simd, width / S::LANES) };
        }
    }
}
