//! An answer that many ask for: one question at a time, whose answer all share.

use std::{sync::Arc, time::Duration};

use futures_util::future::{BoxFuture, FutureExt as _};
use parking_lot::Mutex;
use tokio::time::{Instant, timeout};

use super::error::{Error, Result};

/// An answer may be given again for so long, so that many who ask trouble the stores no more than one.
pub(crate) const FRESH: Duration = Duration::from_millis(500);

/// Who asks waits for so long, and then takes the last known answer.
const PATIENCE: Duration = Duration::from_secs(4);

/// An older answer says nothing about now.
const OLDEST: Duration = Duration::from_secs(120);

/// An answer, and when it came.
#[derive(Debug)]
pub(crate) struct Known<T> {
    pub(crate) value: Arc<T>,
    at: Instant,
}

impl<T> Clone for Known<T> {
    fn clone(&self) -> Self {
        Self { value: Arc::clone(&self.value), at: self.at }
    }
}

impl<T> Known<T> {
    /// How old the answer is.
    pub(crate) fn age(&self) -> Duration {
        self.at.elapsed()
    }

    /// The age in seconds of an earlier answer, given because no new one was to be had.
    pub(crate) fn stale_seconds(&self) -> Option<u64> {
        (self.age() > FRESH + PATIENCE).then(|| self.age().as_secs())
    }
}

type Question<T> = futures_util::future::Shared<BoxFuture<'static, Result<Known<T>>>>;

#[derive(Debug)]
struct State<T> {
    last: Option<Known<T>>,
    /// The question under way.
    asked: Option<Question<T>>,
    /// Counts the calls of [`Shared::forget`].
    epoch: u64,
}

/// The last answer, and the question under way.
#[derive(Debug)]
pub(crate) struct Shared<T>(Arc<Mutex<State<T>>>);

impl<T> Default for Shared<T> {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(State { last: None, asked: None, epoch: 0 })))
    }
}

impl<T: Send + Sync + 'static> Shared<T> {
    /// Makes the next answer a new one: something was changed by hand.
    pub(crate) fn forget(&self) {
        let mut state = self.0.lock();
        *state = State { last: None, asked: None, epoch: state.epoch + 1 };
    }

    /// The last answer, however old.
    pub(crate) fn last(&self) -> Option<Arc<T>> {
        self.0.lock().last.as_ref().map(|known| Arc::clone(&known.value))
    }

    /// The answer to `question`, which has to end by itself: one that is younger than `fresh`, that of the question
    /// under way, or, if that does not come in time, the last known one.
    ///
    /// # Errors
    /// The question's, or 503, where no answer is known.
    pub(crate) async fn get<F>(&self, fresh: Duration, question: impl FnOnce() -> F) -> Result<Known<T>>
    where
        F: Future<Output = Result<T>> + Send + 'static,
    {
        let asked = {
            let mut state = self.0.lock();
            if let Some(last) = state.last.as_ref().filter(|last| last.age() < fresh) {
                return Ok(last.clone());
            }
            let epoch = state.epoch;
            state.asked.get_or_insert_with(|| self.ask(question(), epoch)).clone()
        };
        let error = match timeout(PATIENCE, asked).await {
            Ok(Ok(known)) => return Ok(known),
            Ok(Err(error)) => error,
            Err(_) => Error::unavailable(format!("the stores did not answer within {} s", PATIENCE.as_secs())),
        };
        self.0.lock().last.clone().filter(|last| last.age() < OLDEST).ok_or(error)
    }

    /// Begins a question, on a task of its own: it goes on when those who wait for it go away.
    fn ask(&self, question: impl Future<Output = Result<T>> + Send + 'static, epoch: u64) -> Question<T> {
        let state = Arc::clone(&self.0);
        let task = tokio::spawn(async move {
            let answer = question.await.map(|value| Known { value: Arc::new(value), at: Instant::now() });
            let mut state = state.lock();
            if state.epoch == epoch {
                state.asked = None;
                if let Ok(known) = &answer {
                    state.last = Some(known.clone());
                }
            }
            answer
        });
        let failed = |_| Err(Error::unavailable("asking the stores ended abruptly; try again"));
        task.map(move |ended| ended.unwrap_or_else(failed)).boxed().shared()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use axum::http::StatusCode;

    use super::*;

    const ANSWER: fn(u32) -> std::future::Ready<Result<u32>> = |n| std::future::ready(Ok(n));

    #[tokio::test(start_paused = true)]
    async fn one_question_serves_all_who_ask() {
        let (shared, asked) = (Shared::default(), AtomicU32::new(0));
        let question = || {
            asked.fetch_add(1, Ordering::Relaxed);
            async {
                tokio::time::sleep(Duration::from_secs(1)).await;
                Ok(7)
            }
        };
        let answers = futures_util::future::join_all((0..100).map(|_| shared.get(FRESH, question))).await;
        assert!(answers.into_iter().all(|answer| *answer.unwrap().value == 7));
        assert_eq!(asked.load(Ordering::Relaxed), 1);
        tokio::time::advance(FRESH).await;
        shared.get(FRESH, question).await.unwrap();
        assert_eq!(asked.load(Ordering::Relaxed), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_queues_up_behind_a_dead_store() {
        let shared = Shared::default();
        let dead = || async {
            tokio::time::sleep(Duration::from_secs(20)).await;
            Err(Error::unavailable("dead"))
        };
        let start = Instant::now();
        let answers = futures_util::future::join_all((0..10).map(|_| shared.get(FRESH, dead))).await;
        assert!(answers.into_iter().all(|a| a.unwrap_err().status() == StatusCode::SERVICE_UNAVAILABLE));
        assert_eq!(start.elapsed(), PATIENCE);

        shared.forget();
        assert_eq!(shared.last(), None);
        assert_eq!(*shared.get(FRESH, || ANSWER(1)).await.unwrap().value, 1);
        tokio::time::advance(Duration::from_secs(30)).await;
        let known = shared.get(FRESH, dead).await.unwrap();
        assert!(*known.value == 1 && known.stale_seconds() >= Some(30));
        assert_eq!(shared.last(), Some(known.value));
        tokio::time::advance(OLDEST).await;
        shared.get(FRESH, dead).await.unwrap_err();
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_asked_before_a_change_is_not_remembered() {
        let shared = Shared::default();
        let slow = || async {
            tokio::time::sleep(Duration::from_millis(700)).await;
            Ok(1)
        };
        let before = shared.get(FRESH, slow);
        let change = async {
            tokio::time::sleep(Duration::from_millis(500)).await;
            shared.forget();
            *shared.get(FRESH, || ANSWER(2)).await.unwrap().value
        };
        let (before, after) = tokio::join!(before, change);
        assert_eq!((*before.unwrap().value, after), (1, 2));
        assert_eq!(*shared.get(FRESH, || ANSWER(3)).await.unwrap().value, 2);
    }
}
