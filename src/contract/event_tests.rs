//! Tests of events: those of every kind of store, and bodies that are none.

use proptest::prelude::*;

use super::*;

fn notification(key: &str) -> String {
    format!(
        r#"{{"Records":[{{"eventVersion":"2.1","eventName":"ObjectCreated:Put","eventTime":"2026-01-02T03:04:05.678Z",
        "s3":{{"bucket":{{"name":"in"}},"object":{{"key":"{key}","size":7,"sequencer":"0055AED6DCD90281E5"}}}}}}]}}"#
    )
}

#[test]
fn reads_the_ways_stores_encode_keys() {
    for (encoded, key) in [
        ("in/a+b%2B%C3%BC%281%29.jpg", "in/a b+ü(1).jpg"),
        ("in%2Fa+b%2B%C3%BC(1).jpg", "in/a b+ü(1).jpg"),
        ("in/a%20b%2B%C3%BC%281%29.jpg", "in/a b+ü(1).jpg"),
        ("100%25.png", "100%.png"),
        ("odd%zz%4.png", "odd%zz%4.png"),
    ] {
        let events = parse(&notification(encoded)).unwrap();
        assert_eq!(events.len(), 1);
        assert_eq!(events[0].key, key);
        assert_eq!(events[0].bucket, "in");
        assert_eq!(events[0].sequencer, Some(Sequencer::new("0055AED6DCD90281E5")));
    }
    assert!(matches!(parse(&notification("%FF%FE")), Err(EventError::Key(_))));
}

