//! Every algorithm on every instruction set against the definition of convolution, in `f64`.

use proptest::prelude::*;

use super::super::bench::noise;
use super::super::layer::{Call, Conv, Data, Scratch};
use super::super::memory::{Buffer, Shared};
use super::super::pack::Filters;
use super::super::plan::Algorithm;
use super::super::shape::Shape;
use super::super::simd::Simd;
use super::super::threads::Threads;
use super::super::{Isa, run, with_isa};

/// One layer with everything it meets.
#[derive(Clone, Debug)]
struct Case {
    shape: Shape,
    batch: usize,
    threads: usize,
    residual: bool,
    relu: bool,
}

impl Case {
    fn input(&self) -> Vec<f32> {
        noise(self.batch * self.shape.input_len(), 1)
    }
    fn filters(&self) -> Filters {
        let Shape { inputs, outputs, .. } = self.shape;
        let taps = self.shape.taps();
        Filters {
            weights: noise(outputs * inputs * taps, 2),
            outputs,
            inputs,
            taps,
            scale: Some(noise(outputs, 3)),
            bias: noise(outputs, 4),
        }
    }
    fn residual(&self) -> Vec<f32> {
        noise(self.batch * self.shape.output_len(), 5)
    }

    /// The layer by definition, and the largest sum of absolute terms, which scales the error allowed.
    fn expected(&self) -> (Vec<f64>, f64) {
        let Self { shape, batch, .. } = self;
        let (input, filters, residual) = (self.input(), self.filters(), self.residual());
        let scale = filters.scale.as_ref().unwrap();
        let mut outputs = Vec::new();
        let mut largest = 1.0f64;
        for (image, y, x, output) in itertools(*batch, shape.output_height(), shape.output_width(), shape.outputs) {
            let (mut sum, mut size) = (f64::from(filters.bias[output]), 1.0);
            for tap in 0..shape.taps() {
                let row = (y * shape.stride + tap / shape.kernel).wrapping_sub(shape.padding);
                let column = (x * shape.stride + tap % shape.kernel).wrapping_sub(shape.padding);
                if row >= shape.height || column >= shape.width {
                    continue;
                }
                for c in 0..shape.inputs {
                    let a = input[((image * shape.height + row) * shape.width + column) * shape.inputs + c];
                    let w = filters.weights[(output * shape.inputs + c) * shape.taps() + tap] * scale[output];
                    sum += f64::from(a) * f64::from(w);
                    size += f64::from(a * w).abs();
                }
            }
            if self.residual {
                sum += f64::from(residual[outputs.len()]);
            }
            largest = largest.max(size);
            outputs.push(if self.relu { sum.max(0.0) } else { sum });
        }
        (outputs, largest)
    }

    /// The layer by `algorithm`, twice: the second call may use what the first one made.
    fn run<S: Simd>(&self, algorithm: Algorithm) -> [Vec<f32>; 2] {
        let simd = S::detect().unwrap();
        let mut threads = Threads::new(self.threads).unwrap();
        let conv = Conv::new::<S>(self.shape, &self.filters(), &mut threads);
        let zeros = self.batch * self.shape.input_len();
        let mut input = Buffer::zeroed(zeros + self.shape.inputs);
        input[..zeros].copy_from_slice(&self.input());
        let mut residual = self.residual();
        let plan = run::plan::<S>(algorithm, &self.shape, self.batch, zeros, self.threads);
        let (mut shared, mut private) = (Buffer::zeroed(plan.shared), Buffer::zeroed(plan.private * self.threads));
        let scratch = Scratch {
            shared: Shared(shared.as_mut_ptr()),
            private: Shared(private.as_mut_ptr()),
            private_len: plan.private,
        };
        [(); 2].map(|()| {
            let mut output = vec![f32::NAN; self.batch * self.shape.output_len()];
            let data = Data {
                batch: self.batch,
                input: Shared(input.as_mut_ptr()),
                residual: Shared(if self.residual { residual.as_mut_ptr() } else { std::ptr::null_mut() }),
                output: Shared(output.as_mut_ptr()),
                relu: self.relu,
            };
            // SAFETY: all of it was made for this layer.
            unsafe { run::run(Call { simd, threads: &mut threads, conv: &conv, plan: &plan, scratch, data }) };
            output
        })
    }

