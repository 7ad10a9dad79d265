//! What `make bench` measures besides the network: the machine's peak, and layers alone. Not part of the program.

use super::Isa;
use super::conv::{Conv, Data, Scratch, Shape};
use super::memory::{Buffer, Shared};
use super::network;
use super::pack::Filters;
use super::plan::{Algorithm, Plan};
use super::simd::{Kernel, Portable, Simd};
use super::threads::Threads;
#[cfg(target_arch = "x86_64")]
use super::x86::{Avx2, Avx512};

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
    impl Kernel for Peak<'_> {
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
    match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => on::<Avx512>(),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => on::<Avx2>(),
        _ => on::<Portable>(),
    }
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
        let plan = Plan::new::<S>(algorithm, &shape, batch, zeros, 1);
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
                unsafe { conv.run(simd, &mut threads, &plan, scratch, data) };
            }),
        }
    }

    fn all<S: Simd>(side: usize, batch: usize) -> Vec<Self> {
        let shapes = network::shapes(side);
        let planned =
            shapes.iter().map(|shape| Self::new::<S>(*shape, batch, Algorithm::choose(shape, batch, S::LANES)));
        planned.collect()
    }
}

/// The distinct convolutions of the network for images of `side`, by the algorithm that the plan chooses.
///
/// # Panics
/// If this processor lacks the instructions.
pub fn layers(isa: Isa, side: usize, batch: usize) -> Vec<Layer> {
    match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => Layer::all::<Avx512>(side, batch),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => Layer::all::<Avx2>(side, batch),
        _ => Layer::all::<Portable>(side, batch),
    }
}
