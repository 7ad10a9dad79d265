//! Images on S3.

use super::*;

#[tokio::test]
async fn an_upload_comes_back_as_an_event_and_as_bytes() {
    let system = System::new("in/").await;
    let images = &system.backend.images;
    let odd = ["a b+ü(1).png", "100%.png", "日本 & 'x'.jpg", "a=b;c,d@e$.gif", "🦀~!.png"];
    for text in odd {
        let put = images.put(&system.upload(text, text.as_bytes())).await.unwrap();
        assert_eq!((put.image.as_str(), put.created), (text, true));
    }
    let messages = system.receive(odd.len()).await;
    let mut seen = HashSet::new();
    for message in messages {
        for event in event::parse(&message.body).unwrap() {
            let image = images.image_of(&event).unwrap();
            assert_eq!(images.get(&image, 1000).await.unwrap().bytes, image.as_str().as_bytes());
            seen.insert(image);
        }
    }
    assert_eq!(seen, odd.map(name).into());
    assert_eq!(images.get(&name("100%.png"), 3).await.unwrap_err().kind(), ErrorKind::TooLarge);
    assert_eq!(images.get(&name("none.png"), 3).await.unwrap_err().kind(), ErrorKind::NotFound);
}

/// A key as form-urlencoded text, whose `/` stays: AWS and ministack.
fn form_encoded(key: &str) -> String {
    url_encoded(key).replace("%20", "+")
}

/// A key as form-urlencoded text, whose `/` is encoded too: moto.
fn all_form_encoded(key: &str) -> String {
    form_encoded(key).replace('/', "%2F")
}

/// A key as in a URL, whose spaces are `%20`: LocalStack and its like.
fn url_encoded(key: &str) -> String {
    const KEPT: &percent_encoding::AsciiSet =
        &percent_encoding::NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'*').remove(b'/');
    percent_encoding::utf8_percent_encode(key, KEPT).to_string()
}

#[tokio::test]
async fn every_name_comes_back_from_every_kind_of_event_of_our_bucket_alone() {
    use proptest::prelude::{any, prop_assert_eq, proptest};

    let config = Aws { endpoint_url: Some("http://127.0.0.1:9".into()), ..Aws::default() };
    let clients = Clients::of_emulator(&config, "100000000000").await;
    let images = S3Images::new(clients.s3, "in-bucket", "in/");
    let image_in = |bucket: &str, key: &str, wrapped: bool| {
        let object = serde_json::json!({"key": key, "size": 7, "sequencer": "0055AED6DCD90281E5"});
        let record = serde_json::json!({"eventVersion": "2.1", "eventName": "ObjectCreated:Put",
            "s3": {"bucket": {"name": bucket}, "object": object}});
        let mut body = serde_json::json!({ "Records": [record] }).to_string();
        if wrapped {
            body = serde_json::json!({"Type": "Notification", "TopicArn": "t", "Message": body}).to_string();
        }
        let events = event::parse(&body).unwrap();
        assert_eq!(events.len(), 1);
        images.image_of(&events[0])
    };
    proptest!(|(text in any::<String>(), mark in "[+% &()=é🦀]{0,3}", wrapped: bool)| {
        let uploaded = format!("{text}{mark}.png");
        let Ok(image) = ImageName::from_upload(&uploaded, &Digest::of(uploaded.as_bytes())) else { return Ok(()) };
        for encode in [form_encoded, all_form_encoded, url_encoded] {
            let key = encode(&format!("in/{image}"));
            prop_assert_eq!(image_in("in-bucket", &key, wrapped), Some(image.clone()));
            prop_assert_eq!(image_in("out-bucket", &key, wrapped), None);
            prop_assert_eq!(image_in("in-bucket", &encode(&format!("other/{image}")), wrapped), None);
        }
    });
}

#[tokio::test]
async fn racing_uploads_of_one_name_all_survive() {
    let system = System::new("").await;
    let images = &system.backend.images;
    let puts = (0..8u8).map(|i| {
        let upload = system.upload("cat.png", &[i / 2; 64]);
        async move { images.put(&upload).await.map(|put| (put, i / 2)) }
    });
    let puts = futures_util::future::try_join_all(puts).await.unwrap();
    assert_eq!(puts.iter().filter(|(put, _)| put.created).count(), 4);
    for (put, byte) in puts {
        assert_eq!(images.get(&put.image, 64).await.unwrap().bytes, [byte; 64]);
    }
}

