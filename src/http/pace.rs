//! The client's side of a connection: how long it lets us wait for its bytes, or for taking ours.

use std::{
    future::Future as _,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use axum::{BoxError, body::Bytes};
use hyper::body::{Body, Frame, SizeHint};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, Sleep, sleep_until},
};

use super::activity::Activity;

/// A client that owes us so much time is given up.
const PATIENCE: Duration = Duration::from_secs(30);

/// So many bytes, sent or taken, pay for a second that we waited.
const BYTES_PER_S: u64 = 1024;

/// The same where places run out: who just keeps up otherwise holds one for little.
const PRESSED_BYTES_PER_S: u64 = 16 << 10;

/// The body of a request came too slowly.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("the client sent too slowly; the connection is given up")]
pub(crate) struct Slow;

/// The time that we waited for the client in one direction, less what its bytes have paid for. It is never negative: a
/// fast start earns no pause later.
#[derive(Debug)]
struct Debt {
    bytes_per_s: u64,
    owed: Duration,
    waiting: Option<Instant>,
}

impl Debt {
    /// No debt yet; so many bytes will pay for a second.
    fn at(bytes_per_s: u64) -> Self {
        Self { bytes_per_s, owed: Duration::ZERO, waiting: None }
    }

    /// We wait from now on, unless we do already. Returns the moment from which the whole debt counts.
    fn wait(&mut self) -> Instant {
        let since = *self.waiting.get_or_insert_with(Instant::now);
        since.checked_sub(self.owed).unwrap_or(since)
    }

    /// So much of the time that we have waited is not the client's.
    fn excuse(&mut self, time: Duration) {
        if let Some(since) = &mut self.waiting {
            *since += time;
        }
    }

    /// The client has sent or taken `bytes`.
    fn pay(&mut self, bytes: usize) {
        if let Some(since) = self.waiting.take() {
            self.owed += since.elapsed();
        }
        self.owed = self.owed.saturating_sub(Duration::from_micros(bytes as u64 * 1_000_000 / self.bytes_per_s));
    }
}

/// A client's debts, with the alarm that ends our patience.
#[derive(Debug)]
struct Meter {
    debt: Debt,
    /// What it owes where places run out.
    pressed: Debt,
    alarm: Pin<Box<Sleep>>,
}

impl Meter {
    fn new() -> Self {
        let alarm = Box::pin(sleep_until(Instant::now()));
        Self { debt: Debt::at(BYTES_PER_S), pressed: Debt::at(PRESSED_BYTES_PER_S), alarm }
    }

    /// Ready when the patience has ended. Also returns the moment from which the debt counts where places run out.
    fn poll_wait(&mut self, cx: &mut Context<'_>) -> (Instant, Poll<()>) {
        let began = self.debt.waiting.is_some();
        let since = self.debt.wait();
        if !began {
            self.alarm.as_mut().reset(since + PATIENCE);
        }
        (self.pressed.wait(), self.alarm.as_mut().poll(cx))
    }

    /// So much of the time that we have waited is not the client's.
    fn excuse(&mut self, time: Duration) {
        if time.is_zero() || self.debt.waiting.is_none() {
            return;
        }
        self.debt.excuse(time);
        self.pressed.excuse(time);
        self.alarm.as_mut().reset(self.debt.wait() + PATIENCE);
    }

    fn pay(&mut self, bytes: usize) {
        self.debt.pay(bytes);
        self.pressed.pay(bytes);
    }
}

/// A request's body whose sender must keep up.
#[derive(Debug)]
pub(crate) struct PacedBody<B> {
    body: B,
    meter: Meter,
    activity: Activity,
}

impl<B> PacedBody<B> {
    pub(crate) fn new(body: B, activity: Activity) -> Self {
        Self { body, meter: Meter::new(), activity }
    }
}

