//! The matrix product under every convolution: a register tile of rows by one panel of packed weights.
//!
//! Weights are packed once as panels `[tap][depth][PANEL]`, so the innermost loop reads them in order (Goto & van de
//! Geijn, "Anatomy of High-Performance Matrix Multiplication", 2008). The other operand is never copied: a row is an
//! offset per tap into the activations ("implicit GEMM"; Dukhan, "The Indirect Convolution Algorithm", 2019), so one
//! kernel serves direct convolutions, Winograd planes, the stem and the last layer.

use super::simd::{Body, Simd};

/// Most rows of a register tile on any instruction set.
pub(super) const MAX_ROWS: usize = 14;

/// Floats of packed weights in one block: 16 KB, half the first-level cache.
pub(super) const BLOCK: usize = 4096;

/// What a tile's accumulators start from.
#[derive(Clone, Copy)]
pub(super) enum Start {
    /// Zero.
    Zero,
    /// The panel's bias in every row.
    Bias(*const f32),
    /// What the output holds.
    Output,
}

/// Rows times one panel: `output[r][0..PANEL] = start + sum over t, k of input[offsets[r * offset_stride + t] + k] *
/// weights[t][k][0..PANEL]`.
#[derive(Clone, Copy)]
pub(super) struct Product {
    /// Base of the activations.
    pub(super) input: *const f32,
    /// Offsets from `input`, in floats, of row `r` and tap `t` at `r * offset_stride + t`.
    pub(super) offsets: *const u32,
    /// Distance between the offsets of neighbouring rows.
    pub(super) offset_stride: usize,
    /// Taps summed.
    pub(super) taps: usize,
    /// Channels summed for each tap.
    pub(super) depth: usize,
    /// Packed weights, `[taps][depth][PANEL]`.
    pub(super) weights: *const f32,
    /// First row of the output.
    pub(super) output: *mut f32,
    /// Distance between output rows.
    pub(super) output_stride: usize,
    /// What to add to.
    pub(super) start: Start,
}

impl Product {
    /// Multiplies `rows` rows, in tiles as equal as can be: 13 rows are 7 + 6, never 12 + 1.
    ///
    /// # Safety
    /// `offsets` holds `rows` rows; each offset plus `depth` lies in the activations; `weights` holds the block;
    /// `output` holds `rows` rows; a bias holds `PANEL` floats.
    #[inline(always)]
    pub(super) unsafe fn multiply<S: Simd>(self, simd: S, rows: usize) {
        let tiles = rows.div_ceil(S::ROWS);
        let mut product = self;
        for tile in 0..tiles {
            let height = rows / tiles + usize::from(tile < rows % tiles);
            // SAFETY: the tiles partition the rows.
            unsafe {
                // The block behind this one is fetched meanwhile, half of it by each of two tiles.
                product.tile(
                    simd,
                    height,
                    if tiles == 1 { BOTH_LINES } else { [FIRST_LINE, SECOND_LINE, 0][tile.min(2)] },
                );
            }
            // Behind the last tile they may point past what they came from, and are not read.
            product.offsets = product.offsets.wrapping_add(height * self.offset_stride);
            product.output = product.output.wrapping_add(height * self.output_stride);
        }
    }

    /// One tile of `height <= S::ROWS` rows.
    #[inline(always)]
    unsafe fn tile<S: Simd>(self, simd: S, height: usize, ahead: u8) {
        // SAFETY: as for `multiply`.
        unsafe {
            match ahead {
                FIRST_LINE => self.fetching::<S, FIRST_LINE>(simd, height),
                SECOND_LINE => self.fetching::<S, SECOND_LINE>(simd, height),
                BOTH_LINES => self.fetching::<S, BOTH_LINES>(simd, height),
                _ => self.fetching::<S, 0>(simd, height),
            }
        }
    }

