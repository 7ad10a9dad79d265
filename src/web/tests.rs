//! The web tier over real connections, on a real local backend, with a real worker where results are needed.

use std::{io::Cursor, net::SocketAddr, sync::Arc, time::Duration};

use reqwest::{Client, Method, StatusCode, header, multipart};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};
use tokio_util::sync::CancellationToken;

use super::{App, ModelFacts, serve};
use crate::{
    backend::{Backend, local},
    clock::SystemClock,
    config::{Raw, Secret, Serve, Stores},
    model::{Bundle, Classifier, Engine, Parallel},
    worker,
};

/// A server on a free port, with a data directory of its own.
struct Server {
    url: String,
    address: SocketAddr,
    client: Client,
    backend: Backend,
    app: Arc<App>,
    stop: CancellationToken,
    ended: tokio::task::JoinHandle<std::io::Result<()>>,
    dir: tempfile::TempDir,
}

impl Server {
    async fn start(change: impl FnOnce(&mut Serve)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut config = Raw { data_dir: dir.path().join("data"), ..Raw::default() }.serve().unwrap();
        change(&mut config);
        let Stores::Local(local) = &config.stores else { panic!("{:?}", config.stores) };
        let (backend, _) = local::open(local, Arc::new(SystemClock)).unwrap();
        let model = ModelFacts { name: "test".into(), labels: vec!["cat".into()], note: "A note.".into() };
        let app = App::new(backend.clone(), config, model, Arc::new(SystemClock)).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        let ended = tokio::spawn(serve(listener, Arc::clone(&app), stop.clone()));
        // Another test may have been first.
        drop(rustls::crypto::ring::default_provider().install_default());
        let client = Client::builder().redirect(reqwest::redirect::Policy::none()).build().unwrap();
        Self { url: format!("http://{address}"), address, client, backend, app, stop, ended, dir }
    }

    /// Starts a worker; it ends with the server.
    fn work(&self) {
        let config = Raw::default().work().unwrap();
        let classifier = Classifier::new(Bundle::embedded().unwrap(), Engine::default(), Parallel::one(1)).unwrap();
        let settings = worker::Settings {
            worker: "w".into(),
            threads: 1,
            batch: 8,
            receivers: 1,
            pixel_budget: config.worker.pixel_budget,
            limits: config.limits,
            min_confidence: 0.0,
            until_empty: false,
        };
        let worker = worker::Worker {
            backend: self.backend.clone(),
            instance: Arc::new(crate::backend::Host::default()),
            classifier: Arc::new(classifier),
            clock: Arc::new(SystemClock),
            metrics: worker::Metrics::new(),
            settings,
        };
        tokio::spawn(worker.run(self.stop.clone()));
    }

    async fn upload(&self, files: Vec<(String, Vec<u8>)>) -> (StatusCode, Value) {
        let request = self.client.post(&self.url).header("accept", "application/json").multipart(form(files));
        let response = request.send().await.unwrap();
        (response.status(), response.json().await.unwrap())
    }

    async fn get(&self, path: &str) -> reqwest::Response {
        self.client.get(format!("{}{path}", self.url)).send().await.unwrap()
    }

