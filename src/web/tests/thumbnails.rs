//! Thumbnails of stored images.

use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use axum::http::HeaderMap;
use tokio::sync::Notify;

use super::*;
use crate::{
    backend::{self, Images, Put, StoredImage, Upload},
    contract::{ImageName, ObjectEvent},
    web::thumbnails::{self, Wanted},
};

/// A store that gives an image away when it is told to, and counts how often.
#[derive(Debug)]
struct Slow {
    images: Arc<dyn Images>,
    begun: Notify,
    go: Notify,
    given: AtomicUsize,
}

#[async_trait]
impl Images for Slow {
    fn location(&self, image: &ImageName) -> String {
        self.images.location(image)
    }

    fn image_of(&self, event: &ObjectEvent) -> Option<ImageName> {
        self.images.image_of(event)
    }

    fn event_for(&self, image: &ImageName) -> ObjectEvent {
        self.images.event_for(image)
    }

    async fn put(&self, upload: &Upload) -> backend::Result<Put> {
        self.images.put(upload).await
    }

    async fn get(&self, image: &ImageName, max_bytes: u64) -> backend::Result<StoredImage> {
        self.begun.notify_one();
        self.go.notified().await;
        self.given.fetch_add(1, Ordering::Relaxed);
        self.images.get(image, max_bytes).await
    }

    async fn exists(&self, image: &ImageName) -> backend::Result<bool> {
        self.images.exists(image).await
    }

    async fn list(&self, after: Option<&ImageName>, limit: usize) -> backend::Result<Vec<ImageName>> {
        self.images.list(after, limit).await
    }

    async fn delete(&self, image: &ImageName) -> backend::Result<bool> {
        self.images.delete(image).await
    }
}

/// A server with a slow store, and an image in it.
async fn slow() -> (Server, Arc<Slow>) {
    let mut slow = None;
    let server = Server::start_with(
        |_| {},
        |stores| {
            let images = Arc::clone(&stores.images);
            let one = Arc::new(Slow { images, begun: Notify::new(), go: Notify::new(), given: AtomicUsize::new(0) });
            stores.images = Arc::clone(&one) as Arc<dyn Images>;
            slow = Some(one);
        },
    );
    let server = server.await;
    server.upload(vec![("a.png".into(), picture(1))]).await;
    (server, slow.unwrap())
}

/// What a page asks for.
async fn ask(app: Arc<App>, query: &str) -> StatusCode {
    let wanted = Wanted::new(&format!("/images/a.png?{query}").parse().unwrap()).unwrap().unwrap();
    let answer = thumbnails::get(&app, &"a.png".parse().unwrap(), wanted, &HeaderMap::new()).await;
    answer.map_or_else(|error| error.status(), |answer| answer.status())
}

/// Or clients that ask and go away would have more of them made at a time than there is memory for.
#[tokio::test]
async fn what_nobody_waits_for_any_more_keeps_its_place_until_it_is_done() {
    let (server, slow) = slow().await;
    let making = Arc::clone(&server.app.thumbnails.making);
    let (places, memory) = (making.available_permits(), server.app.image_memory.left());
    let asked = tokio::spawn(ask(Arc::clone(&server.app), "size=64"));
    slow.begun.notified().await;
    asked.abort();
    assert!(asked.await.unwrap_err().is_cancelled());
    assert_eq!(making.available_permits(), places - 1);
    assert!(server.app.image_memory.left() < memory);
    slow.go.notify_one();
    let all = making.acquire_many(places as u32);
    drop(tokio::time::timeout(Duration::from_secs(60), all).await.unwrap().unwrap());
    assert_eq!(server.app.image_memory.left(), memory);
}

/// Places alone would let as many pictures as there are of them take all of the memory each.
#[tokio::test]
async fn pictures_wait_for_the_memory_that_others_have() {
    let server = Server::start(|_| {}).await;
    server.upload(vec![("a.png".into(), picture(1))]).await;
    let memory = Arc::clone(&server.app.thumbnails.memory);
    let all = memory.available_permits();
    assert_eq!(all, 256 << 10);
    let others = Arc::clone(&memory).acquire_many_owned(all as u32 - 1).await.unwrap();
    let asked = tokio::spawn(ask(Arc::clone(&server.app), "size=64"));
    // Who waits has what there is already.
    let waits = async {
        while memory.available_permits() > 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), waits).await.unwrap();
    assert!(!asked.is_finished());
    drop(others);
    assert_eq!(asked.await.unwrap(), StatusCode::OK);
    assert_eq!(memory.available_permits(), all);
}

