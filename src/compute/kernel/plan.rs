//! Which algorithm runs a layer, and in what pieces.

use super::gemm::MAX_ROWS;
use super::shape::Shape;

/// Tiles of 7x7 outputs from which on F(7, 3) and F(7, 2) are worth their transformed filters.
const ENOUGH_TILES: usize = 8;

/// Images of 2x2 pixels from which on a Toeplitz matrix, with one row for each image, beats a direct convolution with
/// one for each pixel.
const ENOUGH_IMAGES: usize = 4;

/// How a convolution is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Algorithm {
    /// Implicit matrix product.
    Direct,
    /// Whole images of 2x2, stride 1.
    Toeplitz2,
    /// Winograd F(2x2, 3x3), stride 1.
    F2,
    /// Winograd F(4x4, 3x3), stride 1.
    F4,
    /// Winograd F(7x7, 3x3), stride 1.
    F7,
    /// Stride 2 by parity, odd phase F(2, 2).
    Strided2,
    /// Stride 2 by parity, odd phase F(4, 2).
    Strided4,
    /// Stride 2 by parity, odd phase F(7, 2).
    Strided7,
}

impl Algorithm {
    /// Number of algorithms.
    pub(super) const COUNT: usize = 8;

    /// Chooses by shape and batch; `lanes` is the vector width.
    ///
    /// Multiplications per output of a 3x3 filter, padding left out where it can be skipped:
    ///
    /// | stride | output side | algorithm | multiplications |
    /// |---|---|---|---|
    /// | 1 | 1 | direct: eight of nine taps meet padding | 1 |
    /// | 1 | 2 | as a Toeplitz matrix; direct for few images | 2.25; 4 |
    /// | 1 | 3 and more | F(4x4, 3x3) or F(7x7, 3x3) | 2.25 or 1.65, more where tiles hang over the edge |
    /// | 2 | 1, 2 | direct | 4, 6.25 |
    /// | 2 | 3 and more | by parity with F(4, 2) or F(7, 2) | 5.06 or 4.59, the same |
    ///
    /// Of two tiles the larger one is taken if it saves a twelfth of the multiplications, as its transforms cost more,
    /// and if there are enough tiles to share its transformed filters, nine times as many as taps.
    ///
    /// A whole layer of one tile (batch 1) has one row for each filter, too few to hide the latency of a multiply-add:
    /// there four tiles of F(2x2, 3x3), 4 multiplications, or of parity with F(2, 2), 6.25, are faster. Other filters,
    /// and inputs that do not fill vectors, are direct.
    pub(super) fn choose(shape: &Shape, batch: usize, lanes: usize) -> Self {
        if shape.kernel != 3 || shape.padding != 1 || !shape.inputs.is_multiple_of(lanes) {
            return Self::Direct;
        }
        let side = shape.output_height().max(shape.output_width());
        let tiles = |side: usize| batch * shape.output_height().div_ceil(side) * shape.output_width().div_ceil(side);
        let seven_pays = |seven: usize, four: usize| {
            tiles(7) >= ENOUGH_TILES && 12 * seven * seven * tiles(7) <= 11 * four * four * tiles(4)
        };
        match (shape.stride, side) {
            (1, 2) if batch >= ENOUGH_IMAGES => Self::Toeplitz2,
            (1, 3..=4) if batch == 1 => Self::F2,
            (2, 3..=4) if batch == 1 => Self::Strided2,
            (1, 3..) if seven_pays(9, 6) => Self::F7,
            (1, 3..) => Self::F4,
            (2, 3..) if seven_pays(15, 9) => Self::Strided7,
            (2, 3..) => Self::Strided4,
            _ => Self::Direct,
        }
    }
}

/// A layer's algorithm and pieces for one batch size.
pub(super) struct Plan {
    /// How the layer is computed.
    pub(super) algorithm: Algorithm,
    /// How it is cut into tasks.
    pub(super) pieces: Pieces,
    /// Distance from the start of the input to at least [`Shape::inputs`] zeros, read where the filter hangs over the
    /// edge.
    pub(super) zeros: usize,
    /// Direct: where each row reads, `[row][tap]`. Winograd: the distance of each row of a plane from the first.
    pub(super) offsets: Vec<u32>,
    /// Floats of scratch seen by all threads.
    pub(super) shared: usize,
    /// Floats of scratch for each thread.
    pub(super) private: usize,
}

/// How a layer is cut into tasks. Direct: pieces are rows (output pixels). Winograd: pieces are tiles.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pieces {
    /// A task computes all output channels of this many pieces.
    Block(usize),
    /// A task computes one panel of output channels of this many pieces, so that each weight is read once.
    Panel(usize),
}

/// Cuts `total` into equal parts of at most `most`, as many as a multiple of `threads` where that leaves enough in
/// each: the size of a part.
pub(super) fn part(total: usize, most: usize, threads: usize) -> usize {
    let mut parts = total.div_ceil(most);
    let even = parts.next_multiple_of(threads);
    if total / even >= MAX_ROWS / 2 {
        parts = even;
    }
    total.div_ceil(parts)
}
