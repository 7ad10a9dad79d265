//! The table's layout: keys, and how a row is written and read.

use std::{collections::HashMap, time::Duration};

use aws_sdk_dynamodb::types::AttributeValue;
use sha2::{Digest as _, Sha256};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use crate::{
    backend::{Error, ErrorKind, Result},
    contract::{Classification, ImageName, Outcome, Sequencer, order::sort_key},
    model::Score,
};

/// Partitions of the rows, so that no single one bounds how fast a run can write (1000 writes a second each).
pub(crate) const SHARDS: u8 = 8;

/// The version of this layout, in the table's meta item.
pub(crate) const LAYOUT: u32 = 1;

/// The partition of the meta item, the reset marker and the scaler's memory.
pub(crate) const SYSTEM: i32 = -1;

/// The partition of the heartbeats; the sort key is the worker's id.
pub(crate) const HEARTBEATS: i32 = -2;

/// The table's partition key, a number.
pub(crate) const SHARD: &str = "Shard";
/// The table's sort key, a text.
pub(crate) const SORT_KEY: &str = "SortKey";
/// The image's name; the original's attribute, like the next two.
pub(crate) const IMAGE_NAME: &str = "ImageName";
/// The label; absent for a failed image.
pub(crate) const CLASSIFICATION: &str = "Classification";
/// Where the image is.
pub(crate) const S3_LOCATION: &str = "S3Location";
/// The label's probability.
pub(crate) const CONFIDENCE: &str = "Confidence";
/// The five best labels, as JSON.
pub(crate) const TOP: &str = "Top";
/// There, and true, if the label is uncertain.
pub(crate) const UNCERTAIN: &str = "Uncertain";
/// Why the image failed; absent for a classified one.
pub(crate) const ERROR: &str = "Error";
/// The model's name.
pub(crate) const MODEL: &str = "Model";
/// The worker's id.
pub(crate) const CLASSIFIED_BY: &str = "ClassifiedBy";
/// RFC 3339.
pub(crate) const CLASSIFIED_ON: &str = "ClassifiedOn";
/// Orders the events of one image.
pub(crate) const SEQUENCER: &str = "Sequencer";
/// When the message was sent, milliseconds since 1970.
pub(crate) const ASKED_AT: &str = "AskedAt";

/// When the row was removed, milliseconds since 1970. Alone with the key it is what is left of a removed row for
/// [`TOMBSTONE`].
pub(crate) const DELETED_AT: &str = "DeletedAt";

/// A row's attributes besides its key.
pub(crate) const ATTRIBUTES: [&str; 12] = [
    IMAGE_NAME,
    CLASSIFICATION,
    S3_LOCATION,
    CONFIDENCE,
    TOP,
    UNCERTAIN,
    ERROR,
    MODEL,
    CLASSIFIED_BY,
    CLASSIFIED_ON,
    SEQUENCER,
    ASKED_AT,
];

/// How long it is known that a row was removed: longer than any work that was under way then.
pub(crate) const TOMBSTONE: Duration = Duration::from_secs(3600);

/// An item.
pub(crate) type Item = HashMap<String, AttributeValue>;

/// The shard of an image: the first byte of SHA-256 of its name, modulo [`SHARDS`].
pub(crate) fn shard(image: &ImageName) -> i32 {
    i32::from(Sha256::digest(image.as_str())[0] % SHARDS)
}

/// A number attribute.
pub(crate) fn n(number: impl ToString) -> AttributeValue {
    AttributeValue::N(number.to_string())
}

/// A text attribute.
pub(crate) fn s(text: impl Into<String>) -> AttributeValue {
    AttributeValue::S(text.into())
}

/// The key of an item.
pub(crate) fn key(shard: i32, sort: impl Into<String>) -> Item {
    HashMap::from([(SHARD.to_owned(), n(shard)), (SORT_KEY.to_owned(), s(sort))])
}

/// The key of an image's row.
pub(crate) fn row_key(image: &ImageName) -> Item {
    key(shard(image), sort_key(image.as_str()))
}

/// The text of an attribute.
pub(crate) fn text<'a>(item: &'a Item, name: &str) -> Option<&'a str> {
    item.get(name)?.as_s().ok().map(String::as_str)
}

/// The number of an attribute.
pub(crate) fn number<T: std::str::FromStr>(item: &Item, name: &str) -> Option<T> {
    item.get(name)?.as_n().ok()?.parse().ok()
}

