//! Exit codes: the one place that maps errors to them.

use std::{io, process::ExitCode};

use imgcls::{
    config::ConfigError,
    model::{BundleError, import::ImportError, shelf::ShelfError},
    roles::{ScaleError, UsageError},
};

/// Bad usage, configuration, scenario or model bundle.
const USAGE: u8 = 2;
/// `imgcls scale`: the queue, the fleet or the results store cannot be read.
const CANNOT_READ: u8 = 3;
/// `imgcls scale`: the decision cannot be carried out, or the chart not be written.
const CANNOT_ACT: u8 = 4;

/// The exit code of a command that failed.
pub(crate) fn code(error: &anyhow::Error) -> ExitCode {
    let is_usage = error.chain().any(|cause| {
        cause.is::<UsageError>()
            || cause.is::<ConfigError>()
            || cause.is::<BundleError>()
            || cause.is::<ShelfError>()
            // All but a disk that fails: weights that make no model, or a place that is taken.
            || cause.downcast_ref().is_some_and(|error| !matches!(error, ImportError::Write { .. }))
    });
    match error.downcast_ref::<ScaleError>() {
        Some(ScaleError::Usage(_)) => ExitCode::from(USAGE),
        Some(ScaleError::Read(_)) => ExitCode::from(CANNOT_READ),
        Some(ScaleError::Act(_)) => ExitCode::from(CANNOT_ACT),
        None if is_usage => ExitCode::from(USAGE),
        None => ExitCode::FAILURE,
    }
}

/// Whether output could not be written because its reader has gone, which is no failure. Connections that break are
/// errors of their callers, with their causes behind them.
pub(crate) fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let kind = match (error.downcast_ref::<io::Error>(), error.downcast_ref::<serde_json::Error>()) {
        (Some(error), _) => Some(error.kind()),
        (None, Some(error)) => error.io_error_kind(),
        (None, None) => None,
    };
    kind == Some(io::ErrorKind::BrokenPipe)
}
