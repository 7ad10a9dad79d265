//! What went wrong, as an answer: the one place that chooses statuses.

use axum::{
    Json,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;

use crate::{
    backend::{self, ErrorKind},
    contract::{ImageName, escape::escape, name::NameError},
};

/// A result of a handler.
pub(crate) type Result<T, E = Error> = std::result::Result<T, E>;

/// An answer that says what went wrong: `{"error", "file", "image"}`, or for browsers a page.
#[derive(Debug, Clone, Serialize, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    #[serde(skip)]
    status: StatusCode,
    #[serde(rename = "error")]
    message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    file: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    image: Option<ImageName>,
    #[serde(skip)]
    retry_after_s: Option<u64>,
    /// Where to ask later.
    #[serde(skip)]
    location: Option<String>,
}

impl Error {
    /// An answer with `status` that says `message`.
    pub(crate) fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self { status, message: message.into(), file: None, image: None, retry_after_s: None, location: None }
    }

    /// 400.
    pub(crate) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, message)
    }

    /// 404.
    pub(crate) fn not_found(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, message)
    }

    /// 429, to be tried again in `seconds`.
    pub(crate) fn too_many_requests(message: impl Into<String>, seconds: u64) -> Self {
        Self::new(StatusCode::TOO_MANY_REQUESTS, message).retry_after(seconds)
    }

    /// 503, to be tried again soon.
    pub(crate) fn unavailable(message: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, message).retry_after(2)
    }

    /// The same, about this file of the request.
    pub(crate) fn about(self, file: &str) -> Self {
        Self { file: Some(file.to_owned()), ..self }
    }

    /// The same, about this stored image.
    pub(crate) fn of_image(self, image: &ImageName) -> Self {
        Self { image: Some(image.clone()), ..self }
    }

    /// The same, with `Retry-After`.
    pub(crate) fn retry_after(self, seconds: u64) -> Self {
        Self { retry_after_s: Some(seconds), ..self }
    }

    /// The same, with the address of the result that will be there.
    pub(crate) fn result_later(self, image: &ImageName) -> Self {
        Self { location: Some(result_address(image)), ..self.of_image(image).retry_after(1) }
    }

    /// The status.
    pub(crate) fn status(&self) -> StatusCode {
        self.status
    }

    /// What a person reads.
    pub(crate) fn message(&self) -> &str {
        &self.message
    }
}

impl From<backend::Error> for Error {
    fn from(error: backend::Error) -> Self {
        let message = error.to_string();
        match error.kind() {
            ErrorKind::NotFound => Self::not_found(message),
            ErrorKind::TooLarge => Self::new(StatusCode::PAYLOAD_TOO_LARGE, message),
            ErrorKind::Full => Self::new(StatusCode::INSUFFICIENT_STORAGE, message),
            ErrorKind::Unsupported => Self::bad_request(message),
            ErrorKind::Transient => Self::unavailable(message).retry_after(5),
            // Somebody has to mend a permission or a setting first; clients cannot.
            ErrorKind::Refused => Self::unavailable(message).retry_after(60),
        }
    }
}

impl From<std::io::Error> for Error {
    fn from(error: std::io::Error) -> Self {
        use std::io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
        match error.kind() {
            StorageFull | QuotaExceeded | FileTooLarge => {
                Self::new(StatusCode::INSUFFICIENT_STORAGE, format!("there is no room left for uploads: {error}"))
            }
            _ => Self::unavailable(format!("cannot write the upload to the data directory: {error}")),
        }
    }
}

impl From<NameError> for Error {
    fn from(error: NameError) -> Self {
        Self::bad_request(error.to_string())
    }
}

/// Where the image's result is.
pub(crate) fn result_address(image: &ImageName) -> String {
    format!("/api/results/{}", escape(image.as_str()))
}

/// Marks an answer as an error, so that it can be shown as a page.
#[derive(Debug, Clone)]
pub(crate) struct Shown(pub(crate) Error);

impl IntoResponse for Error {
    fn into_response(self) -> Response {
        let mut response = (self.status, Json(&self)).into_response();
        if let Some(seconds) = self.retry_after_s {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if let Some(location) = self.location.as_deref().and_then(|location| location.try_into().ok()) {
            response.headers_mut().insert(header::LOCATION, location);
        }
        if self.status == StatusCode::UNAUTHORIZED {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response.extensions_mut().insert(Shown(self));
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_store_error_has_its_status() {
        for (kind, status) in [
            (ErrorKind::NotFound, 404),
            (ErrorKind::TooLarge, 413),
            (ErrorKind::Unsupported, 400),
            (ErrorKind::Transient, 503),
            (ErrorKind::Full, 507),
            (ErrorKind::Refused, 503),
        ] {
            assert_eq!(Error::from(backend::Error::new(kind, "x")).status().as_u16(), status, "{kind:?}");
        }
        let full = std::io::Error::from(std::io::ErrorKind::StorageFull);
        assert_eq!(Error::from(full).status(), StatusCode::INSUFFICIENT_STORAGE);
    }

    #[test]
    fn says_when_to_come_back_and_about_what() {
        let response = Error::unavailable("x").about("a.png").into_response();
        assert_eq!(response.headers()[header::RETRY_AFTER], "2");
        let error = Error::bad_request("no").about("a.png");
        assert_eq!(serde_json::to_string(&error).unwrap(), r#"{"error":"no","file":"a.png"}"#);
    }
}
