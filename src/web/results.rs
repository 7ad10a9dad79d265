//! Results for programs: pages, one, and many by name.

use std::sync::Arc;

use axum::{
    Json,
    extract::{
        Path, State as Extract,
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
    params::{FilterParams, MAX_LIMIT, NoParameters, PageParams, image_in},
};
use crate::{
    backend::{Counts, Cursor, Matches, Page, Search, State},
    contract::{Classification, ImageName},
};

/// A page as it is answered.
#[derive(Debug, Serialize)]
pub(crate) struct Answer {
    results: Vec<Entry>,
    next: Option<Cursor>,
    previous: Option<Cursor>,
    /// How many match, where the store can tell.
    #[serde(skip_serializing_if = "Option::is_none")]
    matches: Option<Matches>,
    /// How `q` was understood.
    #[serde(skip_serializing_if = "Option::is_none")]
    search: Option<Search>,
}

/// What is answered of an image.
#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Entry {
    Row(Classification),
    Waiting { image: ImageName, state: State },
}

impl Entry {
    /// A stored image that has no result yet.
    fn waiting(image: ImageName) -> Self {
        Self::Waiting { image, state: State::Waiting }
    }
}

/// `GET /api/results`
pub(crate) async fn list(Extract(app): Extract<Arc<App>>, params: PageParams, headers: HeaderMap) -> Result<Response> {
    let query = params.query()?;
    let Page { results, waiting, next, previous, matches } = ask(app.backend.results.page(&query)).await?;
    let results = results.into_iter().map(Entry::Row).chain(waiting.into_iter().map(Entry::waiting)).collect();
    let search = query.filter.text.map(|_| app.backend.results.search());
    etag::json(&headers, &Answer { results, next, previous, matches, search })
}

/// `GET /api/counts`
pub(crate) async fn counts(Extract(app): Extract<Arc<App>>, params: FilterParams) -> Result<Json<Counts>> {
    let FilterParams(params) = params;
    Ok(Json(ask(app.backend.results.counts(&params.filter()?)).await?))
}

/// `GET /api/results/{name}`: 202 for a stored image that is not classified yet.
pub(crate) async fn one(
    Extract(app): Extract<Arc<App>>,
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
    Ok((StatusCode::ACCEPTED, [(header::RETRY_AFTER, "1")], Json(Entry::waiting(image))).into_response())
}

/// `GET /api/results/lookup`: an image may have this name, too.
pub(crate) async fn one_named_lookup(
    app: Extract<Arc<App>>,
    parameters: NoParameters,
    headers: HeaderMap,
) -> Result<Response> {
    one(app, Ok(Path("lookup".to_owned())), parameters, headers).await
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
    Extract(app): Extract<Arc<App>>,
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
