//! The classifier: bundle, preprocessing, network, kernels.

pub mod preprocess;
pub mod resnet;

pub use preprocess::Limits;
pub use resnet::Engine;
