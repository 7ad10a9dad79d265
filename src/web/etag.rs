//! Answers that are not sent again while they stay the same.

use axum::{
    http::{HeaderMap, StatusCode},
    response::{IntoResponse as _, Response},
};
use headers::{CacheControl, ETag, HeaderMapExt as _, IfNoneMatch};

use crate::contract::Digest;

/// The answer that `full` makes of `bytes`, or 304 if the client has those bytes already. Either says that a copy must be asked about
/// each time, as `cache` allows.
pub(crate) fn conditional<B: AsRef<[u8]>>(
    headers: &HeaderMap,
    cache: CacheControl,
    bytes: B,
    full: impl FnOnce(B) -> Response,
) -> Response {
    let etag: Option<ETag> = format!("\"{}\"", &Digest::of(bytes.as_ref()).to_hex()[..32]).parse().ok();
    let has = |etag: &ETag| headers.typed_get::<IfNoneMatch>().is_some_and(|known| !known.precondition_passes(etag));
    let mut response =
        if etag.as_ref().is_some_and(has) { StatusCode::NOT_MODIFIED.into_response() } else { full(bytes) };
    response.headers_mut().typed_insert(cache);
    if let Some(etag) = etag {
        response.headers_mut().typed_insert(etag);
    }
    response
}

#[cfg(test)]
mod tests {
    use axum::http::header;

    use super::*;

    #[test]
    fn what_a_client_has_is_not_sent_again() {
        let ask = |known: Option<&str>, bytes: &'static str| {
            let known = known.map(|known| (header::IF_NONE_MATCH, known.parse().unwrap()));
            let cache = CacheControl::new().with_no_cache();
            conditional(&known.into_iter().collect(), cache, bytes, |bytes| bytes.into_response())
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
}
