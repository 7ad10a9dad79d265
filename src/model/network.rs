//! A network behind one door: our kernels, or the reference that they are tested against.

use std::collections::HashMap;

use candle_core::{DType, Tensor};
use serde::{Deserialize, Serialize};

use super::{
    architecture,
    kernel::{Isa, Kernel, KernelError, Outputs, Parallel, Weights},
    reference::Reference,
};

/// Which implementation runs the network.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Engine {
    /// This project's kernels: several times as fast.
    #[default]
    Kernel,
    /// The same network on candle's operations, to compare with.
    Reference,
}

/// Why there is no network, or it gives no answer.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// The kernels cannot be made of the weights.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// The tensor library.
    #[error(transparent)]
    Tensor(#[from] candle_core::Error),
    /// Values that are not whole images.
    #[error("a batch of {found} values is not one of images with {image} values")]
    Images {
        /// Values given.
        found: usize,
        /// `side * side * 3`.
        image: usize,
    },
}

/// A network for square images of one side.
#[derive(Debug)]
pub struct Network {
    side: usize,
    implementation: Implementation,
}

#[derive(Debug)]
enum Implementation {
    Kernel(Kernel),
    Reference(Reference),
}

/// Tensors by name, as the kernels read them.
struct Named<'a>(&'a HashMap<String, Tensor>);

impl Weights for Named<'_> {
    fn tensor(&self, name: &str) -> Option<(Vec<usize>, Vec<f32>)> {
        let tensor = self.0.get(name)?;
        let values = tensor.to_dtype(DType::F32).and_then(|t| t.flatten_all()?.to_vec1());
        Some((tensor.dims().to_vec(), values.expect("a tensor on the CPU can be read as numbers")))
    }
}

impl Network {
    /// Makes the network of `weights`, of any float type and on the CPU, for images of `side` pixels.
    /// `parallel` is for the kernels; the reference computes on rayon's pool.
    ///
    /// # Errors
    /// A tensor is missing or has another shape than the architecture's; a number is 0; a thread cannot be started.
    pub fn load(
        network: &architecture::Network,
        weights: &HashMap<String, Tensor>,
        side: usize,
        engine: Engine,
        parallel: Parallel,
    ) -> Result<Self, NetworkError> {
        let implementation = match engine {
            Engine::Kernel => {
                let isa = Isa::available().next().unwrap_or(Isa::Portable);
                Implementation::Kernel(Kernel::new(network, &Named(weights), side, isa, parallel)?)
            }
            Engine::Reference => Implementation::Reference(Reference::new(network, weights, DType::F32)?),
        };
        Ok(Self { side, implementation })
    }

    /// Features and logits of one image of any size, `[height][width][3]`.
    ///
    /// # Errors
    /// `image` is not of whole rows, or the kernels, which know one size, get another; the tensor library fails.
    pub fn forward_one(&self, image: &[f32], width: usize) -> Result<Outputs, NetworkError> {
        match &self.implementation {
            Implementation::Reference(reference) if width > 0 && image.len().is_multiple_of(3 * width) => {
                Ok(reference.forward(image, [image.len() / (3 * width), width])?)
            }
            _ => self.forward(image),
        }
    }

    /// Features and logits of normalised images `[batch][side][side][3]`. May be called from several threads; the
    /// kernels serve as many calls at a time as they were loaded for, the others wait.
    ///
    /// # Errors
    /// `images` is not a whole number of images; the tensor library fails.
    pub fn forward(&self, images: &[f32]) -> Result<Outputs, NetworkError> {
        let image = self.side * self.side * 3;
        if !images.len().is_multiple_of(image) {
            return Err(NetworkError::Images { found: images.len(), image });
        }
        match &self.implementation {
            Implementation::Kernel(kernel) => Ok(kernel.forward(images)),
            Implementation::Reference(_) if images.is_empty() => Ok(Outputs::default()),
            Implementation::Reference(reference) => Ok(reference.forward(images, [self.side; 2])?),
        }
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Module};
    use candle_nn::{Func, VarBuilder};
    use candle_transformers::models::resnet;

    use super::*;
    use crate::model::{
        Architecture, Bundle,
        kernel::bench::{Tensors, noise},
    };

    type Map = HashMap<String, Tensor>;

    fn random(network: &architecture::Network) -> Map {
        let tensor = |(name, (shape, values)): (String, (Vec<usize>, Vec<f32>))| {
            (name, Tensor::from_vec(values, shape, &Device::Cpu).unwrap())
        };
        Tensors::random(network).0.into_iter().map(tensor).collect()
    }

