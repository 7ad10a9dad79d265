//! Events: the body of a queue message, as S3 writes it.

use std::borrow::Cow;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use serde::Deserialize;

use super::Sequencer;

/// What S3 escapes in keys; spaces become `+`.
const ESCAPED: &AsciiSet =
    &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'*').remove(b'/').remove(b' ');

/// The type in the records that we act on; S3 adds `:Put`, `:Copy`, `:CompleteMultipartUpload`…
const OBJECT_CREATED: &str = "ObjectCreated:";

/// Why a message body is not an event.
#[derive(Debug, thiserror::Error)]
pub enum EventError {
    /// Neither JSON nor `s3://bucket/key`.
    #[error("the message is neither an S3 event nor s3://bucket/key: {0}")]
    Malformed(#[from] serde_json::Error),
    /// A key whose escapes are not UTF-8.
    #[error("the object key {0:?} is not valid percent-encoded UTF-8")]
    Key(String),
    /// An SNS envelope within an SNS envelope.
    #[error("the message is wrapped in more than one SNS envelope")]
    Nested,
}

/// One created object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectEvent {
    /// The bucket that the event names.
    pub bucket: String,
    /// The object's key, decoded.
    pub key: String,
    /// Orders the events of this key; absent in a requeue or a body written by hand.
    pub sequencer: Option<Sequencer>,
    /// When the store created the object, RFC 3339, as the event tells it.
    pub time: Option<String>,
}

impl ObjectEvent {
    /// The event as the JSON that S3 would send, so that every backend's messages look alike.
    #[must_use]
    pub fn to_body(&self) -> String {
        let mut object = serde_json::json!({ "key": encode_key(&self.key) });
        if let Some(sequencer) = &self.sequencer {
            object["sequencer"] = sequencer.as_str().into();
        }
        let mut record = serde_json::json!({
            "eventVersion": "2.1",
            "eventSource": "aws:s3",
            "eventName": "ObjectCreated:Put",
            "s3": { "s3SchemaVersion": "1.0", "bucket": { "name": self.bucket }, "object": object },
        });
        if let Some(time) = &self.time {
            record["eventTime"] = time.as_str().into();
        }
        serde_json::json!({ "Records": [record] }).to_string()
    }
}

/// The created objects that a message body names. Empty for `s3:TestEvent` and for events of other types.
///
/// Understood are S3's notification (every record counts), EventBridge's event of S3, either of them in an SNS
/// envelope, and a plain `s3://bucket/key`.
///
/// # Errors
/// [`EventError`] if the body is none of these; such a message will never be understood, so it may be dropped.
pub fn parse(body: &str) -> Result<Vec<ObjectEvent>, EventError> {
    parse_envelope(body, true)
}

fn parse_envelope(body: &str, may_unwrap: bool) -> Result<Vec<ObjectEvent>, EventError> {
    if let Some((bucket, key)) =
        body.trim_matches(['\r', '\n']).strip_prefix("s3://").and_then(|rest| rest.split_once('/'))
    {
        return Ok(vec![ObjectEvent { bucket: bucket.to_owned(), key: key.to_owned(), sequencer: None, time: None }]);
    }
    match serde_json::from_str(body)? {
        Body::Sns { .. } if !may_unwrap => Err(EventError::Nested),
        Body::Sns { message } => parse_envelope(&message, false),
        Body::Test { .. } => Ok(Vec::new()),
        Body::Notification { records } => {
            records.into_iter().filter(|r| r.name_is_created()).map(TryInto::try_into).collect()
        }
        Body::EventBridge { kind, source, time, detail } if source == "aws.s3" && kind == "Object Created" => {
            let Entity { bucket, object } = serde_json::from_value(detail)?;
            // EventBridge gives the key as it is, not encoded as S3's own notifications have it.
            let sequencer = object.sequencer.filter(|s| !s.is_empty()).map(|s| Sequencer::new(&s));
            Ok(vec![ObjectEvent { bucket: bucket.name, key: object.key, sequencer, time }])
        }
        Body::EventBridge { .. } => Ok(Vec::new()),
    }
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Body {
    Notification {
        #[serde(rename = "Records")]
        records: Vec<Record>,
    },
    Sns {
        #[serde(rename = "Message")]
        message: String,
    },
    /// What EventBridge sends; an S3 bucket has one notification of a kind, so shared buckets use this way.
    EventBridge {
        #[serde(rename = "detail-type")]
        kind: String,
        source: String,
        time: Option<String>,
        detail: serde_json::Value,
    },
    /// `{"Service": "Amazon S3", "Event": "s3:TestEvent", …}`, sent once when a notification is configured.
    Test {
        #[serde(rename = "Event")]
        _event: String,
    },
}

#[derive(Deserialize)]
struct Record {
    #[serde(rename = "eventName")]
    name: String,
    #[serde(rename = "eventTime")]
    time: Option<String>,
    s3: Option<Entity>,
}

#[derive(Deserialize)]
struct Entity {
    bucket: Bucket,
    object: Object,
}

#[derive(Deserialize)]
struct Bucket {
    name: String,
}

#[derive(Deserialize)]
struct Object {
    key: String,
    sequencer: Option<String>,
}

impl Record {
    fn name_is_created(&self) -> bool {
        // Some S3-compatible stores write "s3:ObjectCreated:Put".
        self.name.trim_start_matches("s3:").starts_with(OBJECT_CREATED) && self.s3.is_some()
    }
}

impl TryFrom<Record> for ObjectEvent {
    type Error = EventError;

    fn try_from(record: Record) -> Result<Self, EventError> {
        let Entity { bucket, object } = record.s3.ok_or_else(|| EventError::Key(String::new()))?;
        Ok(Self {
            bucket: bucket.name,
            key: decode_key(&object.key)?,
            sequencer: object.sequencer.filter(|s| !s.is_empty()).map(|s| Sequencer::new(&s)),
            time: record.time,
        })
    }
}

/// Undoes S3's form-urlencoding: `+` is a space, `%XX` a byte.
fn decode_key(key: &str) -> Result<String, EventError> {
    let decoded = percent_decode_str(&key.replace('+', " ")).decode_utf8().map(Cow::into_owned);
    decoded.map_err(|_| EventError::Key(key.to_owned()))
}

/// Form-urlencodes a key as S3 does in its events; `/` stays.
fn encode_key(key: &str) -> String {
    utf8_percent_encode(key, ESCAPED).to_string().replace(' ', "+")
}

#[cfg(test)]
#[path = "event_tests.rs"]
mod tests;
