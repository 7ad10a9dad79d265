//! Products of rows and one panel of a packed matrix, in tiles whose sums stay in registers, with all that follows at
//! once: bias, residual and activation.

use std::hint::black_box;

use super::super::architecture::Activation;
use super::simd::{Body, Simd};

/// Most rows of a tile that is one vector wide: as many sums, a weight and a broadcast fit 16 registers.
const NARROW_ROWS: usize = 14;

/// Columns that the loop over them takes at a time, and between which something is fetched.
const COLUMNS: usize = 4;

/// Most rows of a tile of so many vectors.
pub(super) const fn most_rows<S: Simd>(vectors: usize) -> usize {
    match vectors {
        1 => NARROW_ROWS,
        2 => S::ROWS,
        3 => S::WIDE_ROWS,
        _ => panic!("a tile has 1 to 3 vectors"),
    }
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
    /// Number of rows; not 0.
    pub(super) count: usize,
    /// Where the products of one panel go, counted by `places`.
    pub(super) output: *mut f32,
    /// Place of each row in the output, and in the residual.
    pub(super) places: *const u32,
    /// Added to the output; null for none.
    pub(super) residual: *const f32,
    pub(super) activation: Activation,
    /// What is read next of memory that is far away, and so is fetched meanwhile.
    pub(super) next: &'a [f32],
}

/// Some columns of rows, and the weights that they meet.
#[derive(Clone, Copy)]
pub(super) struct Product<'a> {
    pub(super) rows: Rows<'a>,
    pub(super) taps: usize,
    /// Columns of each tap.
    pub(super) depth: usize,
    /// `[taps][depth][PANEL]`
    pub(super) weights: *const f32,
    /// Distance to the next panel, which has the third vector.
    pub(super) panel_len: usize,
    /// What the sums start from; none for what the output holds.
    pub(super) bias: Option<*const f32>,
}

impl Product<'_> {
    /// Multiplies all rows with one to three vectors of weights.
    ///
    /// # Safety
    /// There are one to three vectors, with as much bias, and weights for all columns, of the third one `panel_len` floats
    /// further. Each row has as many columns, `places` one for each row, output and residual as many vectors at each
    /// place.
    pub(super) unsafe fn run<S: Simd>(&self, simd: S, vectors: usize) {
        let count = self.rows.count.div_ceil(most_rows::<S>(vectors));
        let (height, higher) = (self.rows.count / count, self.rows.count % count);
        let mut tiles = Tiles { product: *self, first: 0, count: higher, ahead: self.ahead::<S>(count, vectors) };
        // SAFETY: the tiles partition the rows; the caller answers for them.
        unsafe {
            if higher > 0 {
                tiles.run(simd, vectors, height + 1);
                tiles.product.rows.input = self.rows.input.wrapping_add(higher * (height + 1) * self.rows.stride);
                tiles.product.rows.places = self.rows.places.wrapping_add(higher * (height + 1));
            }
            tiles.first = higher;
            tiles.count = count - higher;
            tiles.run(simd, vectors, height);
        }
    }

    /// Shares out among so many tiles what they fetch meanwhile. To fetch it all at once would take longer than to
    /// compute the tile that does.
    fn ahead<S: Simd>(&self, tiles: usize, vectors: usize) -> Ahead {
        let len = self.taps * self.depth * S::PANEL;
        let row = (self.taps * (self.depth / COLUMNS) * S::PANEL).max(1);
        // A power of two, so that no tile fetches the end of these weights and the beginning of what follows.
        let rate = (len + self.rows.next.len()).div_ceil(row * tiles).next_power_of_two().min(COLUMNS);
        let rate = if vectors == 2 { rate } else { 1 };
        Ahead { rate, len, share: rate * row }
    }

    /// What the tile of this number fetches.
    #[inline(always)]
    fn fetched(&self, ahead: &Ahead, tile: usize) -> *const f32 {
        let at = tile * ahead.share;
        match self.rows.next.get(at.wrapping_sub(ahead.len)) {
            // The weights behind these are usually the next to be read.
            None if at < ahead.len => self.weights.wrapping_add(ahead.len + at),
            // It is all fetched: these are near, and to fetch them again costs less than to ask.
            None => self.weights,
            Some(next) => next,
        }
    }
}

/// How tiles share out what they fetch.
#[derive(Clone, Copy)]
struct Ahead {
    /// Rows of a panel for [`COLUMNS`] columns.
    rate: usize,
    /// Floats of the weights behind.
    len: usize,
    /// Floats for each tile.
    share: usize,
}

/// Some tiles of one height.
#[derive(Clone, Copy)]
struct Tiles<'a> {
    product: Product<'a>,
    /// Number of the first one.
    first: usize,
    /// Number of them.
    count: usize,
    ahead: Ahead,
}

