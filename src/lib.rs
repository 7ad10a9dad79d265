//! An elastic image-classification service in one binary.
pub mod model;