    /// A network of candle-transformers by its classes and weights.
    type Make = fn(usize, VarBuilder<'static>) -> candle_core::Result<Func<'static>>;

    /// Logits of such a network, computed in `f64`.
    fn transformers(make: Make, weights: &Map, images: &Tensor) -> Vec<f64> {
        let weights =
            weights.iter().map(|(name, tensor)| (name.clone(), tensor.to_dtype(DType::F64).unwrap())).collect::<Map>();
        let classes = weights["fc.bias"].elem_count();
        let network = make(classes, VarBuilder::from_tensors(weights, DType::F64, &Device::Cpu)).unwrap();
        let images = images.to_dtype(DType::F64).unwrap().permute((0, 3, 1, 2)).unwrap().contiguous().unwrap();
        network.forward(&images).unwrap().flatten_all().unwrap().to_vec1().unwrap()
    }

    fn check(name: &str, found: &[f32], expected: &[f64]) {
        assert_eq!(found.len(), expected.len(), "{name}");
        let largest = expected.iter().fold(0.0, |a: f64, b| a.max(b.abs()));
        for (found, expected) in found.iter().zip(expected) {
            let error = (f64::from(*found) - expected).abs() / largest;
            assert!(error <= 1e-4, "{name}: {found} instead of {expected}, {error:e} of the largest");
        }
    }

    #[test]
    fn residual_networks_are_those_of_candle_transformers() {
        for (architecture, make) in
            [(Architecture::ResNet18, resnet::resnet18 as Make), (Architecture::ResNet34, resnet::resnet34)]
        {
            for (side, batch, classes) in [(32, 3, 1000), (97, 2, 33), (224, 2, 10)] {
                let network = architecture.network(classes);
                let weights = random(&network);
                let images = noise(batch * side * side * 3, 3);
                let tensor = Tensor::from_slice(&images, (batch, side, side, 3), &Device::Cpu).unwrap();
                let expected = transformers(make, &weights, &tensor);
                for engine in [Engine::Kernel, Engine::Reference] {
                    let network = Network::load(&network, &weights, side, engine, Parallel::one(2)).unwrap();
                    let name = format!("{} {engine:?} {side} {batch}", architecture.name());
                    check(&name, &network.forward(&images).unwrap().logits, &expected);
                }
            }
        }
    }

    #[test]
    fn the_kernels_are_the_reference() {
        for (side, batch, classes) in [(32, 3, 1000), (97, 2, 33), (224, 2, 10)] {
            let network = Architecture::EfficientNetLite0.network(classes);
            let weights = random(&network);
            let images = noise(batch * side * side * 3, 3);
            let expected = Reference::new(&network, &weights, DType::F64).unwrap().forward(&images, [side; 2]).unwrap();
            let expected: Vec<f64> = expected.logits.into_iter().map(f64::from).collect();
            for engine in [Engine::Kernel, Engine::Reference] {
                let network = Network::load(&network, &weights, side, engine, Parallel::one(2)).unwrap();
                check(&format!("{engine:?} {side} {batch}"), &network.forward(&images).unwrap().logits, &expected);
            }
        }
    }

    #[test]
    fn the_embedded_model_gives_the_logits_of_candle_transformers() {
        let Bundle { card, labels, tensors } = Bundle::embedded().unwrap();
        let images = noise(4 * 64 * 64 * 3, 5);
        let tensor = Tensor::from_slice(&images, (4, 64, 64, 3), &Device::Cpu).unwrap();
        let expected = transformers(resnet::resnet18, &tensors, &tensor);
        let network = card.architecture.network(labels.len());
        for isa in Isa::available() {
            let kernel = Kernel::new(&network, &Named(&tensors), 64, isa, Parallel::one(1)).unwrap();
            check(&format!("{isa:?}"), &kernel.forward(&images).logits, &expected);
        }
    }

    #[test]
    fn a_batch_is_whole_images() {
        let network = Architecture::ResNet18.network(3);
        let weights = random(&network);
        for engine in [Engine::Kernel, Engine::Reference] {
            let network = Network::load(&network, &weights, 32, engine, Parallel::one(1)).unwrap();
            assert_eq!(network.forward(&[]).unwrap(), Outputs::default());
            let error = network.forward(&[0.0; 3073]).unwrap_err().to_string();
            assert_eq!(error, "a batch of 3073 values is not one of images with 3072 values");
        }
    }
}
