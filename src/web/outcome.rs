//! What becomes of an uploaded file, as it is answered.

use serde::{Serialize, Serializer};

use super::error::{Error, Result};
use crate::contract::ImageName;

/// What became of one file.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct FileOutcome {
    /// The name that its sender gave it, or the beginning of a long one; empty for the request itself.
    pub(crate) file: String,
    #[serde(flatten)]
    pub(crate) fate: Fate,
}

/// Whether a file is stored.
#[derive(Debug, Clone, Serialize)]
#[serde(untagged)]
pub(crate) enum Fate {
    /// It is.
    Stored {
        /// The name under which it is stored.
        image: ImageName,
        /// That is another than the sender's.
        #[serde(skip_serializing_if = "std::ops::Not::not")]
        renamed: bool,
        /// The very same image was stored before; its result stands.
        #[serde(skip_serializing_if = "std::ops::Not::not")]
        unchanged: bool,
    },
    /// It is not.
    #[serde(serialize_with = "refusal")]
    Refused(Error),
}

/// The message with the status, by which a program knows whether to send the file again.
fn refusal<S: Serializer>(error: &Error, serializer: S) -> Result<S::Ok, S::Error> {
    #[derive(Serialize)]
    struct Refusal<'a> {
        error: &'a str,
        status: u16,
    }
    Refusal { error: error.message(), status: error.status().as_u16() }.serialize(serializer)
}

impl FileOutcome {
    /// The name under which it is stored.
    pub(crate) fn image(&self) -> Option<&ImageName> {
        match &self.fate {
            Fate::Stored { image, .. } => Some(image),
            Fate::Refused(_) => None,
        }
    }

    /// Why it is not stored.
    pub(crate) fn error(&self) -> Option<&Error> {
        match &self.fate {
            Fate::Stored { .. } => None,
            Fate::Refused(error) => Some(error),
        }
    }

    /// Whether it is stored under another name than the sender's.
    pub(crate) fn is_renamed(&self) -> bool {
        matches!(self.fate, Fate::Stored { renamed: true, .. })
    }

    /// Whether it was stored before.
    pub(crate) fn is_unchanged(&self) -> bool {
        matches!(self.fate, Fate::Stored { unchanged: true, .. })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outcomes_on_the_wire() {
        let stored = |renamed, unchanged| Fate::Stored { image: "a.png".parse().unwrap(), renamed, unchanged };
        for (fate, json) in [
            (stored(false, false), r#"{"file":"f","image":"a.png"}"#),
            (stored(true, true), r#"{"file":"f","image":"a.png","renamed":true,"unchanged":true}"#),
            (Fate::Refused(Error::bad_request("no")), r#"{"file":"f","error":"no","status":400}"#),
        ] {
            assert_eq!(serde_json::to_string(&FileOutcome { file: "f".into(), fate }).unwrap(), json);
        }
    }
}
