//! `imgcls classify`: labels files without any service.

use std::{
    collections::BTreeMap,
    io::{self, IsTerminal, Write},
    num::NonZero,
    panic::{AssertUnwindSafe, catch_unwind},
    path::PathBuf,
    process::ExitCode,
    sync::{
        atomic::{AtomicUsize, Ordering},
        mpsc::{self, Receiver, Sender},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow};
use indicatif::{ProgressBar, ProgressStyle};
use parking_lot::{Condvar, Mutex};
use rustix::termios::tcgetwinsize;
use serde::Serialize;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::{
    files::{self, Found, Item},
    table::Table,
};
use crate::{
    backend::host_name,
    config::{
        ByteSize, Classify,
        flags::{Overrides, positive, threads, value_name, whole},
    },
    contract::{Outcome, WorkerId},
    model::{Bundle, Classifier, Detail, Engine, Input, Limits, Parallel, Prediction},
};

/// Most values in the inputs of one batch, 16 MB: of large ones the network takes no more at once.
const MOST_VALUES: usize = 4 << 20;

/// A run that takes longer gets a progress bar.
const PROGRESS_AFTER: Duration = Duration::from_secs(1);

/// Examples of its use.
const EXAMPLES: &str = "Examples:
  imgcls classify photos/                       a table of all pictures in a folder
  imgcls classify --json a.jpg - < b.jpg        one JSON object a line; - is standard input
  imgcls classify --model my-classes new.jpg    with the classes of `imgcls train`";

/// Label image files, without any service.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct ClassifyArgs {
    /// Files, directories (their image files, recursively) or `-` for standard input
    #[arg(required = true, value_name = "PATH")]
    pub paths: Vec<PathBuf>,
    /// Print one JSON object a line instead of a table
    #[arg(long)]
    pub json: bool,
    /// Print what the last layer gets of each image too, the network's features; with --json
    #[arg(long, requires = "json")]
    pub features: bool,
    /// How many labels to tell for each image
    #[arg(long, value_name = "N", default_value = "5", value_parser = positive)]
    pub top: NonZero<usize>,
    /// The model: a name, as `imgcls model list` shows it, or a bundle's directory
    #[arg(long, value_name = "NAME|DIR")]
    pub model: Option<PathBuf>,
    /// What runs the network
    #[arg(long, value_enum)]
    pub engine: Option<Engine>,
    /// Threads; one per core by default
    #[arg(long, value_name = "N", value_parser = threads)]
    pub threads: Option<NonZero<usize>>,
    /// Largest file, such as 33554432 or 32MiB
    #[arg(long, value_name = "BYTES")]
    pub max_bytes: Option<ByteSize>,
    /// Longest side in pixels
    #[arg(long, value_name = "PIXELS", value_parser = whole::<u32>)]
    pub max_side: Option<u32>,
    /// Most pixels of an image
    #[arg(long, value_name = "PIXELS", value_parser = whole::<u64>)]
    pub max_pixels: Option<u64>,
}

impl ClassifyArgs {
    /// The configuration keys that these flags set.
    #[must_use]
    pub fn overrides(&self) -> Overrides {
        let mut keys = Overrides::default();
        keys.set("model", self.model.as_ref().map(|dir| dir.display()));
        keys.set("worker.engine", self.engine.map(value_name));
        keys.set("worker.threads", self.threads);
        keys.set("limits.max_bytes", self.max_bytes);
        keys.set("limits.max_side", self.max_side);
        keys.set("limits.max_pixels", self.max_pixels);
        keys
    }
}

