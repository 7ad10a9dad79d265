//! `imgcls model`: the models that are there, or can be had.

use std::{
    fmt::Write as _,
    io::Write as _,
    path::{Path, PathBuf},
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use clap::{Args, Subcommand};
use indicatif::{ProgressBar, ProgressStyle};
use tracing::warn;

use super::{UsageError, signals::stop_token};
use crate::config::{Raw, flags::whole};
use crate::model::{
    Architecture, Bundle,
    catalogue::{self, Known, Source},
    import,
    layout::{self, Card, Preprocess},
    pull::{self, Held, Patience, Settings},
    shelf::{self, Place, ShelfError},
};

/// How long to try until the first byte of a file comes, and of pip, which takes longer to start, where a better model
/// would be nice and another will do.
const LITTLE_PATIENCE: [Duration; 2] = [Duration::from_millis(1800), Duration::from_millis(2800)];
/// How long after the start the first byte of the last file that is tried must have come.
const FIRST_BYTES: Duration = Duration::from_secs(5);
/// How long it may take altogether then, whatever is tried. What has come by that time is kept for `imgcls model pull`.
const LONGEST_START: Duration = Duration::from_secs(60);
/// Bytes that must come in so long then; and after so long it is given up, if the rest would not come in
/// [`LONGEST_START`].
const LEAST_OF_START: (u64, Duration) = (128 << 10, Duration::from_millis(1500));
/// After a try in vain to get a better model, for how long there is no other.
const NEXT_TRY: Duration = Duration::from_secs(24 * 3600);
/// File in the cache whose time says when the last try was in vain.
const IN_VAIN: &str = ".no-better-model";

/// Lists, fetches, makes and shows models.
#[derive(Debug, Args)]
pub struct ModelArgs {
    #[command(subcommand)]
    command: ModelCommand,
}

#[derive(Debug, Subcommand)]
enum ModelCommand {
    /// Lists the built-in model, those in the cache and those that can be fetched.
    List,
    /// Fetches a known model into the cache.
    Pull {
        /// The name, as `imgcls model list` shows it.
        name: String,
    },
    /// Prints the name of the model to run: the configured one, else the best known that can be had at once, which it
    /// fetches, else the built-in one.
    Best,
    /// Makes a bundle of weights from elsewhere.
    Import(Box<ImportArgs>),
    /// Shows what a model is.
    Show {
        /// A name, or a bundle's directory.
        #[arg(value_name = "NAME|DIR")]
        model: PathBuf,
        /// Print its labels instead, one a line.
        #[arg(long)]
        labels: bool,
    },
}

#[derive(Debug, Args)]
struct ImportArgs {
    /// The weights: a .pth file of PyTorch (a state dict) or safetensors.
    #[arg(long, value_name = "FILE")]
    weights: PathBuf,
    /// The labels, one a line, in the order of the last layer's rows.
    #[arg(long, value_name = "FILE")]
    labels: PathBuf,
    /// The network.
    #[arg(long, value_name = "NAME", value_parser = architecture)]
    architecture: Architecture,
    /// Directory to make.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Name of the model; that of the directory by default.
    #[arg(long)]
    name: Option<String>,
    /// Side of the square that the network sees, in pixels; 224 by default.
    #[arg(long, value_name = "PIXELS", value_parser = whole::<u32>)]
    input: Option<u32>,
    /// The shorter side after the resize, in pixels; 8/7 of the input by default.
    #[arg(long, value_name = "PIXELS", value_parser = whole::<u32>)]
    resize: Option<u32>,
    /// Mean of red, green and blue on values in 0..1; by default what the architecture's ImageNet weights need.
    #[arg(long, value_name = "R,G,B", value_parser = three)]
    mean: Option<[f32; 3]>,
    /// Standard deviation of red, green and blue; as for `--mean`.
    #[arg(long, value_name = "R,G,B", value_parser = three)]
    std: Option<[f32; 3]>,
    /// Pictures go to the network as they are: any size, values in 0..1, not normalised; slower.
    #[arg(long, conflicts_with_all = ["input", "resize", "mean", "std"])]
    raw: bool,
    /// Where the weights come from; their file by default.
    #[arg(long, value_name = "TEXT")]
    source: Option<String>,
    /// Their licence, an SPDX expression.
    #[arg(long, value_name = "SPDX", default_value = "NOASSERTION")]
    licence: String,
}

/// Runs the command.
///
/// # Errors
/// If a model cannot be found, fetched, read or written.
pub async fn run(args: ModelArgs, config: Raw) -> anyhow::Result<ExitCode> {
    let mirror = config.model_mirror.expose();
    let mut out = std::io::stdout();
    match args.command {
        ModelCommand::List => write!(out, "{}", list()?)?,
        ModelCommand::Pull { name } => {
            let known = catalogue::find(&name).ok_or(ShelfError::Unknown(name))?;
            let dir = until_stopped(fetch(known, mirror, Patience::LONG)).await??;
            writeln!(out, "{} is in {}", known.name, dir.display())?;
        }
        ModelCommand::Best => match config.model() {
            Some(model) => {
                eprintln!("model {}, as it is configured", model.display());
                writeln!(out, "{}", model.display())?;
            }
            None => writeln!(out, "{}", until_stopped(best(mirror)).await?)?,
        },
        ModelCommand::Import(args) => {
            let card = make(&args)?;
            let dir = shelf::as_path(&args.out);
            writeln!(out, "{} is in {}; use it with --model {1}", card.name, dir.display())?;
        }
        ModelCommand::Show { model, labels } => {
            let place = shelf::find(&model)?;
            let bundle = Bundle::open(Some(&model))?;
            let text = if labels { bundle.labels.join("\n") + "\n" } else { shown(&bundle, &place) };
            write!(out, "{text}")?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Runs to the end, or to a signal that asks to stop: what was begun, such as pip, then ends with it.
async fn until_stopped<T>(work: impl Future<Output = T>) -> anyhow::Result<T> {
    let stop = stop_token()?;
    tokio::select! {
        ended = work => Ok(ended),
        () = stop.cancelled() => bail!("it was stopped; what has come of a file is kept for a later try"),
    }
}

/// Reads the name of an architecture.
fn architecture(text: &str) -> Result<Architecture, String> {
    let names = || Architecture::ALL.map(Architecture::name).join(", ");
    let found = Architecture::ALL.into_iter().find(|architecture| architecture.name() == text);
    found.ok_or_else(|| format!("there is no architecture of that name; {} are known", names()))
}

/// Reads three numbers.
fn three(text: &str) -> Result<[f32; 3], String> {
    let numbers: Option<Vec<f32>> = text.split(',').map(|number| number.trim().parse().ok()).collect();
    numbers
        .and_then(|numbers| numbers.try_into().ok())
        .ok_or_else(|| "must be three numbers, such as 0.5,0.5,0.5".into())
}

/// Fetches a model with a progress bar.
async fn fetch(known: &Known, mirror: &str, patience: Patience) -> anyhow::Result<PathBuf> {
    let cache = shelf::cache()?;
    // Draws nothing unless standard error is a terminal.
    let bar = ProgressBar::new(known.source.bytes());
    let style = ProgressStyle::with_template("{msg} {bar:40} {bytes}/{total_bytes}  {bytes_per_sec}  {eta} left");
    let bar = bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar())).with_message(known.name);
    let settings = Settings { cache: &cache, mirror, patience };
    let pulled = pull::pull(known, settings, |bytes| bar.set_position(bytes)).await;
    bar.finish_and_clear();
    Ok(pulled?)
}

/// The name of the best model that can be had, with a line on standard error that says why it is this one.
async fn best(mirror: &str) -> &'static str {
    let in_vain = shelf::cache().ok().map(|cache| cache.join(IN_VAIN));
    let tried = in_vain.as_ref().and_then(|path| path.metadata().ok()?.modified().ok()?.elapsed().ok());
    let may_try = tried.is_none_or(|ago| ago > NEXT_TRY);
    let started = Instant::now();
    let (mut reasons, mut failed) = (Vec::new(), false);
    let mut best = None;
    for known in const { &catalogue::ALL } {
        let why_not = match look(known) {
            Ok(Held::Whole) => Ok(()),
            Ok(_) if may_try => fetch_soon(known, mirror, started.elapsed()).await.inspect_err(|_| failed = true),
            Ok(Held::Nothing) => continue,
            Ok(Held::Damaged(_)) => {
                let text =
                    format!("what is in the cache is damaged; `imgcls model pull {}` fetches it again", known.name);
                Err(anyhow::Error::msg(text))
            }
            Err(error) => Err(error),
        };
        match why_not {
            Ok(()) => {
                best = Some(known);
                break;
            }
            // What failed and why; the causes of the cause make a line that nobody reads.
            Err(error) => {
                let causes: Vec<String> = error.chain().take(2).map(ToString::to_string).collect();
                reasons.push(format!("no {}: {}", known.name, causes.join(": ")));
            }
        }
    }
    if failed {
        in_vain.iter().for_each(|path| note(path));
    } else if best.is_none() && !may_try {
        reasons.push("the last try for a better one was in vain; `imgcls model pull` tries again".to_owned());
    }
    let what = best.map_or_else(
        || "the built-in one".to_owned(),
        |known| format!("{:.1} % of ImageNet's pictures, 1000 classes", known.top1),
    );
    let name = best.map_or(Bundle::EMBEDDED_NAME, |known| known.name);
    eprintln!("model {name}, {what}{}{}", if reasons.is_empty() { "" } else { ": " }, reasons.join("; "));
    name
}

/// Whether a known model is there, so that it can be run.
fn look(known: &Known) -> anyhow::Result<Held> {
    if known.name == Bundle::EMBEDDED_NAME {
        return Ok(Held::Whole);
    }
    // Without a cache there is nothing in it, and fetching says why.
    Ok(shelf::cache().map_or(Ok(Held::Nothing), |cache| pull::held(known, &cache))?)
}

/// Fetches a better model for a start that has taken so long already.
async fn fetch_soon(known: &Known, mirror: &str, taken: Duration) -> anyhow::Result<()> {
    let patience = little_patience(&known.source, taken).context("no time is left for another try")?;
    fetch(known, mirror, patience).await.map(drop)
}

/// When a start with a better model, which has taken so long already, gives up; `None` if at once.
fn little_patience(source: &Source, taken: Duration) -> Option<Patience> {
    let [of_file, of_pip] = LITTLE_PATIENCE;
    let usual = if matches!(source, Source::Url { .. }) { of_file } else { of_pip };
    let first = FIRST_BYTES.checked_sub(taken).filter(|left| !left.is_zero())?.min(usual);
    Some(Patience { first, whole: LONGEST_START.checked_sub(taken)?, least: LEAST_OF_START, tries: 2 })
}

/// Notes that there was a try in vain, so that the next start does not wait for another.
fn note(path: &Path) {
    let written = path.parent().map_or(Ok(()), std::fs::create_dir_all).and_then(|()| std::fs::write(path, ""));
    if let Err(error) = written {
        warn!(%error, path = %path.display(), "cannot note that no better model can be had");
    }
}

/// Makes a bundle of foreign weights.
fn make(args: &ImportArgs) -> anyhow::Result<Card> {
    let usual = catalogue::usual_card(args.architecture);
    let input = args.input.unwrap_or(usual.input);
    let name = match &args.name {
        Some(name) => name.clone(),
        None => args.out.file_name().unwrap_or_default().to_string_lossy().into_owned(),
    };
    if let Some(reason) = layout::refused_name(&name) {
        return Err(UsageError(format!("the name {name:?} {reason}; choose another with --name")).into());
    }
    let file = args.weights.file_name().unwrap_or_default().to_string_lossy();
    let card = Card {
        name,
        input,
        resize: args.resize.unwrap_or(input * usual.resize / usual.input),
        mean: args.mean.unwrap_or(usual.mean),
        std: args.std.unwrap_or(usual.std),
        source: args.source.clone().unwrap_or_else(|| format!("imported from {file}")),
        licence: args.licence.clone(),
        ..usual
    };
    let card = if args.raw { raw(card) } else { card };
    let labels = import::read_labels(&args.labels)?;
    let weights = import::read_weights(&args.weights)?;
    import::write_bundle(card, &labels, &weights, &[], &args.out)
        .map_err(|error| error.of_files(&args.weights, &args.labels))
        .with_context(|| format!("cannot import {}", args.weights.display()))
}

/// The card of a network that sees pictures as they are.
fn raw(card: Card) -> Card {
    Card { preprocess: Preprocess::Raw, mean: [0.0; 3], std: [1.0; 3], ..card }
}

/// A line of `imgcls model list`.
struct Row {
    name: String,
    state: &'static str,
    architecture: &'static str,
    classes: String,
    top1: Option<f64>,
    bytes: u64,
    licence: String,
}

impl Row {
    fn of_bundle(state: &'static str, name: String, card: &Card, classes: usize, bytes: u64) -> Self {
        let Card { architecture, top1, licence, .. } = card;
        let (architecture, classes) = (architecture.name(), classes.to_string());
        Self { name, state, architecture, classes, top1: *top1, bytes, licence: licence.clone() }
    }

    /// A bundle in the cache. All of it is read: one that does not load is told as such.
    fn of_dir(name: String, dir: &Path) -> Self {
        let bytes = dir.join(layout::WEIGHTS).metadata().map_or(0, |file| file.len());
        match Bundle::check(dir) {
            Ok((card, classes)) => Self::of_bundle("in the cache", name, &card, classes, bytes),
            Err(error) => {
                let again = match catalogue::find(&name) {
                    Some(_) => format!("`imgcls model pull {name}` fetches it again"),
                    None => "make it again, or remove it".to_owned(),
                };
                warn!("the model {name} is damaged; {again}: {:#}", anyhow::Error::new(error));
                let (classes, licence) = ("-".to_owned(), "-".to_owned());
                Self { name, state: "damaged", architecture: "-", classes, top1: None, bytes, licence }
            }
        }
    }

    fn of_known(known: &Known) -> Self {
        Self {
            name: known.name.to_owned(),
            state: "to be pulled",
            architecture: known.architecture.name(),
            classes: "1000".to_owned(),
            top1: Some(known.top1),
            bytes: known.source.bytes(),
            licence: known.licence.to_owned(),
        }
    }
}

/// All models as a table.
fn list() -> anyhow::Result<String> {
    let embedded = Bundle::embedded()?;
    let (name, card) = (embedded.card.name.clone(), &embedded.card);
    let mut rows = vec![Row::of_bundle("built in", name, card, embedded.labels.len(), Bundle::EMBEDDED_BYTES)];
    rows.extend(shelf::cached().into_iter().map(|(name, dir)| Row::of_dir(name, &dir)));
    let is_new = |known: &&Known| rows.iter().all(|row| row.name != known.name);
    let known: Vec<Row> = catalogue::ALL.iter().filter(is_new).map(Row::of_known).collect();
    rows.extend(known);

    let width = rows.iter().map(|row| row.name.len()).max().unwrap_or(0).max("name".len());
    let mut text = format!(
        "{:width$}  {:12}  {:18}  {:>7}  {:>6}  {:>7}  licence\n",
        "name", "where", "architecture", "classes", "top-1", "size"
    );
    for Row { name, state, architecture, classes, top1, bytes, licence } in rows {
        let top1 = top1.map_or_else(|| "-".to_owned(), |top1| format!("{top1:.1} %"));
        let size = format!("{:.1} MB", bytes as f64 / 1e6);
        writeln!(text, "{name:width$}  {state:12}  {architecture:18}  {classes:>7}  {top1:>6}  {size:>7}  {licence}")?;
    }
    Ok(text)
}

/// A model for people.
fn shown(bundle: &Bundle, place: &Place) -> String {
    let Card {
        name,
        architecture,
        preprocess,
        input,
        resize,
        mean,
        std,
        sha256,
        top1,
        min_confidence,
        source,
        licence,
    } = &bundle.card;
    let place = match place {
        Place::Embedded => "built in".to_owned(),
        Place::Dir(dir) => dir.display().to_string(),
    };
    let or_none = |value: Option<String>| value.unwrap_or_else(|| "-".to_owned());
    let shown_input = match preprocess {
        Preprocess::Square => format!("{input} x {input} pixels, the centre of {resize}"),
        Preprocess::Raw => "the picture as it is, not normalised".to_owned(),
    };
    let rows = [
        ("name", name.clone()),
        ("where", place),
        ("in results", bundle.id()),
        ("architecture", architecture.name().to_owned()),
        ("classes", bundle.labels.len().to_string()),
        ("top-1", or_none(top1.map(|top1| format!("{top1} %")))),
        ("unsure below", or_none(min_confidence.map(|least| format!("{:.0} %", least * 100.0)))),
        ("input", shown_input),
        ("mean", format!("{mean:?}")),
        ("std", format!("{std:?}")),
        ("SHA-256", sha256.clone()),
        ("source", source.clone()),
        ("licence", licence.clone()),
    ];
    rows.iter().map(|(key, value)| format!("{key:12}  {value}\n")).collect()
}

#[cfg(test)]
#[path = "model_tests.rs"]
mod tests;
