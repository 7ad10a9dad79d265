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

const SCRIPT: &str = "text/javascript; charset=utf-8";

const FILES: [(&str, &str, &[u8]); 11] = [
    ("style.css", "text/css; charset=utf-8", include_bytes!("../../assets/web/style.css")),
    ("app.js", SCRIPT, include_bytes!("../../assets/web/app.js")),
    ("choose.js", SCRIPT, include_bytes!("../../assets/web/choose.js")),
    ("labels.js", SCRIPT, include_bytes!("../../assets/web/labels.js")),
    ("list.js", SCRIPT, include_bytes!("../../assets/web/list.js")),
    ("live.js", SCRIPT, include_bytes!("../../assets/web/live.js")),
    ("page.js", SCRIPT, include_bytes!("../../assets/web/page.js")),
    ("progress.js", SCRIPT, include_bytes!("../../assets/web/progress.js")),
    ("upload.js", SCRIPT, include_bytes!("../../assets/web/upload.js")),
    ("visit.js", SCRIPT, include_bytes!("../../assets/web/visit.js")),
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
