//! The pipeline: receives messages and follows each to its end, with bounds on everything that is held.
//!
//! receive -> fetch -> decode -> network -> publish -> delete. Each message is a task; a semaphore bounds how many are
//! held, and the intake what they take.

use std::{sync::Arc, time::Duration};

use time::OffsetDateTime;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    time::Instant,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{Instrument, debug, error, info, info_span, warn};

use super::{
    batch::Batcher,
    fate::{Disposal, Fate},
    heartbeat::Counters,
    intake::{Intake, Prepared},
    lease::Leases,
    metrics::{Metrics, Stage},
    protection::Protection,
    publish::{publish, sweep},
    settings::Settings,
    turn::Turns,
};
use crate::{
    backend::{Backend, Message, Receipt, Retry, within},
    clock::Clock,
    contract::{Classification, ImageName, ObjectEvent, Outcome, Sequencer, event},
    model::{Classifier, Detail, Prediction},
};

/// Messages in one receive: as many as SQS gives. A receiver waits for room for all of them, since calls cost money.
pub(super) const RECEIVE: usize = 10;

/// How long one store call may take before the message is tried again later.
pub(super) const STORE_TIMEOUT: Duration = Duration::from_secs(60);

/// How long a receiver waits after failures; it never gives up.
const RECEIVE_RETRY: Retry =
    Retry { attempts: u32::MAX, first: Duration::from_millis(400), longest: Duration::from_secs(30) };

/// What the tasks of a worker share.
#[derive(Debug)]
pub(super) struct Pipeline {
    pub(super) backend: Backend,
    pub(super) classifier: Arc<Classifier>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) settings: Settings,
    pub(super) stop: CancellationToken,
    pub(super) counters: Arc<Counters>,
    pub(super) leases: Arc<Leases>,
    pub(super) intake: Intake,
    pub(super) batcher: Batcher,
    pub(super) settled: mpsc::Sender<Receipt>,
    pub(super) protection: Protection,
    /// Room for messages that are held.
    pub(super) held: Arc<Semaphore>,
    pub(super) turns: Arc<Turns>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) tasks: TaskTracker,
}

/// A message and one image that it asks for.
struct Task<'a> {
    message: &'a Message,
    event: &'a ObjectEvent,
    image: ImageName,
}

/// A look at an image.
struct Look {
    /// What the network says, or why the image is no input for it.
    prediction: Result<Prediction, String>,
    /// What the store knows of the bytes that were looked at.
    image_sequencer: Option<Sequencer>,
}

/// What is known of an image.
struct Finding {
    outcome: Outcome,
    /// What the store knows of the bytes that were looked at.
    image_sequencer: Option<Sequencer>,
}