/// Labels the files. Returns failure if some could not be labelled. A reader that closes the output early is no
/// failure.
///
/// # Errors
/// If the model cannot be loaded, or the output fails; failures of files are told in the output.
pub fn run(args: &ClassifyArgs, config: Classify) -> Result<ExitCode> {
    let Classify { model, limits, min_confidence, worker } = config;
    let bundle = Bundle::open(model.as_deref())?;
    let Found { items, passed_over } = files::find(&args.paths);
    files::tell(&passed_over);
    let threads = worker.all_threads().get();
    // Given enough images, a call of its own for each thread beats one call that they share: no thread waits for
    // another.
    let calls = threads.min(items.len()).max(1);
    let parallel = Parallel { calls, threads: threads / calls };
    let classifier = Classifier::new(bundle, worker.engine, parallel)?;
    let min_confidence = min_confidence.resolve(classifier.card().min_confidence);
    let mut printer = Printer::new(&items, &classifier, min_confidence, args.json);
    let mut failed = false;
    let labeller = Labeller {
        classifier: &classifier,
        limits: &limits,
        room: Room::new(worker.pixel_budget),
        top: args.top.get(),
        features: args.features,
        min_confidence,
    };
    let done = label_all(&items, &labeller, calls, worker.batch, |item, answer| {
        failed |= answer.outcome.error().is_some();
        printer.print(item, answer)
    });
    printer.finish();
    done?;
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// Labels the items on `calls` threads and hands their outcomes to `emit` in their order. Each thread decodes a batch,
/// then runs the network on it. Together they are at most two batches a thread ahead of what has been emitted, whatever
/// the number of items.
fn label_all(
    items: &[Item],
    labeller: &Labeller<'_>,
    calls: usize,
    batch: usize,
    mut emit: impl FnMut(&Item, &Answer) -> Result<()>,
) -> Result<()> {
    let batch = batch.min(MOST_VALUES / labeller.classifier.preprocessor().input_len()).max(1);
    // As equal as can be, so that all threads end together.
    let rounds = items.len().div_ceil(batch * calls).max(1);
    let batch = items.len().div_ceil(rounds * calls).max(1);
    let next = AtomicUsize::new(0);
    let (permit, permits) = mpsc::sync_channel(2 * calls);
    let permits = Mutex::new(permits);
    let (done, results) = mpsc::channel();
    thread::scope(|scope| {
        // Owned here, so that an early return closes both channels and the threads end.
        let (permit, results) = (permit, results);
        for _ in 0..2 * calls {
            permit.send(()).context("the permits are gone")?;
        }
        for _ in 0..calls {
            let done = done.clone();
            let (permits, next) = (&permits, &next);
            scope.spawn(move || label_batches(items, batch, labeller, permits, next, &done));
        }
        drop(done);

        let mut ready = BTreeMap::new();
        for (at, items) in items.chunks(batch).enumerate() {
            let outcomes = loop {
                if let Some(outcomes) = ready.remove(&at) {
                    break outcomes?;
                }
                let (index, outcomes) = results.recv().context("a thread ended early")?;
                ready.insert(index, outcomes);
            };
            for (item, outcome) in items.iter().zip(&outcomes) {
                emit(item, outcome)?;
            }
            // Threads that have seen the last batch take no more permits.
            permit.try_send(()).ok();
        }
        Ok(())
    })
}

/// Takes batch after batch until there are no more. The permit comes first: the lowest batch that is not emitted always
/// has one.
fn label_batches(
    items: &[Item],
    batch: usize,
    labeller: &Labeller<'_>,
    permits: &Mutex<Receiver<()>>,
    next: &AtomicUsize,
    done: &Sender<(usize, Result<Vec<Answer>>)>,
) {
    while next.load(Ordering::Relaxed) < items.len().div_ceil(batch) {
        let permit = permits.lock().recv();
        let at = next.fetch_add(1, Ordering::Relaxed);
        let (Ok(()), Some(items)) = (permit, items.chunks(batch).nth(at)) else { return };
        // Otherwise a panic would take the permit along, and all would wait for this batch.
        let outcomes = catch_unwind(AssertUnwindSafe(|| labeller.label(items)))
            .unwrap_or_else(|_| Err(anyhow!("a thread panicked on a batch from {} on", items[0].path().display())));
        if done.send((at, outcomes)).is_err() {
            return;
        }
    }
}

/// What makes labels of items.
struct Labeller<'a> {
    classifier: &'a Classifier,
    limits: &'a Limits,
    room: Room,
    top: usize,
    features: bool,
    min_confidence: f32,
}

/// What there is to say of an item.
struct Answer {
    outcome: Outcome,
    /// Where they are wanted, and the image could be read.
    features: Option<Vec<f32>>,
}

