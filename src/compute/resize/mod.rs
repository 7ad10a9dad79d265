//! Resizing of pictures: to the bit as Pillow does it with samples of eight bits (`Resample.c`).
//!
//! Each sample that is made is a weighted sum of those around its place, first along rows, then along columns. Both are
//! one [`pass()`]: it takes rows sixteen at a time, side by side, so that sums of sixteen rows are formed at once however
//! few samples each is of, and what it makes of a row becomes a column. After the second pass rows are rows again.

use std::ops::Range;

mod filter;
mod pass;
mod sample;
mod smaller;
#[cfg(test)]
mod tests;
mod weights;

pub use filter::{Filter, Part};
pub use pass::{LANES, Rows, STRIP, pass};
pub use sample::{Fine, Sample};
pub use smaller::Smaller;
pub use weights::Weights;

/// Resizes one channel. Row by row, as many samples as `columns` makes, and as many rows as `rows` makes.
pub fn resize<S: Sample>(channel: &impl Rows<S>, columns: &Weights<S>, rows: &Weights<S::Between>) -> Vec<u8> {
    let mut resize = Resize::new(columns, rows);
    resize.take(channel, rows.reads(), rows.reads().start);
    resize.finish()
}

/// A resize of one channel whose rows come little by little.
#[derive(Debug)]
pub struct Resize<'a, S: Sample> {
    columns: &'a Weights<S>,
    rows: &'a Weights<S::Between>,
    narrow: Vec<S::Between>,
}

impl<'a, S: Sample> Resize<'a, S> {
    /// Of rows that are yet to come.
    pub fn new(columns: &'a Weights<S>, rows: &'a Weights<S::Between>) -> Self {
        Self { columns, rows, narrow: vec![S::Between::default(); columns.len() * rows.reads().len()] }
    }

    /// Takes `rows` of `strip`, which in the channel are those from `at` on and among the ones that are read.
    pub fn take(&mut self, strip: &impl Rows<S>, rows: Range<usize>, at: usize) {
        let read = self.rows.reads();
        pass(strip, rows, self.columns, &mut self.narrow[at - read.start..], read.len());
    }

    /// As [`resize()`]. Rows that never came are black.
    pub fn finish(self) -> Vec<u8> {
        let Self { columns, rows, narrow } = self;
        let read = rows.reads();
        let narrow = Turned { samples: &narrow, length: read.len(), first: read.start };
        let mut small = vec![0; columns.len() * rows.len()];
        pass(&narrow, 0..columns.len(), rows, &mut small, columns.len());
        small
    }
}

/// What a pass has made: columns as rows, of which the first sample stands for the row `first`.
struct Turned<'a, S> {
    samples: &'a [S],
    length: usize,
    first: usize,
}
