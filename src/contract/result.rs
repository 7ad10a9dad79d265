//! Results: what is known of a classified image, as stored and as answered.

use serde::{Deserialize, Serialize};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::{ImageName, Sequencer, Timestamp, WorkerId};
use crate::model::Score;

/// What became of an image.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Outcome {
    /// The model gave it a label.
    Labelled {
        /// The most likely label.
        label: String,
        /// Its probability.
        confidence: f32,
        /// The most likely labels, best first; at most five.
        top: Vec<Score>,
        /// Whether the probability is below what counts as sure.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        uncertain: bool,
    },
    /// It could not be classified.
    Failed {
        /// Why, for people to read.
        error: String,
    },
}

impl Outcome {
    /// The outcome for `top`, best first, or `None` where it is empty.
    #[must_use]
    pub fn labelled(top: Vec<Score>) -> Option<Self> {
        let best = top.first()?;
        Some(Self::Labelled { label: best.label.clone(), confidence: best.confidence, top, uncertain: false })
    }

    /// The same, marked as uncertain if the probability is below `least`.
    #[must_use]
    pub fn doubted_below(mut self, least: f32) -> Self {
        if let Self::Labelled { confidence, uncertain, .. } = &mut self {
            *uncertain = *confidence < least;
        }
        self
    }

    /// Whether the label is uncertain.
    #[must_use]
    pub fn is_uncertain(&self) -> bool {
        matches!(self, Self::Labelled { uncertain: true, .. })
    }

    /// The label, unless the image failed.
    #[must_use]
    pub fn label(&self) -> Option<&str> {
        match self {
            Self::Labelled { label, .. } => Some(label),
            Self::Failed { .. } => None,
        }
    }

    /// The reason of a failure.
    #[must_use]
    pub fn error(&self) -> Option<&str> {
        match self {
            Self::Labelled { .. } => None,
            Self::Failed { error } => Some(error),
        }
    }
}

/// The result of one image: one row in the results store, and with its fields in this order the JSON of every answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Classification {
    /// The image's name.
    pub image: ImageName,
    /// The label or the failure.
    #[serde(flatten)]
    pub outcome: Outcome,
    /// Where the image is: `s3://bucket/key`, or its path on the web tier.
    pub location: String,
    /// The model's name.
    pub model: String,
    /// Who classified it.
    pub worker: WorkerId,
    /// When.
    #[serde(with = "time::serde::rfc3339")]
    pub classified_at: OffsetDateTime,
    /// The sequencer of the event that asked for it. The stores keep it beside the result; it is nobody else's
    /// business.
    #[serde(skip)]
    pub sequencer: Option<Sequencer>,
    /// The sequencer that the classified bytes were stored with, where the store knows it: results of bytes that were
    /// replaced meanwhile are discarded.
    #[serde(skip)]
    pub image_sequencer: Option<Sequencer>,
    /// When the message that asked for it was sent: a reset discards results that were asked for before it.
    #[serde(skip)]
    pub asked_at: Timestamp,
}

impl Classification {
    /// The key of the image's output object: `{image}_{label}`, the label's spaces as `_`; none for a failure.
    #[must_use]
    pub fn output_key(&self) -> Option<String> {
        self.outcome.label().map(|label| output_key(&self.image, label))
    }

    /// The time of classification as RFC 3339 in whole seconds.
    #[must_use]
    pub fn classified_at_text(&self) -> String {
        let at = self.classified_at.replace_nanosecond(0).unwrap_or(self.classified_at);
        at.format(&Rfc3339).unwrap_or_else(|_| at.unix_timestamp().to_string())
    }
}

/// The longest key of an object on S3, in bytes.
pub const MAX_OBJECT_KEY_BYTES: usize = 1024;

/// `{image}_{label}`, the label's spaces as `_`, and its `/` too, so that a label makes no folder; cut where S3 would
/// refuse it.
#[must_use]
pub fn output_key(image: &ImageName, label: &str) -> String {
    let mut key = format!("{image}_{}", label.replace([' ', '/'], "_"));
    let end = (0..=key.len().min(MAX_OBJECT_KEY_BYTES)).rev().find(|end| key.is_char_boundary(*end));
    key.truncate(end.unwrap_or(0));
    key
}

#[cfg(test)]
mod tests {
    use super::*;

    fn classification(outcome: Outcome) -> Classification {
        Classification {
            image: "a b.png".parse().unwrap(),
            outcome,
            location: "s3://in/a b.png".into(),
            model: "m".into(),
            worker: "w".into(),
            classified_at: OffsetDateTime::from_unix_timestamp(1_600_000_000).unwrap(),
            sequencer: None,
            image_sequencer: None,
            asked_at: Timestamp::default(),
        }
    }

    proptest::proptest! {
        #[test]
        fn any_label_gives_an_output_beside_its_image(label: String) {
            let image: ImageName = "a b.png".parse().unwrap();
            let key = output_key(&image, &label);
            proptest::prop_assert!(key.starts_with("a b.png_") && !key["a b.png_".len()..].contains(['/', ' ']));
            proptest::prop_assert!(key.len() <= MAX_OBJECT_KEY_BYTES);
        }

        #[test]
        fn any_text_is_a_result_or_none(
            text in "\\PC{0,80}",
            field in "image|label|error|top|classified_at|sequencer",
        ) {
            drop(serde_json::from_str::<Classification>(&text));
            let mut json = serde_json::to_value(classification(Outcome::Failed { error: "no".into() })).unwrap();
            json[field] = text.into();
            if let Ok(result) = serde_json::from_value::<Classification>(json) {
                let again = serde_json::from_value::<Classification>(serde_json::to_value(&result).unwrap());
                proptest::prop_assert_eq!(again.unwrap(), result);
            }
        }
    }

    #[test]
    fn json_has_the_contract_fields() {
        let top = vec![
            Score { label: "fire engine".into(), confidence: 0.5 },
            Score { label: "cat".into(), confidence: 0.25 },
        ];
        let labelled = classification(Outcome::labelled(top).unwrap());
        let json = serde_json::to_string(&labelled).unwrap();
        assert_eq!(
            json,
            concat!(
                r#"{"image":"a b.png","label":"fire engine","confidence":0.5,"#,
                r#""top":[{"label":"fire engine","confidence":0.5},{"label":"cat","confidence":0.25}],"#,
                r#""location":"s3://in/a b.png","model":"m","worker":"w","classified_at":"2020-09-13T12:26:40Z"}"#,
            )
        );
        assert_eq!(serde_json::from_str::<Classification>(&json).unwrap(), labelled);
        assert_eq!(labelled.output_key().as_deref(), Some("a b.png_fire_engine"));
        assert_eq!(output_key(&"cats/a b.png".parse().unwrap(), "a/b"), "cats/a b.png_a_b");
        assert_eq!(output_key(&labelled.image, &"é".repeat(600)).len(), 1024);

        let failed = classification(Outcome::Failed { error: "not an image".into() });
        let json = serde_json::to_string(&failed).unwrap();
        assert!(json.starts_with(r#"{"image":"a b.png","error":"not an image","location":"#), "{json}");
        assert_eq!(serde_json::from_str::<Classification>(&json).unwrap(), failed);
        assert_eq!(failed.output_key(), None);
    }
}
