//! Many clients at once, and slow ones.

use async_trait::async_trait;
use tokio::sync::Notify;

use super::*;
use crate::backend::{self, Reset, Tally};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_may_ask_for_readiness_at_once() {
    let server = Server::start(|_| {}).await;
    for _ in 0..6 {
        let answers = futures_util::future::join_all((0..50).map(|_| server.get("/readyz"))).await;
        assert!(answers.iter().all(|answer| answer.status() == StatusCode::OK), "{answers:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_bodies_lose_their_places_to_others() {
    let server = Server::start(|c| c.web.max_connections = 4).await;
    let mut held = Vec::new();
    for path in ["/login", "/", "/api/results/lookup", "/queue/drop", "/login", "/classify"] {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        let kind = match path {
            "/" | "/classify" => "multipart/form-data; boundary=X",
            "/api/results/lookup" => "application/json",
            _ => "application/x-www-form-urlencoded",
        };
        let head =
            format!("POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {kind}\r\nContent-Length: 9\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        held.push(stream);
    }
    let fresh =
        || Client::builder().pool_max_idle_per_host(0).build().unwrap().get(format!("{}/api/results", server.url));
    assert_eq!(server.get("/healthcheck").await.status(), StatusCode::OK);
    loop {
        match fresh().send().await.unwrap().status() {
            StatusCode::OK => break,
            status => assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE),
        }
        assert_eq!(server.get("/healthcheck").await.status(), StatusCode::OK);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// The memory for images on their way out is finite: who takes one drop by drop has it no longer than others need it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_takes_an_image_slowly_gives_way() {
    let server = Server::start(|_| {}).await;
    let large = |seed| {
        let mut bytes = picture(seed);
        bytes.resize(32 << 20, 0);
        bytes
    };
    let files = vec![("1.png".into(), large(1)), ("2.png".into(), large(2)), ("small.png".into(), picture(3))];
    assert_eq!(server.upload(files).await.0, StatusCode::OK);
    let mut slow = tokio::task::JoinSet::new();
    for name in ["1.png", "2.png"] {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(8 << 10).unwrap();
        let mut stream = socket.connect(server.address).await.unwrap();
        let request = format!("GET /images/{name} HTTP/1.1\r\nHost: localhost\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        slow.spawn(async move {
            let mut some = [0; 2048];
            while stream.read(&mut some).await.is_ok_and(|n| n > 0) {
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
        });
    }
    let takers = async |enough: fn(usize) -> bool| {
        let reached = async {
            while !enough(server.app.image_memory.holders()) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), reached).await.unwrap();
    };
    takers(|n| n == 2).await;
    assert_eq!(server.get("/images/small.png").await.status(), StatusCode::OK);
    // One of them was cut off; what it still gets is the system's.
    takers(|n| n < 2).await;
}

fn many(count: u32) -> Vec<(String, Vec<u8>)> {
    (0..count).map(|n| (format!("{n}.txt"), b"no picture".to_vec())).collect()
}

/// What is kept of each file until the answer is taken is little, and of 20,000 in each of many requests it is much.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn few_requests_may_have_many_files_at_a_time() {
    let server = Server::start(|_| {}).await;
    let (status, answer) = server.upload(many(1000)).await;
    assert_eq!((status, answer["files"].as_array().unwrap().len()), (StatusCode::UNSUPPORTED_MEDIA_TYPE, 1000));
    let all = server.app.many_files.left();
    let held = server.app.many_files.take(all as u32, Duration::ZERO).await.unwrap();
    let answer = server.upload(many(1000)).await.1;
    let files = answer["files"].as_array().unwrap();
    assert!((100..1000).contains(&files.len()), "{}", files.len());
    assert_eq!(files[files.len() - 1]["status"], 503);
    // Few files are none of their business.
    assert_eq!(server.upload(vec![("1.png".into(), picture(1))]).await.0, StatusCode::OK);
    drop(held);
    assert_eq!(server.upload(many(1000)).await.1["files"].as_array().unwrap().len(), 1000);
    assert_eq!(server.app.many_files.left(), all);
}

/// Who has begun a form with many files and sends on drop by drop, has its room no longer than others need it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_forms_with_many_files_give_way() {
    let server = Server::start(|_| {}).await;
    let part = "--X\r\nContent-Disposition: form-data; name=\"f\"; filename=\"a.txt\"\r\n\r\nno picture\r\n";
    let begun = format!(
        "POST / HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=X\r\n\
         Content-Length: 10000000\r\n\r\n{}",
        part.repeat(400)
    );
    let mut slow = tokio::task::JoinSet::new();
    for _ in 0..server.app.many_files.left() {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        stream.write_all(begun.as_bytes()).await.unwrap();
        slow.spawn(async move {
            while stream.write_all(&[b'-'; 1000]).await.is_ok() {
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
        });
    }
    let all_held = async {
        while server.app.many_files.left() > 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), all_held).await.unwrap();
    assert_eq!(server.upload(many(1000)).await.1["files"].as_array().unwrap().len(), 1000);
    assert!(server.app.many_files.left() > 0);
}

/// Stores whose reset goes on when it is told to.
#[derive(Debug, Default)]
struct LongReset {
    begun: Notify,
    go: Notify,
    settled: Notify,
}

#[async_trait]
impl Reset for LongReset {
    async fn reset(&self, _: &Tally) -> backend::Result<()> {
        self.begun.notify_one();
        self.go.notified().await;
        Ok(())
    }

    async fn settle(&self, _: &Tally) -> backend::Result<()> {
        self.settled.notify_one();
        Ok(())
    }
}

/// Load balancers give connections up after a minute or two, and what was asked for is done all the same.
#[tokio::test]
async fn a_reset_is_seen_through_without_its_client() {
    let reset = Arc::new(LongReset::default());
    let server = Server::start_with(|_| {}, |stores| stores.reset = Arc::clone(&reset) as Arc<dyn Reset>).await;
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    stream.write_all(b"POST /reset HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n").await.unwrap();
    let soon = Duration::from_secs(30);
    tokio::time::timeout(soon, reset.begun.notified()).await.unwrap();
    drop(stream);
    let gone = async {
        while !server.get("/metrics").await.text().await.unwrap().contains("http_connections 1\n") {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(soon, gone).await.unwrap();
    reset.go.notify_one();
    tokio::time::timeout(soon, reset.settled.notified()).await.unwrap();
}
