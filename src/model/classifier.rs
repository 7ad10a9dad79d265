//! From the network's input to labels with their probabilities.

use std::fmt;

use candle_core::{DType, Tensor};

use super::{
    Engine, Parallel,
    bundle::{Bundle, Card},
    kernel::Outputs,
    layout::Preprocess,
    network::{Network, NetworkError},
    preprocess::{Input, Preprocessor},
    score::Score,
};

/// The distance from where two labels are equally likely, as a part of the features' length, below which a picture is
/// worth another look in full detail. Of a thousand large JPEGs, full detail moved 95 % by less than 0.0028
/// (EfficientNet-Lite0) and 0.0044 (embedded network) across; of 26 labels that it changed, 24 were nearer than this.
const CLOSE: f32 = 0.004;

/// Why the network gives no answer.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// An input of another model.
    #[error("an input has {found} values, but the model {name} takes {expected}")]
    Input {
        /// The model.
        name: String,
        /// `side * side * 3`.
        expected: usize,
        /// Values given.
        found: usize,
    },
    /// Weights that overflow, or are damaged.
    #[error("the model {0} gave a number that is not finite; its weights are damaged or do not fit its input")]
    NotFinite(String),
    /// The network cannot be built, or fails.
    #[error("the network failed: {0}")]
    Network(#[from] NetworkError),
}

/// A loaded model that classifies batches.
pub struct Classifier {
    id: String,
    card: Card,
    labels: Vec<String>,
    preprocessor: Preprocessor,
    network: Network,
    /// Weights of the last layer, `[classes, features]`.
    last: Tensor,
}

/// What the network says of one input.
#[derive(Debug, Clone, PartialEq)]
pub struct Prediction {
    /// The most likely labels, best first; ties in the order of the labels. Probabilities are the softmax over all
    /// labels.
    pub scores: Vec<Score>,
    /// What the last layer got.
    pub features: Vec<f32>,
    /// Whether the best label may be another one in full detail, which there is.
    pub wants_detail: bool,
}

impl fmt::Debug for Classifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Classifier").field("card", &self.card).field("network", &self.network).finish_non_exhaustive()
    }
}

impl Classifier {
    /// Loads the network.
    ///
    /// The reference engine computes on rayon's global pool, whose size is set once in a process: the first one counts.
    ///
    /// # Errors
    /// [`ModelError::Network`] if the network cannot be built.
    pub fn new(bundle: Bundle, engine: Engine, parallel: Parallel) -> Result<Self, ModelError> {
        // Our kernels are made for one size of image.
        let engine = if bundle.card.preprocess == Preprocess::Raw { Engine::Reference } else { engine };
        if engine == Engine::Reference {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(parallel.calls * parallel.threads);
            if pool.thread_name(|n| format!("rayon-{n}")).build_global().is_err() {
                tracing::debug!(threads = rayon::current_num_threads(), "thread pool of the process is already set");
            }
        }
        let id = bundle.id();
        let Bundle { card, labels, tensors } = bundle;
        let description = card.architecture.network(labels.len());
        let network = Network::load(&description, &tensors, card.input as usize, engine, parallel)?;
        let last = tensors[&description.last.weight()].clone();
        Ok(Self { id, preprocessor: Preprocessor::new(&card), card, labels, network, last })
    }

    /// The model as results have it: [`Bundle::id`].
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// What the model is.
    #[must_use]
    pub fn card(&self) -> &Card {
        &self.card
    }

    /// The classes that it knows.
    #[must_use]
    pub fn labels(&self) -> &[String] {
        &self.labels
    }

    /// Makes this model's inputs from image files.
    #[must_use]
    pub fn preprocessor(&self) -> &Preprocessor {
        &self.preprocessor
    }

    /// What the network says of each input, with its `top` most likely labels. No inputs give no predictions.
    ///
    /// # Errors
    /// [`ModelError`].
    pub fn classify(&self, inputs: &[Input], top: usize) -> Result<Vec<Prediction>, ModelError> {
        let Outputs { features, logits } = self.outputs(inputs)?;
        let features = features.chunks_exact((features.len() / inputs.len().max(1)).max(1));
        let outputs = features.zip(logits.chunks_exact(self.labels.len()));
        let predict = |(input, (features, logits)): (&Input, _)| self.predict(input.has_more, features, logits, top);
        inputs.iter().zip(outputs).map(predict).collect()
    }

