//! Style, script and icon, in the binary.

use axum::{
    extract::Path,
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};

use super::error::{Error, Result};
use crate::contract::Digest;

const FILES: [(&str, &str, &[u8]); 3] = [
    ("style.css", "text/css; charset=utf-8", include_bytes!("../../assets/web/style.css")),
    ("app.js", "text/javascript; charset=utf-8", include_bytes!("../../assets/web/app.js")),
    ("icon.svg", "image/svg+xml", include_bytes!("../../assets/web/icon.svg")),
];

/// `GET /assets/{file}`
pub(crate) async fn get(Path(file): Path<String>, headers: HeaderMap) -> Result<Response> {
    serve(&file, &headers)
}

/// `GET /favicon.ico`
pub(crate) async fn favicon(headers: HeaderMap) -> Result<Response> {
    serve("icon.svg", &headers)
}

fn serve(file: &str, headers: &HeaderMap) -> Result<Response> {
    let (_, kind, bytes) =
        FILES.iter().find(|(name, ..)| *name == file).ok_or_else(|| Error::not_found("there is no such file"))?;
    let etag = format!("\"{}\"", &Digest::of(bytes).to_hex()[..32]);
    let fresh = headers.get(header::IF_NONE_MATCH).and_then(|v| v.to_str().ok()).is_some_and(|v| v.contains(&etag));
    let mut response = if fresh {
        StatusCode::NOT_MODIFIED.into_response()
    } else {
        ([(header::CONTENT_TYPE, *kind)], *bytes).into_response()
    };
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    if let Ok(etag) = HeaderValue::try_from(etag) {
        response.headers_mut().insert(header::ETAG, etag);
    }
    Ok(response)
}
