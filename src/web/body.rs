//! A request's body with bounds: bytes in all, bytes that its reader has not yet used, and the client's time.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use axum::{
    body::{Body, BodyDataStream, Bytes},
    http::StatusCode,
};
use futures_util::Stream;
use tokio::time::{Instant, Sleep, sleep_until};

use super::error::Error;

/// A client may send nothing for so long.
const IDLE: Duration = Duration::from_secs(30);

/// Over the whole request a client must send at least so many bytes a second of the time that we wait for it, beyond [`IDLE`].
const MIN_BYTES_PER_S: u64 = 1024;

/// More than this without an end of a part's head is no multipart.
const MAX_UNUSED: usize = 1 << 20;

/// After an error a client may send so much more, which is thrown away, so that it gets to read the answer.
const LINGER_BYTES: u64 = 64 << 20;

/// And for so long.
const LINGER: Duration = Duration::from_secs(5);

/// Why reading ended early.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum BodyError {
    #[error("the request is larger than {0} bytes, the limit for one request; send it in parts")]
    TooLarge(u64),
    #[error("the client sent too slowly; the connection is given up")]
    Slow,
    #[error("the head of a part is larger than {MAX_UNUSED} bytes; this is no multipart/form-data")]
    Endless,
    #[error("the request ended early: {0}")]
    Broken(String),
}

impl From<BodyError> for Error {
    fn from(error: BodyError) -> Self {
        let status = match error {
            BodyError::TooLarge(_) => StatusCode::PAYLOAD_TOO_LARGE,
            BodyError::Slow => StatusCode::REQUEST_TIMEOUT,
            BodyError::Endless | BodyError::Broken(_) => StatusCode::BAD_REQUEST,
        };
        Self::new(status, error.to_string())
    }
}

/// Counts what the reader has been given and has not told to have used.
#[derive(Debug, Clone, Default)]
pub(crate) struct Unused(Arc<AtomicUsize>);

impl Unused {
    /// The reader got somewhere.
    pub(crate) fn clear(&self) {
        self.0.store(0, Ordering::Relaxed);
    }
}

/// The body. It hands out one chunk per wake-up, so that a reader that takes whatever is ready does not take all of it at once.
#[derive(Debug)]
pub(crate) struct BoundedBody {
    stream: BodyDataStream,
    limit: u64,
    received: u64,
    unused: Unused,
    paused: bool,
    /// Since when we wait for the client; `None` while it waits for us.
    waiting: Option<Instant>,
    waited: Duration,
    alarm: Pin<Box<Sleep>>,
}

impl BoundedBody {
    /// Bounds `body` to `limit` bytes.
    pub(crate) fn new(body: Body, limit: u64) -> Self {
        Self {
            stream: body.into_data_stream(),
            limit,
            received: 0,
            unused: Unused::default(),
            paused: false,
            waiting: None,
            waited: Duration::ZERO,
            alarm: Box::pin(sleep_until(Instant::now())),
        }
    }

    /// The counter that the reader clears.
    pub(crate) fn unused(&self) -> Unused {
        self.unused.clone()
    }

    /// How long the client may still keep us waiting now.
    fn patience(&self) -> Duration {
        let earned = Duration::from_secs(self.received / MIN_BYTES_PER_S) + IDLE;
        earned.saturating_sub(self.waited).min(IDLE)
    }

    /// Reads on for a while and throws away what comes: a client that is cut off while it sends may never read the answer.
    pub(crate) async fn linger(mut self) {
        use futures_util::StreamExt as _;
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
        let Poll::Ready(next) = Pin::new(&mut this.stream).poll_next(cx) else {
            if this.waiting.is_none() {
                let now = Instant::now();
                this.waiting = Some(now);
                let deadline = now + this.patience();
                this.alarm.as_mut().reset(deadline);
            }
            return this.alarm.as_mut().poll(cx).map(|()| Some(Err(BodyError::Slow)));
        };
        if let Some(since) = this.waiting.take() {
            this.waited += since.elapsed();
        }
        Poll::Ready(match next {
            None => None,
            Some(Err(error)) => Some(Err(BodyError::Broken(error.to_string()))),
            Some(Ok(bytes)) => {
                this.received += bytes.len() as u64;
                let unused = this.unused.0.fetch_add(bytes.len(), Ordering::Relaxed) + bytes.len();
                this.paused = true;
                if this.received > this.limit {
                    Some(Err(BodyError::TooLarge(this.limit)))
                } else if unused > MAX_UNUSED {
                    Some(Err(BodyError::Endless))
                } else {
                    Some(Ok(bytes))
                }
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use futures_util::{StreamExt as _, stream};

    use super::*;

    fn body(chunks: Vec<&'static str>) -> Body {
        Body::from_stream(stream::iter(chunks.into_iter().map(Ok::<_, std::io::Error>)))
    }

    #[tokio::test]
    async fn ends_at_the_limit() {
        let chunks: Vec<_> = BoundedBody::new(body(vec!["abc", "def", "g"]), 6).collect().await;
        assert!(matches!(chunks[..], [Ok(_), Ok(_), Err(BodyError::TooLarge(6))]), "{chunks:?}");
    }

    #[tokio::test]
    async fn hands_out_one_chunk_per_poll() {
        let mut body = BoundedBody::new(body(vec!["a", "b"]), 10);
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

    #[tokio::test(start_paused = true)]
    async fn gives_up_on_a_client_that_stops() {
        let silent = Body::from_stream(
            stream::iter([Ok::<_, std::io::Error>("x")]).chain(stream::pending::<std::io::Result<&str>>()),
        );
        let chunks: Vec<_> = BoundedBody::new(silent, 10).take(2).collect().await;
        assert!(matches!(chunks[..], [Ok(_), Err(BodyError::Slow)]), "{chunks:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn gives_up_on_a_client_that_drips() {
        let drip = stream::unfold((), |()| async {
            tokio::time::sleep(Duration::from_secs(20)).await;
            Some((Ok::<_, std::io::Error>("x"), ()))
        });
        let start = Instant::now();
        let chunks: Vec<_> = BoundedBody::new(Body::from_stream(drip), 1000).take(20).collect().await;
        assert!(chunks.iter().any(Result::is_err) && start.elapsed() < Duration::from_secs(120), "{chunks:?}");
    }

    #[tokio::test]
    async fn gives_up_on_a_part_without_an_end_of_its_head() {
        let flood = Body::from_stream(stream::repeat_with(|| Ok::<_, std::io::Error>(vec![b'x'; 100_000])));
        let mut body = BoundedBody::new(flood, u64::MAX);
        let error = loop {
            if let Err(error) = body.next().await.unwrap() {
                break error;
            }
        };
        assert!(matches!(error, BodyError::Endless));
    }
}