    /// Runs the network once, so that the first image does not wait for memory and lazy preparations.
    ///
    /// # Errors
    /// [`ModelError`], as the first image would have.
    pub fn warm_up(&self) -> Result<(), ModelError> {
        self.classify(&[Input::black(self.card.input as usize)], 1).map(drop)
    }

    /// Features and logits of each input, one behind the other.
    ///
    /// # Errors
    /// [`ModelError::Input`] and [`ModelError::Network`].
    pub fn outputs(&self, inputs: &[Input]) -> Result<Outputs, ModelError> {
        if self.card.preprocess == Preprocess::Raw {
            return self.outputs_one_by_one(inputs);
        }
        let expected = self.preprocessor.input_len();
        if let Some(odd) = inputs.iter().find(|input| input.values.len() != expected) {
            return Err(ModelError::Input { name: self.card.name.clone(), expected, found: odd.values.len() });
        }
        let mut images = Vec::with_capacity(inputs.len() * expected);
        for input in inputs {
            images.extend_from_slice(&input.values);
        }
        Ok(self.network.forward(&images)?)
    }

    /// As [`Self::outputs`], of inputs that differ in size.
    fn outputs_one_by_one(&self, inputs: &[Input]) -> Result<Outputs, ModelError> {
        let mut all = Outputs::default();
        for Input { values, width, .. } in inputs {
            let Outputs { features, logits } = self.network.forward_one(values, *width)?;
            all.features.extend(features);
            all.logits.extend(logits);
        }
        Ok(all)
    }

    fn predict(&self, has_more: bool, features: &[f32], logits: &[f32], top: usize) -> Result<Prediction, ModelError> {
        if !logits.iter().all(|v| v.is_finite()) {
            return Err(ModelError::NotFinite(self.card.name.clone()));
        }
        let probabilities = softmax(logits);
        let mut order: Vec<usize> = (0..logits.len()).collect();
        // Stable, so that ties stay in the order of the labels.
        order.sort_by(|a, b| logits[*b].total_cmp(&logits[*a]));
        let wants_detail = match order[..] {
            [best, second, ..] if has_more => self.is_close(features, logits, best, second)?,
            _ => false,
        };
        let score = |label: usize| Score { label: self.labels[label].clone(), confidence: probabilities[label] };
        let scores = order.into_iter().take(top).map(score).collect();
        Ok(Prediction { scores, features: features.to_vec(), wants_detail })
    }

    /// Whether `features` are near to where both labels are equally likely. That is a plane, at a distance of the
    /// logits' difference by the length of the weights' difference.
    fn is_close(&self, features: &[f32], logits: &[f32], best: usize, second: usize) -> Result<bool, NetworkError> {
        let weights = |label: usize| self.last.get(label)?.to_dtype(DType::F32)?.to_vec1::<f32>();
        let across: Vec<f32> =
            weights(best)?.iter().zip(weights(second)?).map(|(best, second)| best - second).collect();
        Ok(logits[best] - logits[second] <= CLOSE * length(&across) * length(features))
    }
}

/// The Euclidean norm.
fn length(vector: &[f32]) -> f32 {
    vector.iter().map(|x| x * x).sum::<f32>().sqrt()
}

