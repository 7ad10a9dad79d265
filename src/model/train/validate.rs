//! Cross-validation: how strongly weights should be held back, and how good the layer is on pictures that it was not
//! fitted to. The strength is the one with the most right answers. Being chosen by these pictures, it is told as a little
//! better on them than it is on others.

use candle_core::Result;
use rand::{SeedableRng, rngs::StdRng, seq::SliceRandom};
use rayon::prelude::*;

use super::{
    logistic::{Layer, Precision, Problem, Samples},
    span::Span,
};

/// Parts that the samples are dealt into; each is judged by a layer that is fitted to the others.
pub const FOLDS: usize = 5;

/// Strengths of L2 to try, strongest first, for features whose mean square length is 1: powers of the root of 10,
/// `10^(-start / 2)` on.
const STRENGTHS: std::ops::RangeInclusive<i32> = 2..=14;

/// Strengths in a row that may be worse than the best so far before the search ends: two powers of 10, as few right
/// answers more or less are noise.
const PATIENCE: usize = 4;

/// A fitted layer, and what cross-validation says of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Fit {
    /// Fitted to all samples.
    pub layer: Layer,
    /// The chosen strength of L2.
    pub strength: f64,
    /// Each sample's most likely class by the layer that had not seen it.
    pub guesses: Vec<usize>,
    /// The probability of that class.
    pub confidences: Vec<f64>,
}

/// Fits a layer to the samples. The same samples and seed give the same layer.
///
/// # Errors
/// A vector has a length of its own, or there is no memory.
///
/// # Panics
/// If a class has fewer than [`FOLDS`] samples.
pub fn fit(samples: &Samples, seed: u64) -> Result<Fit> {
    let (scaled, scale) = Scale::of(samples);
    let (scaled, span) = match Span::of(&scaled)? {
        Some((inside, span)) => (inside, Some(span)),
        None => (scaled, None),
    };
    let folds = deal(&scaled, seed);
    let mut parts = folds.iter().map(|fold| Part::new(&scaled, fold)).collect::<Result<Vec<_>>>()?;
    let mut best: Option<(Tried, Layer)> = None;
    let mut worse = 0;
    for power in STRENGTHS {
        let strength = 10f64.powf(-f64::from(power) / 2.0);
        parts.par_iter_mut().try_for_each(|part| part.advance(strength))?;
        let tried = Tried::new(strength, &parts, &scaled.labels);
        if tried.loss.is_finite() && best.as_ref().is_none_or(|(best, _)| tried.beats(best)) {
            best = Some((tried, Layer::mean(parts.iter().map(|part| &part.layer))));
            worse = 0;
        } else {
            worse += 1;
            if worse == PATIENCE {
                break;
            }
        }
    }
    let Some((Tried { strength, guesses, confidences, .. }, start)) = best else {
        candle_core::bail!("the loss is not a number for any strength: the features are not finite")
    };
    let all = Problem::new(&scaled)?;
    // The mean of the folds' layers is near to that of all samples.
    let layer = all.fit(strength, &start, Precision::Final)?;
    let layer = scale.undo(match span {
        Some(span) => span.undo(layer)?,
        None => layer,
    });
    Ok(Fit { layer, strength, guesses, confidences })
}

/// One fold: the samples that a layer is fitted to, and those that judge it.
struct Part<'a> {
    problem: Problem,
    /// The layer of the last strength, from which the next search starts.
    layer: Layer,
    places: &'a [usize],
    judges: Problem,
    labels: Vec<usize>,
    /// `ln` of the judges' probabilities, `[judges][classes]`.
    logs: Vec<f64>,
}

impl<'a> Part<'a> {
    fn new(samples: &Samples, places: &'a [usize]) -> Result<Self> {
        let others: Vec<usize> = (0..samples.labels.len()).filter(|at| !places.contains(at)).collect();
        let problem = Problem::new(&samples.pick(&others))?;
        let judges = samples.pick(places);
        Ok(Self {
            layer: problem.blank(),
            problem,
            places,
            judges: Problem::new(&judges)?,
            labels: judges.labels,
            logs: Vec::new(),
        })
    }

