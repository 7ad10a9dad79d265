//! Pointwise products, depthwise convolutions and whole inverted networks of any sizes against their definitions in
//! `f64`.

use proptest::prelude::*;

use super::super::super::architecture::{Activation, Conv, Family, Inverted, InvertedBlock, Linear, Network, Padding};
use super::super::bench::{Tensors, noise};
use super::super::depthwise::{self, Depthwise, Held};
use super::super::pack::Filters;
use super::super::pointwise::{Matrix, Odd};
use super::super::product::Rows;
use super::super::simd::Simd;
use super::super::threads::Threads;
use super::super::{Isa, Kernel, Parallel, with_isa};
use super::definition;

fn filters(outputs: usize, inputs: usize, taps: usize) -> Filters {
    Filters {
        weights: noise(outputs * inputs * taps, 1),
        outputs,
        inputs,
        taps,
        scale: Some(noise(outputs, 2)),
        bias: noise(outputs, 3),
    }
}

/// Compares with a tolerance for so many terms of a sum, each below 1.
fn check(isa: Isa, found: f32, expected: f64, terms: usize) {
    let error = (f64::from(found) - expected).abs();
    assert!(error <= 4e-7 * terms as f64, "{isa:?}: {found} instead of {expected}");
}

/// A matrix whose taps come in `rows` rows, on rows that lie `gap` floats further apart than they are long.
#[derive(Clone, Debug)]
struct Pointwise {
    rows: usize,
    inputs: usize,
    outputs: usize,
    count: usize,
    gap: usize,
    residual: bool,
    activation: Activation,
    odd: Odd,
    /// Floats to fetch.
    next: usize,
}

impl Pointwise {
    /// Floats of one tap.
    fn depth(&self) -> usize {
        self.inputs * self.rows
    }

    fn stride(&self) -> usize {
        self.rows * (self.depth() + self.gap)
    }

    /// Outputs of all rows and panels, and what they are added to, each row `width` floats.
    fn run<S: Simd>(&self) -> (Vec<f32>, Vec<f32>, usize) {
        let simd = S::detect().unwrap();
        let filters = filters(self.outputs, self.inputs, self.rows * self.rows);
        let matrix = Matrix::new::<S>(&filters, self.rows, self.odd, &mut Threads::new(1).unwrap());
        let (input, width) = (noise(self.count * self.stride(), 4), matrix.stride::<S>());
        let residual = noise(self.count * width, 5);
        let mut output = vec![f32::NAN; self.count * width];
        // From the last place to the first.
        let places: Vec<u32> = (0..self.count).rev().map(|row| (row * width) as u32).collect();
        for panel in 0..matrix.panels::<S>() {
            let rows = Rows {
                input: input.as_ptr(),
                stride: self.stride(),
                tap_stride: self.depth() + self.gap,
                count: self.count,
                output: output[panel * S::PANEL..].as_mut_ptr(),
                places: places.as_ptr(),
                residual: if self.residual { residual[panel * S::PANEL..].as_ptr() } else { std::ptr::null() },
                activation: self.activation,
                next: &input[..self.next.min(input.len())],
            };
            // SAFETY: all of it was made for this matrix.
            unsafe { matrix.multiply(simd, panel, rows) };
        }
        (output, residual, width)
    }

    fn check(&self) {
        let filters = filters(self.outputs, self.inputs, self.rows * self.rows);
        let (input, scale) = (noise(self.count * self.stride(), 4), filters.scale.as_ref().unwrap());
        for isa in Isa::available() {
            let (output, residual, width) = with_isa!(isa, pointwise(self), unreachable!("it is available"));
            for (row, output) in output.chunks_exact(width).rev().enumerate() {
                for channel in 0..self.outputs {
                    let mut sum = f64::from(filters.bias[channel]);
                    for tap in 0..self.rows * self.rows {
                        for c in 0..self.inputs {
                            let weight = filters.weights[(channel * self.inputs + c) * self.rows * self.rows + tap];
                            let column = tap % self.rows * self.inputs + c;
                            let at = row * self.stride() + tap / self.rows * (self.depth() + self.gap) + column;
                            sum += f64::from(weight * scale[channel]) * f64::from(input[at]);
                        }
                    }
                    if self.residual {
                        sum += f64::from(residual[(self.count - 1 - row) * width + channel]);
                    }
                    let sum = match self.activation.ceiling() {
                        Some(most) => sum.clamp(0.0, f64::from(most)),
                        None => sum,
                    };
                    check(isa, output[channel], sum, self.rows * self.depth() + 2);
                }
                assert!(
                    self.residual || output[self.outputs..].iter().all(|&x| x == 0.0),
                    "{isa:?}: what is unused is 0"
                );
            }
        }
    }
}

fn pointwise<S: Simd>(case: &Pointwise) -> (Vec<f32>, Vec<f32>, usize) {
    case.run::<S>()
}

