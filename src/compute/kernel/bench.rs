//! What benchmarks and tests need besides the network: random weights, the machine's peak, and layers alone. Not part
//! of the program.

use std::collections::HashMap;

use super::super::architecture::{Family, Network};
use super::layer::{Call, Conv, Data, Scratch};
use super::memory::{Buffer, Shared};
use super::pack::Filters;
use super::plan::Algorithm;
use super::shape::Shape;
use super::simd::{Body, Simd};
use super::threads::Threads;
use super::{Isa, Weights, residual, run, with_isa};

/// Numbers in -1..1 that look random.
pub fn noise(len: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..len).map(|_| next()).collect()
}

/// Weights in memory.
#[derive(Debug)]
pub struct Tensors(pub HashMap<String, (Vec<usize>, Vec<f32>)>);

impl Weights for Tensors {
    fn tensor(&self, name: &str) -> Option<(Vec<usize>, Vec<f32>)> {
        self.0.get(name).cloned()
    }
}

impl Tensors {
    /// Random ones with which every layer keeps the size of its activations, as a trained network does.
    pub fn random(network: &Network) -> Self {
        let tensor = |(seed, (name, shape)): (usize, (String, Vec<usize>))| {
            let (mean, spread) = match name.rsplit('.').next() {
                Some("weight") if shape.len() > 1 => (0.0, (6.0 / shape[1..].iter().product::<usize>() as f32).sqrt()),
                Some("weight") => (0.7, 0.2),
                Some("running_var") => (1.0, 0.1),
                _ => (0.0, 0.3),
            };
            let values =
                noise(shape.iter().product(), seed as u64 + 1).into_iter().map(|x| mean + spread * x).collect();
            (name, (shape, values))
        };
        Self(network.tensors().into_iter().enumerate().map(tensor).collect())
    }
}

/// Rounds of multiply-adds in one call of [`peak`].
const ROUNDS: usize = 1 << 16;
/// Independent sums: enough to hide the latency of two units.
const SUMS: usize = 12;

/// Does multiply-adds in registers only, and says how many.
///
/// # Panics
/// If this processor lacks the instructions.
pub fn peak(isa: Isa) -> u64 {
    struct Peak<'a>(&'a mut f32);
    impl Body for Peak<'_> {
        #[inline(always)]
        unsafe fn run<S: Simd>(self, simd: S) {
            let x = simd.splat(std::hint::black_box(0.5));
            let mut sums = [x; SUMS];
            for _ in 0..ROUNDS {
                for sum in &mut sums {
                    *sum = simd.mul_add(*sum, x, x);
                }
            }
            let mut lanes = [0.0; 16];
            let sum = sums.into_iter().fold(x, |a, b| simd.add(a, b));
            // SAFETY: no vector has more than 16 lanes.
            unsafe { simd.store(lanes.as_mut_ptr(), sum) };
            *self.0 = lanes[0];
        }
    }
    fn on<S: Simd>() -> u64 {
        let mut result = 0.0;
        // SAFETY: the kernel carries no pointers.
        unsafe { S::detect().expect("the processor has the instructions").launch(Peak(&mut result)) };
        std::hint::black_box(result);
        (ROUNDS * SUMS * S::LANES) as u64
    }
    with_isa!(isa, on(), panic!("{isa:?} is not of this target"))
}

/// One convolution with its data, on one thread.
pub struct Layer {
    name: String,
    multiply_adds: u64,
    run: Box<dyn FnMut()>,
}

impl std::fmt::Debug for Layer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Layer").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Layer {
    /// Shape and algorithm.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Multiply-adds of the plain convolution, those with padding included.
    pub fn multiply_adds(&self) -> u64 {
        self.multiply_adds
    }

    /// Computes it once.
    pub fn run(&mut self) {
        (self.run)();
    }

    fn new<S: Simd>(shape: Shape, batch: usize, algorithm: Algorithm) -> Self {
        let Shape { inputs, outputs, kernel, stride, height, width, .. } = shape;
        let taps = shape.taps();
        let filters = Filters {
            weights: vec![0.01; outputs * inputs * taps],
            outputs,
            inputs,
            taps,
            scale: None,
            bias: vec![0.0; outputs],
        };
        let simd = S::detect().expect("the processor has the instructions");
        let mut threads = Threads::new(1).expect("no thread is started");
        let conv = Conv::new::<S>(shape, &filters, &mut threads);
        let zeros = batch * shape.input_len();
        let plan = run::plan::<S>(algorithm, &shape, batch, zeros, 1);
        let mut input = Buffer::zeroed(zeros + inputs);
        input[..zeros].fill(1.0);
        let mut output = Buffer::zeroed(batch * shape.output_len());
        let (mut shared, mut private) = (Buffer::zeroed(plan.shared), Buffer::zeroed(plan.private));
        Self {
            name: format!("{inputs}-{outputs} {kernel}x{kernel}/{stride} of {height}x{width} {algorithm:?}"),
            multiply_adds: (batch * shape.output_len() * inputs * taps) as u64,
            run: Box::new(move || {
                let scratch = Scratch {
                    shared: Shared(shared.as_mut_ptr()),
                    private: Shared(private.as_mut_ptr()),
                    private_len: plan.private,
                };
                let data = Data {
                    batch,
                    input: Shared(input.as_mut_ptr()),
                    residual: Shared(std::ptr::null_mut()),
                    output: Shared(output.as_mut_ptr()),
                    relu: true,
                };
                // SAFETY: all of it was made for this layer.
                unsafe { run::run(Call { simd, threads: &mut threads, conv: &conv, plan: &plan, scratch, data }) };
            }),
        }
    }
}

/// The distinct convolutions of a residual network behind its stem for images of `side`, by the algorithm that the plan
/// chooses; none of others.
///
/// # Panics
/// If this processor lacks the instructions.
pub fn layers(network: &Network, isa: Isa, side: usize, batch: usize) -> Vec<Layer> {
    fn all<S: Simd>(shapes: &[Shape], batch: usize) -> Vec<Layer> {
        let planned = shapes.iter().map(|shape| (shape, Algorithm::choose(shape, batch, S::LANES)));
        planned.map(|(shape, algorithm)| Layer::new::<S>(*shape, batch, algorithm)).collect()
    }
    let Family::Residual(residual) = &network.family else { return Vec::new() };
    with_isa!(isa, all(&residual::shapes(residual, side), batch), panic!("{isa:?} is not of this target"))
}