/// The version in the address of a thumbnail on the page of results, once the image is classified.
async fn version(server: &Server) -> String {
    loop {
        let page = server.get("/results").await.text().await.unwrap();
        if let Some((_, rest)) = page.split_once("/images/a.png?size=128&#38;v=") {
            return rest.split('"').next().unwrap().to_owned();
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn many_who_ask_for_one_have_it_made_once() {
    let (server, slow) = slow().await;
    server.work();
    slow.go.notify_one();
    let query = format!("size=64&v={}", version(&server).await);
    let given = slow.given.load(Ordering::Relaxed);
    // Where there are more places, several may begin before the first is done.
    let making = Arc::clone(&server.app.thumbnails.making);
    let _others = making.acquire_many(making.available_permits() as u32 - 1).await.unwrap();
    let answers = futures_util::future::join_all((0..6).map(|_| ask(Arc::clone(&server.app), &query)));
    let go = async {
        loop {
            slow.begun.notified().await;
            slow.go.notify_one();
        }
    };
    tokio::select! {
        answers = answers => assert_eq!(answers, [StatusCode::OK; 6]),
        () = go => {}
    }
    assert_eq!(slow.given.load(Ordering::Relaxed) - given, 1);
}

async fn cache_control(server: &Server, query: &str) -> (StatusCode, String) {
    let answer = server.get(&format!("/images/a.png?{query}")).await;
    let cache = answer.headers().get(header::CACHE_CONTROL).map_or("", |value| value.to_str().unwrap()).to_owned();
    (answer.status(), cache)
}

/// Files that are kept.
fn files(server: &Server) -> Vec<std::path::PathBuf> {
    let kept = std::fs::read_dir(server.dir.path().join("data/thumbnails")).unwrap();
    kept.map(|file| file.unwrap().path()).collect()
}

#[tokio::test]
async fn only_the_version_of_the_row_lasts() {
    let server = Server::start(|_| {}).await;
    server.upload(vec![("a.png".into(), picture(1))]).await;
    server.work();
    let known = version(&server).await;
    for query in ["size=64", "size=64&v=x", "size=64&v=0123456789abcdef"] {
        assert_eq!(cache_control(&server, query).await, (StatusCode::OK, "no-cache, private".into()), "{query}");
    }
    // All of these are of the same bytes.
    assert_eq!(files(&server).len(), 1);
    let (status, cache) = cache_control(&server, &format!("size=64&v={known}")).await;
    assert!(status == StatusCode::OK && cache.contains("immutable"), "{cache}");

    // The same name for other bytes.
    server.client.delete(format!("{}/images/a.png", server.url)).send().await.unwrap();
    assert_eq!(cache_control(&server, &format!("size=64&v={known}")).await.0, StatusCode::NOT_FOUND);
    server.upload(vec![("a.png".into(), picture(2))]).await;
    let (status, cache) = cache_control(&server, &format!("size=64&v={known}")).await;
    assert_eq!((status, cache.as_str()), (StatusCode::OK, "no-cache, private"));
}

#[tokio::test]
async fn without_a_version_it_is_made_once_too() {
    let server = Server::start(|_| {}).await;
    server.upload(vec![("a.png".into(), picture(1))]).await;
    let first = server.get("/images/a.png?size=64").await;
    let etag = first.headers()[header::ETAG].clone();
    let known = server.client.get(format!("{}/images/a.png?size=64", server.url)).header(header::IF_NONE_MATCH, etag);
    assert_eq!(known.send().await.unwrap().status(), StatusCode::NOT_MODIFIED);
    // What is kept is what is answered.
    let other = [0xff, 0xd8, 1, 2, 3, 0xff, 0xd9];
    std::fs::write(&files(&server)[0], other).unwrap();
    assert_eq!(server.get("/images/a.png?size=64").await.bytes().await.unwrap(), other[..]);
}
