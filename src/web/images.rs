//! Stored images: shown, and removed.

use std::sync::Arc;

use axum::{
    Extension, Json,
    body::{Body, Bytes},
    extract::{Path, State, rejection::PathRejection},
    http::{HeaderMap, HeaderValue, StatusCode, Uri, header},
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
    guard::Client,
    outgoing::fetch,
    params::{NoParameters, image_in},
    range::{self, Part},
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
    let etag = etag::strong(&stored.bytes);
    let part = range::wanted(&headers, etag.as_ref(), stored.bytes.len() as u64);
    let mut response = etag::conditional(&headers, cache, etag, || body(stored.bytes, part, share, &image));
    let policy = HeaderValue::from_static("default-src 'none'; sandbox");
    response.headers_mut().insert(header::CONTENT_SECURITY_POLICY, policy);
    Ok(response)
}

fn body(bytes: Vec<u8>, part: Part, share: OwnedSemaphorePermit, image: &ImageName) -> Response {
    let format = format::sniff(&bytes);
    let disposition = if format.is_ok() { "inline" } else { "attachment" };
    let disposition =
        format!("{disposition}; filename*=UTF-8''{}", utf8_percent_encode(image.as_str(), NON_ALPHANUMERIC));
    let (whole, bytes) = (bytes.len(), Bytes::from(bytes));
    let told = |range: String| Some([(header::CONTENT_RANGE, range)]);
    let (status, range, bytes) = match part {
        Part::All => (StatusCode::OK, None, bytes),
        Part::Of(range) => {
            let (first, last) = (*range.start() as usize, *range.end() as usize);
            (StatusCode::PARTIAL_CONTENT, told(format!("bytes {first}-{last}/{whole}")), bytes.slice(first..=last))
        }
        Part::Outside => {
            let message = format!("the image has {whole} bytes; the range is outside of them");
            let error = Error::new(StatusCode::RANGE_NOT_SATISFIABLE, message).of_image(image);
            return (told(format!("bytes */{whole}")), error).into_response();
        }
    };
    let length = bytes.len();
    let pieces = stream::unfold((bytes, share), |(mut rest, share)| async move {
        let piece = rest.split_to(rest.len().min(PIECE));
        (!piece.is_empty()).then(|| (Ok::<_, std::convert::Infallible>(piece), (rest, share)))
    });
    let headers = [
        (header::CONTENT_TYPE, format.map_or("application/octet-stream", format::Format::media_type).to_owned()),
        (header::CONTENT_LENGTH, length.to_string()),
        (header::CONTENT_DISPOSITION, disposition),
        (header::ACCEPT_RANGES, "bytes".to_owned()),
    ];
    (status, headers, range, Body::from_stream(pieces)).into_response()
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
    _: NoParameters,
    Extension(client): Extension<Client>,
    path: Result<Path<String>, PathRejection>,
) -> Result<Json<Deleted>> {
    let image = image_in(path)?;
    let was_there = ask(backend::remove(&app.backend, &image)).await?;
    app.status.forget();
    app.thumbnails.forget(Some(&image));
    if !was_there {
        return Err(Error::not_found(format!("there is no image {image}")).of_image(&image));
    }
    tracing::info!(%image, client = %client.address, "image removed");
    Ok(Json(Deleted { image, deleted: true }))
}
