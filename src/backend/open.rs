//! Opens the configured backend.

use std::sync::Arc;

use super::{Backend, Host, Instance, Result, aws, local};
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
