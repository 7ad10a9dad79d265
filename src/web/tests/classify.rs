//! Uploads that wait for their labels.

use super::*;
use crate::contract::ImageName;

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

/// Those of one request are computed one after another, so that they do not all wait for so long at once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn features_that_are_not_to_be_had_take_no_others_along() {
    let server = Server::start(|_| {}).await;
    server.work();
    let room = Arc::clone(&server.app.features.room).acquire_owned().await.unwrap();
    let files = (0..3).map(|n| (format!("{n}.png"), picture(n))).collect();
    let request = server.client.post(format!("{}/classify?features=true", server.url)).multipart(form(files));
    let mut answer = request.send().await.unwrap();
    let first = answer.chunk().await.unwrap().unwrap();
    drop(room);
    assert!(serde_json::from_slice::<Value>(&first).unwrap()["error"].is_string(), "{first:?}");
    let mut rest = Vec::new();
    while let Some(chunk) = answer.chunk().await.unwrap() {
        rest.extend_from_slice(&chunk);
    }
    let lines = rest.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    let lines: Vec<Value> = lines.map(|line| serde_json::from_slice(line).unwrap()).collect();
    assert!(lines.len() == 2 && lines.iter().all(|line| line["features"].is_array()), "{lines:?}");

    // Features are told only beside an answer of the same model.
    let image: ImageName = lines[0]["image"].as_str().unwrap().parse().unwrap();
    let mut row = server.backend.results.get(std::slice::from_ref(&image)).await.unwrap().remove(0);
    row.model = "other@12345678".to_owned();
    server.backend.results.put(&row, None).await.unwrap();
    let number = image.as_str().trim_end_matches(".png").parse().unwrap();
    let again = form(vec![(image.to_string(), picture(number))]);
    let request = server.client.post(format!("{}/classify?features=true", server.url)).multipart(again);
    let answer = request.send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::CONFLICT);
    let answer: Value = answer.json().await.unwrap();
    assert!(answer["error"].as_str().unwrap().contains("other@12345678"), "{answer}");
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
    assert!(answer["error"].as_str().unwrap().ends_with("its result will be at /api/results/a.png"), "{answer}");
    let several = form(vec![("b.png".into(), picture(1)), ("c.png".into(), picture(2))]);
    let lines = server.client.post(format!("{}/classify", server.url)).multipart(several).send().await.unwrap();
    for line in lines.text().await.unwrap().lines() {
        let line: Value = serde_json::from_str(line).unwrap();
        let address = format!("/api/results/{}", line["file"].as_str().unwrap());
        assert!(line["error"].as_str().unwrap().ends_with(&address), "{line}");
    }
    let waiting = server.get(&later).await;
    assert_eq!(waiting.status(), StatusCode::ACCEPTED);
    assert!(waiting.headers().contains_key(header::RETRY_AFTER));
    assert_eq!(waiting.json::<Value>().await.unwrap(), json!({ "image": "a.png", "state": "waiting" }));
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
