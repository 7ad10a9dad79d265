//! Pages and calls about what is stored.

use super::*;
use crate::contract::escape_path;

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
    for (limit, rows) in [(1, 1), (2, 2), (5, 3)] {
        let csv = server.get(&format!("/api/results.csv?limit={limit}")).await.text().await.unwrap();
        assert_eq!(csv.lines().count(), 1 + rows, "{csv}");
    }
    assert_eq!(page["matches"], json!({ "count": 3, "exact": true }));
    let page = server.get("/results/2_x.png?order=newest").await.text().await.unwrap();
    let newest: Value = server.get("/api/results?order=newest").await.json().await.unwrap();
    let images: Vec<&str> =
        newest["results"].as_array().unwrap().iter().map(|r| r["image"].as_str().unwrap()).collect();
    let at = images.iter().position(|image| *image == "2_x.png").unwrap();
    for (rel, beside) in [("next", images.get(at + 1)), ("prev", at.checked_sub(1).map(|at| &images[at]))] {
        let link = beside.map(|image| format!("rel=\"{rel}\" href=\"/results/{}?order=newest\"", escape_path(image)));
        assert!(link.is_none_or(|link| page.contains(&link)), "{rel} {beside:?} of {images:?}: {page}");
    }
    assert!(csv.contains("\n\"'=1+1 \"\"q\"\", é.png\","), "{csv}");
}

