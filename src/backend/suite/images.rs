//! Images, tags and outputs.

use std::collections::{BTreeMap, BTreeSet};

use super::{Environment, event_in, name};
use crate::{
    backend::ErrorKind,
    contract::{Digest, ImageName, ObjectEvent, event},
};

pub(crate) async fn keeps_what_is_put(env: &Environment) {
    let images = &env.other.images;
    let put = env.put("a.png", b"bytes").await;
    assert!(put.created && put.image == name("a.png"));
    assert_eq!(images.get(&put.image, 5).await.unwrap().bytes, b"bytes");
    assert_eq!(images.get(&put.image, 4).await.unwrap_err().kind(), ErrorKind::TooLarge);
    assert!(images.exists(&put.image).await.unwrap());
    let message = &env.receive(1).await[0];
    assert_eq!(images.image_of(&event_in(message)), Some(put.image.clone()));

    assert!(!env.put("a.png", b"bytes").await.created);
    env.receive_none().await;

    assert!(images.delete(&put.image).await.unwrap());
    assert!(!images.delete(&put.image).await.unwrap());
    assert!(!images.exists(&put.image).await.unwrap());
    assert_eq!(images.get(&put.image, 5).await.unwrap_err().kind(), ErrorKind::NotFound);
    assert!(env.put("a.png", b"bytes").await.created);
}

pub(crate) async fn same_name_other_bytes(env: &Environment) {
    env.put("a.png", b"one").await;
    let wanted = name("a.png").with_hash(&Digest::of(b"two"), 8);
    let put = env.put("a.png", b"two").await;
    assert!(put.created && put.image == wanted, "{put:?}");
    let again = env.put("a.png", b"two").await;
    assert!(!again.created && again.image == wanted, "{again:?}");
    // The next candidate is tried when that name is taken, too.
    let taken = name("a.png").with_hash(&Digest::of(b"three"), 8);
    env.put(taken.as_str(), b"four").await;
    assert_eq!(env.put("a.png", b"three").await.image, name("a.png").with_hash(&Digest::of(b"three"), 16));
    for (image, bytes) in [(&name("a.png"), "one"), (&wanted, "two"), (&taken, "four")] {
        assert_eq!(env.other.images.get(image, 100).await.unwrap().bytes, bytes.as_bytes());
    }
    env.receive(4).await;
}

pub(crate) async fn racing_puts_overwrite_nothing(env: &Environment) {
    let contents: Vec<String> = (0..4).map(|i| format!("content {i}")).collect();
    let racers = (0..16).map(|i| {
        let backend = if i % 2 == 0 { &env.backend } else { &env.other };
        let bytes = contents[i / 2 % 4].as_bytes();
        async move { (env.put_over(backend, "race.png", bytes).await, bytes) }
    });
    let puts = futures_util::future::join_all(racers).await;
    let mut names: BTreeMap<&[u8], ImageName> = BTreeMap::new();
    for (put, bytes) in &puts {
        assert_eq!(env.backend.images.get(&put.image, 100).await.unwrap().bytes, *bytes);
        assert_eq!(names.entry(bytes).or_insert_with(|| put.image.clone()), &put.image, "one name for the same bytes");
    }
    assert_eq!(names.values().collect::<BTreeSet<_>>().len(), 4);
    assert!(names.values().any(|name| name.as_str() == "race.png"));
    assert_eq!(puts.iter().filter(|(put, _)| put.created).count(), 4);
    let asked: BTreeSet<_> =
        env.receive(4).await.iter().filter_map(|m| env.backend.images.image_of(&event_in(m))).collect();
    assert_eq!(asked, names.into_values().collect());
    env.receive_none().await;
}

pub(crate) async fn odd_names_come_back_in_events(env: &Environment) {
    let odd = [
        "cat/0000.jpg",
        "dog/0000.jpg",
        "a b/ü+%2F/🦀.png",
        "a b+c%20d.png",
        "quote\"'.png",
        "🦀 ü.png",
        "#?&=;:@.png",
        "no-extension",
        ".hidden",
        "%",
        "a..b",
    ];
    for text in odd {
        assert_eq!(env.put(text, text.as_bytes()).await.image.as_str(), text);
    }
    let images = &env.backend.images;
    let asked: BTreeSet<_> =
        env.receive(odd.len()).await.iter().filter_map(|m| images.image_of(&event_in(m))).collect();
    assert_eq!(asked, odd.into_iter().map(name).collect());
    for text in odd {
        assert_eq!(images.get(&name(text), 100).await.unwrap().bytes, text.as_bytes());
        assert!(!images.location(&name(text)).contains("/../"));
    }
}

pub(crate) async fn refuses_foreign_events(env: &Environment) {
    let images = &env.backend.images;
    let ours = images.event_for(&name("a.png"));
    assert_eq!(images.image_of(&ours), Some(name("a.png")));
    for foreign in [
        ObjectEvent { bucket: "somebody-elses".into(), ..ours.clone() },
        ObjectEvent { key: format!("{}/../../b.png", ours.key), ..ours.clone() },
        ObjectEvent { key: format!("../{}", ours.key), ..ours.clone() },
        ObjectEvent { key: format!("/{}", ours.key), ..ours.clone() },
        ObjectEvent { key: format!("{}/", ours.key), ..ours.clone() },
        ObjectEvent { key: String::new(), ..ours },
    ] {
        assert_eq!(images.image_of(&foreign), None, "{foreign:?}");
    }
}

