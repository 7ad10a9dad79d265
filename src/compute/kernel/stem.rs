//! The first layers as one pass: 7x7 convolution with stride 2, batch norm, ReLU, and 3x3 max-pooling with stride 2.
//!
//! Along a row, two neighbouring pixels are six channels of half the width, and the filter has four taps of stride 1
//! with them, the eighth column zero: F(4, 4) halves its multiplications. Down the rows the convolution is a plain sum,
//! so each point has one product of depth 7 x 6. The output of the convolution, the largest of the network, never
//! reaches memory: each row is pooled as it comes back from the points.

use std::ops::Range;

use super::gemm::{Product, Start};
use super::layer::Scratch;
use super::memory::{Buffer, Shared};
use super::pack::Filters;
use super::simd::{Body, Simd};
use super::threads::Threads;
use super::transforms::F4x4Taps;

/// Channels of an image.
pub(super) const CHANNELS: usize = 3;
const KERNEL: usize = 7;
const PADDING: usize = 3;

const POINTS: usize = F4x4Taps::POINTS;
/// Pixels of the convolution in one tile.
const TILE: usize = F4x4Taps::OUTPUTS;
/// Floats of two neighbouring pixels.
const PAIR: usize = 2 * CHANNELS;
/// Channels summed: one column of the filter's rows.
const DEPTH: usize = KERNEL * PAIR;

/// Floats behind what is read or written in whole vectors.
const SLACK: usize = 16;

/// Most pooled rows that one task computes: the points of their part of an image of 224 fit the second-level cache.
const STRIP: usize = 14;

/// Tiles that share a block of weights in the first-level cache.
const TILES: usize = 28;

/// The stem for square images of one side.
pub(super) struct Stem {
    /// `[panel][point][row of the filter][PAIR][PANEL]`
    weights: Buffer,
    bias: Buffer,
    /// Output channels, whole panels.
    outputs: usize,
    /// Side of the image.
    side: usize,
    /// Where tile `t` of row `y` of the convolution reads, at `y * tiles + t`, from the points of its first row.
    offsets: Vec<u32>,
}

impl Stem {
    /// Transforms and packs the filters `[outputs][3][7][7]`.
    pub(super) fn new<S: Simd>(side: usize, filters: &Filters, threads: &mut Threads) -> Self {
        let outputs = filters.outputs;
        let mut weights = vec![0.0; outputs * DEPTH * POINTS];
        for (index, values) in weights.chunks_exact_mut(POINTS).enumerate() {
            let (output, row, parity, channel) =
                (index / DEPTH, index / PAIR % KERNEL, index / CHANNELS % 2, index % CHANNELS);
            let tap = |column: usize| match filters.weights[(output * CHANNELS + channel) * KERNEL * KERNEL..]
                [row * KERNEL..][..KERNEL]
                .get(column)
            {
                Some(&weight) => f64::from(weight),
                None => 0.0,
            };
            let taps: [f64; F4x4Taps::TAPS] = std::array::from_fn(|pair| tap(2 * pair + parity));
            for (value, transformed) in values.iter_mut().zip(F4x4Taps::filter(taps)) {
                *value = transformed as f32;
            }
        }
        let points = Filters {
            weights,
            outputs,
            inputs: DEPTH,
            taps: POINTS,
            scale: filters.scale.clone(),
            bias: filters.bias.clone(),
        };
        let mut stem = Self {
            weights: points.pack(S::PANEL, threads),
            bias: points.pack_bias(S::PANEL),
            outputs,
            side,
            offsets: Vec::new(),
        };
        stem.offsets = (0..stem.rows_at_once())
            .flat_map(|y| (0..stem.tiles()).map(move |tile| (tile, 2 * y * PAIR)))
            .map(|(tile, row)| (tile * stem.column() + row) as u32)
            .collect();
        stem
    }

    /// Side of the convolution's output.
    fn convolved(&self) -> usize {
        (self.side - 1) / 2 + 1
    }

    /// Side of the pooled output.
    pub(super) fn pooled(&self) -> usize {
        (self.convolved() - 1) / 2 + 1
    }

    /// Tiles in a row of the convolution.
    fn tiles(&self) -> usize {
        self.convolved().div_ceil(TILE)
    }

    /// Rows of the convolution that are multiplied at once.
    fn rows_at_once(&self) -> usize {
        (TILES / self.tiles()).max(1)
    }

    /// Floats of one row of the image, padded to whole tiles.
    fn padded_row(&self) -> usize {
        (TILE * self.tiles() + F4x4Taps::TAPS - 1) * PAIR + SLACK
    }

    /// Distance between tiles in the points of a strip: its rows one below the other.
    fn column(&self) -> usize {
        image_rows(2 * STRIP.min(self.pooled()) + 1) * PAIR + SLACK
    }