fn within<S: Simd>(value: f32, most: f32) -> f32 {
    let simd = S::detect().unwrap();
    let mut lanes = [f32::NAN; 16];
    // SAFETY: no vector has more than 16 lanes.
    unsafe { simd.store(lanes.as_mut_ptr(), simd.within(simd.splat(value), simd.splat(most))) };
    lanes[0]
}

#[test]
fn bounds_are_the_same_to_the_bit() {
    let (least, subnormal) = (f32::MIN_POSITIVE, f32::from_bits(1));
    let around_six = [6.0f32.next_down(), 6.0, 6.0f32.next_up()];
    let positive = [0.0, subnormal, least, 1.0, f32::MAX, f32::INFINITY].into_iter().chain(around_six);
    for value in positive.flat_map(|value| [value, -value]) {
        for most in [6.0, f32::INFINITY] {
            let want = if value > 0.0 { value.min(most) } else { 0.0 };
            for isa in Isa::available() {
                let found = with_isa!(isa, within(value, most), unreachable!("it is available"));
                assert_eq!(found.to_bits(), want.to_bits(), "{isa:?}: {value} within {most}");
            }
        }
    }
}

/// Some rows of depthwise filters on an image of `side` rows, with `before` above it.
#[derive(Clone, Debug)]
struct Depth {
    kernel: usize,
    stride: usize,
    channels: usize,
    side: usize,
    before: usize,
    first: usize,
    rows: usize,
    count: usize,
    /// Floats between the pixels of the output.
    gap: usize,
    activation: Activation,
}

impl Depth {
    fn pixels(&self) -> usize {
        (self.count - 1) * self.stride + self.kernel
    }

    /// Value of a padded row of the input, counted from the first one above the image.
    fn input(&self, row: usize, pixel: usize, channel: usize) -> f32 {
        let is_image = row.checked_sub(self.before).is_some_and(|row| row < self.side);
        if is_image { ((row * 131 + pixel * 17 + channel) as f32 * 0.37).sin() } else { 0.0 }
    }

    /// `[rows][count][channels]`, with whole vectors of channels and the gap, and the distance between pixels.
    fn run<S: Simd>(&self) -> (Vec<f32>, usize) {
        let simd = S::detect().unwrap();
        let layer = Depthwise::new::<S>(
            &filters(self.channels, 1, self.kernel * self.kernel),
            self.kernel,
            self.stride,
            self.activation,
        );
        let (lanes, width) = (S::LANES, self.channels.next_multiple_of(S::LANES));
        let stride = width + self.gap * lanes;
        let mut output = vec![f32::NAN; self.rows * self.count * stride];
        let (len, under) = (self.pixels() * S::PANEL, (self.rows - 1) * self.stride + self.kernel);
        let ring = under.min(self.side);
        let mut zeros = vec![0.0; len];
        for panel in 0..self.channels.div_ceil(S::PANEL) {
            // What is not under the filters is no number.
            let mut slots = vec![f32::NAN; ring * len];
            for row in (self.first * self.stride..).take(under) {
                let Some(image_row) = row.checked_sub(self.before).filter(|&row| row < self.side) else { continue };
                for (i, value) in slots[image_row % ring * len..][..len].iter_mut().enumerate() {
                    let channel = panel * S::PANEL + i % S::PANEL;
                    *value = if channel < self.channels { self.input(row, i / S::PANEL, channel) } else { 0.0 };
                }
            }
            let held = Held {
                slots: slots.as_mut_ptr(),
                ring,
                len,
                zeros: zeros.as_mut_ptr(),
                side: self.side,
                before: self.before,
            };
            let rows = depthwise::Rows {
                held,
                first: self.first,
                rows: self.rows,
                output: output[panel * S::PANEL..].as_mut_ptr(),
                stride,
                count: self.count,
                width: (width - panel * S::PANEL).min(S::PANEL),
            };
            // SAFETY: the rows have the pixels under all outputs.
            unsafe { layer.run(simd, panel, rows) };
        }
        assert!(output.chunks_exact(stride).all(|pixel| pixel[width..].iter().all(|x| x.is_nan())), "between pixels");
        (output, stride)
    }

    fn check(&self) {
        let taps = self.kernel * self.kernel;
        let filters = filters(self.channels, 1, taps);
        for isa in Isa::available() {
            let (output, width) = with_isa!(isa, depthwise(self), unreachable!("it is available"));
            for (index, pixel) in output.chunks_exact(width).enumerate() {
                let (y, x) = ((self.first + index / self.count) * self.stride, index % self.count * self.stride);
                for (channel, &found) in pixel[..self.channels].iter().enumerate() {
                    let mut sum = f64::from(filters.bias[channel]);
                    for tap in 0..taps {
                        let weight = filters.weights[channel * taps + tap] * filters.scale.as_ref().unwrap()[channel];
                        let (row, pixel) = (y + tap / self.kernel, x + tap % self.kernel);
                        sum += f64::from(weight) * f64::from(self.input(row, pixel, channel));
                    }
                    let sum = match self.activation.ceiling() {
                        Some(most) => sum.clamp(0.0, f64::from(most)),
                        None => sum,
                    };
                    check(isa, found, sum, taps + 1);
                }
            }
        }
    }
}