/// Launches the tile of a height: the first ones are there whatever the registers.
macro_rules! heights {
    ($self:ident, $simd:ident, $height:ident, $vectors:literal $more:expr, $($low:literal)+; $($high:literal)*) => {
        match $height {
            // SAFETY: the caller's promise.
            $($low => unsafe { $simd.launch(Tile::<$low, $vectors, { $more }>($self)) },)+
            // SAFETY: as above.
            $($high if $high <= most_rows::<S>($vectors) => unsafe {
                $simd.launch(Tile::<$high, $vectors, { $more }>($self))
            },)*
            _ => unreachable!("a tile has 1 to {} rows", most_rows::<S>($vectors)),
        }
    };
}

impl Tiles<'_> {
    /// Computes them with so many vectors and rows each.
    ///
    /// # Safety
    /// As for [`Product::run`].
    unsafe fn run<S: Simd>(self, simd: S, vectors: usize, height: usize) {
        // SAFETY: the caller's promise.
        unsafe {
            match (vectors, self.ahead.rate > 1) {
                (1, _) => self.one(simd, height),
                (2, false) => self.two::<S, false>(simd, height),
                (2, true) => self.two::<S, true>(simd, height),
                (3, _) => self.three(simd, height),
                (_, _) => unreachable!("most_rows refuses it"),
            }
        }
    }

    /// One vector.
    ///
    /// # Safety
    /// As for [`Product::run`].
    unsafe fn one<S: Simd>(self, simd: S, height: usize) {
        heights!(self, simd, height, 1 false, 1 2 3 4 5 6 7 8 9 10 11 12 13 14;);
    }

    /// Two vectors.
    ///
    /// # Safety
    /// As for [`Product::run`].
    unsafe fn two<S: Simd, const MORE: bool>(self, simd: S, height: usize) {
        const { assert!(6 <= S::ROWS) };
        heights!(self, simd, height, 2 MORE, 1 2 3 4 5 6; 7 8 9 10 11 12 13 14);
    }

    /// Three vectors.
    ///
    /// # Safety
    /// As for [`Product::run`].
    unsafe fn three<S: Simd>(self, simd: S, height: usize) {
        const { assert!(4 <= S::WIDE_ROWS) };
        heights!(self, simd, height, 3 false, 1 2 3 4; 5 6 7 8 9);
    }
}

/// Tiles of `R` rows and `V` vectors that fetch one row of a panel at a time, or `MORE`. They are one loop, so that a tile
/// begins while the one before is written.
struct Tile<'a, const R: usize, const V: usize, const MORE: bool>(Tiles<'a>);

impl<const R: usize, const V: usize, const MORE: bool> Body for Tile<'_, R, V, MORE> {
    #[inline(always)]
    unsafe fn run<S: Simd>(self, simd: S) {
        let Self(Tiles { product, first, count, ref ahead }) = self;
        let rate = if MORE { ahead.rate } else { 1 };
        for tile in 0..count {
            let fetched = product.fetched(ahead, first + tile);
            // SAFETY: `Product::run` states what the pointers hold.
            unsafe {
                let places = product.rows.places.add(tile * R);
                let input = product.rows.input.add(tile * R * product.rows.stride);
                let sums = product.multiply::<S, R, V>(simd, input, places, fetched, rate);
                product.write(simd, sums, places);
            }
        }
    }
}

