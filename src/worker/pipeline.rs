//! The pipeline: receives messages and follows each to its end, with bounds on everything that is held.
//!
//! receive -> fetch -> decode -> network -> publish -> delete. Each message is a task; semaphores bound how many are held, how many
//! are fetched and decoded at a time, and how many bytes of pixels are in memory.

use std::{sync::Arc, time::Duration};

use rand::RngExt;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot},
    time::Instant,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{Instrument, debug, error, info, info_span, warn};

use super::{
    acknowledge,
    batch::{BatchError, Batcher},
    heartbeat::{self, Counters},
    lease::Leases,
    metrics::{Ending, Metrics, Stage},
    protection::Protection,
    publish::{Published, publish},
    turn::Turns,
};
use crate::{
    backend::{Backend, Error, ErrorKind, Instance, Message, Receipt},
    clock::Clock,
    contract::{Classification, ImageName, ObjectEvent, Outcome, event},
    model::{Classifier, DecodeError, Input, Limits},
};

/// A message comes back after 2 s, then twice as long each time, at most this.
const MAX_BACK_OFF: Duration = Duration::from_secs(300);

/// Messages in one receive: as many as SQS gives. A receiver waits for room for all of them, since calls cost money.
const RECEIVE: usize = 10;

/// How long one store call may take before the message is tried again later.
const STORE_TIMEOUT: Duration = Duration::from_secs(60);

/// Time that a stopping worker has to finish what it started.
const DRAIN: Duration = Duration::from_secs(25);

/// What a worker is told.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Its name in heartbeats and rows.
    pub worker: String,
    /// Threads of the network, and as many that decode.
    pub threads: usize,
    /// Most images in one batch.
    pub batch: usize,
    /// Concurrent receivers.
    pub receivers: usize,
    /// Bytes of decoded pixels in memory at a time.
    pub pixel_budget: u64,
    /// Limits for one image.
    pub limits: Limits,
    /// End when the queue is empty.
    pub until_empty: bool,
}

/// What a worker did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Summary {
    /// Images classified.
    pub done: u64,
    /// Images recorded as failed.
    pub failed: u64,
}

/// How a message ends.
#[derive(Debug)]
enum End {
    /// Every store has the result, or there is nothing to do: delete the message.
    Settled,
    /// Show it again after so long: zero hands it back at once.
    Again(Duration),
}

/// Why an image has no result.
#[derive(Debug)]
enum Unfinished {
    /// Not begun: the worker stops.
    Stopping,
    /// Failed this time.
    Failed(String),
}