impl<B> Body for PacedBody<B>
where
    B: Body<Data = Bytes, Error: Into<BoxError>> + Unpin,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = self.get_mut();
        this.meter.excuse(this.activity.take_excused());
        let Poll::Ready(frame) = Pin::new(&mut this.body).poll_frame(cx) else {
            let (since, given_up) = this.meter.poll_wait(cx);
            this.activity.waits_to_read(since);
            ready!(given_up);
            this.activity.give_up();
            return Poll::Ready(Some(Err(Slow.into())));
        };
        let bytes = frame.as_ref().and_then(|f| f.as_ref().ok()?.data_ref().map(Bytes::len)).unwrap_or(0);
        this.meter.pay(bytes);
        this.activity.has_read(bytes);
        Poll::Ready(frame.map(|frame| frame.map_err(Into::into)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl<B> Drop for PacedBody<B> {
    fn drop(&mut self) {
        self.activity.has_read(0);
    }
}

/// The body of an answer: the request ends with it.
#[derive(Debug)]
pub(crate) struct Answer {
    body: axum::body::Body,
    activity: Activity,
}

impl Answer {
    pub(crate) fn new(body: axum::body::Body, activity: Activity) -> Self {
        Self { body, activity }
    }
}

impl Body for Answer {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        self.activity.end();
    }
}

/// A connection whose client must take what it asked for.
#[derive(Debug)]
pub(crate) struct PacedStream<S> {
    stream: S,
    meter: Meter,
    activity: Activity,
}

impl<S> PacedStream<S> {
    pub(crate) fn new(stream: S, activity: Activity) -> Self {
        Self { stream, meter: Meter::new(), activity }
    }

    fn poll_taken(&mut self, cx: &mut Context<'_>, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        let Poll::Ready(written) = written else {
            let (since, given_up) = self.meter.poll_wait(cx);
            self.activity.waits_to_write(since);
            ready!(given_up);
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        };
        let bytes = *written.as_ref().unwrap_or(&0);
        self.meter.pay(bytes);
        self.activity.has_written(bytes);
        Poll::Ready(written)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for PacedStream<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buf);
        match read {
            Poll::Pending => self.activity.has_none(),
            Poll::Ready(_) if buf.filled().len() > before => self.activity.has_bytes(),
            Poll::Ready(_) => {}
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for PacedStream<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.poll_taken(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.poll_taken(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use futures_util::{StreamExt as _, stream};
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;
    use crate::http::activity::Doing;

    /// Reads a body of these chunks, each of which comes after its pause, and returns the sizes read, `None` for an
    /// error.
    async fn read(chunks: Vec<(u64, usize)>) -> (Vec<Option<usize>>, Duration) {
        let start = Instant::now();
        let chunks = stream::iter(chunks).then(|(pause, bytes)| async move {
            tokio::time::sleep(Duration::from_secs(pause)).await;
            Ok::<_, std::convert::Infallible>(vec![0_u8; bytes])
        });
        let body = PacedBody::new(axum::body::Body::from_stream(chunks), Activity::new());
        let mut body = axum::body::Body::new(body).into_data_stream();
        let mut sizes = Vec::new();
        while let Some(chunk) = body.next().await {
            sizes.push(chunk.ok().map(|c| c.len()));
            if sizes.last() == Some(&None) {
                break;
            }
        }
        (sizes, start.elapsed())
    }

    #[tokio::test(start_paused = true)]
    async fn a_sender_that_keeps_up_may_take_its_time() {
        let (sizes, took) = read(vec![(20, 20 << 10); 100]).await;
        assert_eq!(sizes.iter().flatten().count(), 100);
        assert!(took >= Duration::from_secs(2000));
    }

    #[tokio::test(start_paused = true)]
    async fn gives_up_on_a_sender_that_stops() {
        let (sizes, took) = read(vec![(0, 1 << 20), (3600, 1)]).await;
        assert_eq!(sizes, [Some(1 << 20), None]);
        assert!(took < Duration::from_secs(31), "{took:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn gives_up_on_a_sender_that_drips() {
        let (sizes, took) = read(vec![(1, 1); 1000]).await;
        assert_eq!(sizes.last(), Some(&None));
        assert!(took < Duration::from_secs(35), "{took:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn who_just_keeps_up_owes_its_place() {
        let start = Instant::now();
        let mut meter = Meter::new();
        let wait = |meter: &mut Meter| meter.poll_wait(&mut Context::from_waker(std::task::Waker::noop()));
        for _ in 0..100 {
            assert!(wait(&mut meter).1.is_pending());
            tokio::time::advance(Duration::from_secs(1)).await;
            meter.pay(2 << 10);
        }
        let (since, given_up) = wait(&mut meter);
        assert!(given_up.is_pending());
        assert_eq!((since - start).as_millis(), 12_500, "of 100 s its bytes paid for an eighth");
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_owes_the_time_that_they_wait_for_us() {
        let activity = Activity::new();
        activity.begin();
        let silent = axum::body::Body::from_stream(stream::pending::<io::Result<Bytes>>());
        let mut body = PacedBody::new(silent, activity.clone());
        let mut poll = async |time| {
            let read = std::future::poll_fn(|cx| Pin::new(&mut body).poll_frame(cx));
            tokio::time::timeout(Duration::from_secs(time), read).await.is_ok()
        };
        assert!(!poll(20).await);
        let seen = async {
            tokio::time::sleep(Duration::from_secs(60)).await;
            activity.doing()
        };
        assert_eq!(activity.excuse(seen).await, Doing::Served);
        let begun = Instant::now();
        assert!(!poll(5).await, "25 s of its own");
        assert_eq!(activity.doing(), Doing::Owing(begun - Duration::from_secs(20)));
        assert!(poll(6).await, "30 s of its own");
    }

    #[tokio::test(start_paused = true)]
    async fn gives_up_on_a_client_that_takes_nothing() {
        let (ours, _theirs) = tokio::io::duplex(1000);
        let activity = Activity::new();
        let mut stream = PacedStream::new(ours, activity.clone());
        let start = Instant::now();
        assert_eq!(stream.write_all(&[0; 5000]).await.unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert!(start.elapsed() < Duration::from_secs(31));
        assert!(matches!(activity.doing(), Doing::Owing(_)));
    }

    #[tokio::test(start_paused = true)]
    async fn says_what_a_connection_does() {
        let (activity, since) = (Activity::new(), Instant::now());
        assert_eq!(activity.doing(), Doing::New);
        let (ours, mut theirs) = tokio::io::duplex(1000);
        let mut stream = PacedStream::new(ours, activity.clone());
        let mut read = async || {
            let mut bytes = Vec::new();
            drop(tokio::time::timeout(Duration::from_secs(5), stream.read_buf(&mut bytes)).await);
            bytes.len()
        };
        assert_eq!(read().await, 0);
        assert_eq!(activity.doing(), Doing::Idle(since));
        theirs.write_all(b"a request").await.unwrap();
        assert_eq!(read().await, 9);
        assert!(activity.begin(), "it came by itself");
        assert_eq!(activity.doing(), Doing::Served);
        assert!(!activity.begin(), "it came with the one before");
        let silent = axum::body::Body::from_stream(stream::pending::<io::Result<Bytes>>());
        let mut body = PacedBody::new(silent, activity.clone());
        let read = std::future::poll_fn(|cx| Pin::new(&mut body).poll_frame(cx));
        tokio::time::timeout(Duration::from_secs(2), read).await.unwrap_err();
        assert_eq!(activity.doing(), Doing::Owing(since + Duration::from_secs(5)));
        drop(body);
        drop(Answer::new(axum::body::Body::empty(), activity.clone()));
        assert_eq!(activity.doing(), Doing::Idle(Instant::now()));
    }
}
