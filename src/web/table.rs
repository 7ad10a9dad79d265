//! The table of results.

use super::{params::PageParams, thumbnails};
use crate::{
    backend::Page,
    contract::{Classification, Outcome, escape_path},
};

/// One row of the table.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) name: String,
    pub(crate) url: String,
    pub(crate) thumbnail: String,
    pub(crate) label: String,
    /// 0 to 1, as text for the meter.
    pub(crate) confidence: String,
    pub(crate) percent: String,
    pub(crate) others: String,
    pub(crate) error: String,
    pub(crate) worker: String,
    /// When it was classified, for programs and for people.
    pub(crate) at: String,
    pub(crate) when: String,
}

impl Row {
    fn new(result: &Classification) -> Self {
        let percent = |confidence: f32| format!("{:.0} %", confidence * 100.0);
        let mut row = Self {
            name: result.image.to_string(),
            url: format!("/images/{}", escape_path(result.image.as_str())),
            thumbnail: format!(
                "/images/{}?size=128&v={}",
                escape_path(result.image.as_str()),
                thumbnails::version(result)
            ),
            label: String::new(),
            confidence: String::new(),
            percent: String::new(),
            others: String::new(),
            error: String::new(),
            worker: result.worker.to_string(),
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
#[derive(Debug)]
pub(crate) struct Table {
    pub(crate) rows: Vec<Row>,
    pub(crate) query: String,
    pub(crate) previous: Option<String>,
    pub(crate) next: Option<String>,
    /// Whether it is the first page.
    pub(crate) first: bool,
}

impl Table {
    /// The rows of `page`, which these parameters asked for.
    pub(crate) fn new(page: &Page, params: &PageParams) -> Self {
        let link = |key: &str, place: String| {
            params.address("/results", &[(key, place.as_str()), ("after", ""), ("before", "")])
        };
        Self {
            rows: page.results.iter().map(Row::new).collect(),
            query: params.q.clone(),
            previous: page.previous.as_ref().map(|place| link("before", place.to_string())),
            next: page.next.as_ref().map(|place| link("after", place.to_string())),
            first: params.after.is_empty() && params.before.is_empty(),
        }
    }
}
