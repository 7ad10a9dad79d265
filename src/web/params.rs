//! The parameters of an address.

use axum::{
    extract::{FromRequestParts, Path, Query, rejection::PathRejection},
    http::{Uri, request::Parts},
};

use super::error::{Error, Result};
use crate::{backend::PageQuery, contract::ImageName};

/// The values of the parameters `names`, empty where they are absent, as forms send them.
///
/// # Errors
/// 400 for a parameter that is given twice, for one that is not among them, and for what is not UTF-8. Pages take what they do not
/// know: others add to links.
pub(crate) fn parameters<const N: usize>(uri: &Uri, names: [&str; N]) -> Result<[String; N]> {
    read(uri, names, ["/", "/results"].contains(&uri.path()))
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
    let Query(pairs) = Query::<Vec<(String, String)>>::try_from_uri(uri)
        .map_err(|_| Error::bad_request("the parameters in the address cannot be read"))?;
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
const DEFAULT_LIMIT: usize = 50;

/// Most rows of a page, and most names of a lookup.
pub(crate) const MAX_LIMIT: usize = 1000;

/// The query of a page of results; empty values count as absent, as forms send them.
#[derive(Debug, Clone, Default)]
pub(crate) struct PageParams {
    pub(crate) after: String,
    pub(crate) before: String,
    pub(crate) limit: String,
    pub(crate) q: String,
}

impl<S: Sync> FromRequestParts<S> for PageParams {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self> {
        let [after, before, limit, q] = parameters(&parts.uri, ["after", "before", "limit", "q"])?;
        Ok(Self { after, before, limit, q })
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
        let (after, before) = (cursor("after", &self.after)?, cursor("before", &self.before)?);
        if after.is_some() && before.is_some() {
            return Err(Error::bad_request("after and before cannot be used together; leave one out"));
        }
        let filter = Some(self.q.trim().to_owned()).filter(|q| !q.is_empty());
        Ok(PageQuery { after, before, limit, filter })
    }
}

fn cursor(key: &str, value: &str) -> Result<Option<ImageName>> {
    match value {
        "" => Ok(None),
        value => value.parse().map(Some).map_err(|error| Error::bad_request(format!("{key}: {error}"))),
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

    #[test]
    fn parameters_are_checked() {
        let params = |after: &str, before: &str, limit: &str| {
            PageParams { after: after.into(), before: before.into(), limit: limit.into(), q: " cat ".into() }.query()
        };
        let query = params("", "", "").unwrap();
        assert_eq!((query.limit, query.filter.as_deref()), (50, Some("cat")));
        assert!(params("a", "", "1000").is_ok());
        for (after, before, limit) in [("a", "b", ""), ("", "", "0"), ("", "", "1001"), ("", "", "x"), ("a/b", "", "")]
        {
            assert!(params(after, before, limit).is_err(), "{after} {before} {limit}");
        }
    }
}
