//! Style, script and icon, in the binary.

use axum::{
    extract::{Path, rejection::PathRejection},
    http::{HeaderMap, header},
    response::{IntoResponse, Response},
};
use headers::CacheControl;

use super::{
    error::{Error, Result},
    etag,
};

const FILES: [(&str, &str, &[u8]); 5] = [
    ("style.css", "text/css; charset=utf-8", include_bytes!("../../assets/web/style.css")),
    ("app.js", "text/javascript; charset=utf-8", include_bytes!("../../assets/web/app.js")),
    ("list.js", "text/javascript; charset=utf-8", include_bytes!("../../assets/web/list.js")),
    ("upload.js", "text/javascript; charset=utf-8", include_bytes!("../../assets/web/upload.js")),
    ("icon.svg", "image/svg+xml", include_bytes!("../../assets/web/icon.svg")),
];

/// `GET /assets/{file}`
pub(crate) async fn get(file: Result<Path<String>, PathRejection>, headers: HeaderMap) -> Result<Response> {
    // What is no text is no file of ours.
    serve(file.as_deref().map_or("", String::as_str), &headers)
}

/// `GET /favicon.ico`
pub(crate) async fn favicon(headers: HeaderMap) -> Result<Response> {
    serve("icon.svg", &headers)
}

fn serve(file: &str, headers: &HeaderMap) -> Result<Response> {
    let (_, kind, bytes) =
        FILES.iter().find(|(name, ..)| *name == file).ok_or_else(|| Error::not_found("there is no such file"))?;
    let full = || ([(header::CONTENT_TYPE, *kind)], *bytes).into_response();
    Ok(etag::conditional(headers, CacheControl::new().with_no_cache(), etag::weak(bytes), full))
}