#[test]
fn reads_events_of_event_bridge() {
    let event = |kind: &str| {
        let object =
            r#"{"key":"in/a b+ü%41.jpg","size":7,"etag":"x","version-id":"v","sequencer":"0055AED6DCD90281E5"}"#;
        format!(
            r#"{{"version":"0","id":"1","detail-type":"{kind}","source":"aws.s3","account":"1",
            "time":"2026-01-02T03:04:05Z","region":"r","resources":["arn:aws:s3:::in"],
            "detail":{{"version":"0","bucket":{{"name":"in"}},"object":{object},
            "request-id":"1","requester":"1","source-ip-address":"1.2.3.4","reason":"PutObject"}}}}"#
        )
    };
    let created = ObjectEvent {
        bucket: "in".to_owned(),
        key: "in/a b+ü%41.jpg".to_owned(),
        sequencer: Some(Sequencer::new("0055AED6DCD90281E5")),
        time: Some("2026-01-02T03:04:05Z".to_owned()),
    };
    assert_eq!(parse(&event("Object Created")).unwrap(), std::slice::from_ref(&created));
    assert_eq!(parse(&event("Object Deleted")).unwrap(), []);
    let envelope = serde_json::json!({ "Type": "Notification", "Message": event("Object Created") });
    assert_eq!(parse(&envelope.to_string()).unwrap(), [created]);
    assert!(parse(r#"{"detail-type":"Object Created","source":"aws.s3","detail":{}}"#).is_err());
}

#[test]
fn reads_every_record_and_only_created_ones() {
    let body = r#"{"Records":[
        {"eventName":"ObjectCreated:Put","s3":{"bucket":{"name":"b"},"object":{"key":"1"}}},
        {"eventName":"ObjectRemoved:Delete","s3":{"bucket":{"name":"b"},"object":{"key":"2"}}},
        {"eventName":"s3:ObjectCreated:Copy","s3":{"bucket":{"name":"b"},"object":{"key":"3"}}}]}"#;
    let keys: Vec<String> = parse(body).unwrap().into_iter().map(|e| e.key).collect();
    assert_eq!(keys, ["1", "3"]);
    assert_eq!(parse(r#"{"Service":"Amazon S3","Event":"s3:TestEvent","Bucket":"b"}"#).unwrap(), []);
    assert_eq!(parse(r#"{"Records":[]}"#).unwrap(), []);
}

#[test]
fn reads_envelopes_and_plain_addresses() {
    let wrap = |inner: &str| serde_json::json!({"Type": "Notification", "Message": inner}).to_string();
    assert_eq!(parse(&wrap(&notification("x"))).unwrap()[0].key, "x");
    assert!(matches!(parse(&wrap(&wrap("{}"))), Err(EventError::Nested)));
    let plain = &parse("s3://b/dir/a+b%20.png\n").unwrap()[0];
    assert_eq!((plain.bucket.as_str(), plain.key.as_str(), &plain.sequencer), ("b", "dir/a+b%20.png", &None));
    for bad in ["", "hello", "{}", "[]", "s3://bucket", r#"{"Records":7}"#] {
        assert!(parse(bad).is_err(), "{bad:?}");
    }
}

/// Bodies as AWS documents them, with every field, of an image in a folder with spaces and letters of all kinds.
#[test]
fn reads_what_the_services_send() {
    let notification = r#"{"Records":[{"eventVersion":"2.1","eventSource":"aws:s3","awsRegion":"us-west-2",
        "eventTime":"2026-11-24T10:00:00.000Z","eventName":"ObjectCreated:CompleteMultipartUpload",
        "userIdentity":{"principalId":"AIDAJDPLRKLG7UEXAMPLE"},"requestParameters":{"sourceIPAddress":"172.16.0.1"},
        "responseElements":{"x-amz-request-id":"C3D13FE58DE4C810",
        "x-amz-id-2":"FMyUVURIY8/IgAtTv8xRjskZQpcIZ9KG4V5Wp6S7S"},
        "s3":{"s3SchemaVersion":"1.0","configurationId":"testConfigRule","bucket":{"name":"photos",
        "ownerIdentity":{"principalId":"A3NL1KOZZKExample"},"arn":"arn:aws:s3:::photos"},
        "object":{"key":"in/%E6%97%85%E8%A1%8C+2026/%C3%A4%2F%28b%29+1.jpg","size":1024,
        "eTag":"d41d8cd98f00b204e9800998ecf8427e",
        "versionId":"096fKKXTRTtl3on89fVO.nfljtsv6qko","sequencer":"0055AED6DCD90281E5"}}}]}"#;
    let of_sns = serde_json::json!({
        "Type": "Notification", "MessageId": "22b80b92-fdea-4c2c-8f9d-bdfb0c7bf324",
        "TopicArn": "arn:aws:sns:us-west-2:123456789012:images", "Subject": "Amazon S3 Notification",
        "Message": notification, "Timestamp": "2026-11-24T10:00:00.123Z",
        "SignatureVersion": "1", "Signature": "EXAMPLEw6JRN=",
        "SigningCertURL": "https://sns.us-west-2.amazonaws.com/SimpleNotificationService-1.pem",
        "UnsubscribeURL": "https://sns.us-west-2.amazonaws.com/?Action=Unsubscribe",
        "MessageAttributes": {"a": {"Type": "String", "Value": "b"}},
    });
    let of_event_bridge = r#"{"version":"0","id":"17793124-05d4-b198-2fde-7ededc63b103","detail-type":"Object Created",
        "source":"aws.s3","account":"111122223333","time":"2026-11-24T10:00:00Z","region":"ca-central-1",
        "resources":["arn:aws:s3:::photos"],"detail":{"version":"0","bucket":{"name":"photos"},"object":{
        "key":"in/旅行 2026/ä/(b) 1.jpg","size":5,"etag":"b1946ac92492d2347c6235b4d2611184",
        "version-id":"IYV3p45BT0ac8hjHg1houSdS1a.Mro8e","sequencer":"0055AED6DCD90281E5"},
        "request-id":"N4N7GDK58NMKJ12R","requester":"123456789012","source-ip-address":"1.2.3.4",
        "reason":"CompleteMultipartUpload"}}"#;
    for body in [notification, &of_sns.to_string(), of_event_bridge] {
        let [event] = &parse(body).unwrap()[..] else { panic!("{body}") };
        assert_eq!((event.bucket.as_str(), event.key.as_str()), ("photos", "in/旅行 2026/ä/(b) 1.jpg"));
        assert_eq!(event.sequencer, Some(Sequencer::new("0055AED6DCD90281E5")));
        assert!(event.time.as_deref().is_some_and(|time| time.starts_with("2026-11-24T10:00:00")), "{event:?}");
    }
    // Whoever subscribes a queue to a topic by HTTP confirms it; a queue gets none, and it is no event.
    assert!(parse(r#"{"Type":"SubscriptionConfirmation","Token":"2336","TopicArn":"arn:aws:sns:r:1:t"}"#).is_err());
}

/// As EventBridge sends it.
fn event_bridge(kind: &str, key: &str) -> String {
    serde_json::json!({
        "version": "0", "id": "2ee9cc15-d022-99ea-1fb8-1b1bac4850f9", "detail-type": kind, "source": "aws.s3",
        "account": "111122223333", "time": "2026-01-02T03:04:05Z", "region": "eu-central-1",
        "resources": ["arn:aws:s3:::in"],
        "detail": {
            "version": "0", "bucket": {"name": "in"}, "request-id": "N4N7GDK58NMKJ12R", "requester": "123456789012",
            "object": {"key": key, "size": 5, "etag": "b1946ac92492d2347c6235b4d2611184",
                "sequencer": "00617F08299329D189"},
            "source-ip-address": "1.2.3.4", "reason": "PutObject"
        }
    })
    .to_string()
}

/// JSON of the fields that events have, with values of all kinds.
fn likely() -> impl Strategy<Value = serde_json::Value> {
    use serde_json::Value;
    let names = [
        "Records",
        "Message",
        "Event",
        "eventName",
        "eventTime",
        "s3",
        "bucket",
        "object",
        "name",
        "key",
        "sequencer",
        "detail",
        "detail-type",
        "source",
        "time",
    ];
    let texts = [
        "ObjectCreated:Put",
        "s3:ObjectCreated:Copy",
        "Object Created",
        "aws.s3",
        "s3:TestEvent",
        "in/a+b%2B.png",
        "%FF%",
        "..",
        "s3://b/k",
        "{}",
        "",
    ];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        proptest::sample::select(texts.to_vec()).prop_map(Value::from),
        "\\PC{0,12}".prop_map(Value::from),
    ];
    leaf.prop_recursive(6, 64, 6, move |inner| {
        let field = (proptest::sample::select(names.to_vec()), inner.clone());
        prop_oneof![
            proptest::collection::vec(inner, 0..4).prop_map(Value::from),
            proptest::collection::vec(field, 0..6)
                .prop_map(|fields| fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()),
        ]
    })
}

