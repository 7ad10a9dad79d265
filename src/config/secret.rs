//! Tokens and passwords that are in the configuration and never in what is printed.

use serde::{Deserialize, Serialize};

use crate::model::pull;

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

/// An address that may have a name and a password in it: printed without them.
#[derive(Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Address(String);

impl Address {
    /// All of it; empty where there is none.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Debug::fmt(&pull::shown(&self.0), f)
    }
}

impl Serialize for Address {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&pull::shown(&self.0))
    }
}
