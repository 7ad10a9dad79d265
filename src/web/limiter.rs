//! How often an address may try a wrong token.

use std::{collections::HashMap, net::IpAddr, time::Duration};

use parking_lot::Mutex;
use tokio::time::Instant;

use super::error::{Error, Result};

/// So many wrong tokens may an address try in [`WINDOW`].
const MAX_FAILURES: u32 = 10;

/// The span in which failures are counted, by a clock that nobody sets.
const WINDOW: Duration = Duration::from_secs(5 * 60);

/// Most addresses whose failures are remembered.
const MAX_ADDRESSES: usize = 10_000;

/// The failures of each address.
#[derive(Debug, Default)]
pub(crate) struct Limiter(Mutex<HashMap<IpAddr, Failures>>);

#[derive(Debug, Clone, Copy)]
struct Failures {
    since: Instant,
    count: u32,
}

impl Limiter {
    /// Refuses an address that has tried too many wrong tokens.
    ///
    /// # Errors
    /// 429 with the time to wait.
    pub(crate) fn check(&self, address: IpAddr) -> Result<()> {
        match self.0.lock().get(&network(address)) {
            Some(f) if f.count >= MAX_FAILURES && f.since.elapsed() < WINDOW => {
                let wait = (WINDOW - f.since.elapsed().min(WINDOW)).as_secs() + 1;
                Err(Error::too_many_requests(format!("too many wrong tokens; try again in {wait} s"), wait))
            }
            _ => Ok(()),
        }
    }

    /// Remembers that an address tried a wrong token.
    pub(crate) fn failed(&self, address: IpAddr) {
        let now = Instant::now();
        let mut failures = self.0.lock();
        if failures.len() >= MAX_ADDRESSES {
            failures.retain(|_, f| now - f.since < WINDOW);
        }
        if failures.len() >= MAX_ADDRESSES {
            // A flood from that many addresses: those remembered make room.
            failures.clear();
        }
        let entry = failures.entry(network(address)).or_insert(Failures { since: now, count: 0 });
        if now - entry.since >= WINDOW {
            *entry = Failures { since: now, count: 0 };
        }
        entry.count += 1;
    }
}

/// Who has one IPv6 address has all of its /64.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6((u128::from(v6) >> 64 << 64).into()),
        v4 @ IpAddr::V4(_) => v4,
    }
}

#[cfg(test)]
mod tests {
    use axum::http::StatusCode;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn guessing_is_slow() {
        let limiter = Limiter::default();
        let address: IpAddr = "2001:db8::1".parse().unwrap();
        for _ in 0..MAX_FAILURES {
            limiter.check(address).unwrap();
            limiter.failed(address);
        }
        let neighbour = "2001:db8::2".parse().unwrap();
        assert_eq!(limiter.check(neighbour).unwrap_err().status(), StatusCode::TOO_MANY_REQUESTS);
        limiter.check("10.0.0.1".parse().unwrap()).unwrap();
        tokio::time::advance(WINDOW).await;
        limiter.check(address).unwrap();
    }
}
