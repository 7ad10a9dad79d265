//! Object tags: the classification as S3 tags, in the alphabet and lengths that S3 takes.

use unicode_properties::{GeneralCategoryGroup, UnicodeGeneralCategory};

use super::{Classification, Outcome};

/// S3's limit for a tag value, in characters.
pub const MAX_VALUE_CHARS: usize = 256;

/// The keys that we write; tags with other keys are somebody else's and are kept.
pub const KEYS: [&str; 6] = ["Image", CLASSIFICATION, "Confidence", "ClassifiedBy", "ClassifiedOn", "Uncertain"];

/// The key whose value is the label.
pub const CLASSIFICATION: &str = "Classification";

/// A tag to set, or, without a value, to remove.
pub type Tag = (&'static str, Option<String>);

/// The tags for a classified image; for a failed one, the removal of those of an earlier label.
#[must_use]
pub fn tags(classification: &Classification) -> Vec<Tag> {
    let Outcome::Labelled { label, confidence, uncertain, .. } = &classification.outcome else {
        return KEYS.map(|key| (key, None)).to_vec();
    };
    let values = [
        value(classification.image.as_str()),
        value(label),
        format!("{confidence:.4}"),
        value(classification.worker.as_str()),
        classification.classified_at_text(),
    ];
    // Set for a doubtful label only, and removed from an image that had one.
    let uncertain = uncertain.then(|| "true".to_owned());
    KEYS.into_iter().zip(values.map(Some).into_iter().chain([uncertain])).collect()
}

/// `text` with what S3 refuses in a tag value replaced by `_`, cut to 256 characters. Allowed are letters, numbers,
/// spaces and `+ - = . _ : / @` (*Amazon S3 User Guide*, "Categorizing your objects using tags").
#[must_use]
pub fn value(text: &str) -> String {
    text.chars().take(MAX_VALUE_CHARS).map(|c| if is_allowed(c) { c } else { '_' }).collect()
}

fn is_allowed(c: char) -> bool {
    use GeneralCategoryGroup::{Letter, Number, Separator};
    matches!(c, '+' | '-' | '=' | '.' | '_' | ':' | '/' | '@')
        || c == ' '
        || matches!(c.general_category_group(), Letter | Number)
        || (c.general_category_group() == Separator && c != '\u{2028}' && c != '\u{2029}')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn maps_the_labels_that_s3_refuses() {
        assert_eq!(value("jack-o'-lantern"), "jack-o_-lantern");
        assert_eq!(value("crane (bird)"), "crane _bird_");
        assert_eq!(value("a+b=c.d_e:f/g@h é 日本 ½"), "a+b=c.d_e:f/g@h é 日本 ½");
        assert_eq!(value("🦀\u{301}\n%"), "____");
        assert_eq!(value(&"x".repeat(300)).len(), 256);
    }

    proptest! {
        /// S3 refuses a whole set for one bad tag.
        #[test]
        fn every_set_is_taken(
            name in "\\PC{1,255}",
            label: String,
            worker: String,
            confidence in 0.0f32..=1.0,
            failed: bool,
            uncertain: bool,
        ) {
            let digest = crate::contract::Digest::of(name.as_bytes());
            let Ok(image) = crate::contract::ImageName::from_upload(&name, &digest) else { return Ok(()) };
            let outcome = if failed {
                Outcome::Failed { error: label }
            } else {
                Outcome::Labelled { label, confidence, top: Vec::new(), uncertain: confidence < 0.5 }
            };
            let tags = tags(&Classification {
                image, outcome, location: String::new(), model: String::new(), worker: worker.into(),
                classified_at: time::OffsetDateTime::UNIX_EPOCH, sequencer: None, image_sequencer: None,
                asked_at: crate::contract::Timestamp::default(),
            });
            prop_assert_eq!(tags.iter().map(|(key, _)| *key).collect::<Vec<_>>(), KEYS);
            for value in tags.iter().filter_map(|(_, value)| value.as_ref()) {
                prop_assert!(!failed && value.chars().count() <= MAX_VALUE_CHARS && value.chars().all(is_allowed));
            }
        }

        #[test]
        fn values_are_always_taken(text in "\\PC{0,400}") {
            let value = value(&text);
            prop_assert!(value.chars().count() <= MAX_VALUE_CHARS && value.chars().all(is_allowed));
        }
    }
}
