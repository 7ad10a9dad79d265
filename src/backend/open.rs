//! Opens the configured backend.

use std::sync::Arc;

use super::{Backend, Result, aws, local};
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
