//! The classifier: bundle, preprocessing, network, kernels.

pub mod bundle;
pub mod catalogue;
pub mod classifier;
pub mod decode;
pub mod decode_error;
pub mod format;
mod geometry;
mod gif;
pub mod import;
pub mod layout;
pub mod network;
mod orientation;
mod packed;
mod png;
mod png_chunks;
pub mod preprocess;
pub mod pull;
pub mod reference;
mod score;
pub mod shelf;
mod shrink;
pub mod thumbnail;
pub mod train;
mod webp;

pub use imgcls_compute::{architecture, kernel};
use imgcls_compute::{jpeg, resize};

pub use architecture::Architecture;
pub use bundle::{Bundle, BundleError, Card};
#[cfg(test)]
pub(crate) use classifier::tests::undecided;
pub use classifier::{Classifier, ModelError, Prediction};
pub use decode::{Header, Limits};
pub use decode_error::DecodeError;
pub use format::{Format, FormatError, sniff};
pub use kernel::{Parallel, give_back_large_blocks};
pub use network::Engine;
pub use preprocess::{Detail, Input, Preprocessor};
pub use score::Score;
pub use thumbnail::thumbnail;

#[cfg(test)]
#[path = "../../tests/support/pth.rs"]
mod sample;
