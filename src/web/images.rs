//! Stored images: shown, and removed.

use std::{sync::Arc, time::Duration};

use axum::{
    Json,
    body::{Body, Bytes},
    extract::{Path, State, rejection::PathRejection},
    http::{HeaderMap, HeaderValue, Uri, header},
    response::{IntoResponse, Response},
};
use futures_util::stream;
use headers::CacheControl;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Serialize;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};

use super::{
    App, ask,
    auth::Admin,
    error::{Error, Result},
    etag,
    results::image_in,
    thumbnails::{self, Wanted},
};
use crate::{
    backend::{self, StoredImage},
    contract::ImageName,
    model::{Limits, format},
};

/// Memory for images on their way out, unless a single one may be larger.
const MEMORY_KIB: u64 = 64 << 10;

/// So long a request waits for its share of that memory.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// A body is handed out in pieces of this size, so that its memory is given back when the client has it.
const PIECE: usize = 256 << 10;

/// Kibibytes for images on their way out.
pub(crate) fn memory(limits: &Limits) -> Arc<Semaphore> {
    Arc::new(Semaphore::new(kib(limits.max_bytes).max(kib(MEMORY_KIB << 10)) as usize))
}

fn kib(bytes: u64) -> u32 {
    u32::try_from(bytes.div_ceil(1024)).unwrap_or(u32::MAX >> 4)
}

/// The image with the share of memory that it takes.
pub(crate) async fn fetch(app: &App, image: &ImageName) -> Result<(StoredImage, OwnedSemaphorePermit)> {
    let max_bytes = app.config.limits.max_bytes;
    let share = Arc::clone(&app.image_memory).acquire_many_owned(kib(max_bytes));
    let mut share = match timeout(PATIENCE, share).await {
        Ok(Ok(share)) => share,
        _ => return Err(Error::unavailable("too many images are being sent; try again")),
    };
    let stored = ask(app.backend.images.get(image, max_bytes)).await?;
    // What this one does not need, others may use at once.
    if let Some(rest) = share.split(share.num_permits().saturating_sub(kib(stored.bytes.len() as u64) as usize)) {
        drop(rest);
    }
    Ok((stored, share))
}

/// `GET /images/{name}`
pub(crate) async fn get(
    State(app): State<Arc<App>>,
    path: Result<Path<String>, PathRejection>,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Response> {
    let image = image_in(path)?;
    if let Some(wanted) = Wanted::new(&uri)? {
        return thumbnails::get(&app, &image, wanted, &headers).await;
    }
    let (stored, share) = fetch(&app, &image).await?;
    // A name may get other bytes after a reset, so a copy is asked about each time.
    let cache = CacheControl::new().with_private().with_no_cache();
    let mut response = etag::conditional(&headers, cache, stored.bytes, |bytes| body(bytes, share, &image));
    let policy = HeaderValue::from_static("default-src 'none'; sandbox");
    response.headers_mut().insert(header::CONTENT_SECURITY_POLICY, policy);
    Ok(response)
}

fn body(bytes: Vec<u8>, share: OwnedSemaphorePermit, image: &ImageName) -> Response {
    let format = format::sniff(&bytes);
    let disposition = if format.is_ok() { "inline" } else { "attachment" };
    let disposition =
        format!("{disposition}; filename*=UTF-8''{}", utf8_percent_encode(image.as_str(), NON_ALPHANUMERIC));
    let length = bytes.len();
    let pieces = stream::unfold((Bytes::from(bytes), share), |(mut rest, share)| async move {
        let piece = rest.split_to(rest.len().min(PIECE));
        (!piece.is_empty()).then(|| (Ok::<_, std::convert::Infallible>(piece), (rest, share)))
    });
    let headers = [
        (header::CONTENT_TYPE, format.map_or("application/octet-stream", format::Format::media_type).to_owned()),
        (header::CONTENT_LENGTH, length.to_string()),
        (header::CONTENT_DISPOSITION, disposition),
    ];
    (headers, Body::from_stream(pieces)).into_response()
}

/// What was removed.
#[derive(Debug, Serialize)]
pub(crate) struct Deleted {
    image: ImageName,
    deleted: bool,
}

/// `DELETE /images/{name}`: the image with its tags, then its row and output object.
pub(crate) async fn delete(
    State(app): State<Arc<App>>,
    _: Admin,
    path: Result<Path<String>, PathRejection>,
) -> Result<Json<Deleted>> {
    let image = image_in(path)?;
    let was_there = ask(backend::remove(&app.backend, &image)).await?;
    app.status.forget();
    app.thumbnails.forget(Some(&image));
    if !was_there {
        return Err(Error::not_found(format!("there is no image {image}")).of_image(&image));
    }
    tracing::info!(%image, "image removed");
    Ok(Json(Deleted { image, deleted: true }))
}
