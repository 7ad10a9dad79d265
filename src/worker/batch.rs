//! Batching: one thread owns the network; a batch is whatever is ready, it never waits for stragglers.

use std::{sync::Arc, time::Instant};

use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::{
    fate::Fate,
    metrics::{Metrics, Stage},
};
use crate::model::{Classifier, Input, Prediction};

/// How many labels a result holds.
const TOP: usize = 5;

/// What the network says, or the fate of an image that it said nothing of.
type Reply = Result<Prediction, Fate>;

struct Item {
    input: Input,
    reply: oneshot::Sender<Reply>,
}

/// Sends inputs to the network's thread.
#[derive(Debug, Clone)]
pub(crate) struct Batcher {
    items: mpsc::Sender<Item>,
}

impl std::fmt::Debug for Item {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Item").finish_non_exhaustive()
    }
}

impl Batcher {
    /// Starts the thread. It runs batches of at most `largest` inputs, answers [`Fate::HandedBack`] to what has not
    /// entered the network once `stop` is cancelled, and ends when all batchers are dropped.
    ///
    /// # Errors
    /// If no thread can be started.
    pub(crate) fn start(
        classifier: Arc<Classifier>,
        largest: usize,
        stop: CancellationToken,
        metrics: Arc<Metrics>,
    ) -> std::io::Result<Self> {
        let (items, receiver) = mpsc::channel(largest * 2);
        std::thread::Builder::new()
            .name("network".to_owned())
            .spawn(move || serve(&classifier, largest, &stop, &metrics, receiver))?;
        Ok(Self { items })
    }

    /// Returns what the network says of `input`.
    ///
    /// # Errors
    /// [`Fate::HandedBack`] if it had not entered the network when the worker stopped, [`Fate::Retried`] if the network
    /// failed.
    pub(crate) async fn classify(&self, input: Input) -> Reply {
        let (reply, answer) = oneshot::channel();
        self.items.send(Item { input, reply }).await.map_err(|_| Fate::HandedBack)?;
        answer.await.unwrap_or(Err(Fate::HandedBack))
    }
}

fn serve(
    classifier: &Classifier,
    largest: usize,
    stop: &CancellationToken,
    metrics: &Metrics,
    mut items: mpsc::Receiver<Item>,
) {
    let mut batch = Vec::with_capacity(largest);
    while items.blocking_recv_many(&mut batch, largest) > 0 {
        let (inputs, replies): (Vec<Input>, Vec<_>) = batch.drain(..).map(|item| (item.input, item.reply)).unzip();
        let answers: Vec<Reply> = if stop.is_cancelled() {
            replies.iter().map(|_| Err(Fate::HandedBack)).collect()
        } else {
            let started = Instant::now();
            // A defect in the network must not end the thread: its inputs fail, the next batch runs.
            let run = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| classifier.classify(&inputs, TOP)));
            metrics.took(Stage::Infer, started);
            match run {
                Ok(Ok(predictions)) => predictions.into_iter().map(Ok).collect(),
                Ok(Err(error)) => replies.iter().map(|_| Err(failed(&error.to_string()))).collect(),
                Err(_) => replies.iter().map(|_| Err(failed("it panicked"))).collect(),
            }
        };
        for (reply, answer) in replies.into_iter().zip(answers) {
            // The asker may have gone; then nobody wants the answer.
            drop(reply.send(answer));
        }
    }
}

fn failed(why: &str) -> Fate {
    Fate::Retried(format!("the network failed: {why}"))
}