/// Runs the worker until `stop` is cancelled, or until the queue is empty if so told.
///
/// On `stop`, or when `instance` is about to be taken away, it receives no more, hands back what has not entered the network,
/// finishes the rest, and returns within 25 s. The instance is protected from scale-in while it has work.
///
/// # Errors
/// If its threads cannot be started. Errors of stores never end it.
pub async fn run(
    backend: Backend,
    instance: Arc<dyn Instance>,
    classifier: Arc<Classifier>,
    clock: Arc<dyn Clock>,
    metrics: Arc<Metrics>,
    settings: Settings,
    stop: CancellationToken,
) -> anyhow::Result<Summary> {
    let counters = Arc::new(Counters::new(settings.worker.clone(), Arc::clone(&clock)));
    let leases = Arc::new(Leases::new(Arc::clone(&backend.queue)));
    let decoders =
        rayon::ThreadPoolBuilder::new().num_threads(settings.threads).thread_name(|n| format!("decode-{n}")).build()?;
    let batcher = Batcher::start(
        Arc::clone(&classifier),
        settings.batch,
        stop.clone(),
        Arc::clone(&counters),
        Arc::clone(&metrics),
    )?;
    let (settled, acknowledged) = mpsc::channel(256);
    let background = CancellationToken::new();
    let housekeeping = TaskTracker::new();
    housekeeping.spawn({
        let (leases, stop) = (Arc::clone(&leases), background.clone());
        async move { leases.keep(stop).await }
    });
    let (results, draining, ended) = (Arc::clone(&backend.results), stop.clone(), background.clone());
    housekeeping.spawn(heartbeat::beat(results, Arc::clone(&counters), Arc::clone(&leases), draining, ended));
    let deleting = tokio::spawn(acknowledge::run(
        Arc::clone(&backend.queue),
        Arc::clone(&leases),
        Arc::clone(&metrics),
        acknowledged,
    ));

    let (machine, leaving, ended) = (Arc::clone(&instance), stop.clone(), background.clone());
    housekeeping.spawn(async move {
        tokio::select! {
            () = ended.cancelled() => {}
            reason = machine.leaving() => {
                warn!(reason, "this machine is about to be taken away");
                leaving.cancel();
            }
        }
    });

    let pipeline = Arc::new(Pipeline {
        protection: Protection::new(instance, Arc::clone(&leases)),
        // Enough to fill two batches while every receiver waits, and not more: what is held is kept from other workers.
        held: Arc::new(Semaphore::new(settings.batch * 2 + settings.receivers * RECEIVE)),
        fetching: Semaphore::new(settings.threads * 2 + 4),
        pixels: Semaphore::new(kibibytes(settings.pixel_budget)),
        turns: Arc::default(),
        tasks: TaskTracker::new(),
        backend,
        classifier,
        clock,
        settings,
        stop,
        counters: Arc::clone(&counters),
        metrics,
        leases,
        decoders,
        batcher,
        settled,
    });
    let receivers = TaskTracker::new();
    for _ in 0..pipeline.settings.receivers {
        receivers.spawn(Arc::clone(&pipeline).receive());
    }
    receivers.close();
    pipeline.stop.cancelled().await;
    let deadline = Instant::now() + DRAIN;
    info!(held = pipeline.leases.len(), "draining");
    pipeline.tasks.close();
    let finished = tokio::time::timeout_at(deadline, async {
        receivers.wait().await;
        pipeline.tasks.wait().await;
        drop(pipeline);
        deleting.await
    });
    match finished.await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => error!(%error, "the acknowledging task failed"),
        Err(_) => warn!("not everything could be finished in time; what is left comes back to the queue by itself"),
    }
    background.cancel();
    housekeeping.close();
    // The last heartbeat has its own time-out.
    housekeeping.wait().await;
    let (done, failed) = counters.totals();
    Ok(Summary { done, failed })
}

#[derive(Debug)]
struct Pipeline {
    backend: Backend,
    classifier: Arc<Classifier>,
    clock: Arc<dyn Clock>,
    settings: Settings,
    stop: CancellationToken,
    counters: Arc<Counters>,
    leases: Arc<Leases>,
    decoders: rayon::ThreadPool,
    batcher: Batcher,
    settled: mpsc::Sender<Receipt>,
    protection: Protection,
    held: Arc<Semaphore>,
    fetching: Semaphore,
    pixels: Semaphore,
    turns: Arc<Turns>,
    metrics: Arc<Metrics>,
    tasks: TaskTracker,
}

impl Pipeline {
    async fn receive(self: Arc<Self>) {
        let mut failures = 0;
        while !self.stop.is_cancelled() {
            let Some(room) = self.room().await else { return };
            let wait = self.backend.queue.long_poll();
            let asked = Instant::now();
            // Not cancelled by a stop: its messages would be hidden from everybody for a whole visibility time-out.
            let receive = tokio::time::timeout(wait + STORE_TIMEOUT, self.backend.queue.receive(RECEIVE, wait));
            match self.metrics.time(Stage::Receive, receive).await {
                Ok(Ok(messages)) if messages.is_empty() => {
                    failures = 0;
                    drop(room);
                    self.protection.received_nothing().await;
                    if self.settings.until_empty && self.is_queue_empty().await {
                        info!("the queue is empty");
                        self.stop.cancel();
                    }
                }
                Ok(Ok(messages)) => {
                    failures = 0;
                    self.leases.take(messages.iter().map(|m| &m.receipt), asked);
                    if self.protection.take().await {
                        self.begin(messages, room);
                    } else {
                        self.stop.cancel();
                        for message in &messages {
                            self.metrics.ended(Ending::HandedBack);
                            self.leases.release(&message.receipt, Duration::ZERO).await;
                        }
                    }
                }
                Ok(Err(error)) => {
                    failures += 1;
                    warn!(%error, failures, "cannot receive messages; trying again");
                    self.pause(failures).await;
                }
                Err(_) => {
                    failures += 1;
                    warn!(failures, "receiving messages took too long; trying again");
                    self.pause(failures).await;
                }
            }
        }
    }

