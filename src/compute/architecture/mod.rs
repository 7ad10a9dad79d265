//! Networks as data: what loading, kernels, the reference, benchmarks and tests need to know of an architecture,
//! written once.
//!
//! Compiled into the build script too. A further network of a known [`Family`] is one more [`Architecture`] and its
//! description in `networks.rs`.

use serde::{Deserialize, Serialize};

mod networks;

/// The networks that a bundle may hold.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Architecture {
    /// ResNet-18 (He, Zhang, Ren & Sun, "Deep Residual Learning for Image Recognition", 2015) with torchvision's tensor
    /// names.
    #[default]
    #[serde(rename = "resnet18")]
    ResNet18,
    /// ResNet-34 of the same paper, with torchvision's tensor names.
    #[serde(rename = "resnet34")]
    ResNet34,
    /// EfficientNet-Lite0 (Tan & Le, "EfficientNet", 2019, in Google's variant for small machines: ReLU6, no
    /// squeeze-and-excitation) with the tensor names of its first port to PyTorch.
    #[serde(rename = "efficientnet-lite0")]
    EfficientNetLite0,
}

impl Architecture {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::ResNet18, Self::ResNet34, Self::EfficientNetLite0];

    /// The name in `model.toml`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::ResNet18 => "resnet18",
            Self::ResNet34 => "resnet34",
            Self::EfficientNetLite0 => "efficientnet-lite0",
        }
    }

    /// The network for people, with whose tensor names it has.
    #[must_use]
    pub const fn title(self) -> &'static str {
        match self {
            Self::ResNet18 => "torchvision's ResNet-18",
            Self::ResNet34 => "torchvision's ResNet-34",
            Self::EfficientNetLite0 => "EfficientNet-Lite0",
        }
    }

    /// The network with `classes` outputs.
    #[must_use]
    pub fn network(self, classes: usize) -> Network {
        match self {
            Self::ResNet18 => networks::residual([2, 2, 2, 2], classes),
            Self::ResNet34 => networks::residual([3, 4, 6, 3], classes),
            Self::EfficientNetLite0 => networks::efficientnet_lite0(classes),
        }
    }
}

/// A network that ends in the mean of its features over all pixels, and a linear layer.
#[derive(Debug, Clone, PartialEq)]
pub struct Network {
    /// All layers before the mean.
    pub family: Family,
    /// What is added to a batch norm's variance.
    pub epsilon: f64,
    /// The last layer.
    pub last: Linear,
}

/// How the layers hang together.
#[derive(Debug, Clone, PartialEq)]
pub enum Family {
    /// Blocks of two convolutions around a shortcut.
    Residual(Residual),
    /// Blocks of a convolution that widens, a depthwise one and one that narrows.
    Inverted(Inverted),
}

/// A residual network: a stem with max-pooling, then stages of blocks.
#[derive(Debug, Clone, PartialEq)]
pub struct Residual {
    /// The first convolution, followed by a max-pooling of 3x3 windows with stride 2 and a padding of 1.
    pub stem: Conv,
    /// Blocks by the size of their outputs.
    pub stages: Vec<Vec<ResidualBlock>>,
}

/// ReLU of the sum of two convolutions and a shortcut.
#[derive(Debug, Clone, PartialEq)]
pub struct ResidualBlock {
    /// The first convolution.
    pub first: Conv,
    /// The second one; the block's ReLU follows the sum.
    pub second: Conv,
    /// The projection of a shortcut that changes shape; others are identities.
    pub shortcut: Option<Conv>,
}

/// A network of inverted residuals (Sandler et al., "MobileNetV2", 2018).
#[derive(Debug, Clone, PartialEq)]
pub struct Inverted {
    /// In the order they run.
    pub blocks: Vec<InvertedBlock>,
    /// The 1x1 convolution behind them.
    pub head: Conv,
}