    /// Sends bytes as they are and answers what comes until the server closes.
    async fn raw(&self, request: &[u8]) -> String {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        stream.write_all(request).await.unwrap();
        let mut answer = Vec::new();
        tokio::time::timeout(Duration::from_secs(30), stream.read_to_end(&mut answer)).await.unwrap().unwrap();
        String::from_utf8_lossy(&answer).into_owned()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

fn form(files: Vec<(String, Vec<u8>)>) -> multipart::Form {
    files.into_iter().fold(multipart::Form::new(), |form, (name, bytes)| {
        form.part("myfile", multipart::Part::bytes(bytes).file_name(name))
    })
}

fn picture(seed: u32) -> Vec<u8> {
    let image = image::RgbImage::from_fn(24, 24, |x, y| {
        let [r, g, b, _] = (x.wrapping_mul(7) ^ y.wrapping_mul(13) ^ seed.wrapping_mul(2_654_435_761)).to_le_bytes();
        image::Rgb([r, g, b])
    });
    let mut bytes = Cursor::new(Vec::new());
    image.write_to(&mut bytes, image::ImageFormat::Png).unwrap();
    bytes.into_inner()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thousands_of_files_in_one_request() {
    let server = Server::start(|_| {}).await;
    let files = (0..2500).map(|n| (format!("{n}_x.png"), picture(n))).collect();
    let (status, answer) = server.upload(files).await;
    assert_eq!(status, StatusCode::OK);
    let files = answer["files"].as_array().unwrap();
    assert_eq!(files.len(), 2500);
    for (n, file) in files.iter().enumerate() {
        assert_eq!(file, &json!({ "file": format!("{n}_x.png"), "image": format!("{n}_x.png") }));
    }
    assert_eq!(server.backend.queue.depth().await.unwrap().visible, 2500);
    let spooled = walk(&server.dir.path().join("data/uploads"));
    assert_eq!(spooled, 0, "nothing is left in the spool");
}

fn walk(dir: &std::path::Path) -> usize {
    let dirs = std::fs::read_dir(dir).unwrap().flatten().filter(|e| e.path().is_dir());
    dirs.map(|e| std::fs::read_dir(e.path()).unwrap().count()).sum()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn classify_answers_with_labels() {
    let server = Server::start(|_| {}).await;
    server.work();
    let url = format!("{}/classify", server.url);
    let post =
        |name: &str, seed| server.client.post(&url).multipart(form(vec![(name.to_owned(), picture(seed))])).send();
    let answers = futures_util::future::join_all((0..40).map(|n| post("same.png", n))).await;
    for answer in answers {
        let answer = answer.unwrap();
        assert_eq!(answer.status(), StatusCode::OK);
        assert!(answer.headers()[header::CONTENT_TYPE].to_str().unwrap().starts_with("text/plain"));
        let label = answer.text().await.unwrap();
        assert!(!label.is_empty() && label.chars().all(char::is_alphabetic), "{label:?}");
    }
    // The same bytes again stand by their result; JSON when asked.
    let request = server.client.post(&url).header("accept", "application/json");
    let row: Value =
        request.multipart(form(vec![("same.png".into(), picture(0))])).send().await.unwrap().json().await.unwrap();
    assert!(row["label"].is_string() && row["top"].as_array().unwrap().len() == 5, "{row}");

    let mut broken = picture(1);
    broken.truncate(60);
    let answer = server.client.post(&url).multipart(form(vec![("b.png".into(), broken.clone())])).send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::UNPROCESSABLE_ENTITY);
    let answer =
        server.client.post(&url).multipart(form(vec![("t.png".into(), b"text".to_vec())])).send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::UNSUPPORTED_MEDIA_TYPE);

    let several = vec![("x.png".into(), picture(900)), ("t.png".into(), b"text".to_vec()), ("b.png".into(), broken)];
    let lines = server.client.post(&url).multipart(form(several)).send().await.unwrap().text().await.unwrap();
    let lines: Vec<Value> = lines.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert_eq!(lines.len(), 3, "{lines:?}");
    for line in lines {
        assert_eq!(line["label"].is_string(), line["file"] == "x.png", "{line}");
        assert_eq!(line["error"].is_string(), line["file"] != "x.png", "{line}");
    }
    assert_eq!(server.app.waiters.len(), 0);
}

#[tokio::test]
async fn classify_says_when_it_takes_too_long() {
    let server = Server::start(|c| c.web.classify_timeout = Duration::from_millis(100)).await;
    let request = server.client.post(format!("{}/classify", server.url));
    let answer = request.multipart(form(vec![("a.png".into(), picture(0))])).send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::GATEWAY_TIMEOUT);
    assert!(answer.headers().contains_key(header::RETRY_AFTER));
    let later = answer.headers()[header::LOCATION].to_str().unwrap().to_owned();
    let answer: Value = answer.json().await.unwrap();
    assert_eq!((&answer["image"], &answer["file"]), (&json!("a.png"), &json!("a.png")), "{answer}");
    let waiting = server.get(&later).await;
    assert_eq!(waiting.status(), StatusCode::ACCEPTED);
    assert!(waiting.headers().contains_key(header::RETRY_AFTER));
    assert_eq!(waiting.json::<Value>().await.unwrap(), json!({ "image": "a.png", "state": "waiting" }));
}

#[tokio::test]
async fn one_bad_file_does_not_spoil_the_others() {
    let server = Server::start(|c| c.limits.max_bytes = 10_000).await;
    let long = format!("{}.png", "n".repeat(300));
    let heic = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic".to_vec();
    let mut large = picture(1);
    large.resize(10_001, 0);
    let table: Vec<(&str, Vec<u8>, Result<&str, &str>)> = vec![
        ("empty.png", Vec::new(), Err("empty")),
        ("text.png", b"just some text".to_vec(), Err("looks like text")),
        ("photo.heic", heic, Err("HEIC is not supported; PNG, JPEG, WebP, GIF and BMP are")),
        ("large.png", large, Err("10000 bytes")),
        ("..", picture(2), Err("directory")),
        ("a b+c%20'd.png", picture(3), Ok("a b+c%20'd.png")),
        ("../../etc/🦀.png", picture(4), Ok("🦀.png")),
        (r"C:\x\y.png", picture(5), Ok("y.png")),
        // Stored side by side: whichever is first keeps the name.
        ("twice.png", picture(6), Ok("twice.")),
        ("twice.png", picture(7), Ok("twice.")),
        (&long, picture(8), Ok("nnn")),
        ("good.png", picture(9), Ok("good.png")),
    ];
    let files = table.iter().map(|(name, bytes, _)| ((*name).to_owned(), bytes.clone())).collect();
    let (status, answer) = server.upload(files).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    let entries = answer["files"].as_array().unwrap();
    assert_eq!(entries.len(), table.len(), "{answer}");
    for ((name, _, want), entry) in table.iter().zip(entries) {
        match want {
            Ok(image) => assert!(entry["image"].as_str().unwrap_or_default().starts_with(image), "{name}: {entry}"),
            Err(error) => assert!(entry["error"].as_str().unwrap_or_default().contains(error), "{name}: {entry}"),
        }
    }
    assert!(entries[8]["renamed"].is_null() != entries[9]["renamed"].is_null(), "one of two is renamed: {answer}");
    for (bytes, status) in [(b"text".to_vec(), 415), (vec![0x89; 9_999], 415), (Vec::new(), 415)] {
        assert_eq!(server.upload(vec![("x.png".into(), bytes)]).await.0.as_u16(), status);
    }
    let mut large = picture(1);
    large.resize(10_001, 0);
    assert_eq!(server.upload(vec![("x.png".into(), large)]).await.0, StatusCode::PAYLOAD_TOO_LARGE);
}

#[tokio::test]
async fn odd_requests_get_a_clear_answer_and_the_server_serves_on() {
    let server = Server::start(|c| c.web.max_request_bytes = 100_000).await;
    let head = |extra: &str| format!("POST / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{extra}\r\n");
    let kind = "Content-Type: multipart/form-data; boundary=X\r\n";
    let part = |name: &str, bytes: &[u8]| {
        let mut part =
            format!("--X\r\nContent-Disposition: form-data; name=\"f\"; filename=\"{name}\"\r\n\r\n").into_bytes();
        part.extend_from_slice(bytes);
        part.extend_from_slice(b"\r\n");
        part
    };
    let whole = |headers: &str, body: &[u8]| {
        let mut request = head(&format!("{headers}Content-Length: {}\r\n", body.len())).into_bytes();
        request.extend_from_slice(body);
        request
    };
    let mut cut = part("first.png", &picture(1));
    cut.extend(part("second.png", &picture(2)));
    cut.truncate(cut.len() - 20);
    let answer = server.raw(&whole(kind, &cut)).await;
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("\"image\":\"first.png\""), "{answer}");
    assert!(answer.contains("ended before"), "{answer}");

