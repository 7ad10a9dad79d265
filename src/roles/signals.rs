//! Ctrl-C and SIGTERM as a cancellation token.

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// A token that is cancelled at the first SIGINT or SIGTERM. A second one ends the process at once.
///
/// # Errors
/// If the handlers cannot be installed.
pub(super) fn stop_token() -> std::io::Result<CancellationToken> {
    let token = CancellationToken::new();
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let stop = token.clone();
    tokio::spawn(async move {
        let mut next = async || {
            tokio::select! {
                _ = interrupt.recv() => "SIGINT",
                _ = terminate.recv() => "SIGTERM",
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
