//! Which build this is.

/// The program's name.
pub const NAME: &str = env!("CARGO_PKG_NAME");

/// Its version.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The commit of its sources, if `IMGCLS_COMMIT` named it at build time, as `make dist` does. The build does not ask
/// Git itself, so that a build of the same sources is the same wherever they are.
pub const COMMIT: Option<&str> = match option_env!("IMGCLS_COMMIT") {
    Some(commit) if !commit.is_empty() => Some(commit),
    _ => None,
};