impl Labeller<'_> {
    /// Answers to the items, in their order.
    fn label(&self, items: &[Item]) -> Result<Vec<Answer>> {
        let mut looks = self.look(items, Detail::Enough)?;
        let wants_detail =
            |look: &Result<Prediction, String>| look.as_ref().is_ok_and(|prediction| prediction.wants_detail);
        let close: Vec<_> = items.iter().zip(&mut looks).filter(|(_, look)| wants_detail(look)).collect();
        let again = self.look(close.iter().map(|(item, _)| *item), Detail::Full)?;
        for ((_, look), again) in close.into_iter().zip(again) {
            // Of a file that has gone since, the first look counts.
            if again.is_ok() {
                *look = again;
            }
        }
        looks.into_iter().map(|look| self.answer(look)).collect()
    }

    /// Runs the items through the network, all at once. An item that is no input for it has the reason.
    fn look<'a>(
        &self,
        items: impl IntoIterator<Item = &'a Item>,
        detail: Detail,
    ) -> Result<Vec<Result<Prediction, String>>> {
        let mut inputs = Vec::new();
        let prepare = |item| self.prepare(item, detail).map(|input| inputs.push(input));
        let prepared: Vec<Result<(), String>> = items.into_iter().map(prepare).collect();
        let mut predictions = self.classifier.classify(&inputs, self.top)?.into_iter();
        let look = |prepared: Result<(), String>| match prepared {
            Ok(()) => predictions.next().context("an input has no result").map(Ok),
            Err(error) => Ok(Err(error)),
        };
        prepared.into_iter().map(look).collect()
    }

    fn answer(&self, look: Result<Prediction, String>) -> Result<Answer> {
        match look {
            Ok(Prediction { scores, features, .. }) => {
                let outcome = Outcome::labelled(scores).context("the model has no labels")?;
                let outcome = outcome.doubted_below(self.min_confidence);
                Ok(Answer { outcome, features: self.features.then_some(features) })
            }
            Err(error) => Ok(Answer { outcome: Outcome::Failed { error }, features: None }),
        }
    }

    /// Reads a file and decodes it, once there is room for what that takes.
    fn prepare(&self, item: &Item, detail: Detail) -> Result<Input, String> {
        let bytes = item.read(self.limits.max_bytes)?;
        let preprocessor = self.classifier.preprocessor();
        let header = preprocessor.measure(&bytes, self.limits, detail).map_err(|e| e.to_string())?;
        let _taken = self.room.take(header.memory);
        preprocessor.prepare(&bytes, self.limits, detail).map_err(|e| e.to_string())
    }
}

/// Memory that pictures take while they are decoded, for all threads together.
struct Room {
    all: u64,
    free: Mutex<u64>,
    given_back: Condvar,
    /// Who is next: others wait behind it, or a large picture would wait until no small ones come.
    turn: Mutex<()>,
}

impl Room {
    const fn new(bytes: u64) -> Self {
        Self { all: bytes, free: Mutex::new(bytes), given_back: Condvar::new(), turn: Mutex::new(()) }
    }

    /// Waits until so many bytes are free, and takes them. A picture that takes more than all of them is decoded alone.
    fn take(&self, bytes: u64) -> Taken<'_> {
        let bytes = bytes.min(self.all);
        let _turn = self.turn.lock();
        let mut free = self.free.lock();
        self.given_back.wait_while(&mut free, |free| *free < bytes);
        *free -= bytes;
        Taken { room: self, bytes }
    }
}

/// A part of the room, until it is dropped.
struct Taken<'a> {
    room: &'a Room,
    bytes: u64,
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        *self.room.free.lock() += self.bytes;
        // Only who is next waits for it.
        self.room.given_back.notify_one();
    }
}

/// A line of `--json`.
#[derive(Serialize)]
struct Line<'a> {
    image: &'a str,
    #[serde(flatten)]
    outcome: &'a Outcome,
    location: &'a str,
    model: &'a str,
    worker: &'a WorkerId,
    classified_at: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    features: Option<&'a [f32]>,
}

/// Writes outcomes as they come, and a progress bar on a terminal if it takes long.
struct Printer {
    json: bool,
    model: String,
    worker: WorkerId,
    table: Table,
    total: u64,
    done: u64,
    started: Instant,
    bar: Option<ProgressBar>,
}

impl Printer {
    fn new(items: &[Item], classifier: &Classifier, min_confidence: f32, json: bool) -> Self {
        let width = tcgetwinsize(io::stdout()).ok().map(|size| usize::from(size.ws_col)).filter(|width| *width > 0);
        let paths = items.iter().map(Item::path);
        Self {
            json,
            model: classifier.id().to_owned(),
            worker: WorkerId::new(&host_name(), std::process::id()),
            table: Table::new(paths, classifier.labels(), min_confidence > 0.0, width),
            total: items.len() as u64,
            done: 0,
            started: Instant::now(),
            bar: None,
        }
    }

