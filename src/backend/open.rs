//! Opens the configured backend.

use std::{path::Path, sync::Arc};

use super::{Backend, Error, ErrorKind, Host, Instance, Result, aws, local};
use crate::{
    clock::Clock,
    config::{Local, Stores},
};

/// Opens the backend that `stores` names. Data directories are made by the server: a mistyped one is an error here.
///
/// # Errors
/// If it cannot be reached or used.
pub async fn open(stores: &Stores, clock: Arc<dyn Clock>) -> Result<Backend> {
    match stores {
        Stores::Local(local) if !local.data_dir.is_dir() => Err(no_data(&local.data_dir)),
        Stores::Local(local) => local::open(local, clock).map(|(backend, _)| backend),
        Stores::Aws(aws) => aws::open(aws).await,
    }
}

/// Opens the configured backend for a tool that only looks at what there is.
///
/// # Errors
/// As for [`open`], and if the local data directory holds no data.
pub async fn open_existing(stores: &Stores, clock: Arc<dyn Clock>) -> Result<Backend> {
    if let Stores::Local(Local { data_dir, .. }) = stores
        && !local::is_data_dir(data_dir)
    {
        return Err(no_data(data_dir));
    }
    open(stores, clock).await
}

fn no_data(dir: &Path) -> Error {
    let message = format!(
        "there is no data in {}; name another directory with --data-dir, or start `imgcls serve` there",
        dir.display()
    );
    Error::new(ErrorKind::Refused, message)
}

/// The machine that this process runs on, decided within a second, and what its manager says of it.
///
/// # Errors
/// If the configured Auto Scaling group cannot be asked.
pub async fn instance(stores: &Stores) -> Result<Arc<dyn Instance>> {
    Ok(match stores {
        Stores::Local(_) => Arc::new(Host::default()),
        Stores::Aws(aws) => aws::instance(aws).await?,
    })
}
