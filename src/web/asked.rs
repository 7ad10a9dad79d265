//! What of the results is asked for: as addresses, which lead from one question to the next, and in words.

use super::{chart::whole, params::DEFAULT_LIMIT};
use crate::{
    backend::{Cursor, Filter, Matches, Order, PageQuery, Search, State},
    contract::{ImageName, escape, escape_path},
};

/// A question without its place in the answer.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    order: Order,
    filter: Filter,
    limit: usize,
}

impl Asked {
    pub(crate) fn new(query: &PageQuery) -> Self {
        Self { order: query.order, filter: query.filter.clone(), limit: query.limit }
    }

    /// The same with another filter.
    fn filtered(&self, change: impl FnOnce(&mut Filter)) -> Self {
        let mut other = self.clone();
        change(&mut other.filter);
        other
    }

    pub(crate) fn in_state(&self, state: Option<State>) -> Self {
        self.filtered(|filter| filter.state = state)
    }

    pub(crate) fn labelled(&self, label: Option<&str>) -> Self {
        // What waits or failed has no label.
        self.filtered(|filter| {
            filter.label = label.map(str::to_owned);
            filter.state = filter.state.filter(|state| *state == State::Uncertain);
        })
    }

    pub(crate) fn in_folder(&self, folder: Option<ImageName>) -> Self {
        self.filtered(|filter| filter.folder = folder)
    }

    pub(crate) fn order(&self) -> &'static str {
        match self.order {
            Order::Name => "name",
            Order::Newest => "newest",
            Order::Confidence => "confidence",
        }
    }

    pub(crate) fn is_by_name(&self) -> bool {
        self.order == Order::Name
    }

    pub(crate) fn state(&self) -> &'static str {
        match self.filter.state {
            None => "",
            Some(State::Labelled) => "labelled",
            Some(State::Uncertain) => "uncertain",
            Some(State::Failed) => "failed",
            Some(State::Waiting) => "waiting",
        }
    }

    pub(crate) fn text(&self) -> &str {
        self.filter.text.as_deref().unwrap_or_default()
    }

    pub(crate) fn label(&self) -> &str {
        self.filter.label.as_deref().unwrap_or_default()
    }

    pub(crate) fn folder(&self) -> &str {
        self.filter.folder.as_ref().map_or("", |folder| folder.as_str())
    }

    pub(crate) fn is_filtered(&self) -> bool {
        !self.filter.is_empty()
    }

    fn parameters(&self) -> Vec<(&'static str, String)> {
        let order = if self.is_by_name() { "" } else { self.order() };
        let limit = if self.limit == DEFAULT_LIMIT { String::new() } else { self.limit.to_string() };
        let all = [
            ("q", self.text().to_owned()),
            ("label", self.label().to_owned()),
            ("state", self.state().to_owned()),
            ("folder", self.folder().to_owned()),
            ("order", order.to_owned()),
            ("limit", limit),
        ];
        all.into_iter().filter(|(_, value)| !value.is_empty()).collect()
    }

    /// What follows the path: `?state=failed&order=newest`, or nothing.
    pub(crate) fn suffix(&self) -> String {
        suffix(self.parameters())
    }

    pub(crate) fn link(&self) -> String {
        format!("/results{}", self.suffix())
    }

    /// All rows as CSV, however many a page has.
    pub(crate) fn csv(&self) -> String {
        format!("/api/results.csv{}", Self { limit: DEFAULT_LIMIT, ..self.clone() }.suffix())
    }

    /// The page after or before (`key`) a place.
    pub(crate) fn link_beside(&self, key: &'static str, place: &Cursor) -> String {
        let mut parameters = self.parameters();
        parameters.push((key, place.to_string()));
        format!("/results{}", suffix(parameters))
    }

    /// The image's page, from which one goes on among the same rows.
    pub(crate) fn link_to(&self, image: &ImageName) -> String {
        format!("{}{}", address("/results/", image), self.suffix())
    }

    /// What is shown, in words: `12 failed images in cats/`.
    pub(crate) fn words(&self, search: Search, matches: Option<Matches>) -> String {
        let mut words = String::new();
        if let Some(Matches { count, exact }) = matches {
            words.push_str(&format!("{}{} ", whole(count as f64), if exact { "" } else { "+" }));
        }
        let before = match self.filter.state {
            None | Some(State::Uncertain) => "",
            Some(State::Labelled) => "labelled ",
            Some(State::Failed) => "failed ",
            Some(State::Waiting) => "waiting ",
        };
        words.push_str(before);
        words.push_str(if matches.is_some_and(|m| m.exact && m.count == 1) { "image" } else { "images" });
        if !self.label().is_empty() {
            words.push_str(&format!(" labelled “{}”", self.label()));
        }
        if self.filter.state == Some(State::Uncertain) {
            words.push_str(" that the model is not sure of");
        }
        if !self.folder().is_empty() {
            words.push_str(&format!(" in {}/", self.folder()));
        }
        if !self.text().is_empty() {
            words.push_str(&match search {
                Search::Substring => format!(" with “{}” in the name or as the label", self.text()),
                Search::Prefix => format!(" whose name begins with “{}”", self.text()),
            });
        }
        words
    }
}

fn suffix(parameters: Vec<(&'static str, String)>) -> String {
    let pairs: Vec<String> = parameters.iter().map(|(key, value)| format!("{key}={}", escape(value))).collect();
    if pairs.is_empty() { String::new() } else { format!("?{}", pairs.join("&")) }
}

/// The address of an image under `base`, its folders as they are.
pub(crate) fn address(base: &str, image: &ImageName) -> String {
    format!("{base}{}", escape_path(image.as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked() -> Asked {
        let filter = Filter { text: Some("7 7".into()), folder: "a b/c".parse().ok(), ..Filter::default() };
        Asked::new(&PageQuery { order: Order::Newest, limit: DEFAULT_LIMIT, filter, ..PageQuery::default() })
    }

    #[test]
    fn a_question_is_an_address() {
        assert_eq!(asked().link(), "/results?q=7%207&folder=a%20b%2Fc&order=newest");
        let few = Asked { limit: 5, ..asked() };
        assert!(
            few.link().ends_with("&limit=5") && few.csv() == asked().link().replace("/", "/api/").replace("?", ".csv?")
        );
        let image: ImageName = "a b/ü.png".parse().unwrap();
        assert_eq!(asked().in_folder(None).link_to(&image), "/results/a%20b/%C3%BC.png?q=7%207&order=newest");
        let failed = asked().in_state(Some(State::Failed));
        assert_eq!(failed.labelled(Some("cat")).state(), "", "what failed has no label");
        let beside = failed.link_beside("after", &Cursor::Newest(9));
        assert!(beside.ends_with("&state=failed&folder=a%20b%2Fc&order=newest&after=9"), "{beside}");
    }

    #[test]
    fn a_question_is_a_sentence() {
        let many = Some(Matches { count: 1000, exact: false });
        let words = asked().in_state(Some(State::Failed)).words(Search::Substring, many);
        assert_eq!(words, "1,000+ failed images in a b/c/ with “7 7” in the name or as the label");
        let one = Some(Matches { count: 1, exact: true });
        let words = asked().labelled(Some("cat")).in_folder(None).words(Search::Prefix, one);
        assert_eq!(words, "1 image labelled “cat” whose name begins with “7 7”");
    }
}
