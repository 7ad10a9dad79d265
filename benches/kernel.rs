//! Networks and their layers against this machine's multiply-add peak: `make bench`.
//!
//! Throughput is counted in multiply-adds of the plain convolution, as everybody counts them; Winograd does fewer, so
//! it may pass the peak that the first group measures.

use std::hint::black_box;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use imgcls::model::Architecture;
use imgcls::model::kernel::{Isa, Kernel, Parallel, bench};

/// Of ImageNet.
const CLASSES: usize = 1000;

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
    let network = Architecture::ResNet18.network(CLASSES);
    for (side, batch) in [(224, 1), (224, 8), (64, 64), (32, 64)] {
        let mut group = criterion.benchmark_group(format!("layer/{side}b{batch}"));
        for mut layer in bench::layers(&network, isa, side, batch) {
            group.throughput(Throughput::Elements(layer.multiply_adds()));
            let name = layer.name().to_owned();
            group.bench_function(name, |bencher| bencher.iter(|| layer.run()));
        }
    }
}

/// Whole networks.
fn networks(criterion: &mut Criterion) {
    for architecture in Architecture::ALL {
        let network = architecture.network(CLASSES);
        let weights = bench::Tensors::random(&network);
        let mut group = criterion.benchmark_group(architecture.name());
        for isa in Isa::available() {
            for (side, batches) in [(224, [1, 8]), (64, [1, 64]), (32, [1, 64])] {
                for threads in [1, 2] {
                    let kernel = Kernel::new(&network, &weights, side, isa, Parallel::one(threads))
                        .expect("the weights are complete");
                    for batch in batches {
                        let images = bench::noise(batch * side * side * 3, 1);
                        group.throughput(Throughput::Elements(batch as u64 * network.multiply_adds(side)));
                        let id = BenchmarkId::new(format!("{isa:?}"), format!("{side}b{batch}t{threads}"));
                        group.bench_function(id, |bencher| bencher.iter(|| black_box(&kernel).forward(&images)));
                    }
                }
            }
        }
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1));
    targets = peak, layers, networks
}
criterion_main!(benches);
