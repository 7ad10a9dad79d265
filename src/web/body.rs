//! The body of an upload with bounds: bytes in all, and bytes that its reader has not yet used.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use axum::{
    body::{Body, BodyDataStream, Bytes},
    http::StatusCode,
};
use futures_util::{Stream, StreamExt as _};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::error::Error;
use crate::http::Slow;

/// More than this without an end of a part's head is no multipart.
const MAX_UNUSED: usize = 1 << 20;

/// The head of a part may have so much without further ado; more needs one of the [`large_heads`].
const SMALL_HEAD: usize = 256 << 10;

/// So many requests at a time may have a part with a large head: the parser keeps a head whole.
const LARGE_HEADS: usize = 16;

/// Permits for large heads of parts.
pub(crate) fn large_heads() -> Arc<Semaphore> {
    Arc::new(Semaphore::new(LARGE_HEADS))
}

/// After an error a client may send so much more, which is thrown away, so that it gets to read the answer.
const LINGER_BYTES: u64 = 64 << 20;

/// And for so long.
const LINGER: Duration = Duration::from_secs(5);

/// Why reading ended early.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum BodyError {
    #[error("the request is larger than {0} bytes, the limit for one request; send it in parts")]
    TooLarge(u64),
    #[error(transparent)]
    Slow(#[from] Slow),
    #[error("the head of a part is larger than {MAX_UNUSED} bytes; this is no multipart/form-data")]
    Endless,
    #[error("too many requests have parts with large heads; try again")]
    Busy,
    #[error("the request ended early; send it again")]
    Broken,
}

impl BodyError {
    fn from_axum(error: axum::Error) -> Self {
        match error.into_inner().downcast::<Slow>() {
            Ok(slow) => Self::Slow(*slow),
            Err(error) => {
                tracing::debug!(%error, "a body ended early");
                Self::Broken
            }
        }
    }
}

impl From<BodyError> for Error {
    fn from(error: BodyError) -> Self {
        let status = match error {
            BodyError::TooLarge(_) => StatusCode::PAYLOAD_TOO_LARGE,
            BodyError::Slow(slow) => return slow.into(),
            BodyError::Busy => return Self::unavailable(error.to_string()),
            BodyError::Endless | BodyError::Broken => StatusCode::BAD_REQUEST,
        };
        Self::new(status, error.to_string())
    }
}

/// Counts the bytes that the reader was given and has not used yet.
#[derive(Debug, Clone, Default)]
pub(crate) struct Unused(Arc<AtomicUsize>);

impl Unused {
    /// The reader got somewhere.
    pub(crate) fn clear(&self) {
        self.0.store(0, Ordering::Relaxed);
    }
}

/// The body. It hands out one chunk per wake-up, so that a reader that takes whatever is ready does not take all of it
/// at once.
#[derive(Debug)]
pub(crate) struct BoundedBody {
    stream: BodyDataStream,
    limit: u64,
    received: u64,
    unused: Unused,
    paused: bool,
    heads: Arc<Semaphore>,
    large: Option<OwnedSemaphorePermit>,
}

impl BoundedBody {
    /// Bounds `body` to `limit` bytes, and its large heads by the permits `heads`.
    pub(crate) fn new(body: Body, limit: u64, heads: Arc<Semaphore>) -> Self {
        Self {
            stream: body.into_data_stream(),
            limit,
            received: 0,
            unused: Unused::default(),
            paused: false,
            heads,
            large: None,
        }
    }

    /// The counter that the reader clears.
    pub(crate) fn unused(&self) -> Unused {
        self.unused.clone()
    }

