//! The parts of a worker, how they are put together, and how they end.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::{Semaphore, mpsc},
    time::Instant,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{error, info, warn};

use super::{
    acknowledge,
    batch::Batcher,
    heartbeat::{self, Counters},
    intake::Intake,
    lease::Leases,
    metrics::Metrics,
    pipeline::{Pipeline, RECEIVE, STORE_TIMEOUT},
    protection::Protection,
    settings::Settings,
};
use crate::{
    backend::{Backend, Instance},
    clock::Clock,
    model::Classifier,
};

/// Time that a stopping worker has to finish what it started.
const DRAIN: Duration = Duration::from_secs(25);

/// Time that the stores have for its last heartbeat.
const FAREWELL: Duration = Duration::from_secs(3);

/// What a worker did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Summary {
    /// Images classified.
    pub done: u64,
    /// Images recorded as failed.
    pub failed: u64,
}

/// A worker that has not begun.
#[derive(Debug)]
pub struct Worker {
    /// The stores.
    pub backend: Backend,
    /// The machine: protected from scale-in while there is work.
    pub instance: Arc<dyn Instance>,
    /// The network.
    pub classifier: Arc<Classifier>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// How it works.
    pub settings: Settings,
}

impl Worker {
    /// Works until `stop` is cancelled, or until the queue is empty where the settings say so.
    ///
    /// On `stop`, or when the machine is about to be taken away, it receives no more, hands back what has not entered
    /// the network, finishes the rest within 25 s, and returns within 28.
    ///
    /// # Errors
    /// If its threads cannot be started. Errors of stores never end it.
    pub async fn run(self, stop: CancellationToken) -> anyhow::Result<Summary> {
        let most = most_held(&self.settings, self.classifier.preprocessor().input_len());
        let enough = most.saturating_sub(self.settings.receivers * RECEIVE).max(RECEIVE / 2);
        let (worker, model) = (self.settings.worker.clone(), self.classifier.id().to_owned());
        let counters = Arc::new(Counters::new(worker, model, enough, Arc::clone(&self.clock)));
        let leases = Arc::new(Leases::new(Arc::clone(&self.backend.queue)));
        let housekeeping = Housekeeping::start(&self, &counters, &leases, &stop);
        let (settled, acknowledged) = mpsc::channel(256);
        let (queue, metrics) = (Arc::clone(&self.backend.queue), Arc::clone(&self.metrics));
        let deleting = tokio::spawn(acknowledge::run(queue, Arc::clone(&leases), metrics, acknowledged));
        let pipeline = Arc::new(self.pipeline(most, &counters, leases, settled, stop)?);

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
        housekeeping.end().await;
        let (done, failed) = counters.totals();
        Ok(Summary { done, failed })
    }

    /// The pipeline for `most` messages at a time, with its threads.
    fn pipeline(
        self,
        most: usize,
        counters: &Arc<Counters>,
        leases: Arc<Leases>,
        settled: mpsc::Sender<crate::backend::Receipt>,
        stop: CancellationToken,
    ) -> anyhow::Result<Pipeline> {
        let Self { backend, instance, classifier, clock, metrics, settings } = self;
        let intake = Intake::new(
            Arc::clone(&backend.images),
            Arc::clone(&classifier),
            Arc::clone(&metrics),
            &settings,
            STORE_TIMEOUT,
        )?;
        let batcher = Batcher::start(Arc::clone(&classifier), settings.batch, stop.clone(), Arc::clone(&metrics))?;
        Ok(Pipeline {
            protection: Protection::new(instance, Arc::clone(&leases)),
            held: Arc::new(Semaphore::new(most)),
            turns: Arc::default(),
            tasks: TaskTracker::new(),
            counters: Arc::clone(counters),
            backend,
            classifier,
            clock,
            settings,
            stop,
            metrics,
            leases,
            intake,
            batcher,
            settled,
        })
    }
}

/// Messages that a worker holds at most, for a network whose inputs have so many values: enough to fill two batches
/// while every receiver waits, and not more, since what is held is kept from other workers; of a network with large
/// inputs as many as the budget for pixels has room for, but no fewer than one receive.
fn most_held(settings: &Settings, input_len: usize) -> usize {
    let inputs = settings.pixel_budget / (input_len * size_of::<f32>()).max(1) as u64;
    let room = usize::try_from(inputs).unwrap_or(usize::MAX).max(RECEIVE);
    (settings.batch * 2 + settings.receivers * RECEIVE).min(room)
}

/// What goes on beside the work: leases, heartbeats, and the watch over the machine.
struct Housekeeping {
    tasks: TaskTracker,
    end: CancellationToken,
}

impl Housekeeping {
    fn start(worker: &Worker, counters: &Arc<Counters>, leases: &Arc<Leases>, stop: &CancellationToken) -> Self {
        let (tasks, end) = (TaskTracker::new(), CancellationToken::new());
        let (kept, ended) = (Arc::clone(leases), end.clone());
        tasks.spawn(async move { kept.keep(ended).await });
        let (registry, counters, leases) =
            (Arc::clone(&worker.backend.workers), Arc::clone(counters), Arc::clone(leases));
        tasks.spawn(heartbeat::beat(registry, counters, leases, stop.clone(), end.clone()));
        let (machine, stop, ended) = (Arc::clone(&worker.instance), stop.clone(), end.clone());
        tasks.spawn(async move {
            tokio::select! {
                () = ended.cancelled() => {}
                reason = machine.leaving() => {
                    warn!(reason, "this machine is about to be taken away");
                    stop.cancel();
                }
            }
        });
        Self { tasks, end }
    }

    /// Ends it all, with a last heartbeat. What the stores take too long over is left.
    async fn end(self) {
        self.end.cancel();
        self.tasks.close();
        if tokio::time::timeout(FAREWELL, self.tasks.wait()).await.is_err() {
            warn!("the stores take too long over the last heartbeat; leaving it");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract::WorkerId;

    #[test]
    fn inputs_that_wait_for_the_network_have_room() {
        let settings = Settings {
            worker: WorkerId::new("w", 1),
            threads: 1,
            batch: 16,
            receivers: 2,
            pixel_budget: 128 << 20,
            limits: crate::model::Limits::default(),
            min_confidence: 0.0,
            until_empty: false,
        };
        assert_eq!(most_held(&settings, 64 * 64 * 3), 52);
        assert_eq!(most_held(&settings, 224 * 224 * 3), 52);
        assert_eq!(most_held(&settings, 1024 * 1024 * 3), 10);
        assert_eq!(most_held(&Settings { pixel_budget: 400 << 20, ..settings }, 1024 * 1024 * 3), 33);
    }
}
