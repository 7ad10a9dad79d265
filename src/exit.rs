//! Exit codes: the one place that maps errors to them.

use std::{io, process::ExitCode};

use imgcls::{
    config::ConfigError,
    model::{BundleError, shelf::ShelfError},
    roles::ScaleError,
};

/// Bad usage, configuration, scenario or model bundle.
const USAGE: u8 = 2;
/// `imgcls scale`: the queue, the fleet or the results store cannot be read.
const CANNOT_READ: u8 = 3;
/// `imgcls scale`: the decision cannot be carried out, or the chart not be written.
const CANNOT_ACT: u8 = 4;

/// The exit code of a command that failed.
pub(crate) fn code(error: &anyhow::Error) -> ExitCode {
    let is_usage =
        error.chain().any(|cause| cause.is::<ConfigError>() || cause.is::<BundleError>() || cause.is::<ShelfError>());
    match error.downcast_ref::<ScaleError>() {
        Some(ScaleError::Usage(_)) => ExitCode::from(USAGE),
        Some(ScaleError::Read(_)) => ExitCode::from(CANNOT_READ),
        Some(ScaleError::Act(_)) => ExitCode::from(CANNOT_ACT),
        None if is_usage => ExitCode::from(USAGE),
        None => ExitCode::FAILURE,
    }
}

/// Whether output could not be written because its reader has gone, which is no failure.
pub(crate) fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error
        .chain()
        .filter_map(|cause| cause.downcast_ref::<io::Error>())
        .any(|error| error.kind() == io::ErrorKind::BrokenPipe)
}
