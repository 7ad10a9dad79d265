//! What form of answer a client asks for.

use std::convert::Infallible;

use axum::{
    extract::FromRequestParts,
    http::{HeaderMap, header, request::Parts},
};

/// The forms that the `Accept` header names; `*/*` names none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Accept {
    /// A page: what browsers ask for.
    pub(crate) html: bool,
    /// JSON, and rather than a page.
    pub(crate) json: bool,
    /// Plain text, and rather than JSON.
    pub(crate) text: bool,
}

impl Accept {
    /// Reads the `Accept` headers.
    pub(crate) fn of(headers: &HeaderMap) -> Self {
        let (mut html, mut json, mut text) = (0.0_f32, 0.0_f32, 0.0_f32);
        let values = headers.get_all(header::ACCEPT).iter().filter_map(|v| v.to_str().ok());
        for range in values.flat_map(|v| v.split(',')) {
            let mut parts = range.split(';').map(str::trim);
            let kind = parts.next().unwrap_or_default().to_ascii_lowercase();
            let quality = parts.find_map(|p| p.strip_prefix("q=")).map_or(Some(1.0), |q| q.parse().ok()).unwrap_or(0.0);
            match kind.as_str() {
                "text/html" | "application/xhtml+xml" => html = html.max(quality),
                "application/json" | "application/x-ndjson" | "application/jsonl" => json = json.max(quality),
                "text/plain" => text = text.max(quality),
                _ => {}
            }
        }
        Self { html: html > 0.0 && html > json, json: json > 0.0 && json >= html, text: text > 0.0 && text > json }
    }
}

impl<S: Sync> FromRequestParts<S> for Accept {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(Self::of(&parts.headers))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_is_asked_for() {
        for (value, html, json, text) in [
            ("", false, false, false),
            ("*/*", false, false, false),
            ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", true, false, false),
            ("application/json", false, true, false),
            ("application/json, text/html;q=0.5", false, true, false),
            ("text/html, application/json;q=0.1", true, false, false),
            ("application/json;q=0", false, false, false),
            ("text/plain, */*;q=0.1", false, false, true),
            ("text/plain, application/json", false, true, false),
            ("text/html;q=x", false, false, false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::ACCEPT, value.parse().unwrap());
            assert_eq!(Accept::of(&headers), Accept { html, json, text }, "{value:?}");
        }
    }
}
