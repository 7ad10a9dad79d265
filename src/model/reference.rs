//! The networks as others wrote them, or at least on their operations: what the kernels are compared with, by tests and
//! by whoever asks for this engine. Residual networks are those of candle-transformers; it has no EfficientNet-Lite,
//! which is put together here.

use std::collections::HashMap;

use candle_core::{DType, Device, Module, ModuleT, Result, Tensor};
use candle_nn::{BatchNorm, BatchNormConfig, Func, Linear, VarBuilder, batch_norm, linear};
use candle_transformers::models::resnet;

use super::architecture::{self, Activation, Family, Inverted, InvertedBlock, Network, Residual};
use super::kernel::Outputs;

/// A network on candle's operations.
pub struct Reference {
    /// From images `[batch][3][height][width]` to the features `[batch][features]`.
    body: Body,
    last: Linear,
    dtype: DType,
}

/// All but the last layer.
enum Body {
    Residual(Func<'static>),
    Inverted {
        network: Inverted,
        /// In the order they run.
        convs: Vec<Conv>,
    },
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
    /// A tensor is missing or has another shape than the architecture's; candle-transformers has no residual network of
    /// these stages.
    pub fn new(network: &Network, weights: &HashMap<String, Tensor>, dtype: DType) -> Result<Self> {
        let variables = VarBuilder::from_tensors(weights.clone(), dtype, &Device::Cpu);
        let body = match &network.family {
            Family::Residual(residual) => Body::Residual(transformers(residual, variables.clone())?),
            Family::Inverted(inverted) => {
                let config = BatchNormConfig { eps: network.epsilon, ..BatchNormConfig::default() };
                let convs = network.convs().into_iter().map(|layer| {
                    let norm = batch_norm(layer.outputs, config, variables.pp(&layer.norm))?;
                    Ok(Conv { weight: variables.get(&layer.shape(), &layer.weight())?, norm, layer: layer.clone() })
                });
                Body::Inverted { network: inverted.clone(), convs: convs.collect::<Result<_>>()? }
            }
        };
        let last = linear(network.last.inputs, network.last.outputs, variables.pp(&network.last.name))?;
        Ok(Self { body, last, dtype })
    }

    /// Features and logits of images `[batch][height][width][3]`.
    ///
    /// # Errors
    /// The tensor library.
    pub fn forward(&self, images: &[f32], [height, width]: [usize; 2]) -> Result<Outputs> {
        let batch = images.len() / (height * width * 3);
        let images = Tensor::from_slice(images, (batch, height, width, 3), &Device::Cpu)?;
        let x = images.to_dtype(self.dtype)?.permute((0, 3, 1, 2))?.contiguous()?;
        let features = match &self.body {
            Body::Residual(network) => network.forward(&x)?,
            Body::Inverted { network, convs } => {
                let mut convs = convs.iter();
                let mut x = x;
                for block in &network.blocks {
                    x = inverted(block, &mut convs, &x)?;
                }
                next(&mut convs).forward(&x)?.mean((2, 3))?
            }
        };
        let logits = self.last.forward(&features)?;
        let values = |tensor: &Tensor| tensor.to_dtype(DType::F32)?.flatten_all()?.to_vec1();
        Ok(Outputs { features: values(&features)?, logits: values(&logits)? })
    }
}

/// The network of candle-transformers with these stages, without its last layer.
fn transformers(network: &Residual, variables: VarBuilder<'static>) -> Result<Func<'static>> {
    let blocks: Vec<usize> = network.stages.iter().map(Vec::len).collect();
    match blocks[..] {
        [2, 2, 2, 2] => resnet::resnet18_no_final_layer(variables),
        [3, 4, 6, 3] => resnet::resnet34_no_final_layer(variables),
        _ => candle_core::bail!("candle-transformers has no residual network with stages of {blocks:?} blocks"),
    }
}

fn next<'a>(convs: &mut impl Iterator<Item = &'a Conv>) -> &'a Conv {
    convs.next().expect("the description has as many convolutions as it lists")
}

/// Three convolutions, and the input where they keep its shape.
fn inverted<'a>(block: &InvertedBlock, convs: &mut impl Iterator<Item = &'a Conv>, x: &Tensor) -> Result<Tensor> {
    let expanded = next(convs).forward(x)?;
    let filtered = next(convs).forward(&expanded)?;
    let projected = next(convs).forward(&filtered)?;
    if block.identity { projected + x } else { Ok(projected) }
}