    fn advance(&mut self, strength: f64) -> Result<()> {
        self.layer = self.problem.fit(strength, &self.layer, Precision::Trial)?;
        self.logs = self.judges.log_probabilities(&self.layer)?;
        Ok(())
    }

    fn rows(&self) -> std::slice::ChunksExact<'_, f64> {
        self.logs.chunks_exact(self.logs.len() / self.labels.len())
    }

    /// `-ln` of the probability of the right class, summed over the judges.
    fn loss(&self) -> f64 {
        self.rows().zip(&self.labels).map(|(row, &label)| -row[label]).sum()
    }
}

/// What a strength gave.
struct Tried {
    /// Right answers.
    right: usize,
    loss: f64,
    strength: f64,
    guesses: Vec<usize>,
    confidences: Vec<f64>,
}

impl Tried {
    fn new(strength: f64, parts: &[Part<'_>], labels: &[usize]) -> Self {
        let (mut guesses, mut confidences) = (vec![0; labels.len()], vec![0.0; labels.len()]);
        for part in parts {
            for (&at, row) in part.places.iter().zip(part.rows()) {
                let guess = (0..row.len()).max_by(|&a, &b| row[a].total_cmp(&row[b])).unwrap_or(0);
                (guesses[at], confidences[at]) = (guess, row[guess].exp());
            }
        }
        let right = guesses.iter().zip(labels).filter(|(guess, label)| guess == label).count();
        let loss = parts.iter().map(Part::loss).sum();
        Self { right, loss, strength, guesses, confidences }
    }

    /// Whether it is better: by right answers, which is what a classifier is for and what scikit-learn's
    /// `LogisticRegressionCV` goes by. The loss alone would take a stronger one that is less wrong where it is wrong,
    /// and more often so; among equals it takes the one whose probabilities can be believed.
    fn beats(&self, other: &Self) -> bool {
        self.right > other.right || self.right == other.right && self.loss < other.loss
    }
}

/// Places of the samples, dealt class by class, so that every fold has its share of each.
fn deal(samples: &Samples, seed: u64) -> Vec<Vec<usize>> {
    let mut random = StdRng::seed_from_u64(seed);
    let mut folds = vec![Vec::new(); FOLDS];
    let mut next = 0;
    for class in 0..samples.classes {
        let mut places: Vec<usize> = (0..samples.labels.len()).filter(|&at| samples.labels[at] == class).collect();
        assert!(places.len() >= FOLDS, "class {class} has {} samples, fewer than folds", places.len());
        places.shuffle(&mut random);
        for place in places {
            folds[next].push(place);
            next = (next + 1) % FOLDS;
        }
    }
    folds
}

/// What was done to features: the mean subtracted, then a division, so that the mean square length is 1. The same
/// strengths then fit all networks, and the search is short. Neither changes what can be learnt.
struct Scale {
    mean: Vec<f64>,
    divisor: f64,
}

impl Scale {
    fn of(samples: &Samples) -> (Samples, Self) {
        let count = samples.labels.len() as f64;
        let mut mean = vec![0.0; samples.length];
        let mut scaled = samples.clone();
        for row in samples.features.chunks_exact(samples.length) {
            mean.iter_mut().zip(row).for_each(|(mean, value)| *mean += value / count);
        }
        for row in scaled.features.chunks_exact_mut(samples.length) {
            row.iter_mut().zip(&mean).for_each(|(value, mean)| *value -= mean);
        }
        let square = scaled.features.iter().map(|value| value * value).sum::<f64>() / count;
        // Samples that are all the same stay 0.
        let divisor = if square > 0.0 { square.sqrt() } else { 1.0 };
        scaled.features.iter_mut().for_each(|value| *value /= divisor);
        (scaled, Self { mean, divisor })
    }

