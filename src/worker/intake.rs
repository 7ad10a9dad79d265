//! The intake: fetches and decodes images, with bounds on what is in memory.

use std::{sync::Arc, time::Duration};

use tokio::sync::{AcquireError, Semaphore, SemaphorePermit, oneshot};

use super::{
    fate::Fate,
    metrics::{Metrics, Stage},
    settings::Settings,
};
use crate::{
    backend::{self, ErrorKind, Images, StoredImage, within},
    contract::{ImageName, Sequencer},
    model::{Classifier, DecodeError, Detail, Input, Limits, Preprocessor},
};

/// Files larger than this are held one at a time.
const LARGE_FILE: u64 = 4 << 20;

/// Images that take more than this part of the pixel budget are decoded one at a time, so that others pass them.
const LARGE_PART: u64 = 4;

/// Where images come in.
#[derive(Debug)]
pub(super) struct Intake {
    images: Arc<dyn Images>,
    classifier: Arc<Classifier>,
    metrics: Arc<Metrics>,
    limits: Limits,
    timeout: Duration,
    decoders: rayon::ThreadPool,
    /// Room for images that are fetched and decoded.
    fetching: Semaphore,
    /// Room for one large image: of a large file, or one that takes much to decode.
    large: Semaphore,
    /// Bytes that decoding may take.
    budget: u64,
    /// Room for these, in KiB.
    pixels: Semaphore,
}

/// What became of an image's bytes.
pub(super) struct Prepared {
    /// Why it is no input for the network, if it is none.
    pub(super) input: Result<Input, String>,
    /// What the store knows of the bytes that were looked at.
    pub(super) image_sequencer: Option<Sequencer>,
}

/// The bytes of an image, with the room that they take.
struct Fetched<'a> {
    stored: StoredImage,
    room: Room<'a>,
}

