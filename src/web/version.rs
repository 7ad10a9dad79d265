//! What runs here.

use std::sync::Arc;

use axum::{Json, extract::State};
use serde::Serialize;

use super::{App, params::NoParameters};
use crate::build;

/// What runs here.
#[derive(Debug, Serialize)]
pub(crate) struct Version {
    name: &'static str,
    version: &'static str,
    /// Where the build knew it.
    #[serde(skip_serializing_if = "Option::is_none")]
    commit: Option<&'static str>,
    model: String,
}

/// `GET /version`
pub(crate) async fn get(State(app): State<Arc<App>>, _: NoParameters) -> Json<Version> {
    Json(Version { name: build::NAME, version: build::VERSION, commit: build::COMMIT, model: app.model.name.clone() })
}
