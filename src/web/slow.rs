//! Bodies that come too slowly: what their senders are told.

use axum::{
    extract::Request,
    http::StatusCode,
    middleware::Next,
    response::{IntoResponse as _, Response},
};

use super::error::Error;
use crate::http::{Activity, Slow};

impl From<Slow> for Error {
    fn from(slow: Slow) -> Self {
        Self::new(StatusCode::REQUEST_TIMEOUT, slow.to_string())
    }
}

/// Says 408 where a handler knows a body that came too slowly only as a bad request.
pub(crate) async fn slow_bodies_time_out(request: Request, next: Next) -> Response {
    let activity = request.extensions().get::<Activity>().cloned();
    let response = next.run(request).await;
    let slow = response.status() == StatusCode::BAD_REQUEST && activity.is_some_and(|activity| activity.gave_up());
    if slow { Error::from(Slow).into_response() } else { response }
}
