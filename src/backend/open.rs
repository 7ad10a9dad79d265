//! Opens the configured backend.

use std::sync::Arc;

use super::{Backend, Error, ErrorKind, Host, Instance, Result, aws, local};
use crate::{
    clock::Clock,
    config::{BackendKind, Config},
};

/// Opens the backend that `config` names.
///
/// # Errors
/// If it cannot be reached or used.
pub async fn open(config: &Config, clock: Arc<dyn Clock>) -> Result<Backend> {
    match config.backend {
        BackendKind::Local => local::open(config, clock).map(|(backend, _)| backend),
        BackendKind::Aws => aws::open(&config.aws).await,
    }
}

/// Opens the configured backend for a tool that only looks at what there is: a mistyped data directory is told, not created.
///
/// # Errors
/// As for [`open`], and if the local data directory holds no data.
pub async fn open_existing(config: &Config, clock: Arc<dyn Clock>) -> Result<Backend> {
    if config.backend == BackendKind::Local && !local::is_data_dir(&config.data_dir) {
        let message = format!(
            "there is no data in {}; name another directory with --data-dir, or start `imgcls serve` there",
            config.data_dir.display()
        );
        return Err(Error::new(ErrorKind::Refused, message));
    }
    open(config, clock).await
}

/// The machine that this process runs on, decided within a second, and what its manager says of it.
///
/// # Errors
/// If the configured Auto Scaling group cannot be asked.
pub async fn instance(config: &Config) -> Result<Arc<dyn Instance>> {
    Ok(match config.backend {
        BackendKind::Local => Arc::new(Host::default()),
        BackendKind::Aws => aws::instance(&config.aws).await?,
    })
}
