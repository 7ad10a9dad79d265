//! Whole networks of every architecture against their definition in `f64`.

use super::super::super::architecture::{Architecture, Conv, Network};
use super::super::bench::{Tensors, noise};
use super::super::{Isa, Kernel, KernelError, Outputs, Parallel};
use super::definition;

/// Largest difference of logits over the largest logit.
fn error(logits: &[f32], expected: &[f64]) -> f64 {
    assert_eq!(logits.len(), expected.len());
    let largest = expected.iter().fold(0.0, |a: f64, b| a.max(b.abs()));
    logits
        .iter()
        .zip(expected)
        .map(|(&a, b)| (f64::from(a) - b).abs())
        .fold(0.0, |a, b| if b.is_nan() { b } else { a.max(b) })
        / largest
}

#[test]
fn logits_are_those_of_the_definition_at_any_side_batch_and_number_of_classes() {
    let all = [(1, 2, 3), (2, 1, 3), (3, 5, 3), (5, 3, 3), (32, 2, 100), (33, 1, 7), (50, 3, 10)];
    let some = [(1, 2, 3), (33, 1, 7), (50, 2, 10)];
    for architecture in Architecture::ALL {
        // The deeper residual network is built of the same layers, and takes its time by definition.
        let sizes = if architecture == Architecture::ResNet34 { &some[..] } else { &all[..] };
        for &(side, batch, classes) in sizes {
            let network = architecture.network(classes);
            let weights = Tensors::random(&network);
            let images = noise(batch * side * side * 3, 3);
            let expected: Vec<f64> = images
                .chunks_exact(side * side * 3)
                .flat_map(|image| definition::logits(&network, &weights, image, side))
                .collect();
            for isa in Isa::available() {
                let threads = if side == 33 { 5 } else { 2 };
                let kernel = Kernel::new(&network, &weights, side, isa, Parallel::one(threads)).unwrap();
                // The second call uses filters that the first did not keep.
                for call in 0..2 {
                    let error = error(&kernel.forward(&images).logits, &expected);
                    let name = architecture.name();
                    assert!(error <= 1e-4, "{name} on {isa:?}, call {call}, side {side}, batch {batch}: {error:e}");
                }
            }
        }
    }
}

/// Where a small block is followed by larger ones: by the vectors' width at one side or another.
#[test]
fn inverted_residuals_are_right_at_any_order_of_sizes() {
    let network = Architecture::EfficientNetLite0.network(10);
    let weights = Tensors::random(&network);
    for side in [90, 256, 368] {
        let image = noise(side * side * 3, 5);
        let expected = definition::logits(&network, &weights, &image, side);
        for isa in Isa::available() {
            let kernel = Kernel::new(&network, &weights, side, isa, Parallel::one(2)).unwrap();
            let error = error(&kernel.forward(&image).logits, &expected);
            assert!(error <= 1e-4, "on {isa:?}, side {side}: {error:e}");
        }
    }
}

#[test]
fn batches_of_any_size_agree_image_by_image_and_calls_may_overlap() {
    for architecture in Architecture::ALL {
        let network = architecture.network(10);
        let parallel = Parallel { calls: 2, threads: 2 };
        let kernel = Kernel::new(&network, &Tensors::random(&network), 32, Isa::available().next().unwrap(), parallel);
        let (kernel, images) = (&kernel.unwrap(), &noise(200 * 32 * 32 * 3, 9));
        let all = &kernel.forward(images);
        std::thread::scope(|scope| {
            for (first, count) in [(0, 1), (3, 2), (5, 9), (40, 129), (198, 2)] {
                scope.spawn(move || {
                    let some = kernel.forward(&images[first * 3072..][..count * 3072]);
                    let features = network_features(architecture);
                    let pairs = some.logits.iter().zip(&all.logits[first * 10..]);
                    for (a, b) in pairs.chain(some.features.iter().zip(&all.features[first * features..])) {
                        assert!((a - b).abs() <= 1e-4, "{a} and {b}");
                    }
                });
            }
        });
    }
}

fn network_features(architecture: Architecture) -> usize {
    architecture.network(10).features()
}

#[test]
fn logits_are_the_last_layer_of_the_features() {
    let network = Architecture::ResNet18.network(7);
    let weights = Tensors::random(&network);
    let kernel = Kernel::new(&network, &weights, 40, Isa::Portable, Parallel::one(1)).unwrap();
    let outputs = kernel.forward(&noise(2 * 40 * 40 * 3, 4));
    let (matrix, bias) = (&weights.0["fc.weight"].1, &weights.0["fc.bias"].1);
    for (features, logits) in outputs.features.chunks_exact(512).zip(outputs.logits.chunks_exact(7)) {
        for ((row, bias), logit) in matrix.chunks_exact(512).zip(bias).zip(logits) {
            let sum: f32 = row.iter().zip(features).map(|(a, b)| a * b).sum();
            assert!((sum + bias - logit).abs() < 1e-3, "{} and {logit}", sum + bias);
        }
    }
}

fn refused(network: &Network, weights: &Tensors, side: usize, parallel: Parallel) -> String {
    Kernel::new(network, weights, side, Isa::Portable, parallel).unwrap_err().to_string()
}

#[test]
fn what_does_not_fit_is_refused_by_name() {
    for architecture in Architecture::ALL {
        let network = architecture.network(10);
        let mut weights = Tensors::random(&network);
        let kernel = Kernel::new(&network, &weights, 32, Isa::Portable, Parallel::one(1)).unwrap();
        assert_eq!(kernel.forward(&[]), Outputs::default());
        for (side, calls, threads) in [(0, 1, 1), (32, 1, 0), (32, 0, 1)] {
            let kernel = Kernel::new(&network, &weights, side, Isa::Portable, Parallel { calls, threads });
            assert!(matches!(kernel, Err(KernelError::Zero)));
        }
        let Conv { norm, .. } = network.convs()[network.convs().len() / 2];
        let name = format!("{norm}.bias");
        weights.0.insert(name.clone(), (vec![3], vec![0.0; 3]));
        assert!(refused(&network, &weights, 32, Parallel::one(1)).starts_with(&format!("{name} is [3], but ")));
        weights.0.remove(&name);
        assert_eq!(refused(&network, &weights, 32, Parallel::one(1)), format!("the weights have no tensor {name}"));
    }
}