pub(crate) async fn lists_all_in_pages(env: &Environment) {
    let mut all = BTreeSet::new();
    for i in 0..7 {
        all.insert(env.put(&format!("{i}.png"), b"x").await.image);
    }
    let mut listed = Vec::new();
    loop {
        let page = env.other.images.list(listed.last(), 3).await.unwrap();
        assert!(page.len() <= 3);
        if page.is_empty() {
            break;
        }
        listed.extend(page);
    }
    assert_eq!(listed.len(), 7);
    assert_eq!(listed.into_iter().collect::<BTreeSet<_>>(), all);
}

pub(crate) async fn keeps_foreign_tags(env: &Environment) {
    let (images, tags) = (&env.backend.images, &env.backend.tags);
    let image = env.put("a.png", b"x").await.image;
    assert!(tags.get(&image).await.unwrap().is_empty());
    let tag = |key: &'static str, value: &str| (key, Some(value.to_owned()));
    tags.set(&image, &[tag("Owner", "somebody"), tag("Image", "a.png")]).await.unwrap();
    tags.set(&image, &[tag("Image", "a.png"), tag("Classification", "cat")]).await.unwrap();
    tags.set(&image, &[tag("Classification", "dog")]).await.unwrap();
    let stored = env.other.tags.get(&image).await.unwrap();
    let wanted = [("Classification", "dog"), ("Image", "a.png"), ("Owner", "somebody")];
    assert_eq!(stored.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect::<Vec<_>>(), wanted);
    // Those without a value go, whether they were there or not.
    tags.set(&image, &[("Classification", None), ("Confidence", None)]).await.unwrap();
    assert_eq!(env.other.tags.get(&image).await.unwrap().keys().collect::<Vec<_>>(), ["Image", "Owner"]);
    tags.set(&image, &[("Image", None), ("Owner", None)]).await.unwrap();
    assert!(env.other.tags.get(&image).await.unwrap().is_empty());
    tags.set(&image, &[("Image", None)]).await.unwrap();
    images.get(&image, 10).await.unwrap();
    tags.set(&image, &[("Image", None)]).await.unwrap();
    for tag in [tag("Image", "x"), ("Image", None)] {
        assert_eq!(tags.set(&name("gone.png"), &[tag]).await.unwrap_err().kind(), ErrorKind::NotFound);
    }
}

pub(crate) async fn holds_outputs(env: &Environment) {
    let key = "a b.png_fire_engine";
    let outputs = &env.backend.outputs;
    assert_eq!(outputs.get(key).await.unwrap(), None);
    outputs.put(key, b"{}".to_vec()).await.unwrap();
    outputs.put(key, b"{\"x\":1}".to_vec()).await.unwrap();
    outputs.delete_own(key, b"{}").await.unwrap();
    assert_eq!(env.other.outputs.get(key).await.unwrap().as_deref(), Some(b"{\"x\":1}".as_slice()));
    outputs.delete_own(key, b"{\"x\":1}").await.unwrap();
    assert_eq!(env.other.outputs.get(key).await.unwrap(), None);
    outputs.delete_own(key, b"{}").await.unwrap();
    outputs.put(key, b"{}".to_vec()).await.unwrap();
    let keys = |labels: &[&str]| -> Vec<String> { labels.iter().map(|label| format!("a.png_{label}")).collect() };
    outputs.delete(&[key.to_owned()]).await.unwrap();
    outputs.delete(&[key.to_owned()]).await.unwrap();
    assert_eq!(env.other.outputs.get(key).await.unwrap(), None);
    for key in &keys(&["cat", "cow", "dog"]) {
        outputs.put(key, b"{}".to_vec()).await.unwrap();
    }
    outputs.delete(&keys(&["cat", "cow", "crow"])).await.unwrap();
    for (key, is_there) in keys(&["cat", "cow", "dog"]).iter().zip([false, false, true]) {
        assert_eq!(env.other.outputs.get(key).await.unwrap().is_some(), is_there, "{key}");
    }
    outputs.delete(&keys(&["dog"])).await.unwrap();
}

pub(crate) async fn asks_again_without_sequencer(env: &Environment) {
    let image = env.put("a b.png", b"x").await.image;
    let first = env.receive(1).await;
    env.backend.queue.delete(&[first[0].receipt.clone()]).await.unwrap();
    let body = env.backend.images.event_for(&image).to_body();
    env.backend.queue.send(std::slice::from_ref(&body)).await.unwrap();
    let again = event::parse(&env.receive(1).await[0].body).unwrap().remove(0);
    assert_eq!(again.sequencer, None);
    assert_eq!(env.other.images.image_of(&again), Some(image));
}
