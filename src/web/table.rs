//! The table of results: rows, and the links to further ones.

use super::{
    asked::{Asked, address},
    thumbnails,
};
use crate::{
    backend::{Page, PageQuery},
    contract::{Classification, ImageName, Outcome},
};

/// A label of a smaller probability is not shown as if it were sure, whatever the model's threshold.
const HALF: f32 = 0.5;

/// So many less likely labels are shown beside the most likely one.
const OTHERS: usize = 2;

/// How much a label is to be trusted, as a class of style sheets; never told by colour alone.
pub(crate) fn verdict(outcome: &Outcome) -> &'static str {
    match outcome {
        Outcome::Failed { .. } => "failed",
        Outcome::Labelled { uncertain: true, .. } => "unsure",
        Outcome::Labelled { confidence, .. } if *confidence < HALF => "fair",
        Outcome::Labelled { .. } => "sure",
    }
}

pub(crate) fn percent(confidence: f32) -> String {
    format!("{:.0}\u{a0}%", confidence * 100.0)
}

/// One row of the table.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) name: String,
    /// What of the name follows its folder.
    pub(crate) base: String,
    /// The folder, where it begins in the order of names.
    pub(crate) heading: Option<Heading>,
    /// The image's page.
    pub(crate) url: String,
    pub(crate) thumbnail: String,
    /// See [`verdict`]; `waiting` without a result.
    pub(crate) verdict: &'static str,
    pub(crate) label: String,
    /// Of the bar, such as `91%`.
    pub(crate) width: String,
    pub(crate) percent: String,
    pub(crate) others: String,
    pub(crate) error: String,
    /// When it was classified, for programs and for people.
    pub(crate) at: String,
    pub(crate) when: String,
}

/// A folder and the address of what is in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Folder {
    pub(crate) name: String,
    pub(crate) url: String,
}

/// Above rows: their folder, and the address of what is in it unless they are in none.
#[derive(Debug)]
pub(crate) struct Heading {
    pub(crate) name: String,
    pub(crate) url: Option<String>,
}

impl Row {
    /// An image without a result.
    fn waiting(image: &ImageName, asked: &Asked) -> Self {
        let name = image.to_string();
        Self {
            base: name.rsplit('/').next().unwrap_or(&name).to_owned(),
            heading: None,
            url: asked.link_to(image),
            thumbnail: format!("{}?size=128", address("/images/", image)),
            verdict: "waiting",
            label: String::new(),
            width: String::new(),
            percent: String::new(),
            others: String::new(),
            error: String::new(),
            at: String::new(),
            when: String::new(),
            name,
        }
    }

    fn new(result: &Classification, asked: &Asked) -> Self {
        let at = result.classified_at_text();
        let mut row = Self {
            thumbnail: format!("{}?size=128&v={}", address("/images/", &result.image), thumbnails::version(result)),
            verdict: verdict(&result.outcome),
            when: at.get(..16).unwrap_or(&at).replace('T', " "),
            at,
            ..Self::waiting(&result.image, asked)
        };
        match &result.outcome {
            Outcome::Labelled { label, confidence, top, .. } => {
                row.label.clone_from(label);
                row.width = format!("{:.1}%", confidence * 100.0);
                row.percent = percent(*confidence);
                let others = top.iter().skip(1).take(OTHERS).map(|s| format!("{} {}", s.label, percent(s.confidence)));
                row.others = others.collect::<Vec<_>>().join(", ");
            }
            Outcome::Failed { error } => row.error.clone_from(error),
        }
        row
    }

    fn folder(&self) -> &str {
        self.name.rsplit_once('/').map_or("", |(folder, _)| folder)
    }
}

/// A page of the table with its links.
#[derive(Debug)]
pub(crate) struct Table {
    pub(crate) rows: Vec<Row>,
    pub(crate) previous: Option<String>,
    pub(crate) next: Option<String>,
    /// Whether it is the first page.
    pub(crate) first: bool,
    pub(crate) is_filtered: bool,
    /// In the order of names, where folders have headings.
    pub(crate) by_name: bool,
    /// Rows can be ticked.
    pub(crate) selectable: bool,
    /// The address of this page, to come back to.
    pub(crate) here: String,
}

impl Table {
    /// The rows of `page`, the answer to `query`.
    pub(crate) fn new(page: &Page, query: &PageQuery) -> Self {
        let asked = Asked::new(query);
        let results = page.results.iter().map(|result| Row::new(result, &asked));
        let mut rows: Vec<Row> = page.waiting.iter().map(|image| Row::waiting(image, &asked)).chain(results).collect();
        if asked.is_by_name() {
            head_folders(&mut rows, &asked);
        }
        let place = query.after.as_ref().map(|place| ("after", place));
        let place = place.or(query.before.as_ref().map(|place| ("before", place)));
        Self {
            rows,
            previous: page.previous.as_ref().map(|place| asked.link_beside("before", place)),
            next: page.next.as_ref().map(|place| asked.link_beside("after", place)),
            first: place.is_none(),
            is_filtered: asked.is_filtered(),
            by_name: asked.is_by_name(),
            selectable: false,
            here: place.map_or_else(|| asked.link(), |(key, place)| asked.link_beside(key, place)),
        }
    }

    /// The same, with rows that can be ticked.
    pub(crate) fn selectable(self) -> Self {
        Self { selectable: true, ..self }
    }
}

/// Says above its first row which folder rows are in.
fn head_folders(rows: &mut [Row], asked: &Asked) {
    let mut last = asked.folder().to_owned();
    for row in rows {
        let folder = row.folder().to_owned();
        if folder != last {
            let url = folder.parse().ok().map(|folder| asked.in_folder(Some(folder)).link());
            row.heading = Some(Heading { name: folder.clone(), url });
            last = folder;
        }
    }
}
