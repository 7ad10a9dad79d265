//! The layers of a residual network, folded and packed.

use super::super::architecture::{self, Network};
use super::layer::Conv;
use super::shape::Shape;
use super::simd::Simd;
use super::stem::Stem;
use super::threads::Threads;
use super::weights::{self, KernelError, Weights};

/// Two convolutions around a shortcut.
pub(super) struct Block {
    pub(super) first: Conv,
    pub(super) second: Conv,
    /// The projection of a shortcut that changes shape; others are identities.
    pub(super) shortcut: Option<Conv>,
}

/// Blocks with outputs of one size.
pub(super) struct Stage {
    pub(super) blocks: Vec<Block>,
    /// Floats of its output for one image.
    pub(super) output_len: usize,
}

/// The network for square images of one side.
pub(super) struct Layers {
    pub(super) side: usize,
    pub(super) stem: Stem,
    pub(super) stages: Vec<Stage>,
    /// The linear layer, as a convolution of one pixel.
    pub(super) last: Conv,
}

impl Block {
    /// In the order they run.
    fn convs(&self) -> impl Iterator<Item = &Conv> {
        [&self.first].into_iter().chain(&self.shortcut).chain([&self.second])
    }
}

impl Stage {
    /// In the order they run.
    pub(super) fn convs(&self) -> impl Iterator<Item = &Conv> {
        self.blocks.iter().flat_map(Block::convs)
    }
}

impl Layers {
    /// Folds and packs the weights of `residual`, all but the last layer of `network`.
    pub(super) fn new<S: Simd>(
        network: &Network,
        residual: &architecture::Residual,
        weights: &dyn Weights,
        side: usize,
        threads: &mut Threads,
    ) -> Result<Self, KernelError> {
        let filters = weights::convolution(weights, &residual.stem, network.epsilon)?;
        let stem = Stem::new::<S>(side, &filters, threads);
        let mut pack = |conv: &architecture::Conv, side: usize| {
            let filters = weights::convolution(weights, conv, network.epsilon)?;
            Ok::<_, KernelError>(Conv::new::<S>(Shape::of(conv, side), &filters, threads))
        };
        let mut side_in = stem.pooled();
        let mut stages = Vec::new();
        for stage in &residual.stages {
            let mut blocks = Vec::new();
            for block in stage {
                let side = block.first.output_side(side_in);
                blocks.push(Block {
                    first: pack(&block.first, side_in)?,
                    second: pack(&block.second, side)?,
                    shortcut: block.shortcut.as_ref().map(|conv| pack(conv, side_in)).transpose()?,
                });
                side_in = side;
            }
            let output_len = blocks.last().map_or(0, |block| block.second.shape.output_len());
            stages.push(Stage { blocks, output_len });
        }
        let last = Conv::linear::<S>(&weights::linear(weights, &network.last)?, threads);
        Ok(Self { side, stem, stages, last })
    }
}

/// The distinct convolutions behind the stem for images of `side`.
pub(super) fn shapes(residual: &architecture::Residual, side: usize) -> Vec<Shape> {
    let mut shapes = Vec::new();
    let mut side = side.div_ceil(2).div_ceil(2);
    for block in residual.stages.iter().flatten() {
        let after = block.first.output_side(side);
        let pairs = [(Some(&block.first), side), (block.shortcut.as_ref(), side), (Some(&block.second), after)];
        for shape in pairs.into_iter().filter_map(|(conv, side)| Some(Shape::of(conv?, side))) {
            if !shapes.contains(&shape) {
                shapes.push(shape);
            }
        }
        side = after;
    }
    shapes
}