    /// Floats of a strip's points, up to a whole cache line.
    fn points_len(&self) -> usize {
        (POINTS * self.tiles() * self.column()).next_multiple_of(16)
    }

    /// Pooled rows in one task.
    fn strip(&self, batch: usize, threads: usize) -> usize {
        let pooled = self.pooled();
        let wanted = if threads == 1 { 1 } else { (2 * threads).div_ceil(batch) };
        pooled.div_ceil(wanted.clamp(pooled.div_ceil(STRIP), pooled.div_ceil(4)))
    }

    /// Floats of scratch for each thread: the points of a strip, products of rows, and a padded row of the image.
    pub(super) fn scratch<S: Simd>(&self) -> usize {
        self.points_len() + POINTS * self.offsets.len() * S::PANEL + self.padded_row()
    }

    /// `input` is `[batch][side][side][3]`, `output` `[batch][pooled][pooled][outputs]`.
    ///
    /// # Safety
    /// Both must be that large, and `scratch` as [`Stem::scratch`] says.
    pub(super) unsafe fn run<S: Simd>(
        &self,
        simd: S,
        threads: &mut Threads,
        scratch: Scratch,
        batch: usize,
        input: &[f32],
        output: Shared<f32>,
    ) {
        let pooled = self.pooled();
        let strip = self.strip(batch, threads.count());
        let strips = pooled.div_ceil(strip);
        threads.run(batch * strips, &|task, thread| {
            let (image, first) = (task / strips, task % strips * strip);
            let windows = first..pooled.min(first + strip);
            // SAFETY: the scratch is this thread's; each task writes its own rows of the output.
            unsafe {
                let points = scratch.private(thread);
                let image_len = self.side * self.side * CHANNELS;
                let output = output.get().add(image * pooled * pooled * self.outputs);
                self.run_strip(simd, points, &input[image * image_len..][..image_len], windows, output);
            }
        });
    }

    /// Computes some rows of an image's pooled output.
    ///
    /// # Safety
    /// `points` is a thread's scratch, `output` the image's.
    unsafe fn run_strip<S: Simd>(
        &self,
        simd: S,
        points: *mut f32,
        image: &[f32],
        windows: Range<usize>,
        output: *mut f32,
    ) {
        let (tiles, column) = (self.tiles(), self.column());
        // The rows of the convolution under these pooled rows.
        let rows = (2 * windows.start).saturating_sub(1)..self.convolved().min(2 * windows.end);
        // SAFETY: the scratch has room for points, products and a padded row.
        unsafe {
            let products = points.add(self.points_len());
            let padded = products.add(POINTS * self.offsets.len() * S::PANEL);
            let padded = std::slice::from_raw_parts_mut(padded, self.padded_row());
            for row in 0..image_rows(rows.len()) {
                self.pad(image, 2 * rows.start + row, padded);
                let to = points.add(row * PAIR);
                simd.launch(ToPoints { row: padded.as_ptr(), to, tiles, column });
            }
            for y in rows.clone().step_by(self.rows_at_once()) {
                let count = self.rows_at_once().min(rows.end - y);
                for panel in 0..self.outputs / S::PANEL {
                    self.multiply(simd, panel, points.add(2 * (y - rows.start) * PAIR), products, count * tiles);
                    for row in 0..count {
                        let products = products.add(row * tiles * S::PANEL);
                        self.pool(simd, panel, products, y + row, &windows, output);
                    }
                }
            }
        }
    }

    /// Multiplies all points of `count` tiles with the filters of one panel.
    ///
    /// # Safety
    /// `points` are those of the tiles' first row; `products` has room.
    unsafe fn multiply<S: Simd>(&self, simd: S, panel: usize, points: *const f32, products: *mut f32, count: usize) {
        for point in 0..POINTS {
            // SAFETY: the caller's promise.
            unsafe {
                let product = Product {
                    input: points.add(point * self.tiles() * self.column()),
                    offsets: self.offsets.as_ptr(),
                    offset_stride: 1,
                    taps: 1,
                    depth: DEPTH,
                    weights: self.weights.as_ptr().add((panel * POINTS + point) * DEPTH * S::PANEL),
                    output: products.add(point * self.offsets.len() * S::PANEL),
                    output_stride: S::PANEL,
                    start: Start::Zero,
                };
                product.multiply(simd, count);
            }
        }
    }

