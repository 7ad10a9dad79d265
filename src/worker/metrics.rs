//! What the worker counts, as Prometheus text: outcomes, the time of each stage, and what is in work.

use std::{sync::Arc, time::Instant};

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, histogram::Histogram},
    registry::{Registry, Unit},
};

use crate::{
    contract::Outcome,
    telemetry::metrics::{Counted, Whole, registry, seconds},
};

/// What came of a try at an image, or of a message that names none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// Classified and stored.
    Done,
    /// Recorded as an image that cannot be classified.
    Failed,
    /// Nothing to do: the image is gone or newer, or the message is none of ours.
    Discarded,
    /// Failed this time; the message comes again after a back-off.
    Retried,
    /// Not begun; the message was shown to others at once.
    HandedBack,
    /// Failed at the last receive; the message is a dead letter.
    GaveUp,
}

impl Ending {
    const fn name(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Discarded => "discarded",
            Self::Retried => "retried",
            Self::HandedBack => "handed_back",
            Self::GaveUp => "gave_up",
        }
    }
}

impl From<&Outcome> for Ending {
    fn from(outcome: &Outcome) -> Self {
        match outcome {
            Outcome::Labelled { .. } => Self::Done,
            Outcome::Failed { .. } => Self::Failed,
        }
    }
}

/// A stage of the pipeline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
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

impl Stage {
    const fn name(self) -> &'static str {
        match self {
            Self::Receive => "receive",
            Self::Fetch => "fetch",
            Self::Decode => "decode",
            Self::Infer => "infer",
            Self::Publish => "publish",
            Self::Delete => "delete",
        }
    }
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
    in_flight: Whole,
}

impl Metrics {
    /// Nothing counted yet. Every outcome and stage is there from the start: a rate needs its zero.
    #[must_use]
    pub fn new() -> Arc<Self> {
        let mut registry = registry();
        let outcomes = Family::<OfOutcome, Counter>::default();
        let stages = Family::<OfStage, Histogram>::new_with_constructor(seconds);
        let in_flight = Whole::default();
        registry.register("worker_images", "Tries at images by what came of them", outcomes.clone());
        registry.register_with_unit("worker_stage_duration", "Time in each stage", Unit::Seconds, stages.clone());
        registry.register("worker_in_flight", "Messages held and not settled", in_flight.clone());
        use Ending::{Discarded, Done, Failed, GaveUp, HandedBack, Retried};
        for ending in [Done, Failed, Discarded, Retried, HandedBack, GaveUp] {
            drop(outcomes.get_or_create(&OfOutcome { outcome: ending.name() }));
        }
        use Stage::{Decode, Delete, Fetch, Infer, Publish, Receive};
        for stage in [Receive, Fetch, Decode, Infer, Publish, Delete] {
            drop(stages.get_or_create(&OfStage { stage: stage.name() }));
        }
        Arc::new(Self { registry, outcomes, stages, in_flight })
    }

    /// Counts what came of a try.
    pub fn ended(&self, ending: Ending) {
        self.outcomes.get_or_create(&OfOutcome { outcome: ending.name() }).inc();
    }

    /// Tells how long a stage took that began at `started` and ends now.
    pub fn took(&self, stage: Stage, started: Instant) {
        self.stages.get_or_create(&OfStage { stage: stage.name() }).observe(started.elapsed().as_secs_f64());
    }

    /// The answer of `call`, whose time counts for `stage` however it ends.
    pub async fn time<T>(&self, stage: Stage, call: impl Future<Output = T>) -> T {
        let started = Instant::now();
        let answer = call.await;
        self.took(stage, started);
        answer
    }

    /// Counts a message as in flight for as long as the answer lives.
    pub fn hold(&self) -> Counted {
        Counted::new(&self.in_flight)
    }
}

impl AsRef<Registry> for Metrics {
    fn as_ref(&self) -> &Registry {
        &self.registry
    }
}