/// `exp(x - max) / sum`, which cannot overflow.
fn softmax(logits: &[f32]) -> Vec<f32> {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let exps: Vec<f32> = logits.iter().map(|x| (x - max).exp()).collect();
    let sum: f32 = exps.iter().sum();
    exps.into_iter().map(|e| e / sum).collect()
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::model::{Detail, Limits, preprocess::tests::expected};

    fn classifier(engine: Engine) -> Classifier {
        Classifier::new(Bundle::embedded().unwrap(), engine, Parallel::one(1)).unwrap()
    }

    #[test]
    fn the_ten_pictures_get_their_labels() {
        let pictures = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/labelled");
        let classifier = classifier(Engine::default());
        let mut seen = 0;
        for entry in std::fs::read_dir(pictures).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_none_or(|e| e != "png") {
                continue;
            }
            let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
            let input = classifier
                .preprocessor()
                .prepare(&std::fs::read(&path).unwrap(), &Limits::default(), Detail::Full)
                .unwrap();
            let top = classifier.classify(&[input], 5).unwrap().remove(0).scores;
            assert_eq!(name.split('_').nth(1), Some(top[0].label.as_str()), "{name}: {top:?}");
            seen += 1;
        }
        assert_eq!(seen, 10);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]
        #[test]
        fn scores_are_probabilities_best_first(seed: [f32; 3], count in 1usize..4, top in 0usize..12) {
            let classifier = classifier_once();
            let len = classifier.preprocessor().input_len();
            let inputs: Vec<Input> = (0..count)
                .map(|n| {
                    let values = (0..len).map(|i| (seed[i % 3] % 3.0) * ((i * (n + 1)) as f32).sin()).collect();
                    Input { values, width: classifier.card().input as usize, has_more: false }
                })
                .collect();
            prop_assume!(seed.iter().all(|v| v.is_finite()));
            let results = classifier.classify(&inputs, top).unwrap();
            prop_assert_eq!(results.len(), count);
            for scores in results.iter().map(|prediction| &prediction.scores) {
                prop_assert_eq!(scores.len(), top.min(10));
                prop_assert!(scores.windows(2).all(|pair| pair[0].confidence >= pair[1].confidence));
                prop_assert!(scores.iter().all(|s| (0.0..=1.0).contains(&s.confidence)));
            }
            let all = classifier.classify(&inputs, usize::MAX).unwrap();
            for (Prediction { scores, .. }, Prediction { scores: part, .. }) in all.iter().zip(&results) {
                prop_assert!((scores.iter().map(|s| s.confidence).sum::<f32>() - 1.0).abs() < 1e-5);
                prop_assert_eq!(&scores[..part.len()], &part[..]);
                let mut labels: Vec<&str> = scores.iter().map(|s| s.label.as_str()).collect();
                labels.sort_unstable();
                labels.dedup();
                prop_assert_eq!(labels.len(), 10);
            }
        }
    }

    fn classifier_once() -> &'static Classifier {
        static ONCE: std::sync::OnceLock<Classifier> = std::sync::OnceLock::new();
        ONCE.get_or_init(|| classifier(Engine::default()))
    }

    /// JPEGs whose best label is another one in full detail than in as much as the resize needs, and that label.
    pub(crate) fn undecided() -> &'static [(Vec<u8>, String)] {
        static ONCE: std::sync::OnceLock<Vec<(Vec<u8>, String)>> = std::sync::OnceLock::new();
        ONCE.get_or_init(|| {
            let classifier = classifier_once();
            let label = |bytes: &[u8], detail| {
                let input = classifier.preprocessor().prepare(bytes, &Limits::default(), detail).unwrap();
                assert_eq!(input.has_more, detail == Detail::Enough);
                classifier.classify(&[input], 1).unwrap().remove(0).scores.remove(0).label
            };
            let (mut from, mut to) = (0, 1000);
            let first = label(&blend(from), Detail::Full);
            while from + 1 < to {
                let middle = u16::midpoint(from, to);
                *if label(&blend(middle), Detail::Full) == first { &mut from } else { &mut to } = middle;
            }
            let around = (from.saturating_sub(30)..from + 30).map(blend);
            let undecided: Vec<_> = around
                .map(|bytes| (label(&bytes, Detail::Full), label(&bytes, Detail::Enough), bytes))
                .filter_map(|(full, enough, bytes)| (full != enough).then_some((bytes, full)))
                .collect();
            assert!(!undecided.is_empty());
            undecided
        })
    }

    /// A JPEG of a frog, and so many thousandths of a ship over it.
    fn blend(weight: u16) -> Vec<u8> {
        let pictures = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/labelled");
        let [frog, ship] = ["5_frog.png", "1_ship.png"].map(|name| {
            let picture = image::open(pictures.join(name)).unwrap();
            picture.resize_exact(300, 300, image::imageops::FilterType::Triangle).into_rgb8()
        });
        let mut picture = frog;
        for (to, other) in picture.iter_mut().zip(ship.iter()) {
            *to = ((f32::from(*to) * f32::from(1000 - weight) + f32::from(*other) * f32::from(weight)) / 1e3) as u8;
        }
        let mut bytes = Vec::new();
        image::codecs::jpeg::JpegEncoder::new_with_quality(&mut bytes, 90).encode_image(&picture).unwrap();
        bytes
    }

    #[test]
    fn labels_that_detail_changes_are_known_to_be_close() {
        let classifier = classifier_once();
        for (bytes, label) in undecided() {
            let input = classifier.preprocessor().prepare(bytes, &Limits::default(), Detail::Enough).unwrap();
            let full = Input { has_more: false, ..input.clone() };
            let found = classifier.classify(&[input, full], 1).unwrap();
            assert!(found[0].wants_detail && !found[1].wants_detail, "{label}: {:?}", found[0].scores);
        }
    }

    #[test]
    fn clear_pictures_are_seen_once() {
        let classifier = classifier_once();
        for bytes in [blend(0), blend(1000)] {
            let input = classifier.preprocessor().prepare(&bytes, &Limits::default(), Detail::Enough).unwrap();
            assert!(input.has_more);
            let found = classifier.classify(&[input], 1).unwrap().remove(0);
            assert!(!found.wants_detail, "{:?}", found.scores);
        }
    }

    /// The logits of PyTorch for the same pixels, in `tests/fixtures`.
    #[test]
    fn logits_are_those_of_pytorch() {
        let expected = expected();
        let logits = expected.tensor("logits").unwrap();
        let logits: Vec<f32> =
            logits.data().chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
        let mut crops: Vec<&str> = expected.names().into_iter().filter(|name| name.starts_with("64/64/")).collect();
        crops.sort_unstable();
        assert_eq!(logits.len(), crops.len() * 10);
        for engine in [Engine::Kernel, Engine::Reference] {
            let classifier = classifier(engine);
            let inputs: Vec<Input> = crops
                .iter()
                .map(|name| classifier.preprocessor().normalise(expected.tensor(name).unwrap().data()))
                .collect();
            let found = classifier.outputs(&inputs).unwrap().logits;
            for ((name, want), found) in crops.iter().zip(logits.chunks_exact(10)).zip(found.chunks_exact(10)) {
                let largest = want.iter().fold(0.0, |max: f32, v| max.max(v.abs()));
                for (want, found) in want.iter().zip(found) {
                    let error = (want - found).abs() / largest;
                    assert!(error < 1e-4, "{name} with {engine:?}: {found} instead of {want}, {error:e} relative");
                }
            }
        }
    }

    #[test]
    fn pictures_go_as_they_are_to_a_network_that_wants_them_so() {
        let mut bundle = Bundle::embedded().unwrap();
        bundle.card = Card { preprocess: Preprocess::Raw, mean: [0.0; 3], std: [1.0; 3], ..bundle.card };
        let classifier = Classifier::new(bundle, Engine::default(), Parallel::one(1)).unwrap();
        classifier.warm_up().unwrap();
        let images = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/images");
        let inputs = ["rgb.png", "baseline-422.jpg", "narrow.png", "grey.bmp"].map(|name| {
            let bytes = std::fs::read(images.join(name)).unwrap();
            let input = classifier.preprocessor().prepare(&bytes, &Limits::default(), Detail::Full).unwrap();
            let expected = image::load_from_memory(&bytes).unwrap().into_rgb8();
            assert_eq!(
                (input.width, input.values.len()),
                (expected.width() as usize, expected.as_raw().len()),
                "{name}"
            );
            let far =
                input.values.iter().zip(expected.as_raw()).filter(|(v, e)| (*v * 255.0 - f32::from(**e)).abs() > 4.0);
            assert!(far.count() < expected.as_raw().len() / 50, "{name}");
            input
        });
        let together = classifier.outputs(&inputs).unwrap();
        let apart = inputs.map(|input| classifier.outputs(&[input]).unwrap().logits).concat();
        assert_eq!(together.logits, apart);
        // Components, the colours of them, and the picture of these.
        let bytes = std::fs::read(images.join("baseline-444.jpg")).unwrap();
        let header = classifier.preprocessor().measure(&bytes, &Limits::default(), Detail::Full).unwrap();
        assert!(header.memory >= 9 * header.pixels, "{header:?}");
        let huge = image::GrayImage::new(1100, 1000);
        let mut bytes = std::io::Cursor::new(Vec::new());
        huge.write_to(&mut bytes, image::ImageFormat::Png).unwrap();
        let error = classifier
            .preprocessor()
            .prepare(bytes.get_ref(), &Limits::default(), Detail::Full)
            .unwrap_err()
            .to_string();
        assert!(error.ends_with("1100000 pixels; the limit is 1048576"), "{error}");
    }

    #[test]
    fn refuses_what_gives_no_answer() {
        let classifier = classifier_once();
        assert_eq!(classifier.classify(&[], 5).unwrap(), Vec::new());
        classifier.warm_up().unwrap();
        let error = classifier.classify(&[Input::black(1)], 5).unwrap_err().to_string();
        assert_eq!(error, "an input has 3 values, but the model resnet18-cifar10 takes 12288");
        for odd in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let prediction = classifier.predict(false, &[], &[0.0, odd], 1);
            assert!(matches!(prediction, Err(ModelError::NotFinite(_))));
        }
    }
}
