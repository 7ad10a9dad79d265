//! Networks by definition, in `f64`, straight from their description.

use super::super::super::architecture::{Activation, Conv, Family, Linear, Network};
use super::super::Weights;

/// Activations of one image: `[channel][row][column]`.
#[derive(Clone)]
struct Image {
    side: usize,
    channels: Vec<Vec<f64>>,
}

impl Image {
    fn map(&self, f: impl Fn(f64) -> f64) -> Self {
        Self { side: self.side, channels: self.channels.iter().map(|c| c.iter().map(|&x| f(x)).collect()).collect() }
    }

    /// The value at a place counted from `before` rows and columns above and left of the image, if it is inside.
    fn at(&self, channel: usize, [y, x]: [usize; 2], before: usize) -> Option<f64> {
        let (y, x) = (y.checked_sub(before)?, x.checked_sub(before)?);
        (y < self.side && x < self.side).then(|| self.channels[channel][y * self.side + x])
    }
}

fn values(weights: &dyn Weights, name: &str) -> Vec<f64> {
    weights.tensor(name).unwrap_or_else(|| panic!("{name}")).1.into_iter().map(f64::from).collect()
}

fn activate(activation: Activation, x: f64) -> f64 {
    match activation {
        Activation::None => x,
        Activation::Relu => x.max(0.0),
        Activation::Relu6 => x.clamp(0.0, 6.0),
    }
}

fn convolve(weights: &dyn Weights, conv: &Conv, epsilon: f64, image: &Image) -> Image {
    let filters = values(weights, &conv.weight());
    let [gamma, beta, mean, variance] = Conv::NORM.map(|part| values(weights, &format!("{}.{part}", conv.norm)));
    let [outputs, depth, kernel, _] = conv.shape();
    let side = conv.output_side(image.side);
    let [before, _] = conv.padding(image.side);
    let channels = (0..outputs).map(|output| {
        let pixel = |y: usize, x: usize| {
            let mut sum = 0.0;
            for input in 0..depth {
                let channel = if conv.depthwise { output } else { input };
                for (tap, &weight) in
                    filters[(output * depth + input) * kernel * kernel..][..kernel * kernel].iter().enumerate()
                {
                    let at = [y * conv.stride + tap / kernel, x * conv.stride + tap % kernel];
                    sum += weight * image.at(channel, at, before).unwrap_or(0.0);
                }
            }
            let sum = (sum - mean[output]) / (variance[output] + epsilon).sqrt() * gamma[output] + beta[output];
            activate(conv.activation, sum)
        };
        (0..side * side).map(|i| pixel(i / side, i % side)).collect()
    });
    Image { side, channels: channels.collect() }
}

/// 3x3 windows with stride 2 and a padding of 1.
fn max_pool(image: &Image) -> Image {
    let side = (image.side - 1) / 2 + 1;
    let channels = (0..image.channels.len()).map(|channel| {
        let window = |y: usize, x: usize| {
            let taps = (0..9).filter_map(|tap| image.at(channel, [2 * y + tap / 3, 2 * x + tap % 3], 1));
            taps.fold(f64::NEG_INFINITY, f64::max)
        };
        (0..side * side).map(|i| window(i / side, i % side)).collect()
    });
    Image { side, channels: channels.collect() }
}

fn sum(a: &Image, b: &Image) -> Image {
    let channels = a.channels.iter().zip(&b.channels).map(|(a, b)| a.iter().zip(b).map(|(a, b)| a + b).collect());
    Image { side: a.side, channels: channels.collect() }
}

/// Logits of an image `[row][column][3]`.
pub(super) fn logits(network: &Network, weights: &dyn Weights, image: &[f32], side: usize) -> Vec<f64> {
    let channels = (0..3).map(|c| image.iter().skip(c).step_by(3).map(|&x| f64::from(x)).collect());
    let image = Image { side, channels: channels.collect() };
    let conv = |layer: &Conv, x: &Image| convolve(weights, layer, network.epsilon, x);
    let last = match &network.family {
        Family::Residual(residual) => {
            let mut x = max_pool(&conv(&residual.stem, &image));
            for block in residual.stages.iter().flatten() {
                let shortcut = block.shortcut.as_ref().map_or_else(|| x.clone(), |layer| conv(layer, &x));
                x = sum(&conv(&block.second, &conv(&block.first, &x)), &shortcut).map(|x| x.max(0.0));
            }
            x
        }
        Family::Inverted(inverted) => {
            let mut x = image;
            for block in &inverted.blocks {
                let y = conv(&block.project, &conv(&block.depthwise, &conv(&block.expand, &x)));
                x = if block.identity { sum(&x, &y) } else { y };
            }
            conv(&inverted.head, &x)
        }
    };
    let features: Vec<f64> = last.channels.iter().map(|c| c.iter().sum::<f64>() / c.len() as f64).collect();
    let Linear { inputs, .. } = network.last;
    let (matrix, bias) = (values(weights, &network.last.weight()), values(weights, &network.last.bias()));
    let rows = matrix.chunks_exact(inputs).zip(bias);
    rows.map(|(row, bias)| row.iter().zip(&features).map(|(a, b)| a * b).sum::<f64>() + bias).collect()
}
