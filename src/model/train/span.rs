//! Few samples of long vectors, by coordinates in the space that they span.
//!
//! The best layer with L2 is a sum of samples, since what is orthogonal to all of them costs and changes nothing. With
//! `X Xᵀ = L Lᵀ` the rows of `L` are such coordinates: they have the samples' inner products, and so the same best
//! layer in fewer numbers.

use candle_core::{Device, Result, Tensor};

use super::{
    cholesky::Cholesky,
    logistic::{Layer, Samples},
};

/// What is added to the diagonal, of its mean: the samples may depend on each other.
const RIDGE: f64 = 1e-10;

/// The space of some samples.
pub(super) struct Span {
    /// `[samples, length]`.
    samples: Tensor,
    factor: Cholesky,
}

impl Span {
    /// The samples in coordinates of their space, `None` if these are not fewer than they have.
    pub(super) fn of(samples: &Samples) -> Result<Option<(Samples, Self)>> {
        let count = samples.labels.len();
        if count >= samples.length {
            return Ok(None);
        }
        let vectors = Tensor::from_slice(&samples.features, (count, samples.length), &Device::Cpu)?;
        let mut products: Vec<f64> = vectors.matmul(&vectors.t()?)?.flatten_all()?.to_vec1()?;
        let mean = (0..count).map(|i| products[i * count + i]).sum::<f64>() / count as f64;
        (0..count).for_each(|i| products[i * count + i] += RIDGE * mean);
        let factor = Cholesky::new(products, count);
        let inside = Samples {
            features: factor.rows().to_vec(),
            length: count,
            labels: samples.labels.clone(),
            classes: samples.classes,
        };
        Ok(Some((inside, Self { samples: vectors, factor })))
    }

    /// The layer for whole vectors: `Xᵀ L⁻ᵀ` times its weights.
    pub(super) fn undo(&self, Layer { weights, bias }: Layer) -> Result<Layer> {
        let (count, classes) = (weights.len() / bias.len(), bias.len());
        let mut sums = weights;
        self.factor.solve_transposed(&mut sums, classes);
        let sums = Tensor::from_vec(sums, (count, classes), &Device::Cpu)?;
        let weights = self.samples.t()?.matmul(&sums)?.flatten_all()?.to_vec1()?;
        Ok(Layer { weights, bias })
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::logistic::{Precision, Problem},
        *,
    };

    #[test]
    fn the_best_layer_is_the_same_in_the_span() {
        let number = |at: usize| (at * 7919 % 97) as f64 / 48.5 - 1.0;
        let labels: Vec<usize> = (0..12).map(|at| at % 3).collect();
        // Two are alike.
        let features = (0..12 * 20).map(|at| number(if at < 20 { at + 60 } else { at })).collect();
        let samples = Samples { features, length: 20, labels, classes: 3 };
        let (inside, span) = Span::of(&samples).unwrap().unwrap();
        assert_eq!((inside.length, inside.features.len()), (12, 144));
        for strength in [0.1, 1e-2, 1e-3] {
            let fit = |problem: Problem| problem.fit(strength, &problem.blank(), Precision::Final).unwrap();
            let direct = fit(Problem::new(&samples).unwrap());
            let found = span.undo(fit(Problem::new(&inside).unwrap())).unwrap();
            let pairs = |layer: &Layer| [&layer.weights[..], &layer.bias].concat();
            let largest = pairs(&direct).into_iter().fold(0.0, |a: f64, b| a.max(b.abs()));
            for (found, wanted) in pairs(&found).iter().zip(pairs(&direct)) {
                assert!((found - wanted).abs() < 1e-2 * largest, "{strength}: {found} instead of {wanted}");
            }
        }
        assert!(Span::of(&Samples { features: vec![0.0; 36], length: 3, ..samples }).unwrap().is_none());
    }
}