fn depthwise<S: Simd>(case: &Depth) -> (Vec<f32>, usize) {
    case.run::<S>()
}

/// Side of the filter, stride, times it widens, outputs in eighths.
type Sizes = (usize, usize, usize, usize);

/// A network of these blocks; the first one's widening is the stem.
fn network(stem: usize, blocks: &[Sizes]) -> Network {
    let conv = |name: String, [outputs, inputs, kernel]: [usize; 3], stride, depthwise, activation| Conv {
        norm: format!("{name}.norm"),
        name,
        inputs,
        outputs,
        kernel,
        stride,
        depthwise,
        padding: Padding::Same,
        activation,
    };
    let mut inputs = 8 * stem;
    let mut list = Vec::new();
    for (index, &(kernel, stride, times, outputs)) in blocks.iter().enumerate() {
        let (outputs, middle) = (8 * outputs, if index == 0 { inputs } else { times * inputs });
        let name = |part: &str| format!("{index}.{part}");
        let expand = if index == 0 { ([middle, 3, 3], 2) } else { ([middle, inputs, 1], 1) };
        list.push(InvertedBlock {
            expand: conv(name("expand"), expand.0, expand.1, false, Activation::Relu6),
            depthwise: conv(name("depthwise"), [middle, middle, kernel], stride, true, Activation::Relu6),
            project: conv(name("project"), [outputs, middle, 1], 1, false, Activation::None),
            identity: index > 0 && stride == 1 && inputs == outputs,
        });
        inputs = outputs;
    }
    let head = conv("head".into(), [48, inputs, 1], 1, false, Activation::Relu6);
    Network {
        family: Family::Inverted(Inverted { blocks: list, head }),
        epsilon: 1e-3,
        last: Linear { name: "last".into(), inputs: 48, outputs: 5 },
    }
}

/// Compares the network with its definition on every instruction set.
fn check_network(network: &Network, side: usize, batch: usize, threads: usize) {
    let weights = Tensors::random(network);
    let images = noise(batch * side * side * 3, 6);
    let expected =
        images.chunks_exact(side * side * 3).flat_map(|image| definition::logits(network, &weights, image, side));
    let expected: Vec<f64> = expected.collect();
    let largest = expected.iter().fold(0.0, |a: f64, b| a.max(b.abs()));
    for isa in Isa::available() {
        let kernel = Kernel::new(network, &weights, side, isa, Parallel::one(threads)).unwrap();
        let found = kernel.forward(&images).logits;
        for (found, expected) in found.iter().zip(&expected) {
            let error = (f64::from(*found) - expected).abs() / largest;
            assert!(error <= 1e-4, "{isa:?}: {found} instead of {expected}, {error:e} of the largest");
        }
    }
}

prop_compose! {
    fn sizes()(
        kernel in prop_oneof![Just(3usize), Just(5)],
        stride in 1usize..=2,
        times in 1usize..=4,
        outputs in 1usize..=5,
    ) -> Sizes {
        (kernel, stride, times, outputs)
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn pointwise_products_are_the_products(
        (rows, inputs, count) in prop_oneof![
            3 => (Just(1usize), 1usize..600, 1usize..40),
            // More weights than rows meet at once, whatever the vectors.
            1 => (Just(1usize), 600usize..2200, 1usize..4),
            1 => (Just(3usize), 1usize..5, 1usize..40),
        ],
        outputs in 1usize..70,
        gap in 0usize..3,
        odd in prop_oneof![Just(Odd::Alone), Just(Odd::Joined)],
        residual in prop::bool::ANY,
        next in 0usize..20_000,
        activation in prop_oneof![Just(Activation::None), Just(Activation::Relu), Just(Activation::Relu6)],
    ) {
        Pointwise { rows, inputs, outputs, count, gap, residual, activation, odd, next }.check();
    }

    #[test]
    fn depthwise_rows_are_the_convolution(
        kernel in prop_oneof![Just(3usize), Just(5)],
        stride in 1usize..=2,
        channels in 1usize..70,
        side in 1usize..12,
        before in 0usize..3,
        first in 0usize..3,
        rows in 1usize..5,
        (count, gap) in (1usize..30, 0usize..3),
        activation in prop_oneof![Just(Activation::None), Just(Activation::Relu), Just(Activation::Relu6)],
    ) {
        Depth { kernel, stride, channels, side, before, first, rows, count, gap, activation }.check();
    }

    #[test]
    fn inverted_networks_of_any_sizes_are_their_definition(
        stem in 1usize..=5,
        blocks in prop::collection::vec(sizes(), 1..5),
        side in 1usize..60,
        batch in 1usize..4,
        threads in 1usize..=3,
    ) {
        check_network(&network(stem, &blocks), side, batch, threads);
    }
}
