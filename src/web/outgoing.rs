//! Memory for images that are held whole: stored ones on their way out, and those that come in JSON.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};

use super::{
    App, ask,
    error::{Error, Result},
};
use crate::{backend::StoredImage, contract::ImageName, model::Limits};

/// Memory for images on their way out, unless a single one may be larger.
const MEMORY_KIB: u64 = 64 << 10;

/// So long a request waits for its share of that memory.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// Kibibytes for images on their way out.
pub(crate) fn memory(limits: &Limits) -> Arc<Semaphore> {
    Arc::new(Semaphore::new(kib(limits.max_bytes).max(kib(MEMORY_KIB << 10)) as usize))
}

fn kib(bytes: u64) -> u32 {
    u32::try_from(bytes.div_ceil(1024)).unwrap_or(u32::MAX >> 4)
}

/// A share of that memory.
///
/// # Errors
/// 503 where others have it and keep it.
pub(crate) async fn share(app: &App, bytes: u64) -> Result<OwnedSemaphorePermit> {
    let share = Arc::clone(&app.image_memory).acquire_many_owned(kib(bytes));
    match timeout(PATIENCE, share).await {
        Ok(Ok(share)) => Ok(share),
        _ => Err(Error::unavailable("too many images are being sent; try again")),
    }
}

/// The image with the share of memory that it takes.
pub(crate) async fn fetch(app: &App, image: &ImageName) -> Result<(StoredImage, OwnedSemaphorePermit)> {
    let max_bytes = app.config.limits.max_bytes;
    let mut share = share(app, max_bytes).await?;
    let stored = ask(app.backend.images.get(image, max_bytes)).await?;
    // What this one does not need, others may use at once.
    if let Some(rest) = share.split(share.num_permits().saturating_sub(kib(stored.bytes.len() as u64) as usize)) {
        drop(rest);
    }
    Ok((stored, share))
}
