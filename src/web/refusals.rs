//! Who was refused, in the log, but not more often than a log can bear: those who are refused may be many, and may try
//! all day.

use std::{net::IpAddr, time::Duration};

use parking_lot::Mutex;
use tokio::time::Instant;

use super::error::Error;

/// So many are told of in [`WINDOW`]; the others are counted.
const MOST: u32 = 20;

const WINDOW: Duration = Duration::from_secs(10);

/// What was told of in this window.
#[derive(Debug, Default)]
pub(crate) struct Refusals(Mutex<Option<Told>>);

#[derive(Debug)]
struct Told {
    since: Instant,
    lines: u32,
    untold: u64,
}

impl Refusals {
    /// Tells that `client` got `error`.
    pub(crate) fn tell(&self, client: IpAddr, error: &Error) {
        let status = error.status().as_u16();
        match self.admit() {
            None => {}
            Some(0) => tracing::warn!(%client, status, reason = error.message(), "refused"),
            Some(untold) => {
                tracing::warn!(%client, status, reason = error.message(), untold, "refused, as others were before")
            }
        }
    }

    /// Whether to tell of one more, and how many were not told of before.
    fn admit(&self) -> Option<u64> {
        let mut told = self.0.lock();
        let told = told.get_or_insert_with(|| Told { since: Instant::now(), lines: 0, untold: 0 });
        if told.since.elapsed() >= WINDOW {
            (told.since, told.lines) = (Instant::now(), 0);
        }
        if told.lines == MOST {
            told.untold += 1;
            return None;
        }
        told.lines += 1;
        Some(std::mem::take(&mut told.untold))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_flood_is_counted() {
        let refusals = Refusals::default();
        let told = (0..1000).filter(|_| refusals.admit() == Some(0)).count();
        assert_eq!(told, MOST as usize);
        tokio::time::advance(WINDOW).await;
        assert_eq!((refusals.admit(), refusals.admit()), (Some(1000 - u64::from(MOST)), Some(0)));
    }
}