    /// Takes row `y` of the convolution into those of the pooled rows in `windows` that it belongs to.
    ///
    /// # Safety
    /// `products` are the row's, of one panel; `output` is the image's.
    unsafe fn pool<S: Simd>(
        &self,
        simd: S,
        panel: usize,
        products: *const f32,
        y: usize,
        windows: &Range<usize>,
        output: *mut f32,
    ) {
        let window = |window: usize| {
            let at = window * self.pooled() * self.outputs + panel * S::PANEL;
            windows.contains(&window).then(|| output.wrapping_add(at))
        };
        // A window of three rows begins with an odd one, which also ends the window above; the first has two.
        let fresh = if y == 0 { window(0) } else { window(y / 2 + 1).filter(|_| y % 2 == 1) };
        // SAFETY: the windows are rows of the output; the caller answers for the rest.
        unsafe {
            simd.launch(PoolRow {
                products,
                stride: self.offsets.len() * S::PANEL,
                convolved: self.convolved(),
                bias: self.bias.as_ptr().add(panel * S::PANEL),
                begun: window(y / 2).filter(|_| y > 0),
                fresh,
                channels: self.outputs,
            });
        }
    }

    /// Copies row `y - 3` of an image, with zeros around.
    fn pad(&self, image: &[f32], y: usize, padded: &mut [f32]) {
        let (row_len, margin) = (self.side * CHANNELS, PADDING * CHANNELS);
        match y.checked_sub(PADDING) {
            Some(y) if y < self.side => {
                padded[..margin].fill(0.0);
                padded[margin..margin + row_len].copy_from_slice(&image[y * row_len..][..row_len]);
                padded[margin + row_len..].fill(0.0);
            }
            _ => padded.fill(0.0),
        }
    }
}

/// Rows of the image under rows of the convolution.
fn image_rows(convolved: usize) -> usize {
    2 * convolved + KERNEL - 2
}

/// Takes a row of the image to its points. Vectors are longer than a pair: what they write behind it is overwritten by
/// the next row, or is slack.
struct ToPoints {
    row: *const f32,
    /// This row in the first tile of the first point.
    to: *mut f32,
    tiles: usize,
    /// Distance between tiles.
    column: usize,
}

impl Body for ToPoints {
    #[inline(always)]
    unsafe fn run<S: Simd>(self, simd: S) {
        for tile in 0..self.tiles {
            for c in (0..PAIR).step_by(S::LANES) {
                // SAFETY: the row has its last tile's pairs and slack; so have the points.
                unsafe {
                    let from = self.row.add(tile * TILE * PAIR + c);
                    let mut data = [simd.splat(0.0); POINTS];
                    for i in 0..POINTS {
                        data[i] = simd.load(from.add(i * PAIR));
                    }
                    let points = F4x4Taps::input(simd, data);
                    for i in 0..POINTS {
                        simd.store(self.to.add((i * self.tiles + tile) * self.column + c), points[i]);
                    }
                }
            }
        }
    }
}

/// Takes a row of the convolution back from its points and into rows of pooled windows, one panel of channels.
struct PoolRow {
    /// `[tile][PANEL]` of the first point.
    products: *const f32,
    /// Distance between points.
    stride: usize,
    /// Pixels in a row of the convolution.
    convolved: usize,
    bias: *const f32,
    /// Windows that have begun.
    begun: Option<*mut f32>,
    /// Windows of which this is the first row. They start from zero, which is the ReLU.
    fresh: Option<*mut f32>,
    /// Distance between pooled pixels.
    channels: usize,
}

impl Body for PoolRow {
    #[inline(always)]
    unsafe fn run<S: Simd>(self, simd: S) {
        let zero = simd.splat(0.0);
        for c in [0, S::LANES] {
            // SAFETY: the fields say what the pointers hold.
            unsafe {
                let bias = simd.load(self.bias.add(c));
                let put = |window: usize, most: S::Vector| {
                    let at = window * self.channels + c;
                    if let Some(begun) = self.begun {
                        simd.store(begun.add(at), simd.max(most, simd.load(begun.add(at))));
                    }
                    if let Some(fresh) = self.fresh {
                        simd.store(fresh.add(at), simd.max(most, zero));
                    }
                };
                // A window is the middle pixel and its neighbours.
                let mut left = zero;
                for tile in 0..self.convolved.div_ceil(TILE) {
                    let mut products = [zero; POINTS];
                    for i in 0..POINTS {
                        products[i] = simd.load(self.products.add(i * self.stride + tile * S::PANEL + c));
                    }
                    let mut pixels = F4x4Taps::output(simd, products);
                    let count = TILE.min(self.convolved - tile * TILE);
                    for i in 0..TILE {
                        pixels[i] = if i < count { simd.add(pixels[i], bias) } else { zero };
                    }
                    put(2 * tile, simd.max(left, simd.max(pixels[0], pixels[1])));
                    if count > 2 {
                        put(2 * tile + 1, simd.max(pixels[1], simd.max(pixels[2], pixels[3])));
                    }
                    left = pixels[3];
                }
            }
        }
    }
}
