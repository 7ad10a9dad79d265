//! What the worker counts, as Prometheus text: outcomes, the time of each stage, and what is in work.

use std::{sync::Arc, time::Instant};

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, histogram::Histogram},
    registry::{Registry, Unit},
};

use strum::{EnumIter, IntoEnumIterator, IntoStaticStr};

use super::fate::Fate;
use crate::telemetry::metrics::{Counted, Whole, registry, seconds};

/// A stage of the pipeline. Its name is the label of a metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq, EnumIter, IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
pub(crate) enum Stage {
    /// One receive, its long poll included.
    Receive,
    /// One download.
    Fetch,
    /// One image's decoding and preprocessing, without the wait for a thread.
    Decode,
    /// One batch in the network.
    Infer,
    /// One result's tags, output object and row.
    Publish,
    /// One batch of messages deleted, tries and back-off included.
    Delete,
}

#[derive(Debug, Clone, Hash, PartialEq, Eq, EncodeLabelSet)]
struct OfOutcome {
    outcome: &'static str,
}

#[derive(Debug, Clone, Hash, PartialEq, Eq, EncodeLabelSet)]
struct OfStage {
    stage: &'static str,
}

/// The worker's counters, histograms and gauge.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    outcomes: Family<OfOutcome, Counter>,
    stages: Family<OfStage, Histogram>,
    second_looks: Counter,
    in_flight: Whole,
}

impl Metrics {
    /// Nothing counted yet. Every outcome and stage is there from the start: a rate needs its zero.
    #[must_use]
    pub fn new() -> Arc<Self> {
        let outcomes = Family::<OfOutcome, Counter>::default();
        let stages = Family::<OfStage, Histogram>::new_with_constructor(seconds);
        let second_looks = Counter::default();
        let in_flight = Whole::default();
        let registry = registry(|ours| {
            ours.register("worker_images", "Tries at images by what came of them", outcomes.clone());
            ours.register_with_unit("worker_stage_duration", "Time in each stage", Unit::Seconds, stages.clone());
            let help = "Images decoded in full and classified again, since two labels were close";
            ours.register("worker_second_looks", help, second_looks.clone());
            ours.register("worker_in_flight", "Messages held and not settled", in_flight.clone());
        });
        for fate in Fate::iter() {
            drop(outcomes.get_or_create(&OfOutcome { outcome: (&fate).into() }));
        }
        for stage in Stage::iter() {
            drop(stages.get_or_create(&OfStage { stage: stage.into() }));
        }
        Arc::new(Self { registry, outcomes, stages, second_looks, in_flight })
    }

    /// Counts what came of a try.
    pub(crate) fn ended(&self, fate: &Fate) {
        self.outcomes.get_or_create(&OfOutcome { outcome: fate.into() }).inc();
    }

    /// Counts an image that is decoded in full after its first look.
    pub(crate) fn looked_again(&self) {
        self.second_looks.inc();
    }

    /// Counts how long a stage took that began at `started` and ends now.
    pub(crate) fn took(&self, stage: Stage, started: Instant) {
        self.stages.get_or_create(&OfStage { stage: stage.into() }).observe(started.elapsed().as_secs_f64());
    }

    /// Returns the answer of `call`, whose time counts for `stage` however it ends.
    pub(crate) async fn time<T>(&self, stage: Stage, call: impl Future<Output = T>) -> T {
        let started = Instant::now();
        let answer = call.await;
        self.took(stage, started);
        answer
    }

    /// Counts a message as in flight for as long as the answer lives.
    pub(crate) fn hold(&self) -> Counted {
        Counted::new(&self.in_flight)
    }
}

impl AsRef<Registry> for Metrics {
    fn as_ref(&self) -> &Registry {
        &self.registry
    }
}
