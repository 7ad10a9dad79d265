//! Time-outs and retries of calls to stores: one way each.

use std::time::Duration;

use super::{Error, ErrorKind, Result};
pub use crate::retry::Retry;

impl Retry {
    /// Starts counting.
    #[must_use]
    pub fn start(self) -> Attempts {
        Attempts { policy: self, failures: 0 }
    }
}

/// The tries of one call.
#[derive(Debug)]
pub struct Attempts {
    policy: Retry,
    failures: u32,
}

impl Attempts {
    /// Waits until the next try.
    ///
    /// # Errors
    /// `error` itself, at once, if another try does not help or there have been enough.
    pub async fn again(&mut self, error: Error) -> Result<()> {
        self.failures += 1;
        if error.kind() != ErrorKind::Transient || self.failures >= self.policy.attempts {
            return Err(error);
        }
        let pause = self.policy.pause(self.failures);
        tracing::debug!(%error, failures = self.failures, pause_ms = pause.as_millis(), "trying again");
        tokio::time::sleep(pause).await;
        Ok(())
    }
}

/// Waits for `call`, but not longer than `limit`.
///
/// # Errors
/// The call's, and [`ErrorKind::Transient`] if it takes too long.
pub async fn within<T, E>(limit: Duration, call: impl Future<Output = Result<T, E>>) -> Result<T, E>
where
    E: From<Error>,
{
    match tokio::time::timeout(limit, call).await {
        Ok(done) => done,
        Err(_) => {
            let message = format!("the store did not answer within {} s", limit.as_secs_f64());
            Err(Error::new(ErrorKind::Transient, message).into())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn gives_up_at_the_last_try_and_at_once_where_no_try_helps() {
        let error = |kind| Error::new(kind, "no");
        let mut attempts = Retry::times(3).start();
        attempts.again(error(ErrorKind::Transient)).await.unwrap();
        attempts.again(error(ErrorKind::Transient)).await.unwrap();
        attempts.again(error(ErrorKind::Transient)).await.unwrap_err();
        for kind in [ErrorKind::NotFound, ErrorKind::TooLarge, ErrorKind::Full, ErrorKind::Refused] {
            assert_eq!(Retry::CALL.start().again(error(kind)).await.unwrap_err().kind(), kind);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_takes_too_long_may_be_tried_again() {
        let late = within(Duration::from_secs(5), std::future::pending::<Result<()>>()).await.unwrap_err();
        assert_eq!(
            (late.kind(), late.to_string()),
            (ErrorKind::Transient, "the store did not answer within 5 s".into())
        );
        within(Duration::from_secs(5), std::future::ready(Ok::<_, Error>(()))).await.unwrap();
    }
}
