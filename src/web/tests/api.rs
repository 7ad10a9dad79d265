//! What programs rely on: raw bodies, refusals in words, answers that are not sent again, parts, compression.

use super::*;

async fn send(request: reqwest::RequestBuilder) -> (StatusCode, header::HeaderMap, Vec<u8>) {
    let answer = request.send().await.unwrap();
    (answer.status(), answer.headers().clone(), answer.bytes().await.unwrap().to_vec())
}

fn json_of(bytes: &[u8]) -> Value {
    serde_json::from_slice(bytes).unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(bytes)))
}

#[tokio::test]
async fn an_image_may_be_the_whole_body() {
    let server = Server::start(|_| {}).await;
    let post = |path: &str, kind: &'static str, bytes: Vec<u8>| {
        let request = server.client.post(format!("{}{path}", server.url)).body(bytes);
        if kind.is_empty() { request } else { request.header(header::CONTENT_TYPE, kind) }
    };
    for (n, kind) in
        ["image/png", "application/octet-stream", "application/x-www-form-urlencoded", ""].into_iter().enumerate()
    {
        let (status, _, body) = send(post(&format!("/?name=a{n}.png"), kind, picture(n as u32))).await;
        let image = format!("a{n}.png");
        assert_eq!((status, json_of(&body)), (StatusCode::OK, json!({ "files": [{ "file": image, "image": image }] })));
    }
    // Without a name it is named by its content, so the same bytes are the same image.
    let unnamed = json_of(&send(post("/", "image/png", picture(9))).await.2)["files"][0].clone();
    let image = unnamed["image"].as_str().unwrap().to_owned();
    assert!(image.len() == 20 && image.ends_with(".png") && unnamed["renamed"].is_null(), "{unnamed}");
    let again = json_of(&send(post("/", "image/jpeg", picture(9))).await.2)["files"][0].clone();
    assert_eq!((&again["image"], &again["unchanged"]), (&json!(image), &json!(true)), "{again}");

    for (path, kind, bytes, status, says) in [
        ("/?name=a.png", "image/png", b"text".to_vec(), 415, "looks like text"),
        ("/", "image/png", Vec::new(), 411, "no body"),
        ("/", "text/plain", picture(1), 415, "curl --data-binary"),
        ("/", "application/json", b"{}".to_vec(), 415, "curl --data-binary"),
        ("/?name=..", "image/png", picture(1), 400, "directory"),
        ("/?nam=a.png", "image/png", picture(1), 400, "known are name"),
        ("/?name=a.png", "multipart/form-data; boundary=X", b"--X--\r\n".to_vec(), 400, "names of their own"),
    ] {
        let (answered, _, body) = send(post(path, kind, bytes)).await;
        let body = String::from_utf8(body).unwrap();
        assert!(answered == status && body.contains(says), "{path} {kind}: {answered} {body}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_of_hugging_face_get_what_they_expect() {
    let server = Server::start(|_| {}).await;
    server.work();
    let post = || server.client.post(format!("{}/classify", server.url));
    let scores = |body: &[u8]| -> Vec<(String, f64)> {
        let list = json_of(body);
        let score = |one: &Value| (one["label"].as_str().unwrap().to_owned(), one["score"].as_f64().unwrap());
        list.as_array().unwrap_or_else(|| panic!("{list}")).iter().map(score).collect()
    };
    let (status, headers, body) = send(post().body(picture(1))).await;
    assert_eq!((status, &headers[header::CONTENT_TYPE]), (StatusCode::OK, &"application/json".parse().unwrap()));
    let five = scores(&body);
    assert!(five.len() == 5 && five.is_sorted_by(|a, b| a.1 >= b.1) && five[0].1 <= 1.0, "{five:?}");
    // The whole result is not far, and text is to be had.
    let whole: Value = server.get(headers[header::CONTENT_LOCATION].to_str().unwrap()).await.json().await.unwrap();
    assert_eq!(whole["label"], json!(five[0].0));
    let label = send(post().header("accept", "text/plain").body(picture(1))).await.2;
    assert_eq!(String::from_utf8(label).unwrap(), five[0].0);

    use base64::Engine as _;
    let base64 = base64::engine::general_purpose::STANDARD.encode(picture(1));
    let (status, _, body) = send(post().json(&json!({ "inputs": base64, "parameters": { "top_k": 2 } }))).await;
    assert_eq!((status, scores(&body)), (StatusCode::OK, five[..2].to_vec()));
    for (sent, says) in [
        (json!({ "inputs": "no image" }), "no image in base64"),
        (json!({ "inputs": base64, "parameters": { "top_k": 0 } }), "1 or more"),
        (json!({ "inputs": base64, "parameters": { "top_k": "many" } }), "this JSON is not understood"),
        (json!({ "inputs": base64, "parameters": { "function_to_apply": "sigmoid" } }), "softmax"),
        (json!([1]), "send {\"inputs\""),
    ] {
        let (status, _, body) = send(post().json(&sent)).await;
        let body = json_of(&body);
        assert!(status == 400 && body["error"].as_str().unwrap().contains(says), "{says}: {status} {body}");
    }
    let (status, ..) = send(post().header("content-type", "application/json").body(vec![b' '; 17 << 20])).await;
    assert_eq!(status, StatusCode::PAYLOAD_TOO_LARGE);
}

/// No answer has the words of a parser's programmer in it.
#[tokio::test]
#[expect(clippy::too_many_lines, reason = "a table of requests")]
async fn refusals_are_in_words() {
    let server = Server::start(|_| {}).await;
    let get = |path: &str| server.client.get(format!("{}{path}", server.url));
    let post = |path: &str| server.client.post(format!("{}{path}", server.url));
    let json = |path: &str, body: &'static str| post(path).header("content-type", "application/json").body(body);
    let form = |path: &str, body: &'static str| {
        post(path).header("content-type", "application/x-www-form-urlencoded").body(body)
    };
    let part = |body: &'static str| post("/").header("content-type", "multipart/form-data; boundary=X").body(body);
    for (request, status) in [
        (get("/api/results?limit=x"), 400),
        (get("/api/results?limit=-1"), 400),
        (get("/api/results?limit=99999999999999999999"), 400),
        (get("/api/results?after=a%00"), 400),
        (get("/api/results?q=%ff"), 400),
        (get("/api/results?x=1"), 400),
        (get("/api/results/a?x=1"), 400),
        (get("/api/status?x=1"), 400),
        (get("/api/openapi.json?x=1"), 400),
        (get("/version?x=1"), 400),
        (get("/queue/dead?x=1"), 400),
        (get("/api/results/%ff"), 400),
        (get("/images/%ff"), 400),
        (get("/images/a?size=x"), 400),
        (get("/images/a?width=x"), 400),
        (get("/assets/%ff"), 404),
        (get("/reset/done?images=x"), 400),
        (get("/reset/done"), 400),
        (json("/api/results/lookup", ""), 400),
        (json("/api/results/lookup", "{"), 400),
        (json("/api/results/lookup", "{}"), 400),
        (json("/api/results/lookup", "{\"names\": [1]}"), 400),
        (json("/api/results/lookup?x=1", "[]"), 400),
        (post("/api/results/lookup").body("[]"), 415),
        (form("/login", "toke=x"), 422),
        (post("/login").body("x"), 415),
        (form("/requeue", "which=%ff"), 400),
        (post("/requeue?which=some"), 400),
        (post("/requeue?what=all"), 400),
        (form("/requeue?which=all", "which=failed"), 400),
        (form("/requeue", "which=all&which=failed"), 422),
        (post("/queue/drop?x=1"), 400),
        (post("/queue/redrive?x=1"), 400),
        (post("/reset?x=1"), 400),
        (part("--X\r\nContent-Disposition: form-data; name=\"f\"; filename=\"a\"\r\n"), 400),
        (part("--X\r\n: no name\r\n\r\nx\r\n--X--\r\n"), 400),
        (
            part("--X\r\nContent-Disposition: form-data; filename=\"a\"; name=\"f\"\r\nX Y: z\r\n\r\nx\r\n--X--\r\n"),
            400,
        ),
        (post("/classify?features=maybe").body(picture(1)), 400),
        (server.client.delete(format!("{}/images/a?x=1", server.url)), 400),
    ] {
        let request = request.build().unwrap();
        let told = format!("{} {}", request.method(), request.url());
        let answer = server.client.execute(request).await.unwrap();
        let answered = answer.status();
        let kind = answer.headers().get(header::CONTENT_TYPE).cloned();
        let body = answer.text().await.unwrap();
        assert_eq!((answered.as_u16(), kind), (status, Some("application/json".parse().unwrap())), "{told}: {body}");
        let json = json_of(body.as_bytes());
        let words = json["error"].as_str().or(json["files"][0]["error"].as_str()).unwrap().to_owned();
        for programmers in [
            "invalid digit",
            "missing field",
            "deserialize",
            "line 1",
            "column",
            "expected",
            "Invalid URL",
            "stream",
            "raw header",
        ] {
            assert!(!words.contains(programmers), "{told}: {words}");
        }
        let path = told.rsplit_once('?').map_or("", |(_, query)| query);
        assert!(path != "x=1" || words.contains("\"x\""), "{told} does not name the parameter: {words}");
    }
}