    /// Passes on a chunk that is within the bounds.
    fn admit(&mut self, bytes: Bytes) -> Result<Bytes, BodyError> {
        self.paused = true;
        self.received += bytes.len() as u64;
        let before = self.unused.0.fetch_add(bytes.len(), Ordering::Relaxed);
        if before == 0 {
            self.large = None;
        }
        if self.received > self.limit {
            return Err(BodyError::TooLarge(self.limit));
        }
        match before + bytes.len() {
            0..=SMALL_HEAD => {}
            unused if unused <= MAX_UNUSED && self.large.is_some() => {}
            unused if unused <= MAX_UNUSED => {
                let permit = Arc::clone(&self.heads).try_acquire_owned();
                self.large = Some(permit.map_err(|_| BodyError::Busy)?);
            }
            _ => return Err(BodyError::Endless),
        }
        Ok(bytes)
    }

    /// Reads on for a while and throws away what comes: a client that is cut off while it sends may never read the
    /// answer.
    pub(crate) async fn linger(mut self) {
        self.limit = self.limit.saturating_add(LINGER_BYTES).min(self.received.saturating_add(LINGER_BYTES));
        let drain = async {
            while let Some(Ok(_)) = self.next().await {
                self.unused.clear();
            }
        };
        if tokio::time::timeout(LINGER, drain).await.is_err() {
            tracing::debug!("client still sends after an error; giving up on it");
        }
    }
}

impl Stream for BoundedBody {
    type Item = Result<Bytes, BodyError>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        if std::mem::take(&mut this.paused) {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let next = ready!(this.stream.poll_next_unpin(cx));
        Poll::Ready(next.map(|bytes| match bytes {
            Ok(bytes) => this.admit(bytes),
            Err(error) => Err(BodyError::from_axum(error)),
        }))
    }
}

#[cfg(test)]
mod tests {
    use futures_util::stream;

    use super::*;

    fn body(chunks: Vec<&'static str>) -> Body {
        Body::from_stream(stream::iter(chunks.into_iter().map(Ok::<_, std::io::Error>)))
    }

    #[tokio::test]
    async fn ends_at_the_limit() {
        let chunks: Vec<_> = BoundedBody::new(body(vec!["abc", "def", "g"]), 6, large_heads()).collect().await;
        assert!(matches!(chunks[..], [Ok(_), Ok(_), Err(BodyError::TooLarge(6))]), "{chunks:?}");
    }

    #[tokio::test]
    async fn hands_out_one_chunk_per_poll() {
        let mut body = BoundedBody::new(body(vec!["a", "b"]), 10, large_heads());
        let mut ready = 0;
        std::future::poll_fn(|cx| {
            while let Poll::Ready(Some(_)) = body.poll_next_unpin(cx) {
                ready += 1;
            }
            Poll::Ready(())
        })
        .await;
        assert_eq!(ready, 1);
    }

    #[tokio::test]
    async fn gives_up_on_a_part_without_an_end_of_its_head() {
        let flood = Body::from_stream(stream::repeat_with(|| Ok::<_, std::io::Error>(vec![b'x'; 100_000])));
        let heads = large_heads();
        let mut body = BoundedBody::new(flood, u64::MAX, Arc::clone(&heads));
        let error = loop {
            if let Err(error) = body.next().await.unwrap() {
                break error;
            }
        };
        assert!(matches!(error, BodyError::Endless));
    }

    #[tokio::test]
    async fn few_requests_may_have_large_heads_at_a_time() {
        let heads = large_heads();
        let large = || {
            let chunks = (0..9).map(|_| Ok::<_, std::io::Error>(vec![b'x'; 100_000]));
            BoundedBody::new(Body::from_stream(stream::iter(chunks)), u64::MAX, Arc::clone(&heads))
        };
        let mut held = Vec::new();
        for _ in 0..LARGE_HEADS {
            let mut body = large();
            assert!(body.by_ref().all(|chunk| std::future::ready(chunk.is_ok())).await);
            held.push(body);
        }
        let refused: Vec<_> = large().take_while(|c| std::future::ready(c.is_ok())).collect().await;
        assert!(refused.len() < 9);
        held.pop();
        // What is used up in small pieces needs no permit.
        let mut small = large();
        let unused = small.unused();
        while let Some(chunk) = small.next().await {
            chunk.unwrap();
            unused.clear();
        }
        assert_eq!(heads.available_permits(), 1);
    }
}
