//! What the results can be narrowed down to: states, labels and folders, each with how many there are.

use super::{asked::Asked, chart::whole, table::Folder};
use crate::{
    backend::{Counts, Search, State},
    contract::ImageName,
};

/// Labels that are shown at once.
const FEW: usize = 8;

/// One choice.
#[derive(Debug)]
pub(crate) struct Choice {
    pub(crate) name: String,
    pub(crate) url: String,
    /// How many there are, where it is known.
    pub(crate) count: Option<String>,
    /// It is the one that is shown.
    pub(crate) chosen: bool,
    /// Of the bar, such as `40%`.
    pub(crate) width: String,
}

/// All choices.
#[derive(Debug)]
pub(crate) struct Facets {
    pub(crate) states: Vec<Choice>,
    pub(crate) labels: Vec<Choice>,
    pub(crate) more_labels: Vec<Choice>,
    pub(crate) folders: Vec<Choice>,
    /// The chosen folder and those that it is in, outermost first.
    pub(crate) path: Vec<Folder>,
    /// False where the store only sums up what workers counted.
    pub(crate) exact: bool,
}

impl Facets {
    pub(crate) fn new(asked: &Asked, counts: &Counts, search: Search) -> Self {
        let mut labels = labels(asked, counts);
        let more_labels = labels.split_off(labels.len().min(FEW));
        let folders = counts.folders.iter().map(|found| Choice {
            name: found.folder.as_str().rsplit('/').next().unwrap_or_default().to_owned(),
            url: asked.in_folder(Some(found.folder.clone())).link(),
            count: found.images.map(|count| whole(count as f64)),
            chosen: false,
            width: String::new(),
        });
        Self {
            states: if search == Search::Substring { states(asked, counts) } else { Vec::new() },
            labels,
            more_labels,
            folders: folders.collect(),
            path: path(asked),
            exact: counts.exact,
        }
    }
}

fn states(asked: &Asked, counts: &Counts) -> Vec<Choice> {
    let of = &counts.states;
    let all = [
        ("Classified", None, Some(of.labelled + of.failed)),
        ("Not sure", Some(State::Uncertain), of.uncertain),
        ("Failed", Some(State::Failed), Some(of.failed)),
        ("Waiting", Some(State::Waiting), of.waiting),
    ];
    let choice = |(name, state, count): (&str, Option<State>, Option<u64>)| {
        let other = asked.in_state(state);
        Choice {
            name: name.to_owned(),
            url: other.link(),
            count: count.map(|count| whole(count as f64)),
            chosen: other.state() == asked.state(),
            width: String::new(),
        }
    };
    all.into_iter().filter(|(.., count)| count.is_some()).map(choice).collect()
}

fn labels(asked: &Asked, counts: &Counts) -> Vec<Choice> {
    let most = counts.labels.iter().map(|found| found.images).max().unwrap_or_default().max(1);
    let choice = |found: &crate::backend::LabelCount| {
        let chosen = found.label == asked.label();
        Choice {
            name: found.label.clone(),
            // The chosen one leads back to all.
            url: asked.labelled(Some(found.label.as_str()).filter(|_| !chosen)).link(),
            count: Some(whole(found.images as f64)),
            chosen,
            width: format!("{:.1}%", 100.0 * found.images as f64 / most as f64),
        }
    };
    counts.labels.iter().map(choice).collect()
}

fn path(asked: &Asked) -> Vec<Folder> {
    let mut path = Vec::new();
    if asked.folder().is_empty() {
        return path;
    }
    path.push(Folder { name: "All".to_owned(), url: asked.in_folder(None).link() });
    let ends = asked.folder().match_indices('/').map(|(at, _)| at).chain([asked.folder().len()]);
    for end in ends {
        let folder = &asked.folder()[..end];
        let name = folder.rsplit('/').next().unwrap_or_default().to_owned();
        path.push(Folder { name, url: asked.in_folder(folder.parse::<ImageName>().ok()).link() });
    }
    path
}
