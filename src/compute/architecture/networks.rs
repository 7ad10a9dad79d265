//! The networks, layer by layer.

use super::{Activation, Conv, Family, Inverted, InvertedBlock, Linear, Network, Padding, Residual, ResidualBlock};

/// A residual network with `blocks` in its stages. Each stage but the first doubles the channels and halves the side.
pub(super) fn residual(blocks: [usize; 4], classes: usize) -> Network {
    let stem = conv("conv1", "bn1", [64, 3, 7], 2, Activation::Relu);
    let mut inputs = stem.outputs;
    let mut block = |stage: usize, index: usize| {
        let (name, outputs) = (format!("layer{}.{index}", stage + 1), 64 << stage);
        let conv = |part: &str, norm: &str, inputs, kernel, stride, activation| {
            conv(&format!("{name}.{part}"), &format!("{name}.{norm}"), [outputs, inputs, kernel], stride, activation)
        };
        let stride = if inputs == outputs { 1 } else { 2 };
        let block = ResidualBlock {
            first: conv("conv1", "bn1", inputs, 3, stride, Activation::Relu),
            second: conv("conv2", "bn2", outputs, 3, 1, Activation::None),
            shortcut: (stride > 1).then(|| conv("downsample.0", "downsample.1", inputs, 1, stride, Activation::None)),
        };
        inputs = outputs;
        block
    };
    let stages: Vec<Vec<_>> =
        (0..4).map(|stage| (0..blocks[stage]).map(|index| block(stage, index)).collect()).collect();
    Network {
        family: Family::Residual(Residual { stem, stages }),
        // PyTorch's default.
        epsilon: 1e-5,
        last: Linear { name: "fc".to_owned(), inputs: 512, outputs: classes },
    }
}

/// A convolution with `[outputs, inputs, kernel]`.
fn conv(name: &str, norm: &str, [outputs, inputs, kernel]: [usize; 3], stride: usize, activation: Activation) -> Conv {
    let (name, norm) = (name.to_owned(), norm.to_owned());
    Conv { name, norm, inputs, outputs, kernel, stride, depthwise: false, padding: Padding::Centred, activation }
}

/// EfficientNet-Lite0: the blocks of EfficientNet-B0, by stages of equal ones.
pub(super) fn efficientnet_lite0(classes: usize) -> Network {
    /// Number of blocks, side of the depthwise filter, stride of the first block, how many times it widens, outputs.
    const STAGES: [[usize; 5]; 7] = [
        [1, 3, 1, 1, 16],
        [2, 3, 2, 6, 24],
        [2, 5, 2, 6, 40],
        [3, 3, 2, 6, 80],
        [3, 5, 1, 6, 112],
        [4, 5, 2, 6, 192],
        [1, 3, 1, 6, 320],
    ];
    let same = |conv: Conv| Conv { padding: Padding::Same, ..conv };
    let stem = same(conv("_conv_stem", "_bn0", [32, 3, 3], 2, Activation::Relu6));
    let (mut blocks, mut inputs) = (Vec::new(), stem.outputs);
    let mut stem = Some(stem);
    for [repeats, kernel, stride, times, outputs] in STAGES {
        for repeat in 0..repeats {
            let name = format!("_blocks.{}", blocks.len());
            let conv = |part: &str, norm: &str, sizes, stride, activation| {
                same(conv(&format!("{name}.{part}"), &format!("{name}.{norm}"), sizes, stride, activation))
            };
            let (middle, stride) = (times * inputs, if repeat == 0 { stride } else { 1 });
            let expand = || conv("_expand_conv", "_bn0", [middle, inputs, 1], 1, Activation::Relu6);
            let depthwise = conv("_depthwise_conv", "_bn1", [middle, middle, kernel], stride, Activation::Relu6);
            blocks.push(InvertedBlock {
                expand: stem.take().unwrap_or_else(expand),
                depthwise: Conv { depthwise: true, ..depthwise },
                project: conv("_project_conv", "_bn2", [outputs, middle, 1], 1, Activation::None),
                identity: stride == 1 && inputs == outputs,
            });
            inputs = outputs;
        }
    }
    let head = same(conv("_conv_head", "_bn1", [1280, inputs, 1], 1, Activation::Relu6));
    Network {
        // TensorFlow's default.
        epsilon: 1e-3,
        last: Linear { name: "_fc".to_owned(), inputs: head.outputs, outputs: classes },
        family: Family::Inverted(Inverted { blocks, head }),
    }
}
