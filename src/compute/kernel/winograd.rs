//! Winograd convolution: transform tiles of the input, multiply each point's plane with its filters, transform back.
//!
//! The products of one panel stay in the first two cache levels and the output transform follows at once (Lavin & Gray
//! 2015 as one fused pass; compare Zlateski, Jia, Li, Durand, "A Deeper Look at FFT and Winograd Convolutions", 2018).
//! Transformed filters are up to nine times as large as the filters, so a layer with few tiles, bound by memory, or
//! with very many filters transforms them anew each time, a cache-sized block ahead of its use; others keep them.

use super::gemm::{Product, Start};
use super::layer::{Call, Conv, Data, Scratch};
use super::memory::{Buffer, Shared};
use super::plan::{Algorithm, Pieces, Plan, part};
use super::planes::{GAP, Planes};
use super::shape::Shape;
use super::simd::Simd;
use super::threads::Threads;
use super::tile::{FilterTransform, InputTransform, OutputTransform};
use super::transforms::{F2, F4, F7, Strided2, Strided4, Strided7, Toeplitz2, Transform};

/// Input channels multiplied at once.
const DEPTH: usize = 256;

/// Input channels whose filters are transformed at once when they are not kept: `filters` blocks fit the second-level
/// cache.
const fn fresh_depth(filters: usize) -> usize {
    if filters > 36 { 64 } else { 128 }
}

/// Tiles in a block of a layer with many: the planes of most layers fit the second-level cache.
const TILES: usize = 14;

/// Tiles up to which transforming the filters anew beats reading the transformed ones from memory.
const FEW_TILES: usize = 4;

/// Transformed filters of more floats, 10 MB, are never kept: the largest layers' would be three quarters of a worker's
/// memory. With a fifth less those of the built-in model would not be kept either, which costs it 4 to 9 %.
const MOST_KEPT: usize = 5 << 19;

/// Calls `$f::<S, T, POINTS, FILTER, OUTPUTS>` for an [`Algorithm`].
macro_rules! dispatch {
    ($algorithm:expr, $f:ident::<$s:ty>($($argument:expr),*)) => {
        match $algorithm {
            Algorithm::Toeplitz2 => $f::<$s, Toeplitz2, 3, 3, 2>($($argument),*),
            Algorithm::F2 => $f::<$s, F2, 4, 4, 2>($($argument),*),
            Algorithm::F4 => $f::<$s, F4, 6, 6, 4>($($argument),*),
            Algorithm::F7 => $f::<$s, F7, 9, 9, 7>($($argument),*),
            Algorithm::Strided2 => $f::<$s, Strided2, 5, 4, 2>($($argument),*),
            Algorithm::Strided4 => $f::<$s, Strided4, 9, 6, 4>($($argument),*),
            Algorithm::Strided7 => $f::<$s, Strided7, 15, 9, 7>($($argument),*),
            Algorithm::Direct => unreachable!("not a Winograd algorithm"),
        }
    };
}

/// Whether a layer's transformed filters may be kept.
fn is_kept<const FILTER: usize>(shape: &Shape) -> bool {
    FILTER * FILTER * shape.inputs * shape.outputs <= MOST_KEPT
}

/// Cuts the layer into tasks.
pub(super) fn plan<S: Simd>(algorithm: Algorithm, shape: &Shape, batch: usize, zeros: usize, threads: usize) -> Plan {
    dispatch!(algorithm, plan_for::<S>(algorithm, shape, batch, zeros, threads))
}

fn plan_for<
    S: Simd,
    T: Transform<POINTS, FILTER, OUTPUTS>,
    const POINTS: usize,
    const FILTER: usize,
    const OUTPUTS: usize,