    fn check(&self) {
        let (expected, size) = self.expected();
        for isa in Isa::available() {
            let lanes = match isa {
                Isa::Avx512 => 16,
                Isa::Avx2 => 8,
                Isa::Portable => 4,
            };
            let winograd = self.shape.kernel == 3 && self.shape.padding == 1 && self.shape.inputs.is_multiple_of(lanes);
            let algorithms: &[Algorithm] = match (winograd, self.shape.stride) {
                (true, 1) if self.shape.height <= 2 && self.shape.width <= 2 => {
                    &[Algorithm::Direct, Algorithm::Toeplitz2, Algorithm::F2, Algorithm::F4, Algorithm::F7]
                }
                (true, 1) => &[Algorithm::Direct, Algorithm::F2, Algorithm::F4, Algorithm::F7],
                (true, 2) => &[Algorithm::Direct, Algorithm::Strided2, Algorithm::Strided4, Algorithm::Strided7],
                _ => &[Algorithm::Direct],
            };
            for &algorithm in algorithms {
                let outputs = with_isa!(isa, compute(self, algorithm), unreachable!("it is available"));
                // Larger tiles have larger numbers in between.
                let tolerance = if algorithm == Algorithm::F7 { 2e-5 } else { 4e-6 };
                for output in outputs {
                    assert_eq!(output.len(), expected.len());
                    let error =
                        output.iter().zip(&expected).map(|(&a, b)| (f64::from(a) - b).abs()).fold(0.0, f64::max);
                    assert!(
                        error.is_finite() && error <= tolerance * size,
                        "{isa:?} {algorithm:?}: error {error:e} of {size} in {self:?}"
                    );
                }
            }
        }
    }
}

fn compute<S: Simd>(case: &Case, algorithm: Algorithm) -> [Vec<f32>; 2] {
    case.run::<S>(algorithm)
}

/// All indices of a tensor of four dimensions, in order.
fn itertools(a: usize, b: usize, c: usize, d: usize) -> impl Iterator<Item = (usize, usize, usize, usize)> {
    (0..a * b * c * d).map(move |i| (i / (b * c * d), i / (c * d) % b, i / d % c, i % d))
}

prop_compose! {
    fn cases()(
        whole in prop::bool::ANY,
        (inputs, outputs) in (1usize..40, 1usize..70),
        (kernel, stride, padding) in prop_oneof![
            4 => (Just(3), 1usize..=2, Just(1)),
            1 => (1usize..=4, 1usize..=3, 0usize..=2),
        ],
        (height, width) in (1usize..14, 1usize..14),
        batch in prop_oneof![1usize..6, 20usize..40],
        threads in 1usize..=3,
        (residual, relu) in (prop::bool::ANY, prop::bool::ANY),
    ) -> Case {
        let inputs = if whole { inputs.next_multiple_of(16) } else { inputs };
        let (height, width) = (height.max(kernel), width.max(kernel));
        let shape = Shape { inputs, outputs, kernel, stride, padding, height, width };
        Case { shape, batch, threads, residual, relu }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn every_algorithm_is_the_convolution(case in cases()) {
        case.check();
    }
}

#[test]
fn layers_with_many_tiles_and_deep_filters_are_cut_up_right() {
    let shape = Shape { inputs: 16, outputs: 40, kernel: 3, stride: 1, padding: 1, height: 37, width: 30 };
    for (shape, batch) in [
        (shape, 1),
        (Shape { stride: 2, ..shape }, 3),
        (Shape { inputs: 304, height: 2, width: 2, ..shape }, 9),
        (Shape { inputs: 304, height: 5, width: 3, ..shape }, 1),
        (Shape { inputs: 304, stride: 2, height: 5, width: 9, ..shape }, 2),
        (Shape { outputs: 1, height: 7, width: 7, ..shape }, 33),
        (Shape { outputs: 22, height: 11, width: 10, ..shape }, 3),
    ] {
        for threads in [1, 2, 5] {
            Case { shape, batch, threads, residual: true, relu: true }.check();
        }
    }
}