    /// Room for the messages of one receive, or `None` at a stop.
    async fn room(&self) -> Option<OwnedSemaphorePermit> {
        let room = async {
            self.turns.calm().await;
            Arc::clone(&self.held).acquire_many_owned(RECEIVE as u32).await.ok()
        };
        tokio::select! {
            () = self.stop.cancelled() => None,
            room = room => room,
        }
    }

    async fn is_queue_empty(&self) -> bool {
        match self.backend.queue.depth().await {
            Ok(depth) => depth.visible == 0 && depth.in_flight == 0 && self.leases.is_empty(),
            Err(error) => {
                warn!(%error, "cannot read the queue's depth");
                false
            }
        }
    }

    async fn pause(&self, failures: u32) {
        let longest = Duration::from_secs(30).min(Duration::from_millis(200) * 2u32.saturating_pow(failures));
        tokio::select! {
            () = self.stop.cancelled() => {}
            () = tokio::time::sleep(jitter(longest)) => {}
        }
    }

    /// Starts a task for each message, those that were received least often first, so that they are not behind one that kills.
    fn begin(self: &Arc<Self>, mut messages: Vec<Message>, mut room: OwnedSemaphorePermit) {
        messages.sort_by_key(|message| message.receive_count);
        for message in messages {
            let (pipeline, permit) = (Arc::clone(self), room.split(1));
            let (suspect, held) = (self.turns.suspect(message.receive_count), self.metrics.hold());
            let span = info_span!("message", id = %message.id, attempt = message.receive_count);
            self.tasks.spawn(
                async move {
                    pipeline.follow(message, suspect.is_some()).await;
                    drop((suspect, held, permit));
                }
                .instrument(span),
            );
        }
    }

    /// One message from its receive to its end.
    async fn follow(&self, message: Message, alone: bool) {
        // Whoever waits for a turn has not begun: a stop must not keep its message behind work that takes long.
        let turn = tokio::select! {
            biased;
            () = self.stop.cancelled() => None,
            turn = self.turns.turn(alone) => Some(turn),
        };
        let end = match &turn {
            Some(_) => self.process(&message).await,
            None => self.hand_back(),
        };
        drop(turn);
        match end {
            End::Settled => {
                if self.settled.send(message.receipt).await.is_err() {
                    warn!("the message is done and cannot be deleted; it will be done again");
                }
            }
            End::Again(delay) => self.leases.release(&message.receipt, delay).await,
        }
    }

    fn hand_back(&self) -> End {
        self.metrics.ended(Ending::HandedBack);
        End::Again(Duration::ZERO)
    }

    fn is_last_receive(&self, message: &Message) -> bool {
        self.backend.queue.max_receives().is_some_and(|most| message.receive_count >= most)
    }