/// A named value.
pub(crate) type Attribute = (&'static str, AttributeValue);

/// The attributes of a row: those to set, and those of the other outcome, to remove. The sequencer is set only if there
/// is one.
pub(crate) fn attributes(result: &Classification) -> Result<(Vec<Attribute>, Vec<&'static str>)> {
    let at = result.classified_at.format(&Rfc3339).map_err(|e| unreadable("a time of classification", &e))?;
    let mut set = vec![
        (IMAGE_NAME, s(result.image.as_str())),
        (S3_LOCATION, s(&result.location)),
        (MODEL, s(&result.model)),
        (CLASSIFIED_BY, s(result.worker.as_str())),
        (CLASSIFIED_ON, s(at)),
        (ASKED_AT, n(result.asked_at)),
    ];
    if let Some(sequencer) = &result.sequencer {
        set.push((SEQUENCER, s(sequencer.as_str())));
    }
    let remove = match &result.outcome {
        Outcome::Labelled { label, confidence, top, uncertain } => {
            let top = serde_json::to_string(top).map_err(|e| unreadable("the best labels", &e))?;
            set.extend([(CLASSIFICATION, s(label)), (CONFIDENCE, n(confidence)), (TOP, s(top))]);
            if *uncertain {
                set.push((UNCERTAIN, AttributeValue::Bool(true)));
                vec![ERROR]
            } else {
                vec![ERROR, UNCERTAIN]
            }
        }
        Outcome::Failed { error } => {
            set.push((ERROR, s(error)));
            vec![CLASSIFICATION, CONFIDENCE, TOP, UNCERTAIN]
        }
    };
    Ok((set, remove))
}

/// The row in an item, or `None` with a warning if it holds no row that we wrote.
pub(crate) fn row(item: &Item) -> Option<Classification> {
    let row = read(item);
    if row.is_none() {
        tracing::warn!(name = text(item, IMAGE_NAME), "a row of the table is not understood, skipping it");
    }
    row
}

fn read(item: &Item) -> Option<Classification> {
    let image: ImageName = text(item, IMAGE_NAME)?.parse().ok()?;
    let outcome = match text(item, ERROR) {
        Some(error) => Outcome::Failed { error: error.to_owned() },
        None => {
            let label = text(item, CLASSIFICATION)?.to_owned();
            let confidence = number(item, CONFIDENCE)?;
            let top = text(item, TOP).and_then(|t| serde_json::from_str::<Vec<Score>>(t).ok()).unwrap_or_default();
            Outcome::Labelled { label, confidence, top, uncertain: item.contains_key(UNCERTAIN) }
        }
    };
    Some(Classification {
        image,
        outcome,
        location: text(item, S3_LOCATION).unwrap_or_default().to_owned(),
        model: text(item, MODEL).unwrap_or_default().to_owned(),
        worker: text(item, CLASSIFIED_BY).unwrap_or_default().into(),
        classified_at: OffsetDateTime::parse(text(item, CLASSIFIED_ON)?, &Rfc3339).ok()?,
        sequencer: text(item, SEQUENCER).map(Sequencer::new),
        image_sequencer: None,
        asked_at: number(item, ASKED_AT)?,
    })
}

fn unreadable(what: &str, cause: &dyn std::fmt::Display) -> Error {
    Error::new(ErrorKind::Refused, format!("cannot write {what}")).because(cause)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// An attribute of any type, as another tool may have written it.
    fn any_attribute() -> impl Strategy<Value = AttributeValue> {
        prop_oneof![
            "\\PC{0,40}".prop_map(AttributeValue::S),
            "[-0-9.eE]{0,25}".prop_map(AttributeValue::N),
            any::<bool>().prop_map(AttributeValue::Bool),
            Just(AttributeValue::Null(true)),
            Just(AttributeValue::L(Vec::new())),
        ]
    }

    proptest! {
        #[test]
        fn no_item_of_another_tool_panics(
            values in proptest::collection::vec(proptest::option::of(any_attribute()), ATTRIBUTES.len()),
        ) {
            let names = ATTRIBUTES.iter().map(|name| (*name).to_owned());
            let item: Item = names.zip(values).filter_map(|(name, value)| Some((name, value?))).collect();
            if let Some(row) = row(&item) {
                prop_assert_eq!(Some(row.image.as_str()), text(&item, IMAGE_NAME));
            }
        }

        #[test]
        fn a_written_row_reads_back(
            name in "[a-zA-Z0-9é🦀 ._()-]{1,40}", label in "\\PC{1,30}", confidence in 0.0f32..=1.0, failed: bool,
            counter: Option<u64>, seconds in 0i64..4_000_000_000, nanos in 0u32..1_000_000_000,
        ) {
            let Ok(image) = name.parse::<ImageName>() else { return Ok(()) };
            let outcome = if failed {
                Outcome::Failed { error: label }
            } else {
                let scores = vec![Score { label, confidence }, Score { label: "x".into(), confidence: 0.0 }];
                Outcome::labelled(scores).unwrap().doubted_below(0.5)
            };
            let result = Classification {
                image, outcome, location: "s3://b/k".into(), model: "m".into(), worker: "w".into(),
                classified_at: OffsetDateTime::from_unix_timestamp(seconds).unwrap().replace_nanosecond(nanos).unwrap(),
                sequencer: counter.map(Sequencer::from_counter), image_sequencer: None,
                asked_at: crate::contract::Timestamp::from_millis(seconds * 1000),
            };
            let (set, remove) = attributes(&result).unwrap();
            prop_assert!(set.iter().all(|(k, _)| !remove.contains(k)));
            prop_assert!(set.iter().map(|(k, _)| k).chain(&remove).all(|k| ATTRIBUTES.contains(k)));
            let item: Item = set.into_iter().map(|(k, v)| (k.to_owned(), v)).collect();
            prop_assert_eq!(row(&item), Some(result));
        }
    }

    #[test]
    fn shards_are_those_of_the_contract() {
        // sha256("cat.png") begins with the byte that `printf cat.png | sha256sum` shows.
        let image: ImageName = "cat.png".parse().unwrap();
        let first = crate::contract::Digest::of(b"cat.png").0[0];
        assert_eq!(shard(&image), i32::from(first % 8));
        assert_eq!(row_key(&image)[SORT_KEY], s("cat.png\u{1}cat.png"));
    }
}
