//! Stored images: shown, and removed.

use std::sync::Arc;

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
use tokio::sync::OwnedSemaphorePermit;

use super::{
    App, ask,
    auth::Admin,
    error::{Error, Result},
    etag,
    outgoing::fetch,
    params::image_in,
    thumbnails::{self, Wanted},
};
use crate::{backend, contract::ImageName, model::format};

/// A body is handed out in pieces of this size, so that its memory is given back when the client has it.
const PIECE: usize = 256 << 10;

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
        format!("{disposition}; filename*=UTF-8''{}", utf8_percent_encode(image.base(), NON_ALPHANUMERIC));
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