    /// The layer for features as they were.
    fn undo(&self, Layer { mut weights, mut bias }: Layer) -> Layer {
        weights.iter_mut().for_each(|weight| *weight /= self.divisor);
        for (row, mean) in weights.chunks_exact(bias.len()).zip(&self.mean) {
            bias.iter_mut().zip(row).for_each(|(bias, weight)| *bias -= mean * weight);
        }
        Layer { weights, bias }
    }
}

#[cfg(test)]
mod tests {
    use rand_distr::{Distribution, StandardNormal};

    use super::*;

    /// Points around one corner a class, `spread` apart from it, shifted far from 0.
    fn clouds(each: usize, classes: usize, length: usize, spread: f64) -> Samples {
        let mut random = StdRng::seed_from_u64(7);
        let labels: Vec<usize> = (0..each * classes).map(|at| at % classes).collect();
        let features = labels.iter().flat_map(|&label| {
            (0..length)
                .map(|i| {
                    let noise: f64 = StandardNormal.sample(&mut random);
                    100.0 + spread * noise + if i % classes == label { 1.0 } else { 0.0 }
                })
                .collect::<Vec<f64>>()
        });
        Samples { features: features.collect(), length, labels, classes }
    }

    fn accuracy(samples: &Samples, fit: &Fit) -> f64 {
        let right = samples.labels.iter().zip(&fit.guesses).filter(|(label, guess)| label == guess).count();
        right as f64 / samples.labels.len() as f64
    }

    #[test]
    fn what_can_be_told_apart_is_and_noise_is_not_learnt() {
        let easy = clouds(20, 4, 16, 0.3);
        let found = fit(&easy, 1).unwrap();
        assert!(accuracy(&easy, &found) > 0.98, "{}", accuracy(&easy, &found));
        // The layer works on the features as they were.
        for (row, &label) in easy.features.chunks_exact(16).zip(&easy.labels) {
            let logit = |class: usize| {
                found.layer.bias[class]
                    + row.iter().enumerate().map(|(i, v)| v * found.layer.weights[i * 4 + class]).sum::<f64>()
            };
            assert_eq!((0..4).max_by(|a, b| logit(*a).total_cmp(&logit(*b))), Some(label));
        }

        let mut noise = clouds(20, 4, 16, 0.3);
        noise.labels.shuffle(&mut StdRng::seed_from_u64(1));
        let found = fit(&noise, 1).unwrap();
        assert!(accuracy(&noise, &found) < 0.45, "{}", accuracy(&noise, &found));
    }

    #[test]
    fn right_answers_count_and_the_loss_among_equals() {
        let tried = |right, loss| Tried { right, loss, strength: 0.1, guesses: Vec::new(), confidences: Vec::new() };
        assert!(tried(8, 9.0).beats(&tried(7, 5.0)) && !tried(7, 5.0).beats(&tried(8, 9.0)));
        assert!(tried(8, 5.0).beats(&tried(8, 9.0)) && !tried(8, 9.0).beats(&tried(8, 9.0)));
    }

    #[test]
    fn every_sample_is_in_one_fold_and_every_class_in_all() {
        let samples = clouds(7, 3, 2, 1.0);
        let folds = deal(&samples, 3);
        let mut all = folds.concat();
        all.sort_unstable();
        assert_eq!(all, (0..21).collect::<Vec<_>>());
        for fold in &folds {
            for class in 0..3 {
                assert!(fold.iter().any(|&at| samples.labels[at] == class), "{fold:?}");
            }
        }
        assert_ne!(folds, deal(&samples, 4));
    }

    #[test]
    fn the_same_seed_gives_the_same_layer() {
        let samples = clouds(8, 3, 6, 1.0);
        assert_eq!(fit(&samples, 5).unwrap(), fit(&samples, 5).unwrap());
    }

    #[test]
    fn features_that_are_no_numbers_are_no_layer() {
        let mut samples = clouds(8, 3, 6, 1.0);
        samples.features[7] = f64::NAN;
        assert!(fit(&samples, 5).unwrap_err().to_string().contains("not finite"));
    }
}
