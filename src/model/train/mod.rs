//! Own classes: a new last layer for a network, fitted to its features of labelled pictures.
//!
//! [`logistic`] is what is minimised, in the [`span`] of the samples, by [`lbfgs`] with the help of [`cholesky`];
//! [`validate`] chooses how strongly weights are held back and says how good the result is.

mod cholesky;
mod lbfgs;
mod logistic;
mod span;
mod validate;

pub use logistic::{Layer, Samples};
pub use validate::{FOLDS, Fit, fit};
