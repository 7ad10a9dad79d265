//! Products of rows and a packed matrix with all that follows at once: bias, residual and activation.
//!
//! A 1x1 convolution is one: its rows are pixels. So is a small convolution over few channels: the pixels under a row
//! of its filter lie side by side in memory and are one long tap.

use std::hint::black_box;

use super::super::architecture::Activation;
use super::memory::Buffer;
use super::pack::Filters;
use super::simd::{Body, Simd};
use super::threads::Threads;

/// Columns of the rows multiplied at once: their weights for one panel stay in the first-level cache.
const DEPTH: usize = 256;

/// Most rows of a tile that is one vector wide: as many sums, a weight and a broadcast fit 16 registers.
const NARROW_ROWS: usize = 14;

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
}

/// What is multiplied, and where it goes.
#[derive(Clone, Copy)]
pub(super) struct Rows<'a> {
    /// The first row.
    pub(super) input: *const f32,
    /// Distance between rows.
    pub(super) stride: usize,
    /// Distance between the taps of a row.
    pub(super) tap_stride: usize,
    /// Number of rows.
    pub(super) count: usize,
    /// Where the products of one panel go, counted by `places`.
    pub(super) output: *mut f32,
    /// Place of each row in the output, and in the residual.
    pub(super) places: *const u32,
    /// Added to the output; null for none.
    pub(super) residual: *const f32,
    pub(super) activation: Activation,
    /// What is read next of memory that is far away. Tiles of two vectors, from the second on, fetch of it as much each
    /// as they have weights.
    pub(super) next: &'a [f32],
}

impl Matrix {
    /// Folds and packs `filters`, whose taps come in `rows` rows of a filter.
    pub(super) fn new<S: Simd>(filters: &Filters, rows: usize, threads: &mut Threads) -> Self {
        Self {
            weights: filters.pack(S::PANEL, threads),
            bias: filters.pack_bias(S::PANEL),
            taps: rows,
            depth: filters.inputs * filters.taps / rows,
            outputs: filters.outputs,
        }
    }

    /// All of its memory.
    pub(super) fn buffers(&mut self) -> impl Iterator<Item = &mut Buffer> {
        [&mut self.weights, &mut self.bias].into_iter()
    }

    /// Panels of outputs. The last one may be of one vector only.
    pub(super) fn panels<S: Simd>(&self) -> usize {
        self.outputs.div_ceil(S::PANEL)
    }

    /// Outputs in a panel: one or two vectors.
    pub(super) fn width<S: Simd>(&self, panel: usize) -> usize {
        (self.outputs - panel * S::PANEL).next_multiple_of(S::LANES).min(S::PANEL)
    }

    /// Distance between pixels of the output: whole vectors.
    pub(super) fn stride<S: Simd>(&self) -> usize {
        self.outputs.next_multiple_of(S::LANES)
    }

    /// Multiplies the rows with one panel.
    ///
    /// # Safety
    /// Each row has as many columns as the matrix, `places` one for each row, and output and residual [`Matrix::width`]
    /// floats at each place.
    pub(super) unsafe fn multiply<S: Simd>(&self, simd: S, panel: usize, rows: Rows<'_>) {
        let columns = self.taps * self.depth;
        let narrow = self.width::<S>(panel) < S::PANEL;
        let most = if narrow { NARROW_ROWS } else { S::ROWS };
        let at_once = if self.taps == 1 { DEPTH } else { columns };
        let tiles = rows.count.div_ceil(most);
        let mut next = rows.next;
        for first in (0..columns).step_by(at_once) {
            let depth = if self.taps == 1 { at_once.min(columns - first) } else { self.depth };
            let last = first + at_once >= columns;
            let mut tile = Product {
                rows: Rows {
                    input: rows.input.wrapping_add(first),
                    residual: if last { rows.residual } else { std::ptr::null() },
                    activation: if last { rows.activation } else { Activation::None },
                    ..rows
                },
                taps: self.taps,
                depth,
                weights: self.weights[(panel * columns + first) * S::PANEL..].as_ptr(),
                bias: (first == 0).then(|| self.bias[panel * S::PANEL..].as_ptr()),
                ahead: None,
            };
            let block = self.taps * depth * S::PANEL;
            for index in 0..tiles {
                let height = rows.count / tiles + usize::from(index < rows.count % tiles);
                tile.ahead = match index {
                    _ if narrow => None,
                    // The block behind this one is usually the next to be read.
                    0 => Some(tile.weights.wrapping_add(block)),
                    _ => take(&mut next, block),
                };
                // SAFETY: the tiles partition the rows; the caller answers for them.
                unsafe {
                    match (narrow, tile.ahead.is_some()) {
                        (true, _) => tile.narrow(simd, height),
                        (false, true) => tile.wide::<S, true>(simd, height),
                        (false, false) => tile.wide::<S, false>(simd, height),
                    }
                }
                tile.rows.input = tile.rows.input.wrapping_add(height * rows.stride);
                tile.rows.places = tile.rows.places.wrapping_add(height);
            }
        }
    }
}

/// Takes `len` floats off the front, or what is left; `None` if that is nothing.
fn take(next: &mut &[f32], len: usize) -> Option<*const f32> {
    let (first, rest) = next.split_at(len.min(next.len()));
    *next = rest;
    (!first.is_empty()).then_some(first.as_ptr())
}

/// Some columns of rows, and the weights that they meet.
#[derive(Clone, Copy)]
struct Product<'a> {
    rows: Rows<'a>,
    taps: usize,
    depth: usize,
    /// `[taps][depth][PANEL]`
    weights: *const f32,
    /// What the sums start from; none for what the output holds.
    bias: Option<*const f32>,
    /// What tiles of two vectors fetch meanwhile, as much as these weights are.
    ahead: Option<*const f32>,
}

