//! The pages, from templates in `assets/web`.

use std::sync::Arc;

use askama::Template;
use axum::{
    extract::{Query, Request, State, rejection::QueryRejection},
    http::{HeaderValue, StatusCode, header},
    middleware::Next,
    response::{Html, IntoResponse, Response},
};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;

use super::{
    App,
    accept::Accept,
    ask,
    error::{Error, Result, Shown},
    results::{PageParams, params},
    status::{self, Status},
    upload::Outcomes,
};
use crate::{
    backend::{DeadLetter, Page, ResetReport, Totals, status::Status as System},
    contract::{Classification, Outcome, event},
};

/// All but what RFC 3986 calls unreserved.
const COMPONENT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

fn encode(text: &str) -> String {
    utf8_percent_encode(text, COMPONENT).to_string()
}

/// What every page has.
struct Frame<'a> {
    /// The page's name in the navigation.
    here: &'static str,
    model: &'a str,
    note: &'a str,
    sessions: bool,
}

impl App {
    fn frame(&self, here: &'static str) -> Frame<'_> {
        Frame { here, model: &self.model.name, note: &self.model.note, sessions: self.auth.has_tokens() }
    }
}

/// One row of the table.
struct Row {
    name: String,
    url: String,
    label: String,
    /// 0 to 1, as text for the meter.
    confidence: String,
    percent: String,
    others: String,
    error: String,
    worker: String,
    /// When it was classified, for programs and for people.
    at: String,
    when: String,
}

impl Row {
    fn new(result: &Classification) -> Self {
        let percent = |confidence: f32| format!("{:.0} %", confidence * 100.0);
        let mut row = Self {
            name: result.image.to_string(),
            url: format!("/images/{}", encode(result.image.as_str())),
            label: String::new(),
            confidence: String::new(),
            percent: String::new(),
            others: String::new(),
            error: String::new(),
            worker: result.worker.clone(),
            at: result.classified_at_text(),
            when: result.classified_at_text().replace('T', " ").replace('Z', " UTC"),
        };
        match &result.outcome {
            Outcome::Labelled { label, confidence, top, uncertain } => {
                row.label = if *uncertain { format!("not sure: {label}") } else { label.clone() };
                row.confidence = format!("{confidence:.3}");
                row.percent = percent(*confidence);
                let others = top.iter().skip(1).map(|s| format!("{} {}", s.label, percent(s.confidence)));
                row.others = others.collect::<Vec<_>>().join(", ");
            }
            Outcome::Failed { error } => row.error.clone_from(error),
        }
        row
    }
}

/// A page of the table with its links.
struct Table {
    rows: Vec<Row>,
    query: String,
    previous: Option<String>,
    next: Option<String>,
    first: bool,
}

impl Table {
    fn new(page: &Page, params: &PageParams) -> Self {
        let link = |key: &str, name: &str| {
            let mut link = format!("/results?{key}={}", encode(name));
            for (key, value) in [("q", &params.q), ("limit", &params.limit)] {
                if !value.is_empty() {
                    link.push_str(&format!("&{key}={}", encode(value)));
                }
            }
            link
        };
        Self {
            rows: page.results.iter().map(Row::new).collect(),
            query: params.q.clone(),
            previous: page.previous.as_ref().map(|name| link("before", name.as_str())),
            next: page.next.as_ref().map(|name| link("after", name.as_str())),
            first: params.after.is_empty() && params.before.is_empty(),
        }
    }
}

#[derive(Template)]
#[template(path = "index.html")]
struct IndexPage<'a> {
    frame: Frame<'a>,
    status: &'a System,
    table: Table,
    limit: String,
}

#[derive(Template)]
#[template(path = "results.html")]
struct ResultsPage<'a> {
    frame: Frame<'a>,
    status: &'a System,
    table: Table,
    jump: &'a str,
}

#[derive(Template)]
#[template(path = "status.html")]
struct StatusPage<'a> {
    frame: Frame<'a>,
    status: &'a System,
    classes: &'a [String],
    changes: Vec<Change>,
}

/// One past change of the desired capacity, as the scaler remembers it.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Change {
    at: String,
    from: u32,
    target: u32,
    reason: String,
}

#[derive(Template)]
#[template(path = "outcomes.html")]
struct OutcomesPage<'a> {
    frame: Frame<'a>,
    stored: usize,
    renamed: usize,
    refused: usize,
    outcomes: Outcomes,
}

