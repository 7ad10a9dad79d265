//! The network and its layers against this machine's multiply-add peak: `make bench`.
//!
//! Throughput is counted in multiply-adds of the plain convolution, as everybody counts them; Winograd does fewer, so it may
//! pass the peak that the first group measures.

use std::collections::HashMap;
use std::hint::black_box;
use std::time::Duration;

use candle_core::{DType, Device, Tensor};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use imgcls::model::kernel::{Isa, Kernel, Parallel, bench};

/// A network of random weights, shaped like ImageNet's.
fn weights() -> HashMap<String, Tensor> {
    let mut weights = HashMap::new();
    let mut conv = |name: String, norm: String, outputs: usize, inputs: usize, kernel: usize| {
        let spread = (2.0 / (inputs * kernel * kernel) as f32).sqrt();
        let filters = Tensor::randn(0f32, spread, (outputs, inputs, kernel, kernel), &Device::Cpu).expect("on the CPU");
        weights.insert(format!("{name}.weight"), filters);
        for (part, value) in [("weight", 0.7f32), ("bias", 0.1), ("running_mean", 0.1), ("running_var", 1.0)] {
            weights.insert(format!("{norm}.{part}"), Tensor::full(value, outputs, &Device::Cpu).expect("on the CPU"));
        }
    };
    conv("conv1".into(), "bn1".into(), 64, 3, 7);
    let mut inputs = 64;
    for layer in 1..=4 {
        let outputs = 32 << layer;
        for block in 0..2 {
            let name = format!("layer{layer}.{block}");
            conv(format!("{name}.conv1"), format!("{name}.bn1"), outputs, inputs, 3);
            conv(format!("{name}.conv2"), format!("{name}.bn2"), outputs, outputs, 3);
            if inputs != outputs {
                conv(format!("{name}.downsample.0"), format!("{name}.downsample.1"), outputs, inputs, 1);
            }
            inputs = outputs;
        }
    }
    weights.insert("fc.weight".into(), Tensor::randn(0f32, 0.04, (1000, 512), &Device::Cpu).expect("on the CPU"));
    weights.insert("fc.bias".into(), Tensor::zeros(1000, DType::F32, &Device::Cpu).expect("on the CPU"));
    weights
}

/// Multiply-adds that keep every unit busy and touch no memory.
fn peak(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("peak");
    for isa in Isa::available() {
        group.throughput(Throughput::Elements(bench::peak(isa)));
        group.bench_function(format!("{isa:?}"), |bencher| bencher.iter(|| bench::peak(isa)));
    }
}

/// Each convolution that ResNet-18 has at a side, alone, on one thread.
fn layers(criterion: &mut Criterion) {
    let isa = Isa::available().next().expect("portable is always there");
    for (side, batch) in [(224, 1), (224, 8), (64, 64), (32, 64)] {
        let mut group = criterion.benchmark_group(format!("layer/{side}b{batch}"));
        for mut layer in bench::layers(isa, side, batch) {
            group.throughput(Throughput::Elements(layer.multiply_adds()));
            let name = layer.name().to_owned();
            group.bench_function(name, |bencher| bencher.iter(|| layer.run()));
        }
    }
}

/// The whole network.
fn network(criterion: &mut Criterion) {
    /// Multiply-adds of one image of 224 x 224; others in proportion.
    const MULTIPLY_ADDS: u64 = 1_814_000_000;
    let weights = weights();
    let mut group = criterion.benchmark_group("network");
    for isa in Isa::available() {
        for (side, batches) in [(224, [1, 8]), (64, [1, 64]), (32, [1, 64])] {
            for threads in [1, 2] {
                let kernel =
                    Kernel::new(&weights, side, isa, Parallel::one(threads)).expect("the weights are complete");
                for batch in batches {
                    let images = Tensor::randn(0f32, 1.0, (batch, side, side, 3), &Device::Cpu).expect("on the CPU");
                    let work = MULTIPLY_ADDS * (batch * side * side) as u64 / (224 * 224);
                    group.throughput(Throughput::Elements(work));
                    let id = BenchmarkId::new(format!("{isa:?}"), format!("{side}b{batch}t{threads}"));
                    group.bench_function(id, |bencher| {
                        bencher.iter(|| images.apply_op1_no_bwd(black_box(&kernel)).expect("the shape fits"));
                    });
                }
            }
        }
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(20).warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(1));
    targets = peak, layers, network
}
criterion_main!(benches);
