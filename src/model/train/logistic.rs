//! Multinomial logistic regression with L2: the mean of `-ln softmax(x W + b)[class]` plus `strength / 2 |W|²`, in
//! `f64`.

use candle_core::{Device, Result, Tensor};

use super::{
    cholesky::Cholesky,
    lbfgs::{self, Stop},
};

/// How near to the minimum a search goes.
#[derive(Debug, Clone, Copy)]
pub(super) enum Precision {
    /// As near as more digits of the features would move it.
    Final,
    /// Near enough to compare strengths, as scikit-learn does.
    Trial,
}

impl From<Precision> for Stop {
    fn from(precision: Precision) -> Self {
        let gradient = match precision {
            Precision::Final => 1e-5,
            Precision::Trial => 1e-4,
        };
        Self { gradient, steps: 300 }
    }
}

/// Labelled vectors.
#[derive(Debug, Clone)]
pub struct Samples {
    /// `[samples][length]`.
    pub features: Vec<f64>,
    /// Length of a vector.
    pub length: usize,
    /// Each sample's class.
    pub labels: Vec<usize>,
    /// Number of classes.
    pub classes: usize,
}

impl Samples {
    /// Those at `places`.
    pub(super) fn pick(&self, places: &[usize]) -> Self {
        let rows = places.iter().flat_map(|&at| &self.features[at * self.length..(at + 1) * self.length]);
        Self {
            features: rows.copied().collect(),
            labels: places.iter().map(|&at| self.labels[at]).collect(),
            length: self.length,
            classes: self.classes,
        }
    }
}

/// A linear layer: logits are `features · weights + bias`.
#[derive(Debug, Clone, PartialEq)]
pub struct Layer {
    /// `[length][classes]`.
    pub weights: Vec<f64>,
    /// `[classes]`.
    pub bias: Vec<f64>,
}

impl Layer {
    /// The mean of layers of one shape; without layers it is empty.
    pub(super) fn mean<'a>(layers: impl ExactSizeIterator<Item = &'a Self>) -> Self {
        let share = 1.0 / layers.len() as f64;
        let mut mean = Self { weights: Vec::new(), bias: Vec::new() };
        for Self { weights, bias } in layers {
            for (sums, values) in [(&mut mean.weights, weights), (&mut mean.bias, bias)] {
                sums.resize(values.len(), 0.0);
                sums.iter_mut().zip(values).for_each(|(sum, value)| *sum += share * value);
            }
        }
        mean
    }
}

/// The least mean [`openness`]: where all samples are sure, the curvature must not vanish.
const LEAST_OPEN: f64 = 1e-6;

/// The most by which a sample's slopes change with its logits, of the `ln` of its probabilities `p`: a bound of the
/// eigenvalues of `diag(p) - p pᵀ`. None is above the largest `p`, nor above `2 p (1 - p)` of it where that is more than
/// a half (Gershgorin).
fn openness(logs: &[f64]) -> f64 {
    let most = logs.iter().copied().fold(f64::NEG_INFINITY, f64::max).exp();
    if most < 0.5 { most } else { 2.0 * most * (1.0 - most) }
}

/// How much slopes change by the weights of any class, and by its bias.
struct Curvature {
    /// `[length][length]`
    of_weights: Cholesky,
    of_bias: f64,
}

/// The function to minimise, for one set of samples.
pub(super) struct Problem {
    /// `[samples, length]`.
    features: Tensor,
    labels: Vec<usize>,
    classes: usize,
    length: usize,
    /// The mean product of two features, `[length][length]`.
    products: Vec<f64>,
}

impl Problem {
    pub(super) fn new(samples: &Samples) -> Result<Self> {
        let &Samples { length, classes, ref labels, .. } = samples;
        let features = Tensor::from_slice(&samples.features, (labels.len(), length), &Device::Cpu)?;
        let products = (features.t()?.matmul(&features)? / labels.len() as f64)?;
        Ok(Self { features, labels: labels.clone(), classes, length, products: products.flatten_all()?.to_vec1()? })
    }

