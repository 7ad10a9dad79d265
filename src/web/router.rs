//! Which call goes where, and through which gates.

use std::sync::Arc;

use axum::{
    Router,
    extract::DefaultBodyLimit,
    http::StatusCode,
    middleware::{from_fn, from_fn_with_state},
    response::IntoResponse,
    routing::{get, post},
};

use super::{
    App, Error, assets, auth, classes, classify, compression, csv, detail, frame, guard, images, index, listing, login,
    metrics, openapi, queue, ready, reset, results, selection, slow, status, upload, version,
};

/// Largest body of a call that is no upload.
const SMALL_BODY_BYTES: usize = 2 << 20;

/// The route that is answered even if all places are taken.
pub(crate) const HEALTH_CHECK: &str = "/healthcheck";

/// The service of all routes.
pub fn router(app: Arc<App>) -> Router {
    let guarded = Router::new()
        .route("/", get(index::get).post(upload::post))
        .route("/classify", post(classify::post))
        .route("/results", get(listing::page).post(selection::post))
        .route("/results/{*name}", get(detail::page))
        .route("/api/results", get(results::list))
        .route("/api/results/{*name}", get(results::one))
        .route("/api/results/lookup", get(results::one_named_lookup).post(results::lookup))
        .route("/api/results.csv", get(csv::get))
        .route("/api/counts", get(results::counts))
        .route("/images/{*name}", get(images::get).delete(images::delete))
        .route("/classes", get(classes::page))
        .route("/status", get(status::page))
        .route("/api/status", get(status::api))
        .route("/queue/dead", get(queue::dead))
        .route("/queue/redrive", post(queue::redrive))
        .route("/queue/drop", post(queue::drop_dead))
        .route("/requeue", post(queue::classify_again))
        .route("/reset", get(reset::confirm).post(reset::post))
        .route("/reset/done", get(reset::done))
        .route("/metrics", get(metrics::get))
        .route("/version", get(version::get))
        .route("/api/openapi.json", get(openapi::get))
        .fallback(|| async { Error::not_found("there is no such page") })
        .layer(from_fn_with_state(Arc::clone(&app), auth::require_user));
    Router::new()
        .merge(guarded)
        .route(HEALTH_CHECK, get(|| async { "Healthy" }))
        .route("/readyz", get(ready::get))
        .route("/login", get(login::form).post(login::post))
        .route("/logout", post(login::logout))
        .route("/assets/{file}", get(assets::get))
        .route("/favicon.ico", get(assets::favicon))
        .method_not_allowed_fallback(|| async {
            Error::new(StatusCode::METHOD_NOT_ALLOWED, "this address does not take that method").into_response()
        })
        .layer(DefaultBodyLimit::max(SMALL_BODY_BYTES))
        .layer(from_fn(slow::slow_bodies_time_out))
        .layer(from_fn_with_state(Arc::clone(&app), guard::guard))
        .layer(from_fn_with_state(Arc::clone(&app), frame::errors_as_pages))
        .layer(compression::layer())
        .layer(from_fn(guard::security_headers))
        .layer(from_fn_with_state(Arc::clone(&app), metrics::observe))
        .with_state(app)
}
