//! Memory for images that are held whole, stored ones on their way out and those that come in JSON, and answers that
//! hold something until they are taken.

use std::{convert::Infallible, sync::Arc, time::Duration};

use axum::{
    body::{Body, Bytes},
    response::{IntoResponse as _, Response},
};
use futures_util::{StreamExt as _, stream};
use tokio::sync::OwnedSemaphorePermit;

use super::{
    App, ask,
    error::{Error, Result},
    shares::{Held, Shares},
};
use crate::{backend::StoredImage, contract::ImageName, model::Limits};

/// Memory for images, unless a single one may be larger.
const MEMORY_KIB: u64 = 64 << 10;

/// So long a request waits for its share of that memory.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// A body is handed out in copies of this size: what its client has not taken is all that is left of it elsewhere.
const PIECE: usize = 64 << 10;

/// Returns memory for images within `limits`, counted in KiB.
pub(crate) fn memory(limits: &Limits) -> Arc<Shares> {
    Shares::new(kib(limits.max_bytes).max(kib(MEMORY_KIB << 10)) as usize, "KiB of memory for images")
}

/// Returns a share of that memory for so many bytes.
///
/// # Errors
/// 503 where others have it and keep it.
pub(crate) async fn share(app: &App, bytes: u64) -> Result<OwnedSemaphorePermit> {
    let share = app.image_memory.take(kib(bytes), PATIENCE).await;
    share.ok_or_else(|| Error::unavailable("too many images are being sent; try again"))
}

/// Returns the bytes as a body that has `held` until all of them are taken.
pub(crate) fn body(bytes: Bytes, held: Held) -> Body {
    let pieces = stream::unfold((bytes, held), |(mut rest, held)| {
        let piece = rest.split_to(rest.len().min(PIECE));
        let piece = Bytes::copy_from_slice(&piece);
        async move { (!piece.is_empty()).then(|| (Ok::<_, Infallible>(piece), (rest, held))) }
    });
    // What compresses it asks again after the end.
    Body::from_stream(pieces.fuse())
}

/// Returns the answer, whose body is in memory, with what is held for it until it is taken.
pub(crate) async fn with(answer: Response, held: Option<Held>) -> Response {
    let Some(held) = held else { return answer };
    let (head, whole) = answer.into_parts();
    match axum::body::to_bytes(whole, usize::MAX).await {
        Ok(bytes) => Response::from_parts(head, body(bytes, held)),
        Err(error) => Error::unavailable(format!("the answer could not be made: {error}")).into_response(),
    }
}

fn kib(bytes: u64) -> u32 {
    u32::try_from(bytes.div_ceil(1024)).unwrap_or(u32::MAX >> 4)
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