/// Launches the tile of a height: the first ones are there whatever the registers.
macro_rules! heights {
    ($self:ident, $simd:ident, $height:ident, $most:expr, $vectors:literal, $($low:literal)+; $($high:literal)*) => {
        match $height {
            // SAFETY: the caller's promise.
            $($low => unsafe { $simd.launch(Tile::<$low, $vectors, AHEAD>($self)) },)+
            // SAFETY: the caller's promise.
            $($high if $high <= $most => unsafe { $simd.launch(Tile::<$high, $vectors, AHEAD>($self)) },)*
            _ => unreachable!("a tile has 1 to {} rows", $most),
        }
    };
}

impl Product<'_> {
    /// A tile of two vectors.
    #[inline(always)]
    unsafe fn wide<S: Simd, const AHEAD: bool>(self, simd: S, height: usize) {
        const { assert!(6 <= S::ROWS) };
        heights!(self, simd, height, S::ROWS, 2, 1 2 3 4 5 6; 7 8 9 10 11 12 13 14);
    }

    /// A tile of one vector.
    #[inline(always)]
    unsafe fn narrow<S: Simd>(self, simd: S, height: usize) {
        const AHEAD: bool = false;
        heights!(self, simd, height, NARROW_ROWS, 1, 1 2 3 4 5 6 7 8 9 10 11 12 13 14;);
    }

    /// Adds the residual to the sums, if there is one, and stores them: `BOUNDED`, within 0 and `most`.
    ///
    /// # Safety
    /// As for [`Matrix::multiply`].
    #[inline(always)]
    unsafe fn write<S: Simd, const R: usize, const V: usize, const BOUNDED: bool>(
        &self,
        simd: S,
        sums: [[S::Vector; V]; R],
        most: f32,
    ) {
        let Rows { output, places, residual, .. } = self.rows;
        let most = simd.splat(most);
        // SAFETY: the caller's promise.
        unsafe {
            for r in 0..R {
                let place = *places.add(r) as usize;
                for v in 0..V {
                    let at = place + v * S::LANES;
                    let mut value = sums[r][v];
                    if !residual.is_null() {
                        value = simd.add(value, simd.load(residual.add(at)));
                    }
                    if BOUNDED {
                        value = simd.within(value, most);
                    }
                    simd.store(output.add(at), value);
                }
            }
        }
    }
}

/// [`Product`] for `R` rows and `V` vectors of outputs, all sums in registers; `AHEAD` fetches what is ahead meanwhile.
struct Tile<'a, const R: usize, const V: usize, const AHEAD: bool>(Product<'a>);

impl<const R: usize, const V: usize, const AHEAD: bool> Body for Tile<'_, R, V, AHEAD> {
    #[inline(always)]
    unsafe fn run<S: Simd>(self, simd: S) {
        let Self(p) = self;
        // SAFETY: `Matrix::multiply` states what the pointers hold.
        unsafe {
            let mut sums = [[simd.splat(0.0); V]; R];
            for r in 0..R {
                for v in 0..V {
                    let from = match p.bias {
                        Some(bias) => bias,
                        None => p.rows.output.add(*p.rows.places.add(r) as usize).cast_const(),
                    };
                    sums[r][v] = simd.load(from.add(v * S::LANES));
                }
            }
            let mut weights = p.weights;
            let mut ahead = p.ahead.unwrap_or(weights);
            for tap in 0..p.taps {
                let mut rows = [p.rows.input; R];
                // A compiler that knows how the rows lie reads several columns at once, and has no registers left for
                // the sums.
                for r in 0..R {
                    rows[r] = black_box(p.rows.input.add(tap * p.rows.tap_stride + r * p.rows.stride));
                }
                let mut k = 0;
                while k + 4 <= p.depth {
                    for u in 0..4 {
                        if AHEAD {
                            fetch(simd, ahead.wrapping_add(u * S::PANEL));
                        }
                        step(simd, &mut sums, &rows, k + u, weights.add(u * S::PANEL));
                    }
                    weights = weights.add(4 * S::PANEL);
                    ahead = ahead.wrapping_add(4 * S::PANEL);
                    k += 4;
                }
                while k < p.depth {
                    step(simd, &mut sums, &rows, k, weights);
                    weights = weights.add(S::PANEL);
                    k += 1;
                }
            }
            match p.rows.activation.ceiling() {
                Some(most) => p.write::<S, R, V, true>(simd, sums, most),
                None => p.write::<S, R, V, false>(simd, sums, 0.0),
            }
        }
    }
}

/// Fetches a row of a panel.
#[inline(always)]
fn fetch<S: Simd>(simd: S, row: *const f32) {
    simd.prefetch(row);
    if S::PANEL > 16 {
        simd.prefetch(row.wrapping_add(16));
    }
}

/// Adds the outer product of one column of the rows and one row of the weights.
#[inline(always)]
unsafe fn step<S: Simd, const R: usize, const V: usize>(
    simd: S,
    sums: &mut [[S::Vector; V]; R],
    rows: &[*const f32; R],
    k: usize,
    weights: *const f32,
) {
    // SAFETY: `Matrix::multiply` states what the pointers hold.
    unsafe {
        let mut weight = [simd.splat(0.0); V];
        for v in 0..V {
            weight[v] = simd.load(weights.add(v * S::LANES));
        }
        for r in 0..R {
            let x = simd.splat(*rows[r].add(k));
            for v in 0..V {
                sums[r][v] = simd.mul_add(x, weight[v], sums[r][v]);
            }
        }
    }
}
