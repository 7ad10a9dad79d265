//! The page of one image: large, with what is known of it, and the way to its neighbours.

use std::sync::Arc;

use askama::Template;
use axum::{
    extract::{
        Path, Query, State,
        rejection::{PathRejection, QueryRejection},
    },
    response::Response,
};

use super::{
    App, ask,
    asked::{Asked, address},
    error::{Error, Result},
    frame::{Frame, render},
    listing::Done,
    params::{PageParams, image_in},
    status,
    table::{Folder, percent, verdict},
};
use crate::{
    backend::{Cursor, Page, PageQuery},
    contract::{Classification, ImageName, Outcome},
};

#[derive(Template)]
#[template(path = "detail.html")]
struct DetailPage<'a> {
    frame: Frame<'a>,
    image: String,
    base: String,
    folder: Option<Folder>,
    /// The stored image itself.
    source: String,
    verdict: &'static str,
    label: String,
    percent: String,
    error: String,
    bars: Vec<Bar>,
    result: Option<Facts>,
    previous: Option<String>,
    next: Option<String>,
    /// The rows that one came from.
    list: String,
    here: String,
    /// Where to go when the image is removed.
    beyond: String,
    done: Done,
}

/// One of the most likely labels.
#[derive(Debug)]
struct Bar {
    label: String,
    percent: String,
    width: String,
    /// The rows with this label.
    url: String,
}

/// How the result came about.
#[derive(Debug)]
struct Facts {
    at: String,
    model: String,
    worker: String,
    location: String,
}

/// `GET /results/{name}`
pub(crate) async fn page(
    State(app): State<Arc<App>>,
    path: Result<Path<String>, PathRejection>,
    params: PageParams,
    done: Result<Query<Done>, QueryRejection>,
) -> Result<Response> {
    let seen = status::seen(&app);
    let image = image_in(path)?;
    let query = params.query()?;
    let place = ask(app.backend.results.place(&image, &query)).await?;
    let neighbours = async {
        let place = place.as_ref();
        tokio::try_join!(beside(&app, &query, place, true), beside(&app, &query, place, false))
    };
    let result = ask(app.backend.results.get(std::slice::from_ref(&image)));
    let (mut result, (next, previous)) = tokio::try_join!(result, neighbours)?;
    let result = result.pop();
    if result.is_none() && !ask(app.backend.images.exists(&image)).await? {
        return Err(Error::not_found(format!("there is no image {image}")).of_image(&image));
    }
    let asked = Asked::new(&query);
    let link = |image: &ImageName| asked.link_to(image);
    let list = asked.link();
    let (next, previous) = (next.as_ref().map(link), previous.as_ref().map(link));
    let name = image.to_string();
    let folder = name
        .rsplit_once('/')
        .map(|(folder, _)| Folder { name: folder.to_owned(), url: asked.in_folder(folder.parse().ok()).link() });
    let mut page = DetailPage {
        frame: Frame { seen, ..app.frame("results") },
        base: name.rsplit('/').next().unwrap_or(&name).to_owned(),
        folder,
        source: address("/images/", &image),
        verdict: "waiting",
        label: String::new(),
        percent: String::new(),
        error: String::new(),
        bars: Vec::new(),
        result: result.as_ref().map(facts),
        beyond: next.clone().or_else(|| previous.clone()).unwrap_or_else(|| list.clone()),
        previous,
        next,
        list,
        here: link(&image),
        done: done.map(|Query(done)| done).unwrap_or_default(),
        image: name,
    };
    if let Some(result) = &result {
        page.tell(&result.outcome, &asked);
    }
    Ok(render(&page))
}

impl DetailPage<'_> {
    fn tell(&mut self, outcome: &Outcome, asked: &Asked) {
        self.verdict = verdict(outcome);
        match outcome {
            Outcome::Failed { error } => self.error.clone_from(error),
            Outcome::Labelled { label, confidence, top, .. } => {
                self.label.clone_from(label);
                self.percent = percent(*confidence);
                let bars = top.iter().map(|score| Bar {
                    label: score.label.clone(),
                    percent: format!("{:.1} %", score.confidence * 100.0),
                    width: format!("{:.1}%", score.confidence * 100.0),
                    url: asked.labelled(Some(&score.label)).link(),
                });
                self.bars = bars.collect();
            }
        }
    }
}

fn facts(result: &Classification) -> Facts {
    Facts {
        at: result.classified_at_text(),
        model: result.model.clone(),
        worker: result.worker.to_string(),
        location: result.location.clone(),
    }
}

/// The image after `place` (`forward`) or the one before it, among those and in the order that are asked for.
async fn beside(app: &App, query: &PageQuery, place: Option<&Cursor>, forward: bool) -> Result<Option<ImageName>> {
    let Some(here) = place.cloned() else { return Ok(None) };
    let (after, before) = if forward { (Some(here), None) } else { (None, Some(here)) };
    let one = PageQuery { limit: 1, after, before, ..query.clone() };
    let Page { mut results, mut waiting, .. } = ask(app.backend.results.page(&one)).await?;
    Ok(results.pop().map(|row| row.image).or_else(|| waiting.pop()))
}
