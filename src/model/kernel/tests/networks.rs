//! The whole network against candle-transformers' ResNet-18 in `f64`.

use std::collections::HashMap;

use candle_core::{DType, Device, Tensor};
use candle_nn::{Module, VarBuilder};

use super::super::{Isa, Kernel, Parallel};
use crate::model::resnet::{Engine, ResNet18};

type Weights = HashMap<String, Tensor>;

/// Normal numbers from a seed.
fn normal(shape: &[usize], seed: &mut u64) -> Tensor {
    let mut uniform = || {
        *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((*seed >> 33) as f32 + 0.5) / (1u64 << 31) as f32
    };
    let values: Vec<f32> = (0..shape.iter().product())
        .map(|_| (-2.0 * uniform().ln()).sqrt() * (std::f32::consts::TAU * uniform()).cos())
        .collect();
    Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
}

/// A network whose every layer keeps the size of its activations, as a trained one does.
fn random(classes: usize) -> Weights {
    let mut seed = 7;
    let mut weights = Weights::new();
    let mut conv = |name: &str, norm: &str, outputs: usize, inputs: usize, kernel: usize| {
        let spread = (2.0 / (inputs * kernel * kernel) as f64).sqrt();
        weights.insert(
            format!("{name}.weight"),
            (normal(&[outputs, inputs, kernel, kernel], &mut seed) * spread).unwrap(),
        );
        for (part, spread, mean) in
            [("weight", 0.1, 0.7), ("bias", 0.2, 0.0), ("running_mean", 0.1, 0.0), ("running_var", 0.05, 1.0)]
        {
            weights.insert(format!("{norm}.{part}"), normal(&[outputs], &mut seed).affine(spread, mean).unwrap());
        }
    };
    conv("conv1", "bn1", 64, 3, 7);
    let mut inputs = 64;
    for layer in 1..=4 {
        let outputs = 32 << layer;
        for block in 0..2 {
            let name = format!("layer{layer}.{block}");
            conv(&format!("{name}.conv1"), &format!("{name}.bn1"), outputs, inputs, 3);
            conv(&format!("{name}.conv2"), &format!("{name}.bn2"), outputs, outputs, 3);
            if inputs != outputs {
                conv(&format!("{name}.downsample.0"), &format!("{name}.downsample.1"), outputs, inputs, 1);
            }
            inputs = outputs;
        }
    }
    weights.insert("fc.weight".into(), normal(&[classes, 512], &mut seed));
    weights.insert("fc.bias".into(), normal(&[classes], &mut seed));
    weights
}