#[derive(Template)]
#[template(path = "dead.html")]
struct DeadPage<'a> {
    frame: Frame<'a>,
    total: u64,
    letters: Vec<(String, u32)>,
}

#[derive(Template)]
#[template(path = "reset.html")]
struct ResetPage<'a> {
    frame: Frame<'a>,
    totals: Option<Totals>,
    report: Option<ResetReport>,
}

#[derive(Template)]
#[template(path = "login.html")]
struct LoginPage<'a> {
    frame: Frame<'a>,
    next: &'a str,
    admin: bool,
    problem: Option<&'a str>,
}

#[derive(Template)]
#[template(path = "error.html")]
struct ErrorPage<'a> {
    frame: Frame<'a>,
    status: StatusCode,
    message: &'a str,
}

fn render(page: &impl Template) -> Response {
    match page.render() {
        Ok(text) => Html(text).into_response(),
        Err(error) => {
            Error::new(StatusCode::INTERNAL_SERVER_ERROR, format!("cannot render the page: {error}")).into_response()
        }
    }
}

/// `GET /`
pub(crate) async fn index(
    State(app): State<Arc<App>>,
    query: Result<Query<PageParams>, QueryRejection>,
) -> Result<Response> {
    let params = params(query)?;
    let page = ask(app.backend.results.page(&params.query()?)).await?;
    let status = status::current(&app).await?;
    let limit = super::upload::readable(app.config.limits.max_bytes);
    Ok(render(&IndexPage {
        frame: app.frame("upload"),
        status: &status.system,
        table: Table::new(&page, &params),
        limit,
    }))
}

/// `GET /results`
pub(crate) async fn results(
    State(app): State<Arc<App>>,
    query: Result<Query<PageParams>, QueryRejection>,
) -> Result<Response> {
    let params = params(query)?;
    let page = ask(app.backend.results.page(&params.query()?)).await?;
    let status = status::current(&app).await?;
    let table = Table::new(&page, &params);
    Ok(render(&ResultsPage { frame: app.frame("results"), status: &status.system, table, jump: &params.after }))
}

/// `GET /status`
pub(crate) fn status(app: &App, status: &Status) -> Response {
    // A memory that another version wrote shows no changes; it must not take the page away.
    let changes = Vec::deserialize(&status.scaling["decisions"]).unwrap_or_default();
    render(&StatusPage { frame: app.frame("status"), status: &status.system, classes: &status.classes, changes })
}

/// What became of an upload.
pub(crate) fn outcomes(app: &App, outcomes: Outcomes) -> Response {
    let files = &outcomes.files;
    render(&OutcomesPage {
        frame: app.frame("upload"),
        stored: files.iter().filter(|f| f.image.is_some()).count(),
        renamed: files.iter().filter(|f| f.renamed).count(),
        refused: files.iter().filter(|f| f.error.is_some()).count(),
        outcomes,
    })
}

/// `GET /queue/dead`
pub(crate) fn dead(app: &App, letters: Vec<DeadLetter>, total: u64) -> Response {
    let letters = letters.into_iter().map(|letter| {
        let images: Vec<String> = event::parse(&letter.body).unwrap_or_default().into_iter().map(|e| e.key).collect();
        (if images.is_empty() { letter.body } else { images.join(", ") }, letter.receive_count)
    });
    render(&DeadPage { frame: app.frame("status"), total, letters: letters.collect() })
}

/// Before a reset, and after it.
pub(crate) fn reset(app: &App, totals: Option<Totals>, report: Option<ResetReport>) -> Response {
    render(&ResetPage { frame: app.frame("status"), totals, report })
}

/// `GET /login`
pub(crate) fn login(app: &App, next: &str, admin: bool, problem: Option<&str>) -> Response {
    render(&LoginPage { frame: Frame { sessions: false, ..app.frame("login") }, next, admin, problem })
}

/// Shows errors as pages to those who asked for a page.
pub(crate) async fn errors_as_pages(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let accept = Accept::of(request.headers());
    let response = next.run(request).await;
    let Some(Shown(error)) = response.extensions().get::<Shown>().filter(|_| accept.html).cloned() else {
        return response;
    };
    let page = ErrorPage { frame: app.frame("error"), status: error.status(), message: error.message() };
    let Ok(text) = page.render() else { return response };
    let (mut parts, _) = response.into_parts();
    parts.headers.remove(header::CONTENT_LENGTH);
    parts.headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
    Response::from_parts(parts, text.into())
}