    let mut chunked = head(&format!("{kind}Transfer-Encoding: chunked\r\n")).into_bytes();
    let mut body = part("chunked.png", &picture(3));
    body.extend_from_slice(b"--X--\r\n");
    chunked.extend(format!("{:x}\r\n", body.len()).into_bytes());
    chunked.extend(body);
    chunked.extend_from_slice(b"\r\n0\r\n\r\n");
    assert!(server.raw(&chunked).await.contains("\"image\":\"chunked.png\""));

    let mut encoded =
        b"--X\r\nContent-Disposition: form-data; name=\"f\"; filename*=utf-8''%C3%A9.png\r\n\r\n".to_vec();
    encoded.extend(picture(4));
    encoded.extend_from_slice(b"\r\n--X--\r\n");
    assert!(server.raw(&whole(kind, &encoded)).await.contains("\"image\":\"é.png\""));

    for (request, status, says) in [
        (whole("", b"x"), 415, "multipart/form-data"),
        (whole("Content-Type: multipart/form-data\r\n", b"x"), 400, "boundary"),
        (whole(kind, b""), 400, ""),
        (whole(kind, b"garbage"), 400, ""),
        (whole(kind, b"--X--\r\n"), 400, "no file"),
        (whole(kind, &part("big.png", &vec![0; 200_000])), 413, "100000 bytes"),
        (
            b"POST / HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\nContent-Length: 0\r\n\r\n".to_vec(),
            403,
            "evil.example",
        ),
        (b"BREW / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".to_vec(), 405, ""),
        (b"GET /nowhere HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".to_vec(), 404, "no such page"),
        (b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n".to_vec(), 400, "Host"),
        (b"not http at all\r\n\r\n".to_vec(), 400, ""),
    ] {
        let answer = server.raw(&request).await;
        let told = String::from_utf8_lossy(&request[..request.len().min(100)]).into_owned();
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")) && answer.contains(says), "{told}\n{answer}");
    }
    assert_eq!(server.get("/healthcheck").await.text().await.unwrap(), "Healthy");
}

#[tokio::test]
async fn results_images_and_reset() {
    let server = Server::start(|_| {}).await;
    server.work();
    let names = ["10_x.png", "2_x.png", "=1+1 \"q\", é.png"];
    let files = names.iter().enumerate().map(|(n, name)| ((*name).to_owned(), picture(n as u32))).collect();
    server.upload(files).await;
    let page = loop {
        let page: Value = server.get("/api/results").await.json().await.unwrap();
        if page["results"].as_array().unwrap().len() == 3 {
            break page;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    let order: Vec<&str> = page["results"].as_array().unwrap().iter().map(|r| r["image"].as_str().unwrap()).collect();
    assert_eq!(order, ["2_x.png", "10_x.png", names[2]]);
    let encoded = "%3D1%2B1%20%22q%22%2C%20%C3%A9.png";
    results_are_paged_and_found(&server, names[2], encoded).await;
    images_and_pages_are_shown(&server, encoded).await;
    let thumbnail = thumbnails_are_kept(&server).await;
    what_is_removed_is_gone(&server, &thumbnail).await;
    let ready: Value = server.get("/readyz").await.json().await.unwrap();
    assert_eq!(ready["ready"], true, "{ready}");
    let metrics = server.get("/metrics").await.text().await.unwrap();
    assert!(
        metrics.contains("imgcls_http_requests_total{") && metrics.contains("imgcls_queue_messages{state=\"visible\"}")
    );
}

/// Of the rows of `2_x.png`, `10_x.png` and `odd`, whose name is `encoded` in a path.
async fn results_are_paged_and_found(server: &Server, odd: &str, encoded: &str) {
    let page: Value = server.get("/api/results?limit=1&after=2_x.png").await.json().await.unwrap();
    assert_eq!(page["results"][0]["image"], "10_x.png");
    assert_eq!((&page["next"], &page["previous"]), (&json!("10_x.png"), &json!("10_x.png")));
    assert_eq!(server.get("/api/results?limit=0").await.status(), StatusCode::BAD_REQUEST);
    let unknown = server.get("/api/results?limt=1").await;
    assert_eq!(unknown.status(), StatusCode::BAD_REQUEST);
    assert!(unknown.text().await.unwrap().contains("limt"));

    let one: Value = server.get(&format!("/api/results/{encoded}")).await.json().await.unwrap();
    assert_eq!(one["image"], odd);
    assert_eq!(server.get("/api/results/none.png").await.status(), StatusCode::NOT_FOUND);
    let found: Value = server
        .client
        .post(format!("{}/api/results/lookup", server.url))
        .json(&json!({ "names": ["none", "2_x.png"] }))
        .send()
        .await
        .unwrap()
        .json()
        .await
        .unwrap();
    assert_eq!((&found["results"][0]["image"], &found["missing"]), (&json!("2_x.png"), &json!(["none"])));
    let csv = server.get("/api/results.csv").await.text().await.unwrap();
    assert_eq!(csv.lines().count(), 4, "{csv}");
    assert!(csv.contains("\n\"'=1+1 \"\"q\"\", é.png\","), "{csv}");
}

async fn images_and_pages_are_shown(server: &Server, encoded: &str) {
    let image = server.get(&format!("/images/{encoded}")).await;
    assert_eq!(image.headers()[header::CONTENT_TYPE], "image/png");
    assert!(image.headers()[header::CONTENT_SECURITY_POLICY].to_str().unwrap().contains("sandbox"));
    assert_eq!(image.headers()[header::X_CONTENT_TYPE_OPTIONS], "nosniff");
    assert_eq!(image.bytes().await.unwrap(), picture(2));
    for path in ["/", "/results", "/status", "/reset", "/queue/dead"] {
        let page =
            server.client.get(format!("{}{path}", server.url)).header("accept", "text/html").send().await.unwrap();
        assert_eq!(page.status(), StatusCode::OK, "{path}");
        assert_eq!(page.headers()[header::CACHE_CONTROL], "no-store");
        let text = page.text().await.unwrap();
        assert!(!text.contains("style=") && !text.contains("onclick") && !text.contains("<style"), "{path}");
    }
    let page = server.get("/results").await.text().await.unwrap();
    assert!(page.contains("=1+1 &#34;q&#34;, é.png"), "{page}");
}

/// Returns the address of one.
async fn thumbnails_are_kept(server: &Server) -> String {
    let page = server.get("/results").await.text().await.unwrap();
    let thumbnail = page.split("src=\"").find(|part| part.starts_with("/images/2_x.png?size=128")).unwrap();
    let thumbnail = thumbnail.split('"').next().unwrap().replace("&#38;", "&");
    // The first is made, the second is kept.
    for _ in 0..2 {
        let small = server.get(&thumbnail).await;
        assert_eq!(small.headers()[header::CONTENT_TYPE], "image/jpeg");
        let cache = small.headers()[header::CACHE_CONTROL].to_str().unwrap();
        assert!(["private", "max-age=31536000", "immutable"].iter().all(|part| cache.contains(part)), "{cache}");
        let etag = small.headers()[header::ETAG].clone();
        assert!(small.bytes().await.unwrap().starts_with(&[0xff, 0xd8]));
        let again = server.client.get(format!("{}{thumbnail}", server.url)).header(header::IF_NONE_MATCH, etag);
        assert_eq!(again.send().await.unwrap().status(), StatusCode::NOT_MODIFIED);
    }
    let unversioned = server.get("/images/2_x.png?size=64").await;
    assert!(unversioned.headers()[header::CACHE_CONTROL].to_str().unwrap().contains("no-cache"));
    for wrong in ["size=100", "size=big", "sise=64"] {
        assert_eq!(server.get(&format!("/images/2_x.png?{wrong}")).await.status(), StatusCode::BAD_REQUEST, "{wrong}");
    }
    thumbnail
}

async fn what_is_removed_is_gone(server: &Server, thumbnail: &str) {
    let delete = server.client.delete(format!("{}/images/2_x.png", server.url)).send().await.unwrap();
    assert_eq!(delete.status(), StatusCode::OK);
    assert_eq!(server.get("/images/2_x.png").await.status(), StatusCode::NOT_FOUND);
    assert_eq!(server.get(thumbnail).await.status(), StatusCode::NOT_FOUND);
    assert_eq!(server.get("/api/results/2_x.png").await.status(), StatusCode::NOT_FOUND);
    let report: Value = server.client.post(format!("{}/reset", server.url)).send().await.unwrap().json().await.unwrap();
    assert_eq!((&report["images"], &report["results"]), (&json!(2), &json!(2)), "{report}");
    let status: Value = server.get("/api/status").await.json().await.unwrap();
    assert_eq!(status["results"]["total"], 0, "{status}");
    for key in ["backend", "model", "queue", "fleet", "results", "images_per_minute", "workers", "classes", "scaling"] {
        assert!(status.get(key).is_some(), "{key} in {status}");
    }
}

#[tokio::test]
async fn browsers_get_pages() {
    let server = Server::start(|_| {}).await;
    let post = |files| server.client.post(&server.url).header("accept", "text/html").multipart(form(files)).send();
    let done = post(vec![("a.png".into(), picture(0))]).await.unwrap();
    assert_eq!(
        (done.status(), &done.headers()[header::LOCATION]),
        (StatusCode::SEE_OTHER, &"/results".parse().unwrap())
    );
    let mixed = post(vec![("a.png".into(), picture(1)), ("b<i>.png".into(), b"text".to_vec())]).await.unwrap();
    assert_eq!(mixed.status(), StatusCode::OK);
    let page = mixed.text().await.unwrap();
    assert!(
        page.contains("stored as a.") && page.contains("looks like text") && page.contains("b&#60;i&#62;.png"),
        "{page}"
    );
    let missing =
        server.client.get(format!("{}/nowhere", server.url)).header("accept", "text/html").send().await.unwrap();
    assert_eq!(missing.status(), StatusCode::NOT_FOUND);
    assert!(missing.text().await.unwrap().contains("<h1>Not Found</h1>"));
}

#[tokio::test]
async fn tokens_guard_all_but_the_health_check() {
    let server = Server::start(|c| {
        c.web.token = Secret::new("user-token");
        c.web.admin_token = Secret::new("admin-token");
    })
    .await;
    assert_eq!(server.get("/healthcheck").await.status(), StatusCode::OK);
    for path in ["/", "/results", "/api/results", "/images/a", "/status", "/api/status", "/metrics", "/reset", "/x"] {
        assert_eq!(server.get(path).await.status(), StatusCode::UNAUTHORIZED, "{path}");
    }
    // An orchestrator has no token, and needs no details.
    let ready: Value = server.get("/readyz").await.json().await.unwrap();
    assert_eq!((&ready["ready"], &ready["checks"]["disk"]), (&json!(true), &json!("ok")), "{ready}");
    let page = server.client.get(&server.url).header("accept", "text/html").send().await.unwrap();
    assert_eq!(
        (page.status(), &page.headers()[header::LOCATION]),
        (StatusCode::SEE_OTHER, &"/login?next=%2F".parse().unwrap())
    );
    let with = |method, path: &str, token: &str| {
        server.client.request(method, format!("{}{path}", server.url)).bearer_auth(token).send()
    };
    assert_eq!(with(Method::GET, "/api/status", "user-token").await.unwrap().status(), StatusCode::OK);
    assert_eq!(with(Method::GET, "/api/status", "wrong").await.unwrap().status(), StatusCode::UNAUTHORIZED);
    for (method, path) in [
        (Method::POST, "/reset"),
        (Method::GET, "/reset"),
        (Method::DELETE, "/images/a.png"),
        (Method::POST, "/requeue?which=all"),
        (Method::POST, "/queue/redrive"),
        (Method::POST, "/queue/drop"),
        (Method::GET, "/queue/dead"),
    ] {
        let status = with(method.clone(), path, "user-token").await.unwrap().status();
        assert_eq!(status, StatusCode::FORBIDDEN, "{method} {path}");
        let status = with(method.clone(), path, "admin-token").await.unwrap().status();
        assert!(status == StatusCode::OK || status == StatusCode::NOT_FOUND, "{method} {path}: {status}");
    }
    sessions_are_guarded_and_guesses_limited(&server).await;
}

/// One wrong token was presented before.
async fn sessions_are_guarded_and_guesses_limited(server: &Server) {
    let login = |token: &str| {
        let form = [("token", token.to_owned()), ("next", "/status".to_owned())];
        server.client.post(format!("{}/login", server.url)).form(&form).send()
    };
    let done = login("user-token").await.unwrap();
    assert_eq!(done.headers()[header::LOCATION], "/status");
    let cookie = done.headers()[header::SET_COOKIE].to_str().unwrap().split(';').next().unwrap().to_owned();
    let see = |path: &str| {
        let request = server.client.get(format!("{}{path}", server.url)).header("accept", "text/html");
        request.header("cookie", &cookie).send()
    };
    assert_eq!(see("/status").await.unwrap().status(), StatusCode::OK);
    // A user who wants an administrator's page is told so, before and after another try.
    let page = see("/reset").await.unwrap();
    let location = page.headers()[header::LOCATION].to_str().unwrap();
    assert_eq!((page.status(), location), (StatusCode::SEE_OTHER, "/login?next=%2Freset&admin=true"));
    assert!(see(location).await.unwrap().text().await.unwrap().contains("needs the admin token"));
    let form = [("token", "user-token"), ("next", "/reset"), ("admin", "true")];
    let again = server.client.post(format!("{}/login", server.url)).form(&form).send().await.unwrap();
    assert_eq!(again.status(), StatusCode::FORBIDDEN);
    assert!(again.text().await.unwrap().contains("needs the admin token"));
    for _ in 0..9 {
        assert_eq!(login("wrong").await.unwrap().status(), StatusCode::UNAUTHORIZED);
    }
    let limited = login("wrong").await.unwrap();
    assert_eq!(limited.status(), StatusCode::TOO_MANY_REQUESTS);
    assert!(limited.headers().contains_key(header::RETRY_AFTER));
    let limited = server.client.get(format!("{}/api/status", server.url)).bearer_auth("user-token");
    let limited = limited.send().await.unwrap();
    assert_eq!(limited.status(), StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(see("/status").await.unwrap().status(), StatusCode::OK, "who is logged in is not concerned");
}

#[tokio::test]
async fn clients_behind_a_trusted_proxy_are_told_apart() {
    let server = Server::start(|c| {
        c.web.token = Secret::new("token");
        c.web.trusted_proxies = vec!["127.0.0.0/8".parse().unwrap()];
    })
    .await;
    let login = |token: &str, client: &str| {
        let request = server.client.post(format!("{}/login", server.url)).form(&[("token", token.to_owned())]);
        request.header("x-forwarded-for", client).header("x-forwarded-proto", "https").send()
    };
    for _ in 0..10 {
        assert_eq!(login("wrong", "203.0.113.1").await.unwrap().status(), StatusCode::UNAUTHORIZED);
    }
    assert_eq!(login("token", "203.0.113.1").await.unwrap().status(), StatusCode::TOO_MANY_REQUESTS);
    let done = login("token", "203.0.113.2").await.unwrap();
    assert_eq!(done.status(), StatusCode::SEE_OTHER);
    assert!(done.headers()[header::SET_COOKIE].to_str().unwrap().contains("; Secure"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_may_ask_for_readiness_at_once() {
    let server = Server::start(|_| {}).await;
    for _ in 0..6 {
        let answers = futures_util::future::join_all((0..50).map(|_| server.get("/readyz"))).await;
        assert!(answers.iter().all(|answer| answer.status() == StatusCode::OK), "{answers:?}");
    }
}

#[tokio::test]
async fn a_reset_page_that_is_loaded_again_resets_nothing() {
    let server = Server::start(|_| {}).await;
    server.upload(vec![("a.png".into(), picture(0))]).await;
    let answer =
        server.client.post(format!("{}/reset", server.url)).header("accept", "text/html").send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::SEE_OTHER);
    let done = answer.headers()[header::LOCATION].to_str().unwrap();
    assert_eq!(done, "/reset/done?images=1&outputs=0&messages=1&results=0");
    server.upload(vec![("b.png".into(), picture(1))]).await;
    let page = server.get(done).await.text().await.unwrap();
    assert!(page.contains("Everything is removed"), "{page}");
    assert_eq!(server.get("/images/b.png").await.status(), StatusCode::OK);
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

#[tokio::test]
async fn stops_and_answers_those_who_wait() {
    let mut server = Server::start(|_| {}).await;
    let request = server.client.post(format!("{}/classify", server.url));
    let waiting = tokio::spawn(request.multipart(form(vec![("a.png".into(), picture(0))])).send());
    while server.app.waiters.len() == 0 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    server.stop.cancel();
    assert_eq!(waiting.await.unwrap().unwrap().status(), StatusCode::SERVICE_UNAVAILABLE);
    tokio::time::timeout(Duration::from_secs(20), &mut server.ended).await.unwrap().unwrap().unwrap();
}
