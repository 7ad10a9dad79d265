//! Results: pages for people and for programs, one, and many by name.

use std::sync::Arc;

use askama::Template;
use axum::{
    Json,
    extract::{
        Path, State,
        rejection::{JsonRejection, PathRejection},
    },
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse as _, Response},
};
use serde::{Deserialize, Serialize};

use super::{
    App, ask,
    error::{Error, Result},
    etag,
    frame::{Frame, render},
    params::{MAX_LIMIT, NoParameters, PageParams, image_in},
    status,
    table::Table,
};
use crate::{
    backend::status::Status as System,
    contract::{Classification, ImageName},
};

#[derive(Template)]
#[template(path = "results.html")]
struct ResultsPage<'a> {
    frame: Frame<'a>,
    status: &'a System,
    stale: Option<u64>,
    table: Table,
    jump: &'a str,
}

/// `GET /results`
pub(crate) async fn page(State(app): State<Arc<App>>, params: PageParams) -> Result<Response> {
    let page = ask(app.backend.results.page(&params.query()?)).await?;
    let known = status::current(&app).await?;
    let table = Table::new(&page, &params);
    Ok(render(&ResultsPage {
        frame: app.frame("results"),
        status: &known.value.system,
        stale: known.stale_seconds(),
        table,
        jump: &params.after,
    }))
}

/// `GET /api/results`
pub(crate) async fn list(State(app): State<Arc<App>>, params: PageParams, headers: HeaderMap) -> Result<Response> {
    let query = params.query()?;
    etag::json(&headers, &ask(app.backend.results.page(&query)).await?)
}

/// The answer about an image that has no result yet.
#[derive(Debug, Serialize)]
struct Waiting {
    image: ImageName,
    state: &'static str,
}

/// `GET /api/results/{name}`: 202 for a stored image that is not classified yet.
pub(crate) async fn one(
    State(app): State<Arc<App>>,
    path: Result<Path<String>, PathRejection>,
    _: NoParameters,
    headers: HeaderMap,
) -> Result<Response> {
    let image = image_in(path)?;
    if let Some(row) = ask(app.backend.results.get(std::slice::from_ref(&image))).await?.pop() {
        return etag::json(&headers, &row);
    }
    if !ask(app.backend.images.exists(&image)).await? {
        return Err(Error::not_found(format!("there is no image {image}")).of_image(&image));
    }
    let waiting = Json(Waiting { image, state: "waiting" });
    Ok((StatusCode::ACCEPTED, [(header::RETRY_AFTER, "1")], waiting).into_response())
}

/// The names to look up: `{"names": […]}` or the list alone.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub(crate) enum Names {
    Wrapped { names: Vec<String> },
    Bare(Vec<String>),
}

/// The results of some images.
#[derive(Debug, Serialize)]
pub(crate) struct Found {
    results: Vec<Classification>,
    /// Names without a result.
    missing: Vec<String>,
}

/// `POST /api/results/lookup`: names in, results out, in the order of the names.
pub(crate) async fn lookup(
    State(app): State<Arc<App>>,
    _: NoParameters,
    names: Result<Json<Names>, JsonRejection>,
) -> Result<Json<Found>> {
    let Json(Names::Wrapped { names } | Names::Bare(names)) = names.map_err(|error| not_understood(&error))?;
    if names.len() > MAX_LIMIT {
        return Err(Error::bad_request(format!("{} names; ask for at most {MAX_LIMIT} at a time", names.len())));
    }
    let images: Vec<ImageName> = names.iter().filter_map(|name| name.parse().ok()).collect();
    let rows = if images.is_empty() { Vec::new() } else { ask(app.backend.results.get(&images)).await? };
    let mut by_name: std::collections::HashMap<String, Classification> =
        rows.into_iter().map(|row| (row.image.to_string(), row)).collect();
    let (mut results, mut missing) = (Vec::new(), Vec::new());
    for name in names {
        match by_name.remove(&name) {
            Some(row) => results.push(row),
            None => missing.push(name),
        }
    }
    Ok(Json(Found { results, missing }))
}

/// What the parser says, in the words of the one who sent it.
fn not_understood(error: &JsonRejection) -> Error {
    let status = match error.status() {
        // The JSON is right and says something else.
        StatusCode::UNPROCESSABLE_ENTITY => StatusCode::BAD_REQUEST,
        status => status,
    };
    let why = match status {
        StatusCode::UNSUPPORTED_MEDIA_TYPE => "the Content-Type must be application/json",
        StatusCode::PAYLOAD_TOO_LARGE => "the list is too long",
        _ => "this is no JSON list of names",
    };
    Error::new(status, format!("{why}; send {{\"names\": [\"a.png\"]}}"))
}
