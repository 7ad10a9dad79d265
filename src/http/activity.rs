//! What a connection does, shared by all who take part in it and by those who may end it.

use std::{sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// What a connection does, as far as it matters to who may stay when places run out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Doing {
    /// It has just come, and was not read yet.
    New,
    /// No request is under way, since then.
    Idle(Instant),
    /// A request is under way that waits for us.
    Served,
    /// A request is under way that waits for the client; its debt counts from then.
    Owing(Instant),
}

#[derive(Debug)]
struct State {
    /// `None` until the connection was read and no byte was known to have come.
    idle_since: Option<Instant>,
    /// Whether bytes were read since the last request came.
    fresh: bool,
    serving: bool,
    reading: Option<Instant>,
    writing: Option<Instant>,
    gave_up: bool,
    moved: u64,
    excused: Duration,
}

/// One connection's activity, shared by all who take part in it.
#[derive(Debug, Clone)]
pub(crate) struct Activity {
    state: Arc<Mutex<State>>,
    cut: CancellationToken,
}

impl Activity {
    /// Of a connection that begins now.
    pub(crate) fn new() -> Self {
        let state = State {
            idle_since: None,
            fresh: false,
            serving: false,
            reading: None,
            writing: None,
            gave_up: false,
            moved: 0,
            excused: Duration::ZERO,
        };
        Self { state: Arc::new(Mutex::new(state)), cut: CancellationToken::new() }
    }

    /// Ends the connection: what it holds is needed by others.
    pub(crate) fn cut(&self) {
        self.cut.cancel();
    }

    /// Waits until the connection is to end.
    pub(super) async fn is_cut(&self) {
        self.cut.cancelled().await;
    }

    /// What the connection does now.
    pub(crate) fn doing(&self) -> Doing {
        let state = self.state.lock();
        match (state.reading, state.writing, state.serving) {
            (Some(reading), Some(writing), _) => Doing::Owing(reading.min(writing)),
            (Some(since), None, _) | (None, Some(since), _) => Doing::Owing(since),
            (None, None, true) => Doing::Served,
            (None, None, false) => state.idle_since.map_or(Doing::New, Doing::Idle),
        }
    }

    /// Whether the body of a request came too slowly.
    pub(crate) fn gave_up(&self) -> bool {
        self.state.lock().gave_up
    }

    /// How many bytes of bodies the client has sent, and of answers taken.
    pub(crate) fn moved(&self) -> u64 {
        self.state.lock().moved
    }

    /// Waits for `work` of ours before more of the request's body is read; the client does not owe us that time.
    pub(crate) async fn excuse<T>(&self, work: impl Future<Output = T>) -> T {
        let began = Instant::now();
        self.state.lock().reading = None;
        let done = work.await;
        self.state.lock().excused += began.elapsed();
        done
    }

    /// Returns the time that the client does not owe us, once.
    pub(super) fn take_excused(&self) -> Duration {
        std::mem::take(&mut self.state.lock().excused)
    }

    /// A request has come. Returns `false` for one that was read together with the one before.
    pub(crate) fn begin(&self) -> bool {
        let mut state = self.state.lock();
        state.serving = true;
        std::mem::take(&mut state.fresh)
    }

    /// The answer is taken.
    pub(super) fn end(&self) {
        let mut state = self.state.lock();
        state.serving = false;
        state.idle_since = Some(Instant::now());
    }

    /// The connection was read, and some bytes had come.
    pub(super) fn has_bytes(&self) {
        self.state.lock().fresh = true;
    }

    /// The connection was read, and no byte was known to have come.
    pub(super) fn has_none(&self) {
        self.state.lock().idle_since.get_or_insert_with(Instant::now);
    }

    /// We wait for bytes of a body; the client's debt counts from then.
    pub(super) fn waits_to_read(&self, since: Instant) {
        self.state.lock().reading = Some(since);
    }

    /// Some bytes of a body have come, or its end.
    pub(super) fn has_read(&self, bytes: usize) {
        let mut state = self.state.lock();
        state.reading = None;
        state.moved += bytes as u64;
    }

    /// The body of a request came too slowly.
    pub(super) fn give_up(&self) {
        self.state.lock().gave_up = true;
    }

    /// We wait for the client to take bytes; its debt counts from then.
    pub(super) fn waits_to_write(&self, since: Instant) {
        self.state.lock().writing = Some(since);
    }

    /// The client has taken some bytes.
    pub(super) fn has_written(&self, bytes: usize) {
        let mut state = self.state.lock();
        state.writing = None;
        state.moved += bytes as u64;
    }
}
