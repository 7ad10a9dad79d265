//! ResNet-18 behind one door: our kernels, or the reference implementation that they are tested against.

use std::collections::HashMap;

use candle_core::{DType, Device, Result, Tensor};
use candle_nn::{Func, Module, VarBuilder};
use serde::{Deserialize, Serialize};

use super::kernel::{Isa, Kernel, Parallel};

/// Which implementation runs the network.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Engine {
    /// This project's kernels: several times as fast.
    #[default]
    Kernel,
    /// candle's own ResNet-18, to compare with.
    Reference,
}

/// ResNet-18 for square images of one size.
pub struct ResNet18 {
    classes: usize,
    network: Network,
}

/// The implementation behind it.
enum Network {
    Kernel(Kernel),
    Reference(Func<'static>),
}

impl std::fmt::Debug for ResNet18 {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let engine = match &self.network {
            Network::Kernel(kernel) => format!("{kernel:?}"),
            Network::Reference(_) => "Reference".to_owned(),
        };
        f.debug_struct("ResNet18").field("classes", &self.classes).field("network", &engine).finish()
    }
}

impl ResNet18 {
    /// Makes the network of torchvision's tensors (`conv1.weight`, `bn1.running_mean`, `layer1.0.conv1.weight`, …, `fc.bias`), of any float
    /// type and on the CPU, for images of `side` pixels.
    /// `parallel` is for the kernels; the reference computes on rayon's pool.
    ///
    /// # Errors
    /// A tensor is missing or has another shape than ResNet-18's; a number is 0; a thread cannot be started.
    pub fn load(weights: &HashMap<String, Tensor>, side: usize, engine: Engine, parallel: Parallel) -> Result<Self> {
        match engine {
            Engine::Kernel => {
                let isa = Isa::available().next().unwrap_or(Isa::Portable);
                let kernel = Kernel::new(weights, side, isa, parallel)?;
                Ok(Self { classes: kernel.classes(), network: Network::Kernel(kernel) })
            }
            Engine::Reference => {
                let Some(bias) = weights.get("fc.bias") else {
                    candle_core::bail!("the weights have no tensor fc.bias")
                };
                let classes = bias.elem_count();
                let variables = VarBuilder::from_tensors(weights.clone(), DType::F32, &Device::Cpu);
                let network = candle_transformers::models::resnet::resnet18(classes, variables)?;
                Ok(Self { classes, network: Network::Reference(network) })
            }
        }
    }

    /// Number of classes.
    pub fn classes(&self) -> usize {
        self.classes
    }

    /// Logits `[N, classes]` of normalised `f32` images `[N, side, side, 3]`. May be called from several threads; the kernels serve as many calls
    /// at a time as they were loaded for, the others wait.
    ///
    /// # Errors
    /// The input has another shape or type.
    pub fn forward(&self, input: &Tensor) -> Result<Tensor> {
        match &self.network {
            Network::Kernel(kernel) => input.contiguous()?.apply_op1_no_bwd(kernel),
            Network::Reference(network) => network.forward(&input.permute((0, 3, 1, 2))?.contiguous()?),
        }
    }
}
