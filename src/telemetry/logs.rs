//! Logs: to standard error, for people or as JSON.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

use crate::config::LogFormat;

/// The variable that filters the log, in `tracing`'s syntax: `debug`, `imgcls=debug,aws_config=warn`.
pub const LOG_VARIABLE: &str = "IMGCLS_LOG";

/// Starts logging. Later calls do nothing.
pub fn start(format: LogFormat) {
    let filter = EnvFilter::try_from_env(LOG_VARIABLE).unwrap_or_else(|_| EnvFilter::new("info"));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_target(false)
        // A log that cannot be written must not end the process: its reader may be gone.
        .log_internal_errors(false);
    let started = match format {
        LogFormat::Text => builder.with_ansi(std::io::stderr().is_terminal()).try_init(),
        LogFormat::Json => builder.json().flatten_event(true).with_ansi(false).try_init(),
    };
    // Logging that is started already stays as it is.
    drop(started);
}
