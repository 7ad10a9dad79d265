//! Memory for images that are held whole: stored ones on their way out, and those that come in JSON. It is bounded, and
//! a client that takes an image slowly gives way to others.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use axum::{
    body::{Body, Bytes},
    response::{IntoResponse as _, Response},
};
use futures_util::stream;
use parking_lot::Mutex;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, timeout},
};

use super::{
    App, ask,
    error::{Error, Result},
};
use crate::{backend::StoredImage, contract::ImageName, http::Activity, model::Limits};

/// Memory for images on their way out, unless a single one may be larger.
const MEMORY_KIB: u64 = 64 << 10;

/// So long a request waits for its share of that memory.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// Who takes fewer bytes a second, loses an image to those who wait. The beginning does not count: it goes to the
/// system's buffers.
const SLOW_BYTES_PER_S: u64 = 64 << 10;

/// The time in which that is measured.
const SPAN: Duration = Duration::from_secs(2);

/// Who waits looks so often for who is slow.
const LOOK: Duration = Duration::from_millis(500);

/// A body is handed out in copies of this size: what its client has not taken is all that is left of it elsewhere.
const PIECE: usize = 64 << 10;

/// Memory for images on their way out.
#[derive(Debug)]
pub(crate) struct Memory {
    kib: Arc<Semaphore>,
    takers: Mutex<Takers>,
}

#[derive(Debug, Default)]
struct Takers {
    next: u64,
    by_number: HashMap<u64, Taker>,
}

/// A client on its way of taking an image.
#[derive(Debug)]
struct Taker {
    taken: Arc<AtomicU64>,
    /// When it was last looked at, and what was taken by then.
    seen: (Instant, u64),
    /// Whether it took little between the last two looks, in bytes a second.
    slow: Option<u64>,
    kib: usize,
    activity: Activity,
}

impl Taker {
    /// Looks how much was taken since the last look, if that was a while ago.
    fn look(&mut self) {
        let (at, before) = self.seen;
        let (time, taken) = (at.elapsed(), self.taken.load(Ordering::Relaxed));
        if time >= SPAN {
            let bytes_per_s = ((taken - before) as f64 / time.as_secs_f64()) as u64;
            self.slow = Some(bytes_per_s).filter(|speed| *speed < SLOW_BYTES_PER_S);
            self.seen = (Instant::now(), taken);
        }
    }
}

impl Memory {
    /// Memory for images within `limits`.
    pub(crate) fn new(limits: &Limits) -> Arc<Self> {
        let kib = kib(limits.max_bytes).max(kib(MEMORY_KIB << 10)) as usize;
        Arc::new(Self { kib: Arc::new(Semaphore::new(kib)), takers: Mutex::default() })
    }

    /// How many clients are taking an image.
    #[cfg(test)]
    pub(crate) fn takers(&self) -> usize {
        self.takers.lock().by_number.len()
    }

    /// A share for so many bytes.
    ///
    /// # Errors
    /// 503 where others have it and keep it.
    pub(crate) async fn share(&self, bytes: u64) -> Result<OwnedSemaphorePermit> {
        let wanted = kib(bytes);
        let share = Arc::clone(&self.kib).acquire_many_owned(wanted);
        let give_way = async {
            loop {
                tokio::time::sleep(LOOK).await;
                self.make_room(wanted as usize);
            }
        };
        let granted = async {
            tokio::select! {
                share = share => share.ok(),
                () = give_way => None,
            }
        };
        let too_many = || Error::unavailable("too many images are being sent; try again");
        timeout(PATIENCE, granted).await.ok().flatten().ok_or_else(too_many)
    }

    /// Cuts off clients that take their images slowly, the slowest first, until so many KiB will be free.
    fn make_room(&self, wanted: usize) {
        let mut takers = self.takers.lock();
        takers.by_number.values_mut().for_each(Taker::look);
        let mut slow: Vec<_> = takers.by_number.values().filter_map(|taker| Some((taker.slow?, taker))).collect();
        slow.sort_by_key(|(speed, _)| *speed);
        let mut free = self.kib.available_permits();
        for (bytes_per_s, taker) in slow {
            if free >= wanted {
                break;
            }
            tracing::info!(bytes_per_s, "others wait for the memory of an image that is taken slowly; cutting it off");
            taker.activity.cut();
            free += taker.kib;
        }
    }

    /// The bytes as a body for the connection with this activity. Their share is given back when all are taken.
    pub(crate) fn body(self: &Arc<Self>, bytes: Bytes, share: OwnedSemaphorePermit, activity: Activity) -> Body {
        let taken = Arc::<AtomicU64>::default();
        let (seen, kib) = ((Instant::now(), 0), share.num_permits());
        let taker = Taker { taken: Arc::clone(&taken), seen, slow: None, kib, activity };
        let number = {
            let mut takers = self.takers.lock();
            takers.next += 1;
            let number = takers.next;
            takers.by_number.insert(number, taker);
            number
        };
        let taking = Taking { number, memory: Arc::clone(self), _share: share };
        pieces(bytes, taking, move |bytes| {
            taken.fetch_add(bytes as u64, Ordering::Relaxed);
        })
    }
}

/// Bytes as a body that has `held` until all of them are taken; `given` gets the size of each piece.
fn pieces(bytes: Bytes, held: impl Send + 'static, given: impl Fn(usize) + Send + 'static) -> Body {
    Body::from_stream(stream::unfold((bytes, held), move |(mut rest, held)| {
        let piece = rest.split_to(rest.len().min(PIECE));
        given(piece.len());
        let piece = Bytes::copy_from_slice(&piece);
        async move { (!piece.is_empty()).then(|| (Ok::<_, std::convert::Infallible>(piece), (rest, held))) }
    }))
}

/// The answer, whose body is in memory, with a permit for that which it has until it is taken.
pub(crate) async fn with(answer: Response, permit: Option<OwnedSemaphorePermit>) -> Response {
    let Some(permit) = permit else { return answer };
    let (head, body) = answer.into_parts();
    match axum::body::to_bytes(body, usize::MAX).await {
        Ok(bytes) => Response::from_parts(head, pieces(bytes, permit, |_| ())),
        Err(error) => Error::unavailable(format!("the answer could not be made: {error}")).into_response(),
    }
}

/// Held while an image is taken.
struct Taking {
    number: u64,
    memory: Arc<Memory>,
    _share: OwnedSemaphorePermit,
}

impl Drop for Taking {
    fn drop(&mut self) {
        self.memory.takers.lock().by_number.remove(&self.number);
    }
}

fn kib(bytes: u64) -> u32 {
    u32::try_from(bytes.div_ceil(1024)).unwrap_or(u32::MAX >> 4)
}

/// The image with the share of memory that it takes.
pub(crate) async fn fetch(app: &App, image: &ImageName) -> Result<(StoredImage, OwnedSemaphorePermit)> {
    let max_bytes = app.config.limits.max_bytes;
    let mut share = app.image_memory.share(max_bytes).await?;
    let stored = ask(app.backend.images.get(image, max_bytes)).await?;
    // What this one does not need, others may use at once.
    if let Some(rest) = share.split(share.num_permits().saturating_sub(kib(stored.bytes.len() as u64) as usize)) {
        drop(rest);
    }
    Ok((stored, share))
}
