//! From a description and named tensors to the filters of its layers.

use super::super::architecture::{self, Linear};
use super::pack::{Filters, fold};

/// Tensors by name.
pub trait Weights {
    /// Shape and values of a tensor, row-major, if there is one of this name.
    fn tensor(&self, name: &str) -> Option<(Vec<usize>, Vec<f32>)>;
}

/// Why there is no kernel.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// A tensor that the architecture has is not there.
    #[error("the weights have no tensor {0}")]
    Missing(String),
    /// A tensor of another shape.
    #[error("{name} is {found:?}, but the architecture's is {expected:?}")]
    Shape {
        /// The tensor.
        name: String,
        /// Its shape.
        found: Vec<usize>,
        /// The architecture's.
        expected: Vec<usize>,
    },
    /// Instructions that this processor lacks.
    #[error("this processor cannot run {0:?} kernels; choose another")]
    Instructions(super::Isa),
    /// A number that must not be 0.
    #[error("a network needs a side, calls and threads above 0")]
    Zero,
    /// A thread cannot be started.
    #[error("cannot start a thread of the network")]
    Thread(#[from] std::io::Error),
}

/// The tensor `name`, which must have this shape.
fn tensor(weights: &dyn Weights, name: String, expected: &[usize]) -> Result<Vec<f32>, KernelError> {
    match weights.tensor(&name) {
        None => Err(KernelError::Missing(name)),
        Some((found, _)) if found != expected => Err(KernelError::Shape { name, found, expected: expected.to_vec() }),
        Some((_, values)) => Ok(values),
    }
}

/// The filters of `conv` with the scale and bias of its batch norm.
pub(super) fn convolution(
    weights: &dyn Weights,
    conv: &architecture::Conv,
    epsilon: f64,
) -> Result<Filters, KernelError> {
    let norm = |part: &str| tensor(weights, format!("{}.{part}", conv.norm), &[conv.outputs]);
    let [gamma, beta, mean, variance] = architecture::Conv::NORM.map(norm);
    let (scale, bias) = fold(&gamma?, &beta?, &mean?, &variance?, epsilon);
    let shape = conv.shape();
    Ok(Filters {
        weights: tensor(weights, conv.weight(), &shape)?,
        outputs: shape[0],
        inputs: shape[1],
        taps: shape[2] * shape[3],
        scale: Some(scale),
        bias,
    })
}

/// The matrix of a linear layer.
pub(super) fn linear(weights: &dyn Weights, layer: &Linear) -> Result<Filters, KernelError> {
    let Linear { inputs, outputs, .. } = *layer;
    Ok(Filters {
        weights: tensor(weights, layer.weight(), &[outputs, inputs])?,
        outputs,
        inputs,
        taps: 1,
        scale: None,
        bias: tensor(weights, layer.bias(), &[outputs])?,
    })
}
