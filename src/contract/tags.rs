//! Object tags: the classification as S3 tags, in the alphabet and lengths that S3 takes.

use unicode_properties::{GeneralCategoryGroup, UnicodeGeneralCategory};

use super::{Classification, Outcome};

/// S3's limit for a tag value, in characters.
pub const MAX_VALUE_CHARS: usize = 256;

/// The keys that we write; tags with other keys are somebody else's and are kept.
pub const KEYS: [&str; 6] = ["Image", "Classification", "Confidence", "ClassifiedBy", "ClassifiedOn", "Uncertain"];

/// The tags for a classified image, or, for a failed one, none.
#[must_use]
pub fn tags(classification: &Classification) -> Vec<(&'static str, String)> {
    let Outcome::Labelled { label, confidence, uncertain, .. } = &classification.outcome else { return Vec::new() };
    let values = [
        value(classification.image.as_str()),
        value(label),
        format!("{confidence:.4}"),
        value(&classification.worker),
        classification.classified_at_text(),
    ];
    let uncertain = uncertain.then(|| "true".to_owned());
    KEYS.into_iter().zip(values.into_iter().chain(uncertain)).collect()
}

/// `text` with what S3 refuses in a tag value replaced by `_`, cut to 256 characters. Allowed are letters, numbers, spaces and
/// `+ - = . _ : / @` (*Amazon S3 User Guide*, "Categorizing your objects using tags").
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
        #[test]
        fn values_are_always_taken(text in "\\PC{0,400}") {
            let value = value(&text);
            prop_assert!(value.chars().count() <= MAX_VALUE_CHARS && value.chars().all(is_allowed));
        }
    }
}
