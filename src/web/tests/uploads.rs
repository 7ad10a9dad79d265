//! Uploads: many, odd and broken ones.

use async_trait::async_trait;

use super::*;
use crate::{
    backend::{self, ErrorKind, Images, Put, StoredImage, Upload},
    contract::{ImageName, ObjectEvent},
};

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
    // One write that changes most of the database.
    let answer = server.client.post(format!("{}/reset", server.url)).header("accept", "application/json").send().await;
    let answer = answer.unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
    let removed: Value = answer.json().await.unwrap();
    assert_eq!((&removed["images"], &removed["messages"]), (&json!(2500), &json!(2500)));
}

/// An answer of many pieces, which is held until it is taken.
#[tokio::test]
async fn a_long_answer_to_an_upload_is_compressed_for_those_who_ask() {
    let server = Server::start(|_| {}).await;
    let files = (0..400).map(|n| (format!("{}{n}.png", "name".repeat(40)), picture(n))).collect();
    let request = server.client.post(&server.url).header("accept", "application/json").multipart(form(files));
    let answer = request.header("accept-encoding", "gzip").send().await.unwrap();
    assert_eq!(answer.headers()[header::CONTENT_ENCODING], "gzip");
    let packed = answer.bytes().await.unwrap();
    let answer: Value = serde_json::from_reader(flate2::read::GzDecoder::new(&packed[..])).unwrap();
    assert_eq!(answer["files"].as_array().unwrap().len(), 400);
}

fn walk(dir: &std::path::Path) -> usize {
    let dirs = std::fs::read_dir(dir).unwrap().flatten().filter(|e| e.path().is_dir());
    dirs.map(|e| std::fs::read_dir(e.path()).unwrap().count()).sum()
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
        ("large.png", large, Err("larger than 9.7 KiB (10000 bytes)")),
        ("..", picture(2), Err("directory")),
        ("a b+c%20'd.png", picture(3), Ok("a b+c%20'd.png")),
        ("../../etc/🦀.png", picture(4), Ok("🦀.png")),
        (r"C:\x\y.png", picture(5), Ok("y.png")),
        // Stored side by side: whichever is first keeps the name.
        ("twice.png", picture(6), Ok("twice.")),
        ("twice.png", picture(7), Ok("twice.")),
        (&long, picture(8), Ok("nnn")),
        ("good.png", picture(9), Ok("good.png")),
        ("cat/0000.png", picture(20), Ok("cat/0000.png")),
        ("dog/0000.png", picture(21), Ok("dog/0000.png")),
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
        (whole("", b"x"), 415, "looks like text"),
        (whole("Content-Type: text/plain\r\n", b"x"), 415, "multipart/form-data"),
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

/// A store that takes every image, and says that it has no room.
#[derive(Debug)]
struct Full(Arc<dyn Images>);

#[async_trait]
impl Images for Full {
    fn location(&self, image: &ImageName) -> String {
        self.0.location(image)
    }

    fn image_of(&self, event: &ObjectEvent) -> Option<ImageName> {
        self.0.image_of(event)
    }

    fn event_for(&self, image: &ImageName) -> ObjectEvent {
        self.0.event_for(image)
    }

    async fn put(&self, upload: &Upload) -> backend::Result<Put> {
        self.0.put(upload).await
    }

    async fn check_room(&self) -> backend::Result<()> {
        Err(backend::Error::new(ErrorKind::Full, "the disk is full"))
    }

    async fn get(&self, image: &ImageName, max_bytes: u64) -> backend::Result<StoredImage> {
        self.0.get(image, max_bytes).await
    }

    async fn exists(&self, image: &ImageName) -> backend::Result<bool> {
        self.0.exists(image).await
    }

    async fn list(&self, after: Option<&ImageName>, limit: usize) -> backend::Result<Vec<ImageName>> {
        self.0.list(after, limit).await
    }

    async fn delete(&self, image: &ImageName) -> backend::Result<bool> {
        self.0.delete(image).await
    }
}

/// Hundreds of uploads that are never finished could fill the disk before any is stored.
#[tokio::test]
async fn uploads_in_progress_leave_room_on_the_disk() {
    let full = |stores: &mut Backend| stores.images = Arc::new(Full(Arc::clone(&stores.images)));
    let server = Server::start_with(|_| {}, full).await;
    let mut large = picture(1);
    large.resize(1 << 20, 0);
    let (status, answer) = server.upload(vec![("large.png".into(), large)]).await;
    assert_eq!(status, StatusCode::INSUFFICIENT_STORAGE, "{answer}");
    assert!(answer["files"][0]["error"].as_str().unwrap().contains("the disk is full"), "{answer}");
}
