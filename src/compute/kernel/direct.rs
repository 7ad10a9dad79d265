//! Direct convolution as an implicit matrix product: a row is an output pixel, its columns are the input channels under
//! each tap.
//!
//! Rows are ordered by position, then image, so that the rows of a tile hang over the same edge and taps that meet
//! padding only are skipped: at 2x2 pixels that is 20 of 36.

use super::gemm::{BLOCK, Product, Start};
use super::layer::{Call, Data};
use super::plan::{Algorithm, Pieces, Plan};
use super::shape::Shape;
use super::simd::{Body, Simd};

/// Tiles of rows that share a block of weights in the first-level cache.
const TILES: usize = 7;

/// Rows that are worth a piece of their own if that lets taps be skipped.
const WORTH_SKIPPING: usize = 4;

/// Cuts the layer into tasks and finds where every row reads.
pub(super) fn plan<S: Simd>(shape: &Shape, batch: usize, zeros: usize, threads: usize) -> Plan {
    let (rows, panels) = (shape.output_height() * shape.output_width() * batch, shape.outputs.div_ceil(S::PANEL));
    let most = TILES * S::ROWS;
    let piece = if shape.padding > 0 && batch >= WORTH_SKIPPING {
        batch.div_ceil(batch.div_ceil(most))
    } else {
        let mut parts = rows.div_ceil(most);
        while parts * panels < 4 * threads && rows / parts > 2 * S::ROWS {
            parts += 1;
        }
        rows.div_ceil(parts)
    };
    Plan {
        algorithm: Algorithm::Direct,
        pieces: Pieces::Panel(piece),
        zeros,
        offsets: offsets(shape, batch, zeros),
        shared: 0,
        private: piece * S::PANEL,
    }
}

/// Where tap `t` of row `r` reads, at `r * taps + t`.
fn offsets(shape: &Shape, batch: usize, zeros: usize) -> Vec<u32> {
    let mut offsets = Vec::with_capacity(shape.output_height() * shape.output_width() * batch * shape.taps());
    let inside = |out: usize, tap: usize, side: usize| {
        (out * shape.stride + tap).checked_sub(shape.padding).filter(|&i| i < side)
    };
    for y in 0..shape.output_height() {
        for x in 0..shape.output_width() {
            for image in 0..batch {
                for tap in 0..shape.taps() {
                    let row = inside(y, tap / shape.kernel, shape.height);
                    let column = inside(x, tap % shape.kernel, shape.width);
                    let offset = match (row, column) {
                        (Some(row), Some(column)) => {
                            image * shape.input_len() + (row * shape.width + column) * shape.inputs
                        }
                        _ => zeros,
                    };
                    offsets.push(u32::try_from(offset).expect("the workspace is bounded"));
                }
            }
        }
    }
    offsets
}

/// Runs the layer.
///
/// # Safety
/// As [`super::run::run`].
pub(super) unsafe fn run<S: Simd>(call: Call<'_, S>) {
    let Call { simd, threads, conv, plan, scratch, data } = call;
    let shape = &conv.shape;
    let (taps, depth) = (shape.taps(), shape.inputs);
    let positions = shape.output_height() * shape.output_width();
    let rows = positions * data.batch;
    let Pieces::Panel(piece) = plan.pieces else { unreachable!("direct convolutions are cut into panels") };
    let pieces = rows.div_ceil(piece);
    let zeros = plan.zeros as u32;
    let taps_at_once = (BLOCK / (depth * S::PANEL)).clamp(1, taps);
    let depth_at_once = depth.min(2 * BLOCK / S::PANEL);
    threads.run(pieces * shape.outputs.div_ceil(S::PANEL), &|task, thread| {
        let (panel, first) = (task / pieces, task % pieces * piece);
        let count = piece.min(rows - first);
        let offsets = &plan.offsets[first * taps..(first + count) * taps];
        // SAFETY: the plan has made room for a piece; offsets point into the input; panels are whole.
        unsafe {
            let sums = scratch.private(thread);
            let mut start = Start::Bias(conv.bias.as_ptr().add(panel * S::PANEL));
            for tap in (0..taps).step_by(taps_at_once) {
                let group = taps_at_once.min(taps - tap);
                let padding_only =
                    offsets.chunks_exact(taps).all(|row| row[tap..tap + group].iter().all(|&o| o == zeros));
                let last_chance = tap + group == taps && matches!(start, Start::Bias(_));
                if padding_only && !last_chance {
                    continue;
                }
                for k in (0..depth).step_by(depth_at_once) {
                    let product = Product {
                        input: data.input.get().add(k),
                        offsets: offsets.as_ptr().add(tap),
                        offset_stride: taps,
                        taps: group,
                        depth: depth_at_once.min(depth - k),
                        weights: conv.weights.as_ptr().add(((panel * taps + tap) * depth + k) * S::PANEL),
                        output: sums,
                        output_stride: S::PANEL,
                        start,
                    };
                    product.multiply(simd, count);
                    start = Start::Output;
                }
            }
            simd.launch(Finish { sums, shape, data, panel, first, count });
        }
    });
}

/// Adds the residual to the sums of one panel, applies ReLU and stores them where they belong.
struct Finish<'a> {
    /// `[count][PANEL]`
    sums: *const f32,
    shape: &'a Shape,
    data: Data,
    panel: usize,
    /// The first row.
    first: usize,
    count: usize,
}

impl Body for Finish<'_> {
    #[inline(always)]
    unsafe fn run<S: Simd>(self, simd: S) {
        let Self { sums, shape, data, panel, first, count } = self;
        let (channel, pixels) = (panel * S::PANEL, shape.output_height() * shape.output_width());
        let width = S::PANEL.min(shape.outputs - channel);
        let floor = if data.relu { 0.0 } else { f32::NEG_INFINITY };
        for r in 0..count {
            let (position, image) = ((first + r) / data.batch, (first + r) % data.batch);
            let at = (image * pixels + position) * shape.outputs + channel;
            // SAFETY: `at` is a pixel of this layer's output, and of its residual; only channels that exist are
            // touched.
            unsafe {
                let (sum, output) = (sums.add(r * S::PANEL), data.output.get().add(at));
                let residual = (!data.residual.get().is_null()).then(|| data.residual.get().add(at));
                if width == S::PANEL {
                    for lane in [0, S::LANES] {
                        let mut value = simd.load(sum.add(lane));
                        if let Some(residual) = residual {
                            value = simd.add(value, simd.load(residual.add(lane)));
                        }
                        simd.store(output.add(lane), simd.max(value, simd.splat(floor)));
                    }
                } else {
                    for c in 0..width {
                        let value = *sum.add(c) + residual.map_or(0.0, |residual| *residual.add(c));
                        *output.add(c) = value.max(floor);
                    }
                }
            }
        }
    }
}