/// Room for a file. Who has one of many waits for the one of a large image, and never the other way round: or those who
/// have either would wait for each other for ever.
enum Room<'a> {
    OneOfMany { _room: SemaphorePermit<'a> },
    Large { _room: SemaphorePermit<'a> },
}

/// Why an image comes no further.
enum Refusal {
    /// It is no input for the network, for this reason.
    Image(String),
    /// Nothing is known of it yet.
    Fate(Fate),
}

impl Intake {
    /// An intake that waits `timeout` for the store of `images`.
    ///
    /// # Errors
    /// If there are no threads to be had.
    pub(super) fn new(
        images: Arc<dyn Images>,
        classifier: Arc<Classifier>,
        metrics: Arc<Metrics>,
        settings: &Settings,
        timeout: Duration,
    ) -> anyhow::Result<Self> {
        let decoders = rayon::ThreadPoolBuilder::new()
            .num_threads(settings.threads)
            .thread_name(|n| format!("decode-{n}"))
            .build()?;
        Ok(Self {
            images,
            classifier,
            metrics,
            limits: settings.limits,
            timeout,
            decoders,
            fetching: Semaphore::new(settings.threads * 2 + 4),
            large: Semaphore::new(1),
            budget: settings.pixel_budget,
            pixels: Semaphore::new(kibibytes(settings.pixel_budget)),
        })
    }

    /// Fetches one image and decodes it.
    ///
    /// # Errors
    /// The fate of an image of which nothing is known yet.
    pub(super) async fn prepare(&self, image: &ImageName, detail: Detail) -> Result<Prepared, Fate> {
        let fetched = match self.fetch(image).await {
            Ok(fetched) => fetched,
            Err(Refusal::Image(reason)) => return Ok(Prepared { input: Err(reason), image_sequencer: None }),
            Err(Refusal::Fate(fate)) => return Err(fate),
        };
        let image_sequencer = fetched.stored.sequencer.clone();
        let input = match self.decode(fetched, detail).await {
            Ok(input) => Ok(input),
            Err(Refusal::Image(reason)) => Err(reason),
            Err(Refusal::Fate(fate)) => return Err(fate),
        };
        Ok(Prepared { input, image_sequencer })
    }

    /// Fetches one image. Large ones wait for each other, and hold up no others meanwhile.
    async fn fetch(&self, image: &ImageName) -> Result<Fetched<'_>, Refusal> {
        let max_bytes = self.limits.max_bytes;
        let fetching = self.fetching.acquire().await?;
        match self.get(image, max_bytes.min(LARGE_FILE)).await {
            Err(error) if error.kind() == ErrorKind::TooLarge && max_bytes > LARGE_FILE => drop(fetching),
            got => return Ok(Fetched { stored: got?, room: Room::OneOfMany { _room: fetching } }),
        }
        let large = self.large.acquire().await?;
        Ok(Fetched { stored: self.get(image, max_bytes).await?, room: Room::Large { _room: large } })
    }

    async fn get(&self, image: &ImageName, max_bytes: u64) -> backend::Result<StoredImage> {
        let get = within(self.timeout, self.images.get(image, max_bytes));
        self.metrics.time(Stage::Fetch, get).await
    }

    /// Decodes a fetched image.
    async fn decode(&self, Fetched { stored, room }: Fetched<'_>, detail: Detail) -> Result<Input, Refusal> {
        let limits = self.limits;
        let (stored, header) = self
            .on_decoders(move |preprocessor| {
                let header = preprocessor.measure(&stored.bytes, &limits, detail);
                (stored, header)
            })
            .await?;
        let header = header?;
        if header.memory > self.budget {
            let (needed, most) = (header.memory.div_ceil(1 << 20), self.budget >> 20);
            return Err(Refusal::Image(format!(
                "to decode {} x {} pixels of this {} takes {needed} MiB; the limit is {most} MiB (worker.pixel_budget)",
                header.width, header.height, header.format,
            )));
        }
        let large = match room {
            Room::OneOfMany { .. } if header.memory > self.budget / LARGE_PART => Some(self.large.acquire().await?),
            _ => None,
        };
        let needed = u32::try_from(kibibytes(header.memory)).unwrap_or(u32::MAX);
        let _pixels = self.pixels.acquire_many(needed).await?;
        let metrics = Arc::clone(&self.metrics);
        let input = self.on_decoders(move |preprocessor| {
            let started = std::time::Instant::now();
            let input = preprocessor.prepare(&stored.bytes, &limits, detail);
            metrics.took(Stage::Decode, started);
            // The bytes go before the room for them does.
            drop(stored);
            input
        });
        let input = input.await?;
        drop((large, room));
        Ok(input?)
    }

    /// Computes on the decoders' threads.
    async fn on_decoders<T: Send + 'static>(
        &self,
        compute: impl FnOnce(&Preprocessor) -> T + Send + 'static,
    ) -> Result<T, Fate> {
        let (answer, computed) = oneshot::channel();
        let classifier = Arc::clone(&self.classifier);
        // The asker may have been stopped; then nobody wants the answer.
        self.decoders.spawn(move || drop(answer.send(compute(classifier.preprocessor()))));
        computed.await.map_err(|_| Fate::Retried("decoding was interrupted".to_owned()))
    }
}

impl From<Fate> for Refusal {
    fn from(fate: Fate) -> Self {
        Self::Fate(fate)
    }
}

impl From<AcquireError> for Refusal {
    fn from(_: AcquireError) -> Self {
        Self::Fate(Fate::HandedBack)
    }
}

impl From<backend::Error> for Refusal {
    fn from(error: backend::Error) -> Self {
        match error.kind() {
            ErrorKind::TooLarge => Self::Image(error.to_string()),
            _ => Self::Fate(error.into()),
        }
    }
}

impl From<DecodeError> for Refusal {
    fn from(error: DecodeError) -> Self {
        Self::Image(error.to_string())
    }
}

/// Bytes in KiB, rounded up, at least one, at most what a semaphore takes.
fn kibibytes(bytes: u64) -> usize {
    usize::try_from(bytes.div_ceil(1024)).unwrap_or(usize::MAX).clamp(1, Semaphore::MAX_PERMITS.min(u32::MAX as usize))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn permits_are_never_zero_or_too_many() {
        assert_eq!(kibibytes(0), 1);
        assert_eq!(kibibytes(1025), 2);
        assert!(kibibytes(u64::MAX) <= Semaphore::MAX_PERMITS);
    }
}
