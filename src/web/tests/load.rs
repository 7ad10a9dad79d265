//! Many clients at once, and slow ones.

use super::*;

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
