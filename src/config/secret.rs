//! Tokens that are in the configuration and never in what is printed.

use serde::{Deserialize, Serialize};

/// A text that is never printed.
#[derive(Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// A secret, `None` for an empty text.
    #[must_use]
    pub fn new(text: impl Into<String>) -> Option<Self> {
        Some(Self(text.into())).filter(|secret| !secret.0.is_empty())
    }

    /// The text; empty where a key of the configuration names no secret.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// What is printed in place of a secret.
    pub(super) const SET: &str = "(set)";

    const fn shown(&self) -> &'static str {
        if self.0.is_empty() { "" } else { Self::SET }
    }
}

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.shown())
    }
}

impl Serialize for Secret {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.shown())
    }
}

/// Writes an address without the name and password that may stand before its host.
///
/// # Errors
/// The serializer's.
pub(super) fn without_user<S: serde::Serializer>(url: &str, serializer: S) -> Result<S::Ok, S::Error> {
    let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
    let (authority, _) = rest.split_once('/').unwrap_or((rest, ""));
    match authority.rsplit_once('@') {
        Some((user, _)) => serializer.serialize_str(&format!("{scheme}://{}{}", Secret::SET, &rest[user.len()..])),
        None => serializer.serialize_str(url),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_shown_without_its_user() {
        #[derive(Serialize)]
        struct Shown(#[serde(serialize_with = "without_user")] &'static str);
        for (url, shown) in [
            ("https://me:p@ss@mirror.example/a@b", "https://(set)@mirror.example/a@b"),
            ("http://me@mirror.example", "http://(set)@mirror.example"),
            ("https://mirror.example/a@b", "https://mirror.example/a@b"),
            ("", ""),
        ] {
            assert_eq!(serde_json::to_value(Shown(url)).unwrap(), shown);
        }
    }
}
