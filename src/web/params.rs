//! The parameters of an address.

use axum::{
    extract::{FromRequestParts, Path, Query, rejection::PathRejection},
    http::{Uri, request::Parts},
};
use clap::ValueEnum;
use percent_encoding::percent_decode_str;
use unicode_normalization::UnicodeNormalization as _;

use super::error::{Error, Result};
use crate::{
    backend::{Cursor, Filter, Order, PageQuery},
    contract::ImageName,
};

/// The values of the parameters `names`, empty where they are absent, as forms send them.
///
/// # Errors
/// 400 for a parameter that is given twice, for one that is not among them, and for what is not UTF-8. Pages take what
/// they do not know: others add to links.
pub(crate) fn parameters<const N: usize>(uri: &Uri, names: [&str; N]) -> Result<[String; N]> {
    read(uri, names, uri.path() == "/" || uri.path().starts_with("/results"))
}

/// The same, and no others, wherever the call goes.
///
/// # Errors
/// Those of [`parameters`].
pub(crate) fn parameters_of_call<const N: usize>(uri: &Uri, names: [&str; N]) -> Result<[String; N]> {
    read(uri, names, false)
}

/// A call that has no parameters.
#[derive(Debug)]
pub(crate) struct NoParameters;

impl<S: Sync> FromRequestParts<S> for NoParameters {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self> {
        parameters_of_call(&parts.uri, []).map(|[]| Self)
    }
}

fn read<const N: usize>(uri: &Uri, names: [&str; N], takes_others: bool) -> Result<[String; N]> {
    let unreadable = || Error::bad_request("the parameters in the address cannot be read");
    let is_utf8 = percent_decode_str(uri.query().unwrap_or_default()).decode_utf8().is_ok();
    let pairs = Query::<Vec<(String, String)>>::try_from_uri(uri).ok().filter(|_| is_utf8);
    let Query(pairs) = pairs.ok_or_else(unreadable)?;
    let mut values: [Option<String>; N] = [const { None }; N];
    for (name, value) in pairs {
        let Some(at) = names.iter().position(|known| *known == name) else {
            if takes_others {
                continue;
            }
            return Err(unknown(&name, &names));
        };
        if values[at].replace(value).is_some() {
            return Err(Error::bad_request(format!("{name} is given twice; leave one out")));
        }
    }
    Ok(values.map(Option::unwrap_or_default))
}

fn unknown(name: &str, names: &[&str]) -> Error {
    let name: String = name.chars().take(64).collect();
    let known =
        if names.is_empty() { "there are none here".to_owned() } else { format!("known are {}", names.join(", ")) };
    Error::bad_request(format!("unknown parameter {name:?}; {known}"))
}

/// Rows of a page unless asked otherwise.
pub(crate) const DEFAULT_LIMIT: usize = 50;

/// Most rows of a page, and most names of a lookup.
pub(crate) const MAX_LIMIT: usize = PageQuery::MAX_LIMIT;

/// The query of a page of results; empty values count as absent, as forms send them.
#[derive(Debug, Clone, Default)]
pub(crate) struct PageParams {
    pub(crate) q: String,
    pub(crate) label: String,
    pub(crate) state: String,
    pub(crate) folder: String,
    pub(crate) order: String,
    pub(crate) after: String,
    pub(crate) before: String,
    pub(crate) limit: String,
}

/// The names of the parameters, in the order of [`PageParams`]' fields; the first four are the filter's.
const PAGE: [&str; 8] = ["q", "label", "state", "folder", "order", "after", "before", "limit"];

impl<S: Sync> FromRequestParts<S> for PageParams {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self> {
        let [q, label, state, folder, order, after, before, limit] = parameters(&parts.uri, PAGE)?;
        Ok(Self { q, label, state, folder, order, after, before, limit })
    }
}

impl PageParams {
    /// The query for the store.
    ///
    /// # Errors
    /// 400 that names the parameter.
    pub(crate) fn query(&self) -> Result<PageQuery> {
        let limit = match self.limit.as_str() {
            "" => DEFAULT_LIMIT,
            text => text
                .parse()
                .ok()
                .filter(|limit| (1..=MAX_LIMIT).contains(limit))
                .ok_or_else(|| Error::bad_request(format!("limit is {text:?}; it must be 1 to {MAX_LIMIT}")))?,
        };
        let order = choice("order", &self.order)?.unwrap_or_default();
        let (after, before) = (cursor("after", &self.after, order)?, cursor("before", &self.before, order)?);
        if after.is_some() && before.is_some() {
            return Err(Error::bad_request("after and before cannot be used together; leave one out"));
        }
        Ok(PageQuery { order, after, before, limit, filter: self.filter()? })
    }