    /// The best layer for a `strength` of L2, searched from `start` on.
    pub(super) fn fit(&self, strength: f64, start: &Layer, precision: Precision) -> Result<Layer> {
        let point = [&start.weights[..], &start.bias].concat();
        let curvature = self.curvature(strength, start)?;
        let precondition = |vector: &mut [f64]| self.divide(vector, &curvature);
        let mut weights = lbfgs::minimise(point, precision.into(), precondition, |point| self.value(point, strength))?;
        let bias = weights.split_off(self.length * self.classes);
        Ok(Layer { weights, bias })
    }

    /// An estimate of the curvature around `layer`, one for all classes: as if all samples were as open as they are on
    /// average.
    fn curvature(&self, strength: f64, layer: &Layer) -> Result<Curvature> {
        let logs = self.log_probabilities(layer)?;
        let open = logs.chunks_exact(self.classes).map(openness).sum::<f64>() / self.labels.len() as f64;
        let open = open.max(LEAST_OPEN);
        let mut of_weights: Vec<f64> = self.products.iter().map(|product| open * product).collect();
        (0..self.length).for_each(|i| of_weights[i * self.length + i] += strength);
        Ok(Curvature { of_weights: Cholesky::new(of_weights, self.length), of_bias: open })
    }

    /// Divides a gradient by the curvature.
    fn divide(&self, gradient: &mut [f64], curvature: &Curvature) {
        let (weights, bias) = gradient.split_at_mut(self.length * self.classes);
        curvature.of_weights.solve(weights, self.classes);
        bias.iter_mut().for_each(|bias| *bias /= curvature.of_bias);
    }

    /// A layer that knows nothing.
    pub(super) fn blank(&self) -> Layer {
        Layer { weights: vec![0.0; self.length * self.classes], bias: vec![0.0; self.classes] }
    }

    /// `ln softmax` of the samples, `[samples][classes]`.
    pub(super) fn log_probabilities(&self, layer: &Layer) -> Result<Vec<f64>> {
        self.logs(&layer.weights, &layer.bias)
    }

    /// Value and gradient at a point: weights, then bias.
    fn value(&self, point: &[f64], strength: f64) -> Result<(f64, Vec<f64>)> {
        let (weights, bias) = point.split_at(self.length * self.classes);
        let mut errors = self.logs(weights, bias)?;
        let samples = self.labels.len() as f64;
        let mut loss = 0.0;
        let mut of_bias = vec![0.0; self.classes];
        for (row, &label) in errors.chunks_exact_mut(self.classes).zip(&self.labels) {
            loss -= row[label];
            row.iter_mut().for_each(|log| *log = log.exp() / samples);
            row[label] -= 1.0 / samples;
            of_bias.iter_mut().zip(&*row).for_each(|(sum, error)| *sum += error);
        }
        let errors = Tensor::from_vec(errors, (self.labels.len(), self.classes), &Device::Cpu)?;
        let mut gradient: Vec<f64> = self.features.t()?.matmul(&errors)?.flatten_all()?.to_vec1()?;
        gradient.iter_mut().zip(weights).for_each(|(slope, weight)| *slope += strength * weight);
        gradient.extend(of_bias);
        let square: f64 = weights.iter().map(|weight| weight * weight).sum();
        Ok((loss / samples + strength / 2.0 * square, gradient))
    }