async fn images_and_pages_are_shown(server: &Server, encoded: &str) {
    let image = server.get(&format!("/images/{encoded}")).await;
    assert_eq!(image.headers()[header::CONTENT_TYPE], "image/png");
    assert!(image.headers()[header::CONTENT_SECURITY_POLICY].to_str().unwrap().contains("sandbox"));
    assert_eq!(image.headers()[header::X_CONTENT_TYPE_OPTIONS], "nosniff");
    assert_eq!(image.bytes().await.unwrap(), picture(2));
    for path in ["/", "/results", "/results/2_x.png", "/classes", "/status", "/reset", "/queue/dead"] {
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

#[tokio::test]
async fn names_may_be_paths_and_images_that_wait_are_listed() {
    let server = Server::start(|_| {}).await;
    let names = ["cat/old/0000.png", "cat/0000.png", "dog/0000.png"];
    server.upload(names.iter().zip(0..).map(|(name, n)| ((*name).to_owned(), picture(n))).collect()).await;
    let get = async |path: &str| server.get(path).await.json::<Value>().await.unwrap();
    for path in ["cat/0000.png", "cat%2F0000.png"] {
        assert_eq!(server.get(&format!("/images/{path}")).await.bytes().await.unwrap(), picture(1));
        let one = server.get(&format!("/api/results/{path}")).await;
        assert_eq!((one.status(), &one.headers()[header::RETRY_AFTER]), (StatusCode::ACCEPTED, &"1".parse().unwrap()));
        assert_eq!(one.json::<Value>().await.unwrap(), json!({ "image": "cat/0000.png", "state": "waiting" }));
    }
    let disposition = server.get("/images/cat/0000.png").await.headers()[header::CONTENT_DISPOSITION].clone();
    assert_eq!(disposition, "inline; filename*=UTF-8''0000%2Epng");
    assert_eq!(server.get("/images/cat/../cat/0000.png").await.status(), StatusCode::OK, "as clients write it");
    assert_eq!(server.get("/images/cat%2F..%2Fcat%2F0000.png").await.status(), StatusCode::NOT_FOUND);
    let waiting = get("/api/results?state=waiting&folder=cat/&limit=1").await;
    let entry = json!({ "image": "cat/0000.png", "state": "waiting" });
    assert_eq!((&waiting["results"], &waiting["next"]), (&json!([entry]), &json!("cat/0000.png")));
    assert_eq!(waiting["matches"], json!({ "count": 2, "exact": true }));
    let found = get("/api/results?state=waiting&q=OLD").await;
    assert_eq!((found["results"].as_array().unwrap().len(), &found["search"]), (1, &json!("substring")));
    let counts = get("/api/counts?folder=cat").await;
    assert_eq!(counts["states"], json!({ "labelled": 0, "uncertain": 0, "failed": 0, "waiting": 2 }));
    assert_eq!(counts["folders"], json!([{ "folder": "cat/old", "images": 1 }]));
    let csv = server.get("/api/results.csv?state=waiting&folder=dog").await.text().await.unwrap();
    assert!(csv.ends_with("\r\ndog/0000.png,,,,,,,,\r\n"), "{csv}");
    for path in ["/api/counts?order=name", "/api/results?state=waitin", "/api/results?order=newest&after=a.png"] {
        assert_eq!(server.get(path).await.status(), StatusCode::BAD_REQUEST, "{path}");
    }
    server.work();
    let rows = loop {
        let page = get("/api/results?order=newest&folder=cat").await;
        if page["results"].as_array().unwrap().len() == 2 {
            break page["results"].clone();
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    assert!(rows[0].get("sequencer").is_none(), "{rows}");
    assert_eq!(rows[0]["location"], format!("/images/{}", rows[0]["image"].as_str().unwrap()));
    let deleted = server.client.delete(format!("{}/images/cat%2F0000.png", server.url)).send().await.unwrap();
    assert_eq!(deleted.status(), StatusCode::OK);
    assert_eq!(get("/api/results?folder=cat").await["results"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn ticked_images_are_removed_after_a_question_or_classified_again() {
    let server = Server::start(|_| {}).await;
    let files = ["a.png", "cat/b.png", "cat/c.png"].iter().enumerate();
    server.upload(files.map(|(n, name)| ((*name).to_owned(), picture(n as u32))).collect()).await;
    let post = async |form: &[(&str, &str)]| {
        let request = server.client.post(format!("{}/results", server.url)).header("accept", "text/html").form(form);
        request.send().await.unwrap()
    };
    let ticked = [("image", "a.png"), ("image", "cat/b.png"), ("back", "/results?state=waiting")];
    let asked = post(&[&[("action", "delete")], &ticked[..]].concat()).await;
    assert_eq!(asked.status(), StatusCode::OK);
    let page = asked.text().await.unwrap();
    assert!(page.contains("Delete these 2 images?") && page.contains("value=\"cat/b.png\""), "{page}");
    assert_eq!(server.get("/images/cat/b.png").await.status(), StatusCode::OK, "nothing is removed yet");

    let done = post(&[&[("action", "delete"), ("confirmed", "yes")], &ticked[..]].concat()).await;
    assert_eq!(done.headers()[header::LOCATION], "/results?state=waiting&deleted=2");
    assert_eq!(server.get("/images/cat/b.png").await.status(), StatusCode::NOT_FOUND);
    let again = post(&[("action", "again"), ("image", "cat/c.png"), ("back", "//evil.example/")]).await;
    assert_eq!(again.headers()[header::LOCATION], "/results?again=1");
    let depth = async || server.backend.queue.depth().await.unwrap().visible;
    let before = depth().await;
    let again = post(&[("action", "again"), ("image", "cat/c.png"), ("image", "cat/c.png"), ("image", "no.png")]).await;
    assert_eq!(again.headers()[header::LOCATION], "/results?again=1", "once, and not what is not there");
    assert_eq!(post(&[("action", "again"), ("image", "no.png")]).await.status(), StatusCode::NOT_FOUND);
    assert_eq!(depth().await, before + 1);
    for (which, location) in [("missing", "/results?again=1"), ("failed", "/status")] {
        let request = server.client.post(format!("{}/requeue", server.url)).header("accept", "text/html");
        let answer = request.form(&[("which", which)]).send().await.unwrap();
        assert_eq!(answer.headers()[header::LOCATION], location);
    }
    for wrong in [&[("action", "delete")][..], &[("action", "eat"), ("image", "cat/c.png")], &[("image", "..")]] {
        assert_eq!(post(wrong).await.status(), StatusCode::BAD_REQUEST, "{wrong:?}");
    }
    let page = server.get("/results/cat/c.png").await.text().await.unwrap();
    assert!(page.contains("waiting to be classified"), "{page}");
    assert_eq!(server.get("/results/cat/b.png").await.status(), StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn pages_tell_what_they_were_made_of_to_those_who_may_know() {
    let server = Server::start(|c| c.web.token = Secret::new("token")).await;
    let see = async |path: &str, token: &str| {
        let request = server.client.get(format!("{}{path}", server.url)).header("accept", "text/html");
        request.bearer_auth(token).send().await.unwrap().text().await.unwrap()
    };
    let upload = server.client.post(&server.url).bearer_auth("token").header("accept", "application/json");
    upload.multipart(form(vec![("a.png".into(), picture(1))])).send().await.unwrap().error_for_status().unwrap();
    // Not what was known before the upload.
    server.app.status.forget();
    assert!(!see("/results", "token").await.contains("data-seen"), "nothing is known");
    see("/api/status", "token").await;
    for path in ["/", "/results", "/results/a.png", "/status"] {
        let page = see(path, "token").await;
        assert!(page.contains(r#"<main id="main" data-seen="0 0 0 1 0 0">"#), "{path}: {page}");
    }
    assert!(!see("/login", "token").await.contains("data-seen"));
    assert!(!see("/results", "wrong").await.contains("data-seen"));
}

#[tokio::test]
async fn charts_end_with_the_figures_above_them() {
    let server = Server::start(|_| {}).await;
    let see = async || server.get("/status").await.text().await.unwrap();
    assert!(see().await.contains(r#"<dt>Queued</dt><dd data-status="queue.visible">0</dd>"#));
    server.upload(vec![("a.png".into(), picture(1))]).await;
    let page = loop {
        let page = see().await;
        if page.contains(r#"data-status="queue.visible">1</dd>"#) {
            break page;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    assert!(page.contains(">1 queued</span>"), "{page}");
}
