//! The classifier: bundle, preprocessing, network, kernels.
