//! The parameters of an address.

use axum::{extract::Query, http::Uri};

use super::error::{Error, Result};

/// The values of the parameters `names`, empty where they are absent, as forms send them.
///
/// # Errors
/// 400 for a parameter that is given twice, for one that is not among them, and for what is not UTF-8. Pages take what they do not
/// know: others add to links.
pub(crate) fn parameters<const N: usize>(uri: &Uri, names: [&str; N]) -> Result<[String; N]> {
    let Query(pairs) = Query::<Vec<(String, String)>>::try_from_uri(uri)
        .map_err(|_| Error::bad_request("the parameters in the address cannot be read"))?;
    let mut values: [Option<String>; N] = [const { None }; N];
    for (name, value) in pairs {
        let Some(at) = names.iter().position(|known| *known == name) else {
            if ["/", "/results"].contains(&uri.path()) {
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
    Error::bad_request(format!("unknown parameter {name:?}; known are {}", names.join(", ")))
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
}
