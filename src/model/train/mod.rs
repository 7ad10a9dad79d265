//! Own classes: a new last layer for a network, fitted to its features of labelled pictures.
//!
//! [`lbfgs`] minimises, [`logistic`] is what it minimises, [`validate`] chooses how strongly weights are held back and
//! says how good the result is.

mod lbfgs;
mod logistic;
mod validate;

pub use logistic::{Layer, Samples};
pub use validate::{FOLDS, Fit, fit};
