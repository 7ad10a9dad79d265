//! Answers that are not sent again while they stay the same.

use axum::{
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse as _, Response},
};
use headers::{CacheControl, ETag, HeaderMapExt as _, IfNoneMatch};
use serde::Serialize;

use super::error::{Error, Result};
use crate::contract::Digest;

/// The tag of these very bytes.
pub(crate) fn strong(bytes: &[u8]) -> Option<ETag> {
    format!("\"{}\"", hash(bytes)).parse().ok()
}

/// The tag of what these bytes say. They may be sent compressed, so that the bytes on the wire are others.
pub(crate) fn weak(bytes: &[u8]) -> Option<ETag> {
    format!("W/\"{}\"", hash(bytes)).parse().ok()
}

fn hash(bytes: &[u8]) -> String {
    Digest::of(bytes).to_hex()[..32].to_owned()
}

/// The answer `full`, or 304 if the client has what `etag` names already. Either says that a copy must be asked about
/// each time, as `cache` allows.
pub(crate) fn conditional(
    headers: &HeaderMap,
    cache: CacheControl,
    etag: Option<ETag>,
    full: impl FnOnce() -> Response,
) -> Response {
    let has = |etag: &ETag| headers.typed_get::<IfNoneMatch>().is_some_and(|known| !known.precondition_passes(etag));
    let mut response = if etag.as_ref().is_some_and(has) { StatusCode::NOT_MODIFIED.into_response() } else { full() };
    response.headers_mut().typed_insert(cache);
    if let Some(etag) = etag {
        response.headers_mut().typed_insert(etag);
    }
    response
}

/// The answer `value` to those who ask again and again.
pub(crate) fn json(headers: &HeaderMap, value: &impl Serialize) -> Result<Response> {
    let failed =
        |error| Error::new(StatusCode::INTERNAL_SERVER_ERROR, format!("the answer cannot be written: {error}"));
    let bytes = serde_json::to_vec(value).map_err(failed)?;
    let cache = CacheControl::new().with_private().with_no_cache();
    let etag = weak(&bytes);
    Ok(conditional(headers, cache, etag, || ([(header::CONTENT_TYPE, "application/json")], bytes).into_response()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_client_has_is_not_sent_again() {
        let ask = |known: Option<&str>, bytes: &'static str| {
            let known = known.map(|known| (header::IF_NONE_MATCH, known.parse().unwrap()));
            let cache = CacheControl::new().with_no_cache();
            conditional(&known.into_iter().collect(), cache, strong(bytes.as_bytes()), || bytes.into_response())
        };
        let first = ask(None, "a");
        assert_eq!(
            (first.status(), &first.headers()[header::CACHE_CONTROL]),
            (StatusCode::OK, &"no-cache".parse().unwrap())
        );
        let etag = first.headers()[header::ETAG].to_str().unwrap();
        for known in [etag.to_owned(), format!("\"x\", W/{etag}"), "*".to_owned()] {
            assert_eq!(ask(Some(&known), "a").status(), StatusCode::NOT_MODIFIED, "{known}");
        }
        for (known, bytes) in [(etag, "b"), ("\"x\"", "a"), (&etag[1..9], "a")] {
            assert_eq!(ask(Some(known), bytes).status(), StatusCode::OK, "{known}");
        }
    }

    #[test]
    fn json_is_known_by_what_it_says() {
        let ask = |known: &HeaderMap, value: u32| json(known, &value).unwrap();
        let first = ask(&HeaderMap::new(), 1);
        assert_eq!(first.headers()[header::CONTENT_TYPE], "application/json");
        assert!(first.headers()[header::ETAG].to_str().unwrap().starts_with("W/"));
        let known = HeaderMap::from_iter([(header::IF_NONE_MATCH, first.headers()[header::ETAG].clone())]);
        assert_eq!(ask(&known, 1).status(), StatusCode::NOT_MODIFIED);
        assert_eq!(ask(&known, 2).status(), StatusCode::OK);
    }
}