>(
    algorithm: Algorithm,
    shape: &Shape,
    batch: usize,
    zeros: usize,
    threads: usize,
) -> Plan {
    let planes = Planes::<POINTS>::new::<T, FILTER, OUTPUTS>();
    let tiles = batch * shape.output_height().div_ceil(OUTPUTS) * shape.output_width().div_ceil(OUTPUTS);
    let pieces = if is_kept::<FILTER>(shape) && tiles > TILES * if threads == 1 { 1 } else { 2 * threads } {
        Pieces::Block(part(tiles, TILES, threads))
    } else {
        let for_all_threads = threads.div_ceil(shape.outputs.div_ceil(S::PANEL));
        Pieces::Panel(tiles.div_ceil(for_all_threads.max(tiles.div_ceil(4 * TILES))))
    };
    let (Pieces::Block(piece) | Pieces::Panel(piece)) = pieces;
    let data = planes.len(piece, shape.inputs);
    let products = planes.len(piece, S::PANEL);
    let filters = FILTER * FILTER * (fresh_depth(FILTER * FILTER) * S::PANEL + GAP);
    let (shared, private) = match pieces {
        Pieces::Block(_) => (0, data + products),
        Pieces::Panel(_) => (tiles.div_ceil(piece) * data, products + filters),
    };
    Plan {
        algorithm,
        pieces,
        zeros,
        offsets: (0..piece * planes.most()).map(|row| (row * shape.inputs) as u32).collect(),
        shared,
        private,
    }
}

/// Runs the layer.
///
/// # Safety
/// As [`super::run::run`].
pub(super) unsafe fn run<S: Simd>(call: Call<'_, S>) {
    // SAFETY: the caller's promise.
    unsafe { dispatch!(call.plan.algorithm, run_as::<S>(call)) }
}

unsafe fn run_as<
    S: Simd,
    T: Transform<POINTS, FILTER, OUTPUTS>,
    const POINTS: usize,
    const FILTER: usize,
    const OUTPUTS: usize,
>(
    call: Call<'_, S>,
) {
    let Call { simd, threads, conv, plan, scratch, data } = call;
    let shape = &conv.shape;
    let layer = Layer::<S, T, POINTS, FILTER, OUTPUTS> {
        simd,
        conv,
        plan,
        scratch,
        data,
        planes: Planes::<POINTS>::new::<T, FILTER, OUTPUTS>(),
        rows: shape.output_height().div_ceil(OUTPUTS),
        columns: shape.output_width().div_ceil(OUTPUTS),
        transform: std::marker::PhantomData,
    };
    // SAFETY: the caller's promise.
    unsafe {
        match plan.pieces {
            Pieces::Block(piece) => layer.run_blocks(threads, piece),
            Pieces::Panel(piece) => layer.run_panels(threads, piece),
        }
    }
}

/// Where the transformed filters of a panel come from.
#[derive(Clone, Copy)]
enum Transformed<'a> {
    /// Made before: `[panel][filter value][input channel][PANEL]`.
    Kept(&'a [f32]),
    /// Made for this use in memory of this thread.
    Fresh(*mut f32),
}

/// One call of one layer.
struct Layer<'a, S, T, const POINTS: usize, const FILTER: usize, const OUTPUTS: usize> {
    simd: S,
    conv: &'a Conv,
    plan: &'a Plan,
    scratch: Scratch,
    data: Data,
    planes: Planes<POINTS>,
    /// Tiles in a column of an image.
    rows: usize,
    /// Tiles in a row of an image.
    columns: usize,
    transform: std::marker::PhantomData<fn() -> T>,
}