    async fn process(&self, message: &Message) -> End {
        let events = match event::parse(&message.body) {
            Ok(events) => events,
            Err(error) => {
                warn!(%error, "dropping a message that no one can understand");
                self.metrics.ended(Ending::Discarded);
                return End::Settled;
            }
        };
        for event in &events {
            let Some(image) = self.backend.images.image_of(event) else {
                warn!(bucket = event.bucket, key = event.key, "refusing an object that is not ours");
                self.metrics.ended(Ending::Discarded);
                continue;
            };
            let span = info_span!("image", %image);
            let one = async {
                match self.classify(message, event, &image).await {
                    Ok(ending) => {
                        self.metrics.ended(ending);
                        None
                    }
                    Err(Unfinished::Stopping) => Some(self.hand_back()),
                    Err(Unfinished::Failed(reason)) if self.is_last_receive(message) => {
                        Some(self.give_up(message, event, &image, reason).await)
                    }
                    Err(Unfinished::Failed(reason)) => {
                        let delay = back_off(message.receive_count);
                        warn!(reason, again_in_s = delay.as_secs(), "trying again later");
                        self.metrics.ended(Ending::Retried);
                        Some(End::Again(delay))
                    }
                }
            };
            if let Some(end) = one.instrument(span).await {
                return end;
            }
        }
        End::Settled
    }

    /// Classifies one image and publishes the result.
    async fn classify(&self, message: &Message, event: &ObjectEvent, image: &ImageName) -> Result<Ending, Unfinished> {
        let prepared = tokio::select! {
            biased;
            () = self.stop.cancelled() => return Err(Unfinished::Stopping),
            prepared = self.prepare(image) => prepared,
        };
        let outcome = match prepared {
            Ok(input) => match self.batcher.classify(input).await {
                Ok(top) => {
                    Outcome::labelled(top).ok_or_else(|| Unfinished::Failed("the network gave no scores".to_owned()))?
                }
                Err(BatchError::Stopping) => return Err(Unfinished::Stopping),
                Err(error) => return Err(Unfinished::Failed(error.to_string())),
            },
            Err(Failure::Gone) => {
                info!("the image is gone; nothing to do");
                return Ok(Ending::Discarded);
            }
            Err(Failure::Permanent(error)) => {
                info!(error, "the image cannot be classified");
                Outcome::Failed { error }
            }
            Err(Failure::Transient(error)) => return Err(Unfinished::Failed(error)),
        };
        let ending = Ending::from(&outcome);
        match self.store(message, event, image, outcome).await.map_err(Unfinished::Failed)? {
            Published::Stored => Ok(ending),
            Published::Discarded => {
                info!("the image was removed or is newer; the result is discarded");
                Ok(Ending::Discarded)
            }
        }
    }

    /// Fetches and decodes one image.
    async fn prepare(&self, image: &ImageName) -> Result<Input, Failure> {
        let closed = |_| Failure::Transient("the worker stops".to_owned());
        let _fetching = self.fetching.acquire().await.map_err(closed)?;
        let limits = self.settings.limits;
        let stored = self.metrics.time(Stage::Fetch, timed(self.backend.images.get(image, limits.max_bytes))).await?;
        let header = self.classifier.preprocessor().measure(&stored.bytes, &limits)?;
        // Never more than there are permits, so that one huge image can still run alone.
        let most = kibibytes(self.settings.pixel_budget);
        let needed = u32::try_from(kibibytes(header.memory).min(most)).unwrap_or(u32::MAX);
        let _pixels = self.pixels.acquire_many(needed).await.map_err(closed)?;
        let (answer, decoded) = oneshot::channel();
        let (classifier, metrics) = (Arc::clone(&self.classifier), Arc::clone(&self.metrics));
        self.decoders.spawn(move || {
            let started = std::time::Instant::now();
            let input = classifier.preprocessor().prepare(&stored.bytes, &limits);
            metrics.took(Stage::Decode, started);
            // The asker may have been stopped; then nobody wants the answer.
            drop(answer.send(input));
        });
        decoded.await.map_err(|_| Failure::Transient("decoding was interrupted".to_owned()))?.map_err(Failure::from)
    }

