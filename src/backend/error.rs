//! What can go wrong in a store, sorted by what a caller does about it.

use std::fmt::Display;

/// A result of a store.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What a caller does about an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// The thing is not there: discard the work about it.
    NotFound,
    /// The thing is larger than allowed: a permanent error of that image.
    TooLarge,
    /// Throttling, a time-out, a lost connection, a server error: try again later.
    Transient,
    /// There is no room left.
    Full,
    /// The store cannot do what was asked of it: ask for something else.
    Unsupported,
    /// Refused: permissions, a missing bucket or table, a bad argument. Trying again does not help until somebody acts.
    Refused,
}

/// An error of a store: what failed, why, and the way out if there is one.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    kind: ErrorKind,
    message: String,
}

impl Error {
    /// An error that says `message`.
    #[must_use]
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into() }
    }

    /// The same error, told with what caused it.
    #[must_use]
    pub fn because(self, cause: impl Display) -> Self {
        Self { message: format!("{}: {cause}", self.message), ..self }
    }

    /// What to do about it.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }
}
