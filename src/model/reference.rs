//! Any network of a description on candle's operations: what the kernels are compared with, by tests and by whoever asks for this engine.

use std::collections::HashMap;

use candle_core::{DType, Device, Module, ModuleT, Result, Tensor};
use candle_nn::{BatchNorm, BatchNormConfig, Linear, VarBuilder, batch_norm, linear};

use super::architecture::{self, Activation, Family, InvertedBlock, Network, ResidualBlock};
use super::kernel::Outputs;

/// A network on candle's operations.
pub struct Reference {
    network: Network,
    /// In the order they run.
    convs: Vec<Conv>,
    last: Linear,
    dtype: DType,
}

/// A convolution with the batch norm behind it.
struct Conv {
    layer: architecture::Conv,
    weight: Tensor,
    norm: BatchNorm,
}

impl std::fmt::Debug for Reference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reference").field("dtype", &self.dtype).finish_non_exhaustive()
    }
}

impl Conv {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let ([above, below], [left, right]) = (self.layer.padding(x.dim(2)?), self.layer.padding(x.dim(3)?));
        let padded = x.pad_with_zeros(2, above, below)?.pad_with_zeros(3, left, right)?;
        let groups = if self.layer.depthwise { self.layer.inputs } else { 1 };
        let y = self.norm.forward_t(&padded.conv2d(&self.weight, 0, self.layer.stride, 1, groups)?, false)?;
        match self.layer.activation {
            Activation::None => Ok(y),
            Activation::Relu => y.relu(),
            Activation::Relu6 => y.clamp(0f32, 6f32),
        }
    }
}

impl Reference {
    /// Makes the network of `weights`, to be computed in `dtype`.
    ///
    /// # Errors
    /// A tensor is missing or has another shape than the architecture's.
    pub fn new(network: &Network, weights: &HashMap<String, Tensor>, dtype: DType) -> Result<Self> {
        let variables = VarBuilder::from_tensors(weights.clone(), dtype, &Device::Cpu);
        let config = BatchNormConfig { eps: network.epsilon, ..BatchNormConfig::default() };
        let convs = network.convs().into_iter().map(|layer| {
            let norm = batch_norm(layer.outputs, config, variables.pp(&layer.norm))?;
            Ok(Conv { weight: variables.get(&layer.shape(), &layer.weight())?, norm, layer: layer.clone() })
        });
        let convs = convs.collect::<Result<_>>()?;
        let last = linear(network.last.inputs, network.last.outputs, variables.pp(&network.last.name))?;
        Ok(Self { network: network.clone(), convs, last, dtype })
    }

    /// Features and logits of images `[batch][height][width][3]`.
    ///
    /// # Errors
    /// The tensor library.
    pub fn forward(&self, images: &[f32], [height, width]: [usize; 2]) -> Result<Outputs> {
        let batch = images.len() / (height * width * 3);
        let images = Tensor::from_slice(images, (batch, height, width, 3), &Device::Cpu)?;
        let x = images.to_dtype(self.dtype)?.permute((0, 3, 1, 2))?.contiguous()?;
        let mut convs = self.convs.iter();
        let x = match &self.network.family {
            Family::Residual(network) => {
                let mut x = next(&mut convs).forward(&x)?;
                // Behind a ReLU, zeros are as good a padding as minus infinity.
                x = x.pad_with_zeros(2, 1, 1)?.pad_with_zeros(3, 1, 1)?.max_pool2d_with_stride(3, 2)?;
                for block in network.stages.iter().flatten() {
                    x = residual(block, &mut convs, &x)?;
                }
                x
            }
            Family::Inverted(network) => {
                let mut x = x;
                for block in &network.blocks {
                    x = inverted(block, &mut convs, &x)?;
                }
                next(&mut convs).forward(&x)?
            }
        };
        let features = x.mean((2, 3))?;
        let logits = self.last.forward(&features)?;
        let values = |tensor: &Tensor| tensor.to_dtype(DType::F32)?.flatten_all()?.to_vec1();
        Ok(Outputs { features: values(&features)?, logits: values(&logits)? })
    }
}

fn next<'a>(convs: &mut impl Iterator<Item = &'a Conv>) -> &'a Conv {
    convs.next().expect("the description has as many convolutions as it lists")
}

/// ReLU of two convolutions and the shortcut.
fn residual<'a>(block: &ResidualBlock, convs: &mut impl Iterator<Item = &'a Conv>, x: &Tensor) -> Result<Tensor> {
    let first = next(convs).forward(x)?;
    let shortcut = match block.shortcut {
        Some(_) => next(convs).forward(x)?,
        None => x.clone(),
    };
    (next(convs).forward(&first)? + shortcut)?.relu()
}

/// Three convolutions, and the input where they keep its shape.
fn inverted<'a>(block: &InvertedBlock, convs: &mut impl Iterator<Item = &'a Conv>, x: &Tensor) -> Result<Tensor> {
    let expanded = next(convs).forward(x)?;
    let filtered = next(convs).forward(&expanded)?;
    let projected = next(convs).forward(&filtered)?;
    if block.identity { projected + x } else { Ok(projected) }
}