#[tokio::test]
async fn an_object_of_another_tool_is_compared_by_its_bytes() {
    let system = System::new("").await;
    let put =
        system.clients.s3.put_object().bucket(&system.config.bucket).key("x.png").body(b"same"[..].to_vec().into());
    put.send().await.unwrap();
    let put = system.backend.images.put(&system.upload("x.png", b"same")).await.unwrap();
    assert_eq!((put.image.as_str(), put.created), ("x.png", false));
    let put = system.backend.images.put(&system.upload("x.png", b"else")).await.unwrap();
    assert_eq!((put.image, put.created), (name("x.png").with_hash(&Digest::of(b"else"), 8), true));
}

#[tokio::test]
async fn foreign_tags_are_kept_and_cost_a_call_only_where_there_are_some() {
    let system = System::new("").await;
    let images = &system.backend.images;
    let put = system.clients.s3.put_object().bucket(&system.config.bucket).key("t.png").tagging("owner=me&Image=old");
    put.body(b"x"[..].to_vec().into()).send().await.unwrap();
    images.get(&name("t.png"), 10).await.unwrap();
    let tags = [("Image", Some("t.png".to_owned())), ("Classification", Some("crane _bird_".to_owned()))];
    system.backend.tags.set(&name("t.png"), &tags).await.unwrap();
    let got = system.backend.tags.get(&name("t.png")).await.unwrap();
    let want = [("Classification", "crane _bird_"), ("Image", "t.png"), ("owner", "me")];
    assert_eq!(got.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect::<Vec<_>>(), want);
    assert_eq!(system.backend.tags.set(&name("gone.png"), &tags).await.unwrap_err().kind(), ErrorKind::NotFound);
}

#[tokio::test]
async fn versions_go_with_the_image() {
    let system = System::new("").await;
    let enabled = aws_sdk_s3::types::VersioningConfiguration::builder()
        .status(aws_sdk_s3::types::BucketVersioningStatus::Enabled)
        .build();
    let (s3, bucket) = (&system.clients.s3, &system.config.bucket);
    s3.put_bucket_versioning().bucket(bucket).versioning_configuration(enabled).send().await.unwrap();
    for (key, body) in [("v.png", "1"), ("v.png", "2"), ("v.png.bak", "3")] {
        s3.put_object().bucket(bucket).key(key).body(body.as_bytes().to_vec().into()).send().await.unwrap();
    }
    // Opened anew: whether a bucket keeps versions is read once.
    let images = S3Images::new(s3.clone(), bucket, "");
    assert!(images.delete(&name("v.png")).await.unwrap());
    assert!(!images.delete(&name("v.png")).await.unwrap());
    let left = s3.list_object_versions().bucket(bucket).send().await.unwrap();
    let left: Vec<_> = left.versions().iter().filter_map(|v| v.key()).collect();
    assert_eq!(left, ["v.png.bak"]);
}

#[tokio::test]
async fn listings_page_through_folders() {
    let system = System::new("in/").await;
    for i in 0..5 {
        system.backend.images.put(&system.upload(&format!("{i}.png"), &[i])).await.unwrap();
    }
    // The last two are what consoles make for a folder, and what lies beside the prefix.
    for key in ["in/0/deep.png", "in/2.png.d/x", "in/0/", "other.png"] {
        let put = system.clients.s3.put_object().bucket(&system.config.bucket).key(key);
        put.body(b"x"[..].to_vec().into()).send().await.unwrap();
    }
    let mut all = Vec::new();
    loop {
        let page = system.backend.images.list(all.last(), 2).await.unwrap();
        assert!(page.len() <= 2);
        if page.is_empty() {
            break;
        }
        all.extend(page);
    }
    assert_eq!(all, ["0.png", "0/deep.png", "1.png", "2.png", "2.png.d/x", "3.png", "4.png"].map(name));
}
