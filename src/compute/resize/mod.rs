//! Resizing of pictures: to the bit as Pillow does it with samples of eight bits (`Resample.c`).
//!
//! Each sample that is made is a weighted sum of those around its place, first along rows, then along columns. Both are
//! one [`pass()`]: it takes rows sixteen at a time, side by side, so that sums of sixteen rows are formed at once however
//! few samples each is of, and what it makes of a row becomes a column. After the second pass rows are rows again.

mod filter;
mod pass;
mod sample;
mod smaller;
#[cfg(test)]
mod tests;
mod weights;

pub use filter::{Filter, Part};
pub use pass::{LANES, Rows, pass};
pub use sample::{Fine, Sample};
pub use smaller::Smaller;
pub use weights::Weights;

/// Resizes one channel. Row by row, as many samples as `columns` makes, and as many rows as `rows` makes.
pub fn resize<S: Sample>(channel: &impl Rows<S>, columns: &Weights<S>, rows: &Weights<S::Between>) -> Vec<u8> {
    let needed = rows.reads();
    let mut narrow = vec![S::Between::default(); columns.len() * needed.len()];
    pass(channel, needed.clone(), columns, &mut narrow, needed.len());
    let narrow = Turned { samples: &narrow, length: needed.len(), first: needed.start };
    let mut small = vec![0; columns.len() * rows.len()];
    pass(&narrow, 0..columns.len(), rows, &mut small, columns.len());
    small
}

/// What a pass has made: columns as rows, of which the first sample stands for the row `first`.
struct Turned<'a, S> {
    samples: &'a [S],
    length: usize,
    first: usize,
}