    /// Its filter.
    ///
    /// # Errors
    /// 400 that names the parameter.
    pub(crate) fn filter(&self) -> Result<Filter> {
        let some = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
        // Names are stored composed, and some keyboards and systems decompose.
        let composed = |text: &str| text.nfc().collect::<String>();
        let folder = match composed(self.folder.trim_matches('/')).as_str() {
            "" => None,
            folder => Some(folder.parse().map_err(|error| Error::bad_request(format!("folder: {error}")))?),
        };
        Ok(Filter {
            text: some(&composed(self.q.trim())),
            label: some(&self.label),
            state: choice("state", &self.state)?,
            folder,
        })
    }
}

/// The filter of a question that is about no page: the first four of the [`PageParams`].
#[derive(Debug)]
pub(crate) struct FilterParams(pub(crate) PageParams);

impl<S: Sync> FromRequestParts<S> for FilterParams {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self> {
        let [q, label, state, folder] = parameters(&parts.uri, [PAGE[0], PAGE[1], PAGE[2], PAGE[3]])?;
        Ok(Self(PageParams { q, label, state, folder, ..PageParams::default() }))
    }
}

/// The value of a parameter that is one of few words, `None` where it is absent.
fn choice<T: ValueEnum>(key: &str, value: &str) -> Result<Option<T>> {
    if value.is_empty() {
        return Ok(None);
    }
    T::from_str(value, false).map(Some).map_err(|_| {
        let words = T::value_variants().iter().filter_map(|word| Some(word.to_possible_value()?.get_name().to_owned()));
        Error::bad_request(format!("{key} is {value:?}; it must be one of {}", words.collect::<Vec<_>>().join(", ")))
    })
}

fn cursor(key: &str, value: &str, order: Order) -> Result<Option<Cursor>> {
    match value {
        "" => Ok(None),
        value => Cursor::parse(order, value).map(Some).map_err(|error| Error::bad_request(format!("{key}: {error}"))),
    }
}

/// The image that the last part of the address names.
pub(crate) fn image_in(path: Result<Path<String>, PathRejection>) -> Result<ImageName> {
    let Path(name) = path.map_err(|_| Error::bad_request("the name in the address is not valid UTF-8"))?;
    name.parse().map_err(|error| Error::not_found(format!("there is no such image: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::State;

    #[test]
    fn known_parameters_are_taken_once() {
        let read = |query: &str| parameters(&format!("/x{query}").parse().unwrap(), ["after", "q"]);
        assert_eq!(read("").unwrap(), ["", ""]);
        assert_eq!(read("?q=a+b%20%C3%A9&after=").unwrap(), ["", "a b é"]);
        for (query, says) in [
            ("?limt=1", "unknown parameter \"limt\"; known are after, q"),
            ("?q=1&q=2", "q is given twice"),
            ("?Q=1", "unknown parameter \"Q\""),
        ] {
            assert!(read(query).unwrap_err().message().starts_with(says), "{query}");
        }
        assert_eq!(parameters(&"/results?from=mail&q=a".parse().unwrap(), ["q"]).unwrap(), ["a"]);
    }

    fn params(pairs: &[(&str, &str)]) -> PageParams {
        let value =
            |name| pairs.iter().find(|(key, _)| *key == name).map_or_else(String::new, |(_, v)| (*v).to_owned());
        let [q, label, state, folder, order, after, before, limit] = PAGE.map(value);
        PageParams { q, label, state, folder, order, after, before, limit }
    }

    #[test]
    fn parameters_are_checked() {
        let query =
            params(&[("q", " cat "), ("folder", "a/b/"), ("state", "failed"), ("label", "x ")]).query().unwrap();
        let filter = Filter {
            text: Some("cat".into()),
            label: Some("x ".into()),
            state: Some(State::Failed),
            folder: Some("a/b".parse().unwrap()),
        };
        assert_eq!(query, PageQuery { limit: 50, filter, ..PageQuery::default() });
        let decomposed = params(&[("q", "e\u{301}"), ("folder", "e\u{301}/")]).filter().unwrap();
        assert_eq!(decomposed, params(&[("q", "\u{e9}"), ("folder", "\u{e9}")]).filter().unwrap());
        assert!(params(&[("after", "a"), ("limit", "1000")]).query().is_ok());
        assert!(params(&[("order", "newest"), ("before", "12")]).query().is_ok());
        for (pairs, says) in [
            (&[("after", "a"), ("before", "b")][..], "together"),
            (&[("limit", "0")], "limit is \"0\""),
            (&[("limit", "1001")], "1 to 1000"),
            (&[("limit", "x")], "limit"),
            (&[("after", "a/../b")], "after: "),
            (&[("order", "newest"), ("after", "a.png")], "after: "),
            (&[("order", "age")], "order is \"age\"; it must be one of name, newest, confidence"),
            (&[("state", "Failed")], "labelled, uncertain, failed, waiting"),
            (&[("folder", "../x")], "folder: "),
        ] {
            let error = params(pairs).query().unwrap_err();
            assert!(error.message().contains(says), "{pairs:?}: {error}");
        }
    }
}