impl Pipeline {
    /// Receives messages until the stop.
    pub(super) async fn receive(self: Arc<Self>) {
        let mut failures = 0;
        while !self.stop.is_cancelled() {
            let Some(room) = self.room().await else { return };
            let wait = self.backend.queue.policy().long_poll;
            let asked = Instant::now();
            // Not cancelled by a stop: its messages would be hidden from everybody for a whole visibility time-out.
            let receive = within(wait + STORE_TIMEOUT, self.backend.queue.receive(RECEIVE, wait));
            match self.metrics.time(Stage::Receive, receive).await {
                Ok(messages) if messages.is_empty() => {
                    failures = 0;
                    drop(room);
                    self.received_nothing().await;
                }
                Ok(messages) => {
                    failures = 0;
                    self.leases.take(messages.iter().map(|m| &m.receipt), asked);
                    self.received(messages, room).await;
                }
                Err(error) => {
                    failures += 1;
                    warn!(%error, failures, "cannot receive messages; trying again");
                    tokio::select! {
                        () = self.stop.cancelled() => {}
                        () = tokio::time::sleep(RECEIVE_RETRY.pause(failures)) => {}
                    }
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

    async fn received_nothing(&self) {
        self.protection.received_nothing().await;
        if self.settings.until_empty && self.is_queue_empty().await {
            info!("the queue is empty");
            self.stop.cancel();
        }
    }

    async fn is_queue_empty(&self) -> bool {
        match within(STORE_TIMEOUT, self.backend.queue.depth()).await {
            Ok(depth) => depth.visible == 0 && depth.in_flight == 0 && self.leases.is_empty(),
            Err(error) => {
                warn!(%error, "cannot read the queue's depth");
                false
            }
        }
    }

    /// Begins with the messages, whose leases are taken, unless the machine may be taken away at any time.
    async fn received(self: &Arc<Self>, messages: Vec<Message>, room: OwnedSemaphorePermit) {
        if self.protection.take().await {
            return self.begin(messages, room);
        }
        self.stop.cancel();
        for message in &messages {
            self.metrics.ended(&Fate::HandedBack);
            self.leases.release(&message.receipt, Duration::ZERO).await;
        }
    }

    /// Starts a task for each message, those that were received least often first, so that they are not behind one that
    /// kills.
    fn begin(self: &Arc<Self>, mut messages: Vec<Message>, mut room: OwnedSemaphorePermit) {
        messages.sort_by_key(|message| message.receive_count);
        for message in messages {
            let (pipeline, permit) = (Arc::clone(self), room.split(1));
            let suspect = self.turns.suspect(message.receive_count);
            let held = (self.metrics.hold(), self.counters.hold());
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
        let disposal = if turn.is_some() {
            self.process(&message).await
        } else {
            self.metrics.ended(&Fate::HandedBack);
            Disposal::Show(Duration::ZERO)
        };
        drop(turn);
        match disposal {
            Disposal::Delete => {
                if self.settled.send(message.receipt).await.is_err() {
                    warn!("the message is done and cannot be deleted; it will be done again");
                }
            }
            Disposal::Show(delay) => self.leases.release(&message.receipt, delay).await,
        }
    }

    /// Deals with each image of a message, up to the first that has to come again.
    async fn process(&self, message: &Message) -> Disposal {
        let events = match event::parse(&message.body) {
            Ok(events) => events,
            Err(error) => {
                warn!(%error, "dropping a message that no one can understand");
                self.metrics.ended(&Fate::Discarded);
                return Disposal::Delete;
            }
        };
        for event in &events {
            let fate = match self.backend.images.image_of(event) {
                Some(image) => {
                    let span = info_span!("image", %image);
                    self.decide(&Task { message, event, image }).instrument(span).await
                }
                None => {
                    warn!(bucket = event.bucket, key = event.key, "refusing an object that is not ours");
                    Fate::Discarded
                }
            };
            self.metrics.ended(&fate);
            let disposal = fate.disposal(message.receive_count);
            if disposal != Disposal::Delete {
                return disposal;
            }
        }
        Disposal::Delete
    }

    /// Classifies one image and says what comes of it.
    async fn decide(&self, task: &Task<'_>) -> Fate {
        let mut fate = self.classify(task).await.unwrap_or_else(|fate| fate);
        if fate == Fate::Discarded && task.message.receive_count > 1 {
            fate = self.sweep(task).await.unwrap_or_else(|fate| fate);
        }
        match fate {
            Fate::Retried(reason) if self.is_last_receive(task.message) => self.give_up(task, reason).await,
            Fate::Retried(reason) => {
                warn!(reason, "trying again later");
                Fate::Retried(reason)
            }
            Fate::Discarded => {
                info!("the image was removed or is newer; there is nothing to do");
                fate
            }
            fate => fate,
        }
    }

    /// Removes what a worker left of an image that is gone.
    async fn sweep(&self, task: &Task<'_>) -> Result<Fate, Fate> {
        let labels = self.classifier.labels();
        within(STORE_TIMEOUT, sweep(&self.backend, &task.image, labels)).await?;
        Ok(Fate::Discarded)
    }

    fn is_last_receive(&self, message: &Message) -> bool {
        self.backend.queue.policy().max_receives.is_some_and(|most| message.receive_count >= most)
    }

    /// Classifies one image and publishes the result. The error is the fate of an image that got none.
    async fn classify(&self, task: &Task<'_>) -> Result<Fate, Fate> {
        let finding = self.look_at(&task.image).await?;
        if let Outcome::Failed { error } = &finding.outcome {
            info!(error, "the image cannot be classified");
        }
        self.store(task, finding).await
    }

    /// Classifies one image by as much of its detail as that takes.
    async fn look_at(&self, image: &ImageName) -> Result<Finding, Fate> {
        let mut look = self.look(image, Detail::Enough).await?;
        if look.prediction.as_ref().is_ok_and(|prediction| prediction.wants_detail) {
            debug!("the best labels are close; looking at the image in full");
            self.metrics.looked_again();
            match self.look(image, Detail::Full).await {
                Ok(again) if again.prediction.is_ok() => look = again,
                // Of what takes too much memory in full, was replaced since by what is no image, or cannot be fetched
                // again now, the first look counts.
                Ok(_) | Err(Fate::Retried(_)) => {}
                Err(fate) => return Err(fate),
            }
        }
        let outcome = match look.prediction {
            Ok(prediction) => {
                let outcome = Outcome::labelled(prediction.scores);
                let outcome = outcome.ok_or_else(|| Fate::Retried("the network gave no scores".to_owned()))?;
                outcome.doubted_below(self.settings.min_confidence)
            }
            Err(error) => Outcome::Failed { error },
        };
        Ok(Finding { outcome, image_sequencer: look.image_sequencer })
    }

    /// Fetches one image and runs it through the network.
    async fn look(&self, image: &ImageName, detail: Detail) -> Result<Look, Fate> {
        let prepared = tokio::select! {
            biased;
            () = self.stop.cancelled() => return Err(Fate::HandedBack),
            prepared = self.intake.prepare(image, detail) => prepared?,
        };
        let Prepared { input, image_sequencer } = prepared;
        let prediction = match input {
            Ok(input) => Ok(self.batcher.classify(input).await?),
            Err(error) => Err(error),
        };
        Ok(Look { prediction, image_sequencer })
    }

    /// Publishes what came of an image.
    async fn store(&self, task: &Task<'_>, finding: Finding) -> Result<Fate, Fate> {
        let classified_at = self.clock.now().date().unwrap_or(OffsetDateTime::UNIX_EPOCH);
        let result = Classification {
            image: task.image.clone(),
            outcome: finding.outcome,
            location: self.backend.images.location(&task.image),
            model: self.classifier.id().to_owned(),
            worker: self.settings.worker.clone(),
            classified_at,
            sequencer: task.event.sequencer.clone(),
            image_sequencer: finding.image_sequencer,
            asked_at: task.message.sent_at,
        };
        let publish = within(STORE_TIMEOUT, publish(&self.backend, &result));
        let fate = self.metrics.time(Stage::Publish, publish).await?;
        if fate != Fate::Discarded {
            debug!(label = result.outcome.label(), "stored");
            self.counters.stored(&result.outcome, result.asked_at);
        }
        Ok(fate)
    }

    /// The last receive failed too: the row says so, as well as it can be written, and the message becomes a dead
    /// letter.
    async fn give_up(&self, task: &Task<'_>, reason: String) -> Fate {
        error!(reason, "giving up; the message goes to the dead-letter queue");
        let outcome = Outcome::Failed { error: format!("gave up: {reason}") };
        if let Err(fate) = self.store(task, Finding { outcome, image_sequencer: None }).await {
            warn!(?fate, "cannot record that this image was given up");
        }
        Fate::GaveUp(reason)
    }
}
