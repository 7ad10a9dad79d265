//! SIGINT, SIGTERM and SIGHUP as a cancellation token.

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// A token that is cancelled at the first SIGINT, SIGTERM or SIGHUP. A second one ends the process at once.
///
/// # Errors
/// If the handlers cannot be installed.
pub(super) fn stop_token() -> std::io::Result<CancellationToken> {
    let token = CancellationToken::new();
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let mut hang_up = if is_hang_up_ignored() { None } else { Some(signal(SignalKind::hangup())?) };
    let stop = token.clone();
    tokio::spawn(async move {
        let mut next = async || {
            tokio::select! {
                _ = interrupt.recv() => "SIGINT",
                _ = terminate.recv() => "SIGTERM",
                Some(_) = async { hang_up.as_mut()?.recv().await } => "SIGHUP",
            }
        };
        let name = next().await;
        info!(signal = name, "stopping; a second signal ends at once");
        stop.cancel();
        let name = next().await;
        warn!(signal = name, "ending at once; what is unfinished comes back to the queue by itself");
        std::process::exit(130);
    });
    Ok(token)
}

/// Whether this process was started to survive its terminal, as `nohup` does it.
fn is_hang_up_ignored() -> bool {
    let ignored = |status: String| {
        let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"))?.trim().to_owned();
        u64::from_str_radix(&mask, 16).ok()
    };
    // Bit 0 is signal 1. Without /proc nothing is known, and a terminal that closes ends the process.
    std::fs::read_to_string("/proc/self/status").ok().and_then(ignored).is_some_and(|mask| mask & 1 == 1)
}