proptest! {
    #[test]
    fn a_written_event_reads_back(key in "\\PC{1,60}", counter: Option<u64>) {
        let event = ObjectEvent {
            bucket: "local".into(),
            key,
            sequencer: counter.map(Sequencer::from_counter),
            time: Some("2026-01-01T00:00:00Z".into()),
        };
        prop_assert_eq!(parse(&event.to_body()).unwrap(), vec![event.clone()]);
        let wrapped = serde_json::json!({"Type": "Notification", "Message": event.to_body()}).to_string();
        prop_assert_eq!(parse(&wrapped).unwrap(), vec![event]);
    }

    #[test]
    fn no_body_panics(body in "\\PC{0,200}") {
        drop(parse(&body));
    }

    /// Bodies that look like events and are wrong in one place or another.
    #[test]
    fn no_likely_body_panics(body in likely(), cut in 0..400_usize, wrapped: bool) {
        let mut text = body.to_string();
        if wrapped {
            text = serde_json::json!({"Type": "Notification", "Message": text}).to_string();
        }
        for text in [text.as_str(), text.get(..cut.min(text.len())).unwrap_or_default()] {
            if let Ok(events) = parse(text) {
                prop_assert!(events.len() <= text.len());
            }
        }
    }

    #[test]
    fn every_key_is_decoded_as_it_was_encoded(key: String) {
        prop_assert_eq!(decode_key(&encode_key(&key)).ok(), Some(key.clone()));
        prop_assert!(encode_key(&key).is_ascii());
        // Whatever comes decodes to something, or is refused with its text.
        match decode_key(&key) {
            Ok(_) => {}
            Err(error) => prop_assert!(matches!(error, EventError::Key(text) if text == key)),
        }
    }

    #[test]
    fn event_bridge_and_s3_say_the_same(key in "\\PC{1,60}") {
        let bridge = parse(&event_bridge("Object Created", &key)).unwrap();
        prop_assert_eq!(&bridge[0].key, &key);
        let event = ObjectEvent { time: bridge[0].time.clone(), ..bridge[0].clone() };
        prop_assert_eq!(parse(&event.to_body()).unwrap(), bridge);
    }
}