impl Product<'_> {
    /// The sums of one tile.
    ///
    /// # Safety
    /// As for [`Product::run`]; the rows and places of the tile begin here.
    #[inline(always)]
    unsafe fn multiply<S: Simd, const R: usize, const V: usize>(
        &self,
        simd: S,
        input: *const f32,
        places: *const u32,
        mut fetched: *const f32,
        rate: usize,
    ) -> [[S::Vector; V]; R] {
        let mut sums = [[simd.splat(0.0); V]; R];
        // SAFETY: the caller's promise.
        unsafe {
            for r in 0..R {
                let from = match self.bias {
                    Some(bias) => bias,
                    None => self.rows.output.add(*places.add(r) as usize).cast_const(),
                };
                for v in 0..V {
                    sums[r][v] = simd.load(from.add(v * S::LANES));
                }
            }
            let mut weights = self.weights;
            for tap in 0..self.taps {
                let mut rows = [input; R];
                // A compiler that knows how the rows lie reads several columns at once, and has no registers left for
                // the sums.
                for r in 0..R {
                    rows[r] = black_box(input.add(tap * self.rows.tap_stride + r * self.rows.stride));
                }
                let mut k = 0;
                while k + COLUMNS <= self.depth {
                    for row in 0..rate {
                        fetch(simd, fetched.wrapping_add(row * S::PANEL));
                    }
                    for u in 0..COLUMNS {
                        step(simd, &mut sums, &rows, k + u, weights.add(u * S::PANEL), self.panel_len);
                    }
                    weights = weights.add(COLUMNS * S::PANEL);
                    fetched = fetched.wrapping_add(rate * S::PANEL);
                    k += COLUMNS;
                }
                while k < self.depth {
                    step(simd, &mut sums, &rows, k, weights, self.panel_len);
                    weights = weights.add(S::PANEL);
                    k += 1;
                }
            }
        }
        sums
    }

    /// Adds the residual to the sums, if there is one, bounds them by the activation and stores them.
    ///
    /// # Safety
    /// As for [`Product::run`]; the places of the tile begin here.
    #[inline(always)]
    unsafe fn write<S: Simd, const R: usize, const V: usize>(
        &self,
        simd: S,
        mut sums: [[S::Vector; V]; R],
        places: *const u32,
    ) {
        let Rows { output, residual, activation, .. } = self.rows;
        // SAFETY: the caller's promise.
        unsafe {
            if !residual.is_null() {
                for r in 0..R {
                    let residual = residual.add(*places.add(r) as usize);
                    for v in 0..V {
                        sums[r][v] = simd.add(sums[r][v], simd.load(residual.add(v * S::LANES)));
                    }
                }
            }
            if let Some(most) = activation.ceiling() {
                let most = simd.splat(most);
                for sum in sums.as_flattened_mut() {
                    *sum = simd.within(*sum, most);
                }
            }
            for r in 0..R {
                let output = output.add(*places.add(r) as usize);
                for v in 0..V {
                    simd.store(output.add(v * S::LANES), sums[r][v]);
                }
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
///
/// # Safety
/// The rows have the column; the weights are as many vectors, the third of them `panel_len` floats behind the first.
#[inline(always)]
unsafe fn step<S: Simd, const R: usize, const V: usize>(
    simd: S,
    sums: &mut [[S::Vector; V]; R],
    rows: &[*const f32; R],
    k: usize,
    weights: *const f32,
    panel_len: usize,
) {
    // SAFETY: the caller's promise.
    unsafe {
        let mut near = [simd.splat(0.0); 2];
        for v in 0..V.min(2) {
            near[v] = simd.load(weights.add(v * S::LANES));
        }
        for r in 0..R {
            let x = simd.splat(*rows[r].add(k));
            for v in 0..V {
                // Of 16 registers there is none for a third one.
                let weight = if v < 2 { near[v] } else { simd.load(weights.add(panel_len)) };
                sums[r][v] = simd.mul_add(x, weight, sums[r][v]);
            }
            if V > 2 {
                // Of the next row nothing is read before, or the sums would not all fit the registers.
                for v in 0..V {
                    sums[r][v] = simd.pin(sums[r][v]);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::simd::Portable;
    use super::*;

    /// What the tiles fetch, in order, as ranges of the weights behind (from 0 on) and what follows them.
    fn fetched(depth: usize, tiles: usize, next: &[f32]) -> Vec<(usize, usize)> {
        let weights = vec![0.0_f32; 2 * depth * Portable::PANEL];
        let len = depth * Portable::PANEL;
        let rows = Rows {
            input: std::ptr::null(),
            stride: 0,
            tap_stride: 0,
            count: 1,
            output: std::ptr::null_mut(),
            places: std::ptr::null(),
            residual: std::ptr::null(),
            activation: Activation::None,
            next,
        };
        let product = Product { rows, taps: 1, depth, weights: weights.as_ptr(), panel_len: len, bias: None };
        let ahead = product.ahead::<Portable>(tiles, 2);
        let behind = weights[len..].as_ptr_range();
        let place = |at: *const f32| {
            if behind.contains(&at) {
                Some((at.addr() - behind.start.addr()) / 4)
            } else if next.as_ptr_range().contains(&at) {
                Some(len + (at.addr() - next.as_ptr().addr()) / 4)
            } else {
                None
            }
        };
        let starts = (0..tiles).filter_map(|tile| place(product.fetched(&ahead, tile)));
        starts.map(|start| (start, start + ahead.share)).collect()
    }

    #[test]
    fn tiles_fetch_what_is_next_without_a_hole() {
        for (depth, tiles, next) in
            [(320, 9, 16_000), (64, 9, 0), (64, 1, 100), (256, 3, 5000), (16, 56, 0), (40, 2, 1)]
        {
            let next = vec![0.0; next];
            let total = depth * Portable::PANEL + next.len();
            let ranges = fetched(depth, tiles, &next);
            assert_eq!(ranges[0].0, 0, "{depth} columns, {tiles} tiles");
            assert!(ranges.windows(2).all(|pair| pair[0].1 == pair[1].0), "{depth} columns, {tiles} tiles: {ranges:?}");
            let end_of_weights = depth * Portable::PANEL;
            assert!(
                ranges.iter().all(|r| r.0 >= end_of_weights || r.1 <= end_of_weights),
                "{ranges:?} not past the weights"
            );
            let end = ranges.last().unwrap().1;
            // More than all weights of a panel by each tile is not fetched.
            assert!(
                end >= total.min(tiles * depth * Portable::PANEL),
                "{depth} columns, {tiles} tiles: {end} of {total}"
            );
        }
    }
}
