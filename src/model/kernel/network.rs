//! ResNet-18 (He, Zhang, Ren & Sun, "Deep Residual Learning for Image Recognition", 2015) on the kernels.

use std::collections::HashMap;

use candle_core::{DType, Result, Tensor};

use super::Parallel;
use super::conv::{Conv, Shape};
use super::pack::{Filters, fold};
use super::pass::{Workspace, Workspaces};
use super::simd::Simd;
use super::stem::Stem;
use super::threads::Threads;

/// Channels after the stem; each of the four stages after the first doubles them and halves the side.
const WIDTH: usize = 64;
pub(super) const STAGES: usize = 4;
/// Channels of the last stage, and floats of zeros behind every activation.
pub(super) const FEATURES: usize = WIDTH << (STAGES - 1);

/// Two convolutions around a shortcut.
pub(super) struct Block {
    pub(super) first: Conv,
    pub(super) second: Conv,
    /// The projection of a shortcut that changes shape; others are identities.
    pub(super) shortcut: Option<Conv>,
}

impl Block {
    /// In the order they run.
    fn convs(&self) -> impl Iterator<Item = &Conv> {
        [&self.first].into_iter().chain(&self.shortcut).chain([&self.second])
    }
}

/// Two blocks; every stage but the first halves the side.
pub(super) struct Stage {
    pub(super) blocks: [Block; 2],
}

impl Stage {
    /// In the order they run.
    pub(super) fn convs(&self) -> impl Iterator<Item = &Conv> {
        self.blocks.iter().flat_map(Block::convs)
    }

    /// Shape of its last convolution, and of its output.
    pub(super) fn shape(&self) -> &Shape {
        &self.blocks[1].second.shape
    }
}

/// The network for square images of one side.
pub(super) struct Network<S: Simd> {
    pub(super) simd: S,
    pub(super) side: usize,
    pub(super) classes: usize,
    pub(super) stem: Stem,
    pub(super) stages: Vec<Stage>,
    /// The linear layer.
    pub(super) last: Conv,
    pub(super) workspaces: Workspaces,
}

/// Torchvision's tensors by name.
type Weights = HashMap<String, Tensor>;

/// The tensor `name`, as `f32`, if it has this shape.
fn tensor(weights: &Weights, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
    let Some(tensor) = weights.get(name) else { candle_core::bail!("the weights have no tensor {name}") };
    if tensor.dims() != shape {
        candle_core::bail!("{name} is {:?}, but ResNet-18's is {shape:?}", tensor.dims());
    }
    tensor.to_dtype(DType::F32)?.flatten_all()?.to_vec1()
}

/// The convolution `conv` with the batch norm `norm` behind it.
fn folded(weights: &Weights, conv: &str, norm: &str, outputs: usize, inputs: usize, kernel: usize) -> Result<Filters> {
    let norm = |part: &str| tensor(weights, &format!("{norm}.{part}"), &[outputs]);
    let (scale, bias) = fold(&norm("weight")?, &norm("bias")?, &norm("running_mean")?, &norm("running_var")?);
    Ok(Filters {
        weights: tensor(weights, &format!("{conv}.weight"), &[outputs, inputs, kernel, kernel])?,
        outputs,
        inputs,
        taps: kernel * kernel,
        scale: Some(scale),
        bias,
    })
}

impl<S: Simd> Network<S> {
    /// Folds and packs `weights`.
    pub(super) fn new(simd: S, weights: &Weights, side: usize, parallel: Parallel) -> Result<Self> {
        let Parallel { calls, threads: each } = parallel;
        let mut threads = Threads::new(calls * each)?;
        let stem = Stem::new::<S>(side, &folded(weights, "conv1", "bn1", WIDTH, 3, 7)?, &mut threads);
        let mut stages = Vec::new();
        let (mut inputs, mut side_in) = (WIDTH, stem.pooled());
        for stage in 0..STAGES {
            let outputs = WIDTH << stage;
            let mut block = |block: usize| -> Result<Block> {
                let stride = if stage > 0 && block == 0 { 2 } else { 1 };
                let name = format!("layer{}.{block}", stage + 1);
                let mut conv = |conv: &str,
                                norm: &str,
                                inputs: usize,
                                kernel: usize,
                                stride: usize,
                                side: usize|
                 -> Result<Conv> {
                    let filters =
                        folded(weights, &format!("{name}.{conv}"), &format!("{name}.{norm}"), outputs, inputs, kernel)?;
                    let shape =
                        Shape { inputs, outputs, kernel, stride, padding: kernel / 2, height: side, width: side };
                    Ok(Conv::new::<S>(shape, &filters, &mut threads))
                };
                let first = conv("conv1", "bn1", inputs, 3, stride, side_in)?;
                let side_out = first.shape.output_height();
                let second = conv("conv2", "bn2", outputs, 3, 1, side_out)?;
                let shortcut = if stride == 2 {
                    Some(conv("downsample.0", "downsample.1", inputs, 1, stride, side_in)?)
                } else {
                    None
                };
                (inputs, side_in) = (outputs, side_out);
                Ok(Block { first, second, shortcut })
            };
            stages.push(Stage { blocks: [block(0)?, block(1)?] });
        }
        let classes = weights.get("fc.bias").map_or(0, Tensor::elem_count);
        let filters = Filters {
            weights: tensor(weights, "fc.weight", &[classes, FEATURES])?,
            outputs: classes,
            inputs: FEATURES,
            taps: 1,
            scale: None,
            bias: tensor(weights, "fc.bias", &[classes])?,
        };
        let shape = Shape { inputs: FEATURES, outputs: classes, kernel: 1, stride: 1, padding: 0, height: 1, width: 1 };
        let last = Conv::new::<S>(shape, &filters, &mut threads);
        drop(threads);
        let workspaces = (0..calls).map(|_| Ok(Workspace::new(Threads::new(each)?))).collect::<Result<Vec<_>>>()?;
        Ok(Self { simd, side, classes, stem, stages, last, workspaces: Workspaces::new(workspaces) })
    }
}

/// The distinct convolutions behind the stem for images of `side`.
pub(super) fn shapes(side: usize) -> Vec<Shape> {
    let mut shapes = Vec::new();
    let mut side = side.div_ceil(2).div_ceil(2);
    for stage in 0..STAGES {
        let outputs = WIDTH << stage;
        if stage > 0 {
            let inputs = outputs / 2;
            for kernel in [3, 1] {
                shapes.push(Shape {
                    inputs,
                    outputs,
                    kernel,
                    stride: 2,
                    padding: kernel / 2,
                    height: side,
                    width: side,
                });
            }
            side = side.div_ceil(2);
        }
        shapes.push(Shape { inputs: outputs, outputs, kernel: 3, stride: 1, padding: 1, height: side, width: side });
    }
    shapes
}