impl<'a, S: Simd, T: Transform<POINTS, FILTER, OUTPUTS>, const POINTS: usize, const FILTER: usize, const OUTPUTS: usize>
    Layer<'a, S, T, POINTS, FILTER, OUTPUTS>
{
    /// Tiles of all images.
    fn tiles(&self) -> usize {
        self.data.batch * self.rows * self.columns
    }

    /// Panels of output channels.
    fn panels(&self) -> usize {
        self.conv.shape.outputs.div_ceil(S::PANEL)
    }

    /// Each task computes all output channels of `piece` tiles.
    ///
    /// # Safety
    /// As [`super::run::run`].
    unsafe fn run_blocks(&self, threads: &mut Threads, piece: usize) {
        let (inputs, tiles) = (self.conv.shape.inputs, self.tiles());
        let filters = self.kept_filters(threads);
        threads.run(tiles.div_ceil(piece), &|task, thread| {
            let tiles = task * piece..tiles.min((task + 1) * piece);
            let planes = self.scratch.private(thread);
            // SAFETY: the plan has made room for both.
            unsafe {
                let products = planes.add(self.planes.len(piece, inputs));
                let offsets = self.planes.offsets(tiles.len(), inputs);
                for tile in tiles.clone() {
                    self.transform_input(tile, planes, tile - tiles.start, &offsets);
                }
                let offsets = self.planes.offsets(tiles.len(), S::PANEL);
                for panel in 0..self.panels() {
                    self.multiply(panel, Transformed::Kept(filters), tiles.len(), planes, products);
                    for tile in tiles.clone() {
                        self.transform_output(tile, products, tile - tiles.start, &offsets, panel);
                    }
                }
            }
        });
    }

    /// All planes first, then each task computes one panel of output channels of `piece` tiles.
    ///
    /// # Safety
    /// As [`super::run::run`].
    unsafe fn run_panels(&self, threads: &mut Threads, piece: usize) {
        let (inputs, tiles) = (self.conv.shape.inputs, self.tiles());
        let pieces = tiles.div_ceil(piece);
        let kept = is_kept::<FILTER>(&self.conv.shape) && (pieces > 1 || piece > FEW_TILES) && self.conv.used_before();
        let kept = kept.then(|| &**self.kept_filters(threads));
        let data_len = self.planes.len(piece, inputs);
        let tiles_of = |index: usize| index * piece..tiles.min((index + 1) * piece);
        let share = tiles.div_ceil(4 * threads.count());
        threads.run(tiles.div_ceil(share), &|task, _| {
            for tile in task * share..tiles.min((task + 1) * share) {
                let (index, tiles) = (tile / piece, tiles_of(tile / piece));
                // SAFETY: the plan has made room for every piece; each tile is written by one task.
                unsafe {
                    let planes = self.scratch.shared.get().add(index * data_len);
                    let offsets = self.planes.offsets(tiles.len(), inputs);
                    self.transform_input(tile, planes, tile - tiles.start, &offsets);
                }
            }
        });
        threads.run(self.panels() * pieces, &|task, thread| {
            let (panel, index) = (task / pieces, task % pieces);
            let tiles = tiles_of(index);
            // SAFETY: as above; the private part holds products and a block of filters.
            unsafe {
                let planes = self.scratch.shared.get().add(index * data_len);
                let products = self.scratch.private(thread);
                let fresh = products.add(self.planes.len(piece, S::PANEL));
                let filters = kept.map_or(Transformed::Fresh(fresh), Transformed::Kept);
                self.multiply(panel, filters, tiles.len(), planes, products);
                let offsets = self.planes.offsets(tiles.len(), S::PANEL);
                for tile in tiles.clone() {
                    self.transform_output(tile, products, tile - tiles.start, &offsets, panel);
                }
            }
        });
    }

    /// Transforms all filters of the layer when they are first asked for.
    fn kept_filters(&self, threads: &mut Threads) -> &'a Buffer {
        let conv = self.conv;
        conv.transformed[self.plan.algorithm as usize].get_or_init(|| {
            let (depth, panels) = (conv.shape.inputs, self.panels());
            let stride = depth * S::PANEL + GAP;
            let mut filters = Buffer::zeroed(panels * FILTER * FILTER * stride);
            let to = Shared(filters.as_mut_ptr());
            threads.run(panels, &|panel, _| {
                // SAFETY: each task reads and writes its own panel.
                unsafe {
                    self.simd.launch(FilterTransform::<T, POINTS, FILTER, OUTPUTS> {
                        from: conv.weights.as_ptr().add(panel * 9 * depth * S::PANEL),
                        tap_stride: depth * S::PANEL,
                        to: to.get().add(panel * FILTER * FILTER * stride),
                        to_stride: stride,
                        depth,
                        transform: std::marker::PhantomData,
                    });
                }
            });
            filters
        })
    }

    /// Image, row and column of a tile.
    fn place(&self, tile: usize) -> (usize, usize, usize) {
        (tile / (self.rows * self.columns), tile / self.columns % self.rows, tile % self.columns)
    }

    /// Writes the planes of one tile, the `index`th of its piece.
    ///
    /// # Safety
    /// `planes` holds the planes of a piece.
    unsafe fn transform_input(&self, tile: usize, planes: *mut f32, index: usize, offsets: &[[usize; POINTS]; POINTS]) {
        let shape = &self.conv.shape;
        let (image, row, column) = self.place(tile);
        let inside = |tile: usize, point: usize, side: usize| {
            (tile * OUTPUTS * T::STRIDE).checked_add_signed(T::position(point)).filter(|&at| at < side)
        };
        let input = self.data.input.get().cast_const();
        let mut pixels = [[input.wrapping_add(self.plan.zeros); POINTS]; POINTS];
        for i in 0..POINTS {
            let Some(y) = inside(row, i, shape.height) else { continue };
            for j in 0..POINTS {
                if let Some(x) = inside(column, j, shape.width) {
                    pixels[i][j] = input.wrapping_add(image * shape.input_len() + (y * shape.width + x) * shape.inputs);
                }
            }
        }
        // SAFETY: every pixel is one of the input or zeros; the caller answers for the planes.
        unsafe {
            self.simd.launch(InputTransform::<T, POINTS, FILTER, OUTPUTS> {
                pixels: &pixels,
                depth: shape.inputs,
                planes: planes.add(index * shape.inputs),
                offsets,
                transform: std::marker::PhantomData,
            });
        }
    }

    /// Multiplies all planes of `count` tiles with the filters of one panel.
    ///
    /// # Safety
    /// `planes` and `products` hold those of a piece; fresh filters have room for [`fresh_depth`] input channels.
    unsafe fn multiply(
        &self,
        panel: usize,
        filters: Transformed<'_>,
        count: usize,
        planes: *const f32,
        products: *mut f32,
    ) {
        let depth = self.conv.shape.inputs;
        let at_once = if matches!(filters, Transformed::Kept(_)) { DEPTH } else { fresh_depth(FILTER * FILTER) };
        for k in (0..depth).step_by(at_once) {
            let slice = at_once.min(depth - k);
            // SAFETY: the caller's promise, and `Conv` holds whole panels.
            unsafe {
                let (weights, stride) = match filters {
                    Transformed::Kept(kept) => {
                        let stride = depth * S::PANEL + GAP;
                        (kept.as_ptr().add(panel * FILTER * FILTER * stride + k * S::PANEL), stride)
                    }
                    Transformed::Fresh(fresh) => {
                        let stride = slice * S::PANEL + GAP;
                        self.simd.launch(FilterTransform::<T, POINTS, FILTER, OUTPUTS> {
                            from: self.conv.weights.as_ptr().add((panel * 9 * depth + k) * S::PANEL),
                            tap_stride: depth * S::PANEL,
                            to: fresh,
                            to_stride: stride,
                            depth: slice,
                            transform: std::marker::PhantomData,
                        });
                        (fresh.cast_const(), stride)
                    }
                };
                for group in 0..FILTER * FILTER {
                    let product = Product {
                        input: planes.add(self.planes.group_offset(group, count, depth) + k),
                        offsets: self.plan.offsets.as_ptr(),
                        offset_stride: 1,
                        taps: 1,
                        depth: slice,
                        weights: weights.add(group * stride),
                        output: products.add(self.planes.group_offset(group, count, S::PANEL)),
                        output_stride: S::PANEL,
                        start: if k == 0 { Start::Zero } else { Start::Output },
                    };
                    product.multiply(self.simd, self.planes.group_len(group) * count);
                }
            }
        }
    }

    /// Writes the outputs of one tile and panel from its products.
    ///
    /// # Safety
    /// `products` holds those of a piece.
    unsafe fn transform_output(
        &self,
        tile: usize,
        products: *const f32,
        index: usize,
        offsets: &[[usize; POINTS]; POINTS],
        panel: usize,
    ) {
        let (shape, channel) = (&self.conv.shape, panel * S::PANEL);
        let (image, row, column) = self.place(tile);
        let (height, width) = (shape.output_height(), shape.output_width());
        let at = image * shape.output_len() + (row * OUTPUTS * width + column * OUTPUTS) * shape.outputs + channel;
        // SAFETY: the tile's first pixel lies in the output, and so do as many as are left of the image.
        unsafe {
            self.simd.launch(OutputTransform::<T, POINTS, FILTER, OUTPUTS> {
                products: products.add(index * S::PANEL),
                offsets,
                bias: self.conv.bias.as_ptr().add(channel),
                residual: self.data.residual.get().wrapping_add(at),
                has_residual: !self.data.residual.get().is_null(),
                output: self.data.output.get().add(at),
                channels: S::PANEL.min(shape.outputs - channel),
                row_stride: width * shape.outputs,
                pixel_stride: shape.outputs,
                rows: OUTPUTS.min(height - row * OUTPUTS),
                columns: OUTPUTS.min(width - column * OUTPUTS),
                relu: self.data.relu,
                transform: std::marker::PhantomData,
            });
        }
    }
}