/// Three convolutions, and the block's input added to their output where that has the same shape.
#[derive(Debug, Clone, PartialEq)]
pub struct InvertedBlock {
    /// The 1x1 convolution that widens; in the first block, which does not, the network's stem, a convolution of the
    /// image.
    pub expand: Conv,
    /// One filter for each channel.
    pub depthwise: Conv,
    /// The 1x1 convolution that narrows.
    pub project: Conv,
    /// Whether the input is added.
    pub identity: bool,
}

/// A convolution without bias of its own, the batch norm behind it, and an activation.
#[derive(Debug, Clone, PartialEq)]
pub struct Conv {
    /// Name of its tensors, without `.weight`.
    pub name: String,
    /// Name of the batch norm's tensors, without `.weight`, `.bias`, `.running_mean` and `.running_var`.
    pub norm: String,
    /// Input channels.
    pub inputs: usize,
    /// Output channels.
    pub outputs: usize,
    /// Side of the filter.
    pub kernel: usize,
    /// Distance between the inputs of neighbouring outputs.
    pub stride: usize,
    /// Whether each output channel meets one input channel only, the one of its number.
    pub depthwise: bool,
    /// Zeros around the input.
    pub padding: Padding,
    /// What follows.
    pub activation: Activation,
}

/// How many zeros are around an input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Padding {
    /// Half the filter on every side, as PyTorch's networks have it.
    Centred,
    /// TensorFlow's `SAME`: as many as `ceil(side / stride)` outputs need, and where that is an odd number, one more
    /// behind than before.
    Same,
}

/// What becomes of a layer's outputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// Nothing.
    None,
    /// Negative ones become 0.
    Relu,
    /// Negative ones become 0, and those above 6 become 6.
    Relu6,
}

impl Activation {
    /// The largest output, infinite if there is none; `None` where outputs may be negative.
    #[must_use]
    pub const fn ceiling(self) -> Option<f32> {
        match self {
            Self::None => None,
            Self::Relu => Some(f32::INFINITY),
            Self::Relu6 => Some(6.0),
        }
    }
}

/// A matrix and a bias.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Linear {
    /// Name of its tensors, without `.weight` and `.bias`.
    pub name: String,
    /// Inputs: the features of an image.
    pub inputs: usize,
    /// Outputs: the classes.
    pub outputs: usize,
}

/// Name and shape of a tensor.
pub type Tensor = (String, Vec<usize>);

impl Conv {
    /// The parts of a batch norm.
    pub const NORM: [&str; 4] = ["weight", "bias", "running_mean", "running_var"];

    /// Name of the filters.
    #[must_use]
    pub fn weight(&self) -> String {
        format!("{}.weight", self.name)
    }

    /// Shape of the filters: `[outputs, inputs, kernel, kernel]`, with one input if it is depthwise.
    #[must_use]
    pub fn shape(&self) -> [usize; 4] {
        [self.outputs, if self.depthwise { 1 } else { self.inputs }, self.kernel, self.kernel]
    }

    /// Zeros before and behind each row and column of an input of `side`.
    #[must_use]
    pub const fn padding(&self, side: usize) -> [usize; 2] {
        match self.padding {
            Padding::Centred => [self.kernel / 2; 2],
            Padding::Same => {
                let zeros = ((side.div_ceil(self.stride) - 1) * self.stride + self.kernel).saturating_sub(side);
                [zeros / 2, zeros - zeros / 2]
            }
        }
    }

    /// Side of the output for an input of `side`.
    #[must_use]
    pub const fn output_side(&self, side: usize) -> usize {
        let [before, behind] = self.padding(side);
        (before + side + behind - self.kernel) / self.stride + 1
    }

    fn tensors(&self) -> impl Iterator<Item = Tensor> {
        let norm = Self::NORM.map(|part| (format!("{}.{part}", self.norm), vec![self.outputs]));
        std::iter::once((self.weight(), self.shape().to_vec())).chain(norm)
    }
}

impl Linear {
    /// Name of the matrix, `[outputs, inputs]`.
    #[must_use]
    pub fn weight(&self) -> String {
        format!("{}.weight", self.name)
    }

