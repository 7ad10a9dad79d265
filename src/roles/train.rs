//! `imgcls train`: own classes, from folders of pictures.

use std::{
    fmt::Write as _,
    io::Write as _,
    num::NonZero,
    path::{Path, PathBuf},
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use tracing::warn;

use super::{
    UsageError, files,
    pictures::{Pictures, Seen},
};
use crate::{
    config::{
        Classify,
        flags::{Overrides, threads, whole},
    },
    model::{
        Bundle, Card, Classifier, Parallel,
        import::{self, Array, Weights},
        layout, shelf,
        train::{self, FOLDS, Fit, Samples},
    },
};

/// With fewer pictures in a class, its accuracy is a guess.
const FEW: usize = 20;
/// The share of right answers that pass the threshold of doubt.
const PASSING: f64 = 0.95;
/// The threshold is not above this: so few pictures do not say how sure it is of others.
const MOST_SURE: f64 = 0.9;
/// Confusions that are shown.
const CONFUSIONS: usize = 10;
/// File of the report in the bundle.
const REPORT: &str = "CARD.md";

/// Makes a model that knows your own classes, from a folder with one sub-folder of pictures for each.
///
/// All layers but the last are those of the base model; the last is fitted to your pictures.
#[derive(Debug, Args)]
pub struct TrainArgs {
    /// The folder.
    folder: PathBuf,
    /// Directory of the model bundle to make.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// The base: a name, as `imgcls model list` shows it, or a bundle's directory.
    #[arg(long, value_name = "MODEL")]
    base: Option<PathBuf>,
    /// Name of the new model; that of its directory by default.
    #[arg(long)]
    name: Option<String>,
    /// How the pictures are dealt out for cross-validation; the same number gives the same model.
    #[arg(long, value_name = "NUMBER", default_value_t = 0, value_parser = whole::<u64>)]
    seed: u64,
    /// Threads; one per core by default.
    #[arg(long, value_name = "N", value_parser = threads)]
    threads: Option<NonZero<usize>>,
}

impl TrainArgs {
    /// The configuration keys that these flags set.
    #[must_use]
    pub fn overrides(&self) -> Overrides {
        let mut keys = Overrides::default();
        keys.set("model", self.base.as_ref().map(|base| base.display()));
        keys.set("worker.threads", self.threads);
        keys
    }
}

/// Makes the model and prints how good it is.
///
/// # Errors
/// If there are too few pictures, or the bundle cannot be written.
pub fn run(args: &TrainArgs, config: Classify) -> Result<ExitCode> {
    let started = Instant::now();
    let name = args.name.clone().unwrap_or_else(|| file_name(&args.out));
    check_out(&args.out, &args.folder, &name)?;
    let Classify { model, limits, worker, .. } = config;
    let base = Bundle::open(model.as_deref())?;
    let threads = worker.all_threads().get();
    let pictures = Pictures::find(&args.folder)?;
    files::tell(&pictures.passed_over);
    // Before the network sees any: it may take hours.
    check_least(&pictures.classes, &pictures.counts)?;
    let Bundle { card, labels, tensors } = &base;
    let again = Bundle { card: card.clone(), labels: labels.clone(), tensors: tensors.clone() };
    let classifier = Classifier::new(again, worker.engine, Parallel { calls: threads, threads: 1 })?;

    let style = ProgressStyle::with_template("{bar:40} {pos}/{len} pictures  {per_sec}  {eta} left");
    let bar =
        ProgressBar::new(pictures.len() as u64).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    let sight = pictures.show(&classifier, &limits, threads, |done| bar.inc(done));
    bar.finish_and_clear();
    let sight = sight?;
    for left_out in &sight.left_out {
        eprintln!("left out: {left_out}");
    }
    check_counts(&pictures.classes, &sight.seen)?;
    let shown = started.elapsed();

    let samples = samples(&sight.seen, pictures.classes.len());
    let fitting = Instant::now();
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build()?;
    let fit = pool.install(|| train::fit(&samples, args.seed)).context("the last layer cannot be fitted")?;
    let fitted = fitting.elapsed();

    let report = Report { classes: &pictures.classes, samples: &samples, fit: &fit, left_out: sight.left_out.len() };
    let card = new_card(name, &base, &report, &file_name(&args.folder), args.seed);
    let text = report.text(shown, fitted);
    let page = format!("# {}\n\n{}.\n\n```text\n{text}```\n", card.name, card.source);
    let labels = pictures.classes.join("\n") + "\n";
    let weights = weights(&base, &samples, &fit);
    import::write_bundle(card, &labels, &weights, &[(REPORT, page)], &args.out)?;
    let model = shelf::as_path(&args.out);
    writeln!(std::io::stdout(), "{text}{} is ready; use it with --model {0}", model.display())?;
    Ok(ExitCode::SUCCESS)
}

/// Refuses at once what would be refused when all pictures have been seen, or come of them.
fn check_out(out: &Path, folder: &Path, name: &str) -> Result<()> {
    if let Some(reason) = layout::refused_name(name) {
        return Err(UsageError(format!("the name {name:?} {reason}; choose another with --name")).into());
    }
    if out.symlink_metadata().is_ok() {
        return Err(import::ImportError::Exists(out.to_owned()).into());
    }
    let absolute = std::path::absolute(out)?;
    // What is there of its path; the rest is made.
    let Some(there) = absolute.ancestors().skip(1).find(|path| path.symlink_metadata().is_ok()) else { return Ok(()) };
    if !there.is_dir() {
        return Err(UsageError(format!("{} is no directory, so --out cannot be in it", there.display())).into());
    }
    if let (Ok(there), Ok(folder)) = (there.canonicalize(), folder.canonicalize())
        && there.starts_with(&folder)
    {
        let text =
            format!("{} is in the folder of pictures, where it would be a class; choose another --out", out.display());
        return Err(UsageError(text).into());
    }
    Ok(())
}

fn file_name(path: &Path) -> String {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    absolute.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// Refuses classes that are too small to be judged, and warns of those that are nearly so.
fn check_counts(classes: &[String], seen: &[Seen]) -> Result<()> {
    let counts: Vec<usize> =
        (0..classes.len()).map(|class| seen.iter().filter(|seen| seen.class == class).count()).collect();
    check_least(classes, &counts)?;
    if let Some(few) = smaller(classes, &counts, FEW) {
        warn!("fewer than {FEW} pictures in a class say little of how good it is: {few}");
    }
    Ok(())
}

/// Refuses classes of which not every fold can have a picture.
fn check_least(classes: &[String], counts: &[usize]) -> Result<()> {
    match smaller(classes, counts, FOLDS) {
        Some(few) => bail!("a class needs {FOLDS} pictures at least, but {few}"),
        None => Ok(()),
    }
}

/// The classes with fewer than `least` pictures, in words.
fn smaller(classes: &[String], counts: &[usize], least: usize) -> Option<String> {
    let few = classes.iter().zip(counts).filter(|(_, count)| **count < least);
    let few: Vec<String> = few.map(|(class, count)| format!("{class} has {count}")).collect();
    (!few.is_empty()).then(|| few.join(", "))
}

fn samples(seen: &[Seen], classes: usize) -> Samples {
    Samples {
        length: seen.first().map_or(0, |seen| seen.features.len()),
        features: seen.iter().flat_map(|seen| &seen.features).map(|value| f64::from(*value)).collect(),
        labels: seen.iter().map(|seen| seen.class).collect(),
        classes,
    }
}

/// The base's card, but for what is new.
fn new_card(name: String, base: &Bundle, report: &Report<'_>, folder: &str, seed: u64) -> Card {
    Card {
        name,
        top1: Some((report.accuracy() * 1e4).round() / 100.0),
        min_confidence: Some(report.threshold() as f32),
        source: format!(
            "last layer fitted by imgcls {} to {} pictures of the folder {folder:?} (seed {seed}) behind the layers \
             of {}; accuracy by {FOLDS}-fold cross-validation",
            env!("CARGO_PKG_VERSION"),
            report.samples.labels.len(),
            base.id()
        ),
        ..base.card.clone()
    }
}

/// The base's weights with another last layer.
fn weights(base: &Bundle, samples: &Samples, fit: &Fit) -> Weights {
    let last = base.card.architecture.network(base.labels.len()).last;
    let array = |tensor: &candle_core::Tensor| {
        let values = tensor.flatten_all().and_then(|values| values.to_vec1::<f32>());
        Array::of_f32(tensor.dims().to_vec(), &values.expect("a bundle's tensors are f32 on the CPU"))
    };
    let mut weights: Weights = base.tensors.iter().map(|(name, tensor)| (name.clone(), array(tensor))).collect();
    let (length, classes) = (samples.length, samples.classes);
    let row = |class: usize| (0..length).map(move |at| fit.layer.weights[at * classes + class] as f32);
    let matrix: Vec<f32> = (0..classes).flat_map(row).collect();
    let bias: Vec<f32> = fit.layer.bias.iter().map(|bias| *bias as f32).collect();
    weights.insert(last.weight(), Array::of_f32(vec![classes, length], &matrix));
    weights.insert(last.bias(), Array::of_f32(vec![classes], &bias));
    weights
}

/// How good the new model is.
struct Report<'a> {
    classes: &'a [String],
    samples: &'a Samples,
    fit: &'a Fit,
    left_out: usize,
}

impl Report<'_> {
    /// The share of pictures whose class was found by a layer that had not seen them.
    fn accuracy(&self) -> f64 {
        let right = self.pairs().filter(|(label, guess)| label == guess).count();
        right as f64 / self.samples.labels.len() as f64
    }

    /// Below this probability an answer is doubtful, in steps of a hundredth: nearly all of the right ones pass it.
    fn threshold(&self) -> f64 {
        let mut right: Vec<f64> = self.confidences(true).collect();
        right.sort_by(f64::total_cmp);
        let least = right.get((right.len() as f64 * (1.0 - PASSING)) as usize);
        least.map_or(0.0, |least| (least.min(MOST_SURE) * 100.0).floor() / 100.0)
    }

    /// The probabilities of the right answers, or of the wrong ones.
    fn confidences(&self, right: bool) -> impl Iterator<Item = f64> {
        let answers = self.pairs().zip(&self.fit.confidences);
        answers.filter(move |((label, guess), _)| (label == guess) == right).map(|(_, confidence)| *confidence)
    }

    /// The share of them that is not doubtful, in words.
    fn passing(&self, right: bool) -> String {
        let all = self.confidences(right).count();
        let pass = self.confidences(right).filter(|confidence| *confidence >= self.threshold()).count();
        format!("{pass} of {all}")
    }

    fn pairs(&self) -> impl Iterator<Item = (usize, usize)> {
        self.samples.labels.iter().copied().zip(self.fit.guesses.iter().copied())
    }

    /// Class, what it was taken for and how often, the worst first.
    fn confusions(&self) -> Vec<(usize, usize, usize)> {
        let mut counts = vec![0; self.classes.len() * self.classes.len()];
        for (label, guess) in self.pairs().filter(|(label, guess)| label != guess) {
            counts[label * self.classes.len() + guess] += 1;
        }
        let mut found: Vec<_> = counts
            .into_iter()
            .enumerate()
            .filter(|(_, count)| *count > 0)
            .map(|(at, count)| (at / self.classes.len(), at % self.classes.len(), count))
            .collect();
        found.sort_by_key(|&(label, guess, count)| (std::cmp::Reverse(count), label, guess));
        found
    }

    fn text(&self, shown: Duration, fitted: Duration) -> String {
        let mut text = String::new();
        let of = |class: usize| self.samples.labels.iter().filter(|label| **label == class).count();
        let lines = [
            (
                "pictures",
                format!("{} in {} classes, {} left out", self.samples.labels.len(), self.classes.len(), self.left_out),
            ),
            ("accuracy", format!("{:.1} % by {FOLDS}-fold cross-validation", self.accuracy() * 100.0)),
            (
                "time",
                format!("{:.1} s for the pictures, {:.2} s for the fit", shown.as_secs_f64(), fitted.as_secs_f64()),
            ),
            ("L2", format!("{:.2e}", self.fit.strength)),
            (
                "unsure",
                format!(
                    "below {:.0} %, which {} right and {} wrong answers pass",
                    self.threshold() * 100.0,
                    self.passing(true),
                    self.passing(false)
                ),
            ),
        ];
        for (key, value) in lines {
            text += &format!("{key:9} {value}\n");
        }
        let confusions = self.confusions();
        if confusions.is_empty() {
            text += "no confusions\n";
        } else {
            text += "worst confusions:\n";
        }
        for (label, guess, count) in confusions.into_iter().take(CONFUSIONS) {
            let (name, other) = (&self.classes[label], &self.classes[guess]);
            writeln!(text, "  {count} of {} {name} taken for {other}", of(label)).expect("text can be written");
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::train::Layer;

    #[test]
    fn what_would_fail_at_the_end_fails_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("pictures");
        std::fs::create_dir(&folder).unwrap();
        std::fs::write(dir.path().join("file"), "").unwrap();
        let checked = |out: &str, name: &str| {
            let checked = check_out(&dir.path().join(out), &folder, name);
            checked.map_err(|error| error.to_string()).err().unwrap_or_default()
        };
        assert_eq!(checked("new/deep", "mine"), "");
        for (out, name, want) in [
            ("new", "", "is empty; choose another with --name"),
            ("new", "a\u{1b}[1m", "control the terminal"),
            ("new", "a\u{202e}b", "turn the order"),
            ("file", "mine", "exists; remove it"),
            ("file/new", "mine", "is no directory"),
            ("pictures/new", "mine", "is in the folder of pictures"),
            ("pictures/a/new", "mine", "is in the folder of pictures"),
        ] {
            assert!(checked(out, name).contains(want), "{out} {name:?}: {}", checked(out, name));
        }
    }

    #[test]
    fn classes_that_are_too_small_are_named() {
        let classes = ["cat".to_owned(), "dog".to_owned(), "owl".to_owned()];
        assert!(check_least(&classes, &[5, 5, 5]).is_ok());
        let error = check_least(&classes, &[0, 5, 4]).unwrap_err().to_string();
        assert_eq!(error, "a class needs 5 pictures at least, but cat has 0, owl has 4");
    }

    #[test]
    fn a_report_has_accuracy_and_the_worst_confusions_first() {
        let classes = ["cat".to_owned(), "dog".to_owned(), "owl".to_owned()];
        let samples = Samples { features: Vec::new(), length: 0, labels: vec![0, 0, 0, 0, 1, 1, 2, 2], classes: 3 };
        let layer = Layer { weights: Vec::new(), bias: Vec::new() };
        let guesses = vec![0, 1, 1, 2, 1, 1, 2, 0];
        let fit = Fit { layer, strength: 0.1, guesses, confidences: vec![0.75, 0.5, 0.3, 0.8, 0.61, 0.9, 0.62, 0.2] };
        let report = Report { classes: &classes, samples: &samples, fit: &fit, left_out: 1 };
        let text = report.text(Duration::from_secs(3), Duration::from_millis(120));
        let want = "pictures  8 in 3 classes, 1 left out\naccuracy  50.0 % by 5-fold cross-validation\n\
                    time      3.0 s for the pictures, 0.12 s for the fit\nL2        1.00e-1\n\
                    unsure    below 61 %, which 4 of 4 right and 1 of 4 wrong answers pass\nworst confusions:\n  \
                    2 of 4 cat taken for dog\n  1 of 4 cat taken for owl\n  1 of 2 owl taken for cat\n";
        assert_eq!(text, want);
    }
}