    /// Publishes what came of an image.
    ///
    /// # Errors
    /// Why it cannot be published now.
    async fn store(
        &self,
        message: &Message,
        event: &ObjectEvent,
        image: &ImageName,
        outcome: Outcome,
    ) -> Result<Published, String> {
        let millis = i128::from(self.clock.now_ms());
        let result = Classification {
            image: image.clone(),
            outcome,
            location: self.backend.images.location(image),
            model: self.classifier.card().name.clone(),
            worker: self.settings.worker.clone(),
            classified_at: time::OffsetDateTime::from_unix_timestamp_nanos(millis * 1_000_000)
                .unwrap_or(time::OffsetDateTime::UNIX_EPOCH),
            sequencer: event.sequencer.clone(),
            asked_at_ms: message.sent_at_ms,
        };
        match self.metrics.time(Stage::Publish, timed(publish(&self.backend, &result))).await {
            Ok(published) => {
                if published == Published::Stored {
                    debug!(label = result.outcome.label(), "stored");
                    self.counters.stored(&result.outcome);
                }
                Ok(published)
            }
            Err(Failure::Gone) => Ok(Published::Discarded),
            Err(Failure::Permanent(error) | Failure::Transient(error)) => Err(error),
        }
    }

    /// The last receive failed too: the row says so, as well as it can be written, and the message becomes a dead letter.
    async fn give_up(&self, message: &Message, event: &ObjectEvent, image: &ImageName, reason: String) -> End {
        error!(reason, "giving up; the message goes to the dead-letter queue");
        self.metrics.ended(Ending::GaveUp);
        let outcome = Outcome::Failed { error: format!("gave up: {reason}") };
        if let Err(error) = self.store(message, event, image, outcome).await {
            warn!(error, "cannot record that this image was given up");
        }
        // Its next receive would be one too many: shown at once, it goes to the dead-letter queue.
        End::Again(Duration::ZERO)
    }
}

/// Why an image has no input.
#[derive(Debug)]
enum Failure {
    Gone,
    Permanent(String),
    Transient(String),
}

impl From<DecodeError> for Failure {
    fn from(error: DecodeError) -> Self {
        Self::Permanent(error.to_string())
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        match error.kind() {
            ErrorKind::NotFound => Self::Gone,
            ErrorKind::TooLarge => Self::Permanent(error.to_string()),
            ErrorKind::Transient | ErrorKind::Full | ErrorKind::Refused => Self::Transient(error.to_string()),
        }
    }
}

/// A store call with a time-out.
async fn timed<T>(call: impl Future<Output = Result<T, Error>>) -> Result<T, Failure> {
    match tokio::time::timeout(STORE_TIMEOUT, call).await {
        Ok(done) => done.map_err(Failure::from),
        Err(_) => Err(Failure::Transient("a store took too long to answer".to_owned())),
    }
}

/// 2 s, 4 s, 8 s… up to [`MAX_BACK_OFF`], of which between half and all is taken.
fn back_off(receives: u32) -> Duration {
    jitter(MAX_BACK_OFF.min(Duration::from_secs(2u64.saturating_pow(receives))))
}

/// Between half of `longest` and all of it.
fn jitter(longest: Duration) -> Duration {
    longest.mul_f64(rand::rng().random_range(0.5..=1.0))
}

/// Bytes in KiB, rounded up, at least one, at most what a semaphore takes.
fn kibibytes(bytes: u64) -> usize {
    usize::try_from(bytes.div_ceil(1024)).unwrap_or(usize::MAX).clamp(1, Semaphore::MAX_PERMITS.min(u32::MAX as usize))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn back_off_doubles_within_bounds() {
        for receives in 1..40 {
            let longest = MAX_BACK_OFF.min(Duration::from_secs(2u64.saturating_pow(receives)));
            let delay = back_off(receives);
            assert!(delay >= longest / 2 && delay <= longest, "{receives}: {delay:?}");
        }
    }

    #[test]
    fn permits_are_never_zero_or_too_many() {
        assert_eq!(kibibytes(0), 1);
        assert_eq!(kibibytes(1025), 2);
        assert!(kibibytes(u64::MAX) <= Semaphore::MAX_PERMITS);
    }
}
