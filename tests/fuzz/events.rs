//! Bodies of queue messages: anybody who may write to the bucket or the queue chooses them.

use imgcls::contract::event;
use proptest::prelude::*;
use serde_json::{Value, json};

/// JSON in which the names that events use come up often.
fn value() -> impl Strategy<Value = Value> {
    let key = prop_oneof![
        Just("Records"),
        Just("eventName"),
        Just("eventTime"),
        Just("s3"),
        Just("bucket"),
        Just("name"),
        Just("object"),
        Just("key"),
        Just("sequencer"),
        Just("Message"),
        Just("Event"),
        Just("x"),
    ];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "[a-z%+/.0-9]{0,12}|\\PC{0,12}".prop_map(Value::from),
        Just(json!("ObjectCreated:Put")),
    ];
    leaf.prop_recursive(6, 40, 6, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            prop::collection::vec((key.clone(), inner), 0..5)
                .prop_map(|pairs| Value::from_iter(pairs.into_iter().map(|(key, value)| (key.to_owned(), value)))),
        ]
    })
}

/// A notification in which any one part is another value.
fn notification() -> impl Strategy<Value = Value> {
    let part = prop_oneof![Just(None), value().prop_map(Some)];
    (part.clone(), part.clone(), part.clone(), part, "\\PC{0,40}", 0..4_usize).prop_map(
        |(name, bucket, object, sequencer, key, records)| {
            let record = json!({
                "eventName": name.unwrap_or_else(|| json!("ObjectCreated:Put")),
                "s3": {
                    "bucket": bucket.unwrap_or_else(|| json!({ "name": "in" })),
                    "object": object.unwrap_or_else(
                        || json!({ "key": key, "sequencer": sequencer.unwrap_or_else(|| json!("00")) })
                    ),
                },
            });
            json!({ "Records": vec![record; records] })
        },
    )
}

fn body() -> impl Strategy<Value = String> {
    let plain = prop_oneof![
        value().prop_map(|value| value.to_string()),
        notification().prop_map(|value| value.to_string()),
        "s3://\\PC{0,40}",
        "\\PC{0,200}"
    ];
    (plain, any::<bool>(), prop::collection::vec((any::<prop::sample::Index>(), any::<char>()), 0..3)).prop_map(
        |(plain, is_wrapped, damage)| {
            let body = if is_wrapped { json!({ "Message": plain }).to_string() } else { plain };
            let mut chars: Vec<char> = body.chars().collect();
            for (at, char) in damage {
                if !chars.is_empty() {
                    let at = at.index(chars.len());
                    chars[at] = char;
                }
            }
            chars.into_iter().collect()
        },
    )
}

#[test]
fn every_message_is_read_or_refused() {
    let mut runner = super::runner(2000, "proptest-regressions/tests/events.txt");
    let outcome = runner.run(&body(), |body| {
        match event::parse(&body) {
            Ok(events) => {
                for event in events {
                    let again = event::parse(&event.to_body()).map_err(|e| TestCaseError::fail(e.to_string()))?;
                    prop_assert_eq!(again, vec![event]);
                }
            }
            Err(error) => prop_assert!(error.to_string().len() > 10, "{}", error),
        }
        Ok(())
    });
    outcome.unwrap();
}

/// Brackets cost a stranger one byte each.
#[test]
fn deep_messages_do_not_use_up_the_stack() {
    for (open, close) in [("[", "]"), ("{\"Records\":[", "]}"), ("{\"Message\":", "}"), ("{\"s3\":", "}")] {
        assert!(event::parse(&format!("{}1{}", open.repeat(100_000), close.repeat(100_000))).is_err());
    }
}