    /// One tile, which fetches these lines of the next block.
    #[inline(always)]
    unsafe fn fetching<S: Simd, const AHEAD: u8>(self, simd: S, height: usize) {
        /// Picks the kernel compiled for this height: the first ones are there whatever the registers.
        macro_rules! heights {
            ($($low:literal)+; $($high:literal)+) => {
                match height {
                    // SAFETY: as for `multiply`.
                    $($low => unsafe { simd.launch(Tile::<$low, AHEAD>(self)) },)+
                    // SAFETY: as for `multiply`.
                    $($high if $high <= S::ROWS => unsafe { simd.launch(Tile::<$high, AHEAD>(self)) },)+
                    _ => unreachable!("a tile has 1 to {} rows", S::ROWS),
                }
            };
        }
        const { assert!(6 <= S::ROWS) };
        heights!(1 2 3 4 5 6; 7 8 9 10 11 12 13 14);
    }
}

/// The first cache line of each row of the next block is to be fetched.
const FIRST_LINE: u8 = 1;
/// The second one, where rows have two.
const SECOND_LINE: u8 = 2;
const BOTH_LINES: u8 = FIRST_LINE | SECOND_LINE;

/// [`Product`] for `R` rows, all of them in registers.
struct Tile<const R: usize, const AHEAD: u8>(Product);

/// One register pair per row.
type Accumulators<S, const R: usize> = [[<S as Simd>::Vector; 2]; R];

impl<const R: usize, const AHEAD: u8> Body for Tile<R, AHEAD> {
    #[inline(always)]
    unsafe fn run<S: Simd>(self, simd: S) {
        let p = self.0;
        // SAFETY: `Product::multiply` states what the pointers hold.
        unsafe {
            let mut sums: Accumulators<S, R> = [[simd.splat(0.0); 2]; R];
            match p.start {
                Start::Zero => {}
                Start::Bias(bias) => sums = [[simd.load(bias), simd.load(bias.add(S::LANES))]; R],
                Start::Output => {
                    for r in 0..R {
                        let row = p.output.add(r * p.output_stride);
                        sums[r] = [simd.load(row), simd.load(row.add(S::LANES))];
                    }
                }
            }
            let mut weights = p.weights;
            // The block behind this one is usually the next to be read.
            let mut next = weights.wrapping_add(p.taps * p.depth * S::PANEL);
            for tap in 0..p.taps {
                let mut rows = [p.input; R];
                for r in 0..R {
                    rows[r] = p.input.add(*p.offsets.add(r * p.offset_stride + tap) as usize);
                }
                let mut k = 0;
                while k + 4 <= p.depth {
                    for u in 0..4 {
                        step::<S, R, AHEAD>(
                            simd,
                            &mut sums,
                            &rows,
                            k + u,
                            weights.add(u * S::PANEL),
                            next.wrapping_add(u * S::PANEL),
                        );
                    }
                    weights = weights.add(4 * S::PANEL);
                    next = next.wrapping_add(4 * S::PANEL);
                    k += 4;
                }
                while k < p.depth {
                    step::<S, R, AHEAD>(simd, &mut sums, &rows, k, weights, next);
                    weights = weights.add(S::PANEL);
                    next = next.wrapping_add(S::PANEL);
                    k += 1;
                }
            }
            for r in 0..R {
                let row = p.output.add(r * p.output_stride);
                simd.store(row, sums[r][0]);
                simd.store(row.add(S::LANES), sums[r][1]);
            }
        }
    }
}

/// Adds the outer product of one column of the rows and one row of the weights.
#[inline(always)]
unsafe fn step<S: Simd, const R: usize, const AHEAD: u8>(
    simd: S,
    sums: &mut Accumulators<S, R>,
    rows: &[*const f32; R],
    k: usize,
    weights: *const f32,
    next: *const f32,
) {
    // SAFETY: `Product::multiply` states what the pointers hold.
    unsafe {
        if AHEAD & FIRST_LINE != 0 {
            simd.prefetch(next);
        }
        if AHEAD & SECOND_LINE != 0 && S::PANEL > 16 {
            simd.prefetch(next.wrapping_add(16));
        }
        let (low, high) = (simd.load(weights), simd.load(weights.add(S::LANES)));
        for r in 0..R {
            let x = simd.splat(*rows[r].add(k));
            sums[r] = [simd.mul_add(x, low, sums[r][0]), simd.mul_add(x, high, sums[r][1])];
        }
    }
}
