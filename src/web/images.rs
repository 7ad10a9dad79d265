//! Stored images: shown, and removed.

use std::sync::Arc;

use axum::{
    Extension, Json,
    body::Bytes,
    extract::{Path, State, rejection::PathRejection},
    http::{HeaderMap, HeaderValue, StatusCode, Uri, header},
    response::{IntoResponse, Response},
};
use headers::CacheControl;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Serialize;

use super::{
    App, ask,
    auth::Admin,
    error::{Error, Result},
    etag,
    guard::Client,
    outgoing,
    params::{NoParameters, image_in},
    range::{self, Part},
    shares::Held,
    thumbnails::{self, Wanted},
};
use crate::{backend, contract::ImageName, http::Activity, model::format};

/// `GET /images/{name}`
pub(crate) async fn get(
    State(app): State<Arc<App>>,
    Extension(activity): Extension<Activity>,
    path: Result<Path<String>, PathRejection>,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Response> {
    let image = image_in(path)?;
    if let Some(wanted) = Wanted::new(&uri)? {
        return thumbnails::get(&app, &image, wanted, &headers).await;
    }
    let (stored, share) = outgoing::fetch(&app, &image).await?;
    let held = app.image_memory.hold(share, activity);
    // A name may get other bytes after a reset, so a copy is asked about each time.
    let cache = CacheControl::new().with_private().with_no_cache();
    let etag = etag::strong(&stored.bytes);
    let part = range::wanted(&headers, etag.as_ref(), stored.bytes.len() as u64);
    let mut response = etag::conditional(&headers, cache, etag, || body(stored.bytes, part, held, &image));
    let policy = HeaderValue::from_static("default-src 'none'; sandbox");
    response.headers_mut().insert(header::CONTENT_SECURITY_POLICY, policy);
    Ok(response)
}

/// `held` is the share of memory that the image takes.
fn body(bytes: Vec<u8>, part: Part, held: Held, image: &ImageName) -> Response {
    let format = format::sniff(&bytes);
    let disposition = if format.is_ok() { "inline" } else { "attachment" };
    let disposition =
        format!("{disposition}; filename*=UTF-8''{}", utf8_percent_encode(image.base(), NON_ALPHANUMERIC));
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
    let headers = [
        (header::CONTENT_TYPE, format.map_or("application/octet-stream", format::Format::media_type).to_owned()),
        (header::CONTENT_LENGTH, bytes.len().to_string()),
        (header::CONTENT_DISPOSITION, disposition),
        (header::ACCEPT_RANGES, "bytes".to_owned()),
    ];
    (status, headers, range, outgoing::body(bytes, held)).into_response()
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