#[tokio::test]
async fn polls_are_not_sent_again_and_text_is_compressed() {
    let server = Server::start(|_| {}).await;
    for path in ["/api/results", "/api/openapi.json"] {
        let (status, headers, _) = send(server.client.get(format!("{}{path}", server.url))).await;
        let etag = headers[header::ETAG].clone();
        assert!(status == StatusCode::OK && etag.to_str().unwrap().starts_with("W/"), "{path}");
        let again = server.client.get(format!("{}{path}", server.url)).header(header::IF_NONE_MATCH, &etag);
        let (status, headers, body) = send(again).await;
        assert_eq!((status, body.len()), (StatusCode::NOT_MODIFIED, 0), "{path}");
        assert_eq!(
            (&headers[header::ETAG], &headers[header::CACHE_CONTROL]),
            (&etag, &"no-cache, private".parse().unwrap())
        );
    }
    assert!(server.get("/api/status").await.headers().contains_key(header::ETAG));

    let packed =
        |path: &str| send(server.client.get(format!("{}{path}", server.url)).header("accept-encoding", "gzip"));
    for path in ["/", "/api/openapi.json", "/assets/style.css"] {
        let plain = server.get(path).await.bytes().await.unwrap();
        let (_, headers, body) = packed(path).await;
        assert_eq!(headers[header::CONTENT_ENCODING], "gzip", "{path}");
        assert!(headers.get_all(header::VARY).iter().any(|vary| vary == "accept-encoding"), "{path}: {headers:?}");
        assert!(body.len() * 3 < plain.len() * 2, "{path}: {} of {}", body.len(), plain.len());
        let mut unpacked = Vec::new();
        std::io::Read::read_to_end(&mut flate2::read::GzDecoder::new(&body[..]), &mut unpacked).unwrap();
        assert!(path == "/" || unpacked == plain, "{path}");
    }
    // A small answer, and an image, go as they are.
    let noise: Vec<u8> = (0..5000_u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    server.upload(vec![("a.png".into(), [picture(1), noise].concat())]).await;
    for path in ["/healthcheck", "/images/a.png"] {
        assert!(!packed(path).await.1.contains_key(header::CONTENT_ENCODING), "{path}");
    }
}

#[tokio::test]
async fn a_part_of_an_image_is_to_be_had() {
    let server = Server::start(|_| {}).await;
    let bytes = picture(1);
    server.upload(vec![("a.png".into(), bytes.clone())]).await;
    let ask = |range: &str| server.client.get(format!("{}/images/a.png", server.url)).header(header::RANGE, range);
    let (status, headers, whole) = send(server.client.get(format!("{}/images/a.png", server.url))).await;
    assert_eq!((status, &headers[header::ACCEPT_RANGES], &whole), (StatusCode::OK, &"bytes".parse().unwrap(), &bytes));
    let etag = headers[header::ETAG].clone();

    let (status, headers, part) = send(ask("bytes=10-19").header("accept-encoding", "gzip")).await;
    assert_eq!((status, part.as_slice()), (StatusCode::PARTIAL_CONTENT, &bytes[10..20]));
    assert_eq!(headers[header::CONTENT_RANGE], format!("bytes 10-19/{}", bytes.len()));
    assert_eq!(
        (&headers[header::CONTENT_TYPE], &headers[header::CONTENT_LENGTH]),
        (&"image/png".parse().unwrap(), &"10".parse().unwrap())
    );
    let (status, _, part) = send(ask("bytes=-5").header(header::IF_RANGE, &etag)).await;
    assert_eq!((status, part.as_slice()), (StatusCode::PARTIAL_CONTENT, &bytes[bytes.len() - 5..]));
    let (status, _, all) = send(ask("bytes=0-1").header(header::IF_RANGE, "\"other\"")).await;
    assert_eq!((status, all), (StatusCode::OK, bytes.clone()));
    let (status, headers, body) = send(ask(&format!("bytes={}-", bytes.len()))).await;
    assert_eq!(
        (status, &headers[header::CONTENT_RANGE]),
        (StatusCode::RANGE_NOT_SATISFIABLE, &format!("bytes */{}", bytes.len()).parse().unwrap())
    );
    assert!(json_of(&body)["error"].as_str().unwrap().contains("outside"));
    assert_eq!(send(ask("bytes=0-1").header(header::IF_NONE_MATCH, &etag)).await.0, StatusCode::NOT_MODIFIED);
}

#[tokio::test]
async fn an_image_may_be_called_lookup() {
    let server = Server::start(|_| {}).await;
    assert_eq!(server.get("/api/results/lookup").await.status(), StatusCode::NOT_FOUND);
    assert_eq!(server.upload(vec![("lookup".into(), picture(1))]).await.0, StatusCode::OK);
    let answer = server.get("/api/results/lookup").await;
    assert_eq!(answer.status(), StatusCode::ACCEPTED);
    assert_eq!(answer.json::<Value>().await.unwrap(), json!({ "image": "lookup", "state": "waiting" }));
}

#[tokio::test]
async fn tells_its_version() {
    let server = Server::start(|_| {}).await;
    let version: Value = server.get("/version").await.json().await.unwrap();
    assert_eq!(
        (&version["name"], &version["version"], &version["model"]),
        (&json!("imgcls"), &json!(env!("CARGO_PKG_VERSION")), &json!("test"))
    );
}