    /// Name of the bias, `[outputs]`.
    #[must_use]
    pub fn bias(&self) -> String {
        format!("{}.bias", self.name)
    }
}

impl ResidualBlock {
    /// In the order they run.
    pub fn convs(&self) -> impl Iterator<Item = &Conv> {
        [&self.first].into_iter().chain(&self.shortcut).chain([&self.second])
    }
}

impl InvertedBlock {
    /// In the order they run.
    pub fn convs(&self) -> impl Iterator<Item = &Conv> {
        [&self.expand, &self.depthwise, &self.project].into_iter()
    }
}

impl Network {
    /// All convolutions in the order they run.
    #[must_use]
    pub fn convs(&self) -> Vec<&Conv> {
        match &self.family {
            Family::Residual(network) => {
                let blocks = network.stages.iter().flatten().flat_map(ResidualBlock::convs);
                std::iter::once(&network.stem).chain(blocks).collect()
            }
            Family::Inverted(network) => {
                network.blocks.iter().flat_map(InvertedBlock::convs).chain([&network.head]).collect()
            }
        }
    }

    /// Names and shapes of all tensors, PyTorch's batch counters left out.
    #[must_use]
    pub fn tensors(&self) -> Vec<Tensor> {
        let Linear { inputs, outputs, .. } = self.last;
        let last = [(self.last.weight(), vec![outputs, inputs]), (self.last.bias(), vec![outputs])];
        self.convs().into_iter().flat_map(Conv::tensors).chain(last).collect()
    }

    /// Multiply-adds of one image of `side`, those with padding included.
    #[must_use]
    pub fn multiply_adds(&self, side: usize) -> u64 {
        let of = |conv: &Conv, side: usize| conv.output_side(side).pow(2) * conv.shape().iter().product::<usize>();
        let mut sum = self.last.inputs * self.last.outputs;
        match &self.family {
            Family::Residual(network) => {
                sum += of(&network.stem, side);
                let mut side = network.stem.output_side(side).div_ceil(2);
                for block in network.stages.iter().flatten() {
                    let after = block.first.output_side(side);
                    sum += of(&block.first, side) + of(&block.second, after);
                    sum += block.shortcut.as_ref().map_or(0, |conv| of(conv, side));
                    side = after;
                }
            }
            Family::Inverted(_) => {
                let mut side = side;
                for conv in self.convs() {
                    sum += of(conv, side);
                    side = conv.output_side(side);
                }
            }
        }
        sum as u64
    }

    /// Length of the vector that the last layer gets of an image.
    #[must_use]
    pub const fn features(&self) -> usize {
        self.last.inputs
    }

    /// Number of classes.
    #[must_use]
    pub const fn classes(&self) -> usize {
        self.last.outputs
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_have_the_parameters_that_their_authors_count() {
        for (architecture, parameters) in [
            (Architecture::ResNet18, 11_689_512),
            (Architecture::ResNet34, 21_797_672),
            (Architecture::EfficientNetLite0, 4_652_008),
        ] {
            let trained = |name: &str| !name.ends_with(".running_mean") && !name.ends_with(".running_var");
            let tensors = architecture.network(1000).tensors();
            let found: usize = tensors
                .iter()
                .filter(|(name, _)| trained(name))
                .map(|(_, shape)| shape.iter().product::<usize>())
                .sum();
            assert_eq!(found, parameters, "{}", architecture.name());
        }
    }

    #[test]
    fn multiply_adds_are_those_that_their_authors_count() {
        for (architecture, giga) in
            [(Architecture::ResNet18, 1.814), (Architecture::ResNet34, 3.664), (Architecture::EfficientNetLite0, 0.385)]
        {
            let found = architecture.network(1000).multiply_adds(224) as f64 / 1e9;
            assert!((found - giga).abs() < 0.001, "{} has {found}", architecture.name());
        }
    }

    #[test]
    fn names_are_those_in_cards() {
        for architecture in Architecture::ALL {
            assert_eq!(serde_json::to_value(architecture).unwrap(), architecture.name());
        }
    }
}