    fn logs(&self, weights: &[f64], bias: &[f64]) -> Result<Vec<f64>> {
        let weights = Tensor::from_slice(weights, (self.length, self.classes), &Device::Cpu)?;
        let mut logs: Vec<f64> = self.features.matmul(&weights)?.flatten_all()?.to_vec1()?;
        for row in logs.chunks_exact_mut(self.classes) {
            row.iter_mut().zip(bias).for_each(|(logit, bias)| *logit += bias);
            let most = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let sum = most + row.iter().map(|logit| (logit - most).exp()).sum::<f64>().ln();
            row.iter_mut().for_each(|logit| *logit -= sum);
        }
        Ok(logs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 12 points of 3 classes, each around a corner of its own and some nearer to another's.
    fn samples() -> Samples {
        let noise = |at: usize| ((at * 7919 % 97) as f64 / 97.0 - 0.5) * 2.5;
        let labels: Vec<usize> = (0..12).map(|at| at % 3).collect();
        let features = labels
            .iter()
            .enumerate()
            .flat_map(|(at, &label)| {
                let corner = [[1.0, 0.0], [0.0, 1.0], [-1.0, -1.0]][label];
                [corner[0] + noise(2 * at), corner[1] + noise(2 * at + 1)]
            })
            .collect();
        Samples { features, length: 2, labels, classes: 3 }
    }

    #[test]
    fn gradient_is_the_slope() {
        let problem = Problem::new(&samples()).unwrap();
        let point: Vec<f64> = (0..9).map(|i| (i as f64).sin()).collect();
        let (_, gradient) = problem.value(&point, 0.3).unwrap();
        for (i, gradient) in gradient.iter().enumerate() {
            let at = |step: f64| {
                let mut point = point.clone();
                point[i] += step;
                problem.value(&point, 0.3).unwrap().0
            };
            let slope = (at(1e-5) - at(-1e-5)) / 2e-5;
            assert!((slope - gradient).abs() < 1e-8, "{i}: {gradient} instead of {slope}");
        }
    }

    /// `LogisticRegression(C = 1 / (12 strength), tol=1e-10)` of scikit-learn 1.9 on the same points.
    #[test]
    fn fits_as_scikit_learn_does() {
        let problem = Problem::new(&samples()).unwrap();
        for (strength, want) in SCIKIT_LEARN {
            let layer = problem.fit(strength, &problem.blank(), Precision::Final).unwrap();
            let found = [layer.weights, layer.bias].concat();
            for (found, want) in found.iter().zip(want) {
                assert!((found - want).abs() < 1e-3, "{strength}: {found} instead of {want}");
            }
        }
    }

    #[test]
    fn openness_bounds_the_curvature_of_a_sample() {
        let of = |p: &[f64]| openness(&p.iter().map(|p| p.ln()).collect::<Vec<_>>());
        // By two classes and by equal ones it is the eigenvalue itself.
        for (p, eigenvalue) in [(&[0.5, 0.5][..], 0.5), (&[0.9, 0.1], 0.18), (&[0.25; 4], 0.25)] {
            assert!((of(p) - eigenvalue).abs() < 1e-12, "{p:?}: {}", of(p));
        }
        // In any direction the curvature is at most as large.
        let p = [0.55, 0.3, 0.1, 0.05];
        for angle in 0..100 {
            let v = [0, 1, 2, 3].map(|i| f64::from(angle * (i + 1) * 7 % 19 - 9));
            let (mean, square): (f64, f64) =
                p.iter().zip(v).fold((0.0, 0.0), |(m, s), (p, v)| (m + p * v, s + p * v * v));
            let length: f64 = v.iter().map(|v| v * v).sum();
            assert!(square - mean * mean <= of(&p) * length, "{v:?}");
        }
    }

    #[test]
    fn mean_is_of_each_weight() {
        let layer = |x: f64| Layer { weights: vec![x, 2.0 * x], bias: vec![-x] };
        let mean = Layer::mean([layer(1.0), layer(2.0), layer(6.0)].iter());
        assert_eq!(mean, layer(3.0));
    }

    const SCIKIT_LEARN: [(f64, [f64; 9]); 2] = [
        (0.1, [0.66987, 0.20473, -0.8746, -0.34344, 1.08734, -0.7439, 0.35481, -0.08407, -0.27074]),
        (0.01, [0.8881, 0.93838, -1.82648, -0.82505, 2.74439, -1.91934, 1.28461, -0.73311, -0.55149]),
    ];
}
