//! Logs: to standard error, for people or as JSON.

use std::{
    io::IsTerminal,
    sync::atomic::{AtomicBool, Ordering},
};

use tracing_subscriber::EnvFilter;

use crate::config::{ConfigError, LogFormat};

/// The variable that filters the log, in `tracing`'s syntax: `debug`, `imgcls=debug,aws_config=warn`.
pub const LOG_VARIABLE: &str = "IMGCLS_LOG";

/// Starts logging. Later calls do nothing.
///
/// # Errors
/// If the variable holds no filter.
pub fn start(format: LogFormat) -> Result<(), ConfigError> {
    let text = std::env::var(LOG_VARIABLE).unwrap_or_default();
    let filter = EnvFilter::try_new(if text.is_empty() { "info" } else { &text }).map_err(|error| {
        ConfigError::Invalid(format!(
            "{LOG_VARIABLE} is {text:?}, which is no log filter such as info or imgcls=debug: {error}"
        ))
    })?;
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
    if started.is_ok() && format == LogFormat::Json {
        IS_JSON.store(true, Ordering::Relaxed);
        std::panic::set_hook(Box::new(|panic| {
            let place = panic.location().map(ToString::to_string);
            tracing::error!(place, "panicked: {}", reason(panic.payload()));
        }));
    }
    Ok(())
}

/// What a panic says.
fn reason(payload: &(dyn std::any::Any + Send)) -> &str {
    let text = payload.downcast_ref::<&str>().copied().or(payload.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("no reason given")
}

/// Whether every line on standard error is JSON.
static IS_JSON: AtomicBool = AtomicBool::new(false);

/// Tells why the program ends, as the log's other lines look; before there is a log as text.
pub fn tell_end(reason: &str) {
    if IS_JSON.load(Ordering::Relaxed) {
        tracing::error!("{reason}");
    } else {
        eprintln!("imgcls: {reason}");
    }
}