/// Logits of candle's network, computed in `f64`.
fn reference(weights: &Weights, images: &Tensor) -> Vec<f64> {
    let weights =
        weights.iter().map(|(name, tensor)| (name.clone(), tensor.to_dtype(DType::F64).unwrap())).collect::<Weights>();
    let classes = weights["fc.bias"].elem_count();
    let variables = VarBuilder::from_tensors(weights, DType::F64, &Device::Cpu);
    let network = candle_transformers::models::resnet::resnet18(classes, variables).unwrap();
    let images = images.to_dtype(DType::F64).unwrap().permute((0, 3, 1, 2)).unwrap().contiguous().unwrap();
    network.forward(&images).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

/// Largest difference of logits over the largest logit.
fn error(kernel: &Kernel, images: &Tensor, expected: &[f64]) -> f64 {
    let logits: Vec<f32> = images.apply_op1_no_bwd(kernel).unwrap().flatten_all().unwrap().to_vec1().unwrap();
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
fn logits_are_the_references_at_any_side_batch_and_number_of_classes() {
    for (side, batch, classes) in [
        (1, 2, 3),
        (2, 1, 3),
        (3, 5, 3),
        (5, 3, 3),
        (32, 3, 1000),
        (33, 1, 7),
        (64, 5, 10),
        (97, 2, 33),
        (224, 3, 10),
        (512, 1, 4),
    ] {
        let (weights, images) = (random(classes), normal(&[batch, side, side, 3], &mut 3));
        let expected = reference(&weights, &images);
        for isa in Isa::available() {
            let kernel = Kernel::new(&weights, side, isa, Parallel::one(if side == 97 { 5 } else { 2 })).unwrap();
            // The second call uses filters that the first did not keep.
            for call in 0..2 {
                let error = error(&kernel, &images, &expected);
                assert!(error <= 1e-4, "{isa:?}, call {call}, side {side}, batch {batch}: {error:e}");
            }
        }
    }
}

#[test]
fn the_shipped_model_gives_the_references_logits() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/assets/model/weights.safetensors");
    let weights = candle_core::safetensors::load(path, &Device::Cpu).unwrap();
    let images = normal(&[4, 64, 64, 3], &mut 5);
    let expected = reference(&weights, &images);
    for isa in Isa::available() {
        let kernel = Kernel::new(&weights, 64, isa, Parallel::one(1)).unwrap();
        let error = error(&kernel, &images, &expected);
        assert!(error <= 1e-4, "{isa:?}: {error:e}");
    }
}

#[test]
fn batches_of_any_size_agree_image_by_image_and_calls_may_overlap() {
    let weights = random(10);
    let network = ResNet18::load(&weights, 32, Engine::Kernel, Parallel { calls: 2, threads: 2 }).unwrap();
    let images = normal(&[200, 32, 32, 3], &mut 9);
    let all: Vec<Vec<f32>> = network.forward(&images).unwrap().to_vec2().unwrap();
    std::thread::scope(|scope| {
        for (first, count) in [(0, 1), (3, 2), (5, 9), (40, 129), (198, 2)] {
            let (network, images, all) = (&network, &images, &all);
            scope.spawn(move || {
                let some: Vec<Vec<f32>> =
                    network.forward(&images.narrow(0, first, count).unwrap()).unwrap().to_vec2().unwrap();
                for (a, b) in some.iter().flatten().zip(all[first..].iter().flatten()) {
                    assert!((a - b).abs() <= 1e-4, "{a} and {b}");
                }
            });
        }
    });
}

#[test]
fn what_does_not_fit_is_refused_by_name() {
    let mut weights = random(10);
    let network = ResNet18::load(&weights, 32, Engine::Kernel, Parallel::one(1)).unwrap();
    let wrong = Tensor::zeros((1, 3, 32, 32), DType::F32, &Device::Cpu).unwrap();
    assert!(network.forward(&wrong).unwrap_err().to_string().contains("[N, 32, 32, 3]"));
    assert!(network.forward(&Tensor::zeros((1, 32, 32, 3), DType::F64, &Device::Cpu).unwrap()).is_err());
    assert_eq!(
        network.forward(&Tensor::zeros((0, 32, 32, 3), DType::F32, &Device::Cpu).unwrap()).unwrap().dims(),
        [0, 10]
    );
    assert!(ResNet18::load(&weights, 0, Engine::Kernel, Parallel::one(1)).is_err());
    assert!(ResNet18::load(&weights, 32, Engine::Kernel, Parallel::one(0)).is_err());
    assert!(ResNet18::load(&weights, 32, Engine::Kernel, Parallel { calls: 0, threads: 1 }).is_err());
    weights.insert("layer3.1.bn2.bias".into(), normal(&[255], &mut 1));
    assert!(
        ResNet18::load(&weights, 32, Engine::Kernel, Parallel::one(1))
            .unwrap_err()
            .to_string()
            .contains("layer3.1.bn2.bias")
    );
    weights.remove("layer3.1.bn2.bias");
    assert!(
        ResNet18::load(&weights, 32, Engine::Kernel, Parallel::one(1))
            .unwrap_err()
            .to_string()
            .contains("layer3.1.bn2.bias")
    );
}