    fn print(&mut self, item: &Item, answer: &Answer) -> Result<()> {
        let mut line =
            if self.json { self.json_line(item, answer)? } else { self.table.row(item.path(), &answer.outcome) };
        if self.done == 0 && !self.json {
            line.insert_str(0, &self.table.header().unwrap_or_default());
        }
        let write = || {
            let mut out = io::stdout().lock();
            out.write_all(line.as_bytes()).and_then(|()| out.flush())
        };
        self.done += 1;
        if self.bar.is_none() && io::stderr().is_terminal() && self.started.elapsed() > PROGRESS_AFTER {
            let style = ProgressStyle::with_template("{bar:40} {pos}/{len}  {per_sec}  {eta} left");
            self.bar =
                Some(ProgressBar::new(self.total).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar())));
        }
        match &self.bar {
            Some(bar) => {
                bar.set_position(self.done);
                bar.suspend(write)?;
            }
            None => write()?,
        }
        Ok(())
    }

    fn json_line(&self, item: &Item, answer: &Answer) -> Result<String> {
        let path = item.path().to_string_lossy();
        let location = if item.is_stdin() {
            "-".to_owned()
        } else {
            let absolute = std::path::absolute(item.path()).unwrap_or_else(|_| item.path().to_owned());
            absolute.to_string_lossy().into_owned()
        };
        let now = OffsetDateTime::now_utc();
        let line = Line {
            image: &path,
            outcome: &answer.outcome,
            location: &location,
            model: &self.model,
            worker: &self.worker,
            classified_at: now.replace_nanosecond(0).unwrap_or(now).format(&Rfc3339)?,
            features: answer.features.as_deref(),
        };
        Ok(serde_json::to_string(&line)? + "\n")
    }

    fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::undecided;

    /// Whether they are named or piped.
    #[test]
    fn close_calls_are_decided_in_full_detail() {
        let classifier = Classifier::new(Bundle::embedded().unwrap(), Engine::default(), Parallel::one(1)).unwrap();
        let limits = Limits::default();
        let room = Room::new(1 << 20);
        let labeller =
            Labeller { classifier: &classifier, limits: &limits, room, top: 1, features: true, min_confidence: 0.0 };
        let dir = tempfile::tempdir().unwrap();
        for (n, (bytes, label)) in undecided().iter().enumerate() {
            let path = dir.path().join(format!("{n}.jpg"));
            if n % 2 == 0 {
                std::fs::write(&path, bytes).unwrap();
            } else {
                let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
                rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, mode, 0).unwrap();
                let path = path.clone();
                thread::spawn(move || std::fs::write(path, bytes).unwrap());
            }
            let items = files::find(&[path]).items;
            let [Answer { outcome: Outcome::Labelled { label: found, top, .. }, features: Some(features) }] =
                &labeller.label(&items).unwrap()[..]
            else {
                panic!("no label")
            };
            assert_eq!((found, top.len()), (label, 1));
            let input = classifier.preprocessor().prepare(bytes, &limits, Detail::Full).unwrap();
            assert_eq!(features, &classifier.outputs(&[input]).unwrap().features);
        }
    }

    #[test]
    fn pictures_take_no_more_room_than_there_is() {
        let room = Room::new(100);
        let (now, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
        thread::scope(|scope| {
            for n in 0..8 {
                let (room, now, most) = (&room, &now, &most);
                scope.spawn(move || {
                    for bytes in [30 + n, 10, 100, 1000, 0] {
                        let _taken = room.take(bytes);
                        let taken = bytes.min(100) as usize;
                        most.fetch_max(now.fetch_add(taken, Ordering::SeqCst) + taken, Ordering::SeqCst);
                        thread::yield_now();
                        now.fetch_sub(taken, Ordering::SeqCst);
                    }
                });
            }
        });
        assert!(most.into_inner() <= 100);
        assert_eq!(*room.free.lock(), 100);
    }

    #[test]
    fn a_panic_gives_its_room_back() {
        let room = Room::new(100);
        let panicked = catch_unwind(AssertUnwindSafe(|| {
            let _taken = room.take(200);
            panic!("a picture's");
        }));
        assert!(panicked.is_err());
        assert_eq!(*room.free.lock(), 100);
    }
}
