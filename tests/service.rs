//! The whole system on one machine: `imgcls serve` with its workers.

use std::{collections::HashSet, time::Duration};

use crate::support::{DEADLINE, Server, client, eventually, form, imgcls, labelled, picture, results, upload};

/// Waits until every image has a result, and answers the results.
async fn all_done(client: &reqwest::Client, url: &str, count: usize) -> Vec<serde_json::Value> {
    eventually(&format!("{count} results"), async || {
        let status: serde_json::Value = client.get(format!("{url}/api/status")).send().await.ok()?.json().await.ok()?;
        (status["results"]["total"] == count).then_some(())
    })
    .await;
    results(client, url).await
}

/// Waits until the queue holds nothing: messages are deleted a moment after their results are there.
async fn no_messages(client: &reqwest::Client, url: &str) {
    eventually("an empty queue", async || {
        let status: serde_json::Value = client.get(format!("{url}/api/status")).send().await.ok()?.json().await.ok()?;
        (status["queue"]["visible"] == 0 && status["queue"]["in_flight"] == 0).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_form_of_a_hundred_images_is_shown_in_natural_order() {
    let server = Server::start(&[]);
    let client = client();
    let entries = upload(&client, &server.url, (0..100).map(|n| (format!("{n}_x.png"), picture(n)))).await;
    assert!(entries.iter().all(|e| e["error"].is_null() && e["image"] == e["file"]), "{entries:?}");
    let done = all_done(&client, &server.url, 100).await;
    let names: Vec<&str> = done.iter().map(|r| r["image"].as_str().unwrap()).collect();
    let expected: Vec<String> = (0..100).map(|n| format!("{n}_x.png")).collect();
    assert_eq!(names, expected);
    assert!(
        done.iter().all(|r| r["label"].is_string() && r["top"].as_array().is_some_and(|t| t.len() == 5)),
        "{:?}",
        done[0]
    );
    let page = client.get(format!("{}/results", server.url)).send().await.unwrap().text().await.unwrap();
    assert!(page.contains("2_x.png") && page.find("2_x.png") < page.find("10_x.png"));
    // The same bytes again: no new work.
    let again = upload(&client, &server.url, [("5_x.png".to_owned(), picture(5))]).await;
    assert_eq!(again[0]["image"], "5_x.png");
    assert!(again[0]["renamed"].is_null());
    // Other bytes under a name that is taken: a new name, told.
    let other = upload(&client, &server.url, [("5_x.png".to_owned(), picture(1000))]).await;
    let renamed = other[0]["image"].as_str().unwrap();
    assert!(other[0]["renamed"] == true && renamed.starts_with("5_x.") && renamed.ends_with(".png"), "{other:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn thousands_of_files_in_one_request_and_the_fleet_follows() {
    let server = Server::start(&["--max-workers", "2", "--set", "scaling.interval=1s"]);
    let client = client();
    let entries = upload(&client, &server.url, (0..2500).map(|n| (format!("img{n}.png"), picture(n)))).await;
    assert_eq!(entries.len(), 2500);
    assert!(entries.iter().all(|e| e["error"].is_null()), "{:?}", entries.iter().find(|e| !e["error"].is_null()));
    let status = eventually("two workers", async || {
        let output = server.tool(&["status", "--json"]).output().unwrap();
        let status: serde_json::Value = serde_json::from_slice(&output.stdout).ok()?;
        (status["fleet"]["running"] == 2).then_some(status)
    })
    .await;
    // The bounds are those of the server's flags, which this process does not have.
    assert_eq!(status["fleet"]["max"], 2, "{status}");
    for key in ["classes", "scaling", "age_seconds"] {
        assert!(status.get(key).is_some(), "{key}, as /api/status has it: {status}");
    }
    let done = all_done(&client, &server.url, 2500).await;
    let names: HashSet<&str> = done.iter().filter_map(|r| r["image"].as_str()).collect();
    assert_eq!(names.len(), 2500);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_callers_at_once_get_their_own_labels() {
    let server = Server::start(&[]);
    let client = client();
    let mut calls = tokio::task::JoinSet::new();
    for n in 0..200 {
        let (client, url) = (client.clone(), server.url.clone());
        calls.spawn(async move {
            let part = reqwest::multipart::Part::bytes(picture(n)).file_name(format!("call{n}.png"));
            let form = reqwest::multipart::Form::new().part("myfile", part);
            let response = client.post(format!("{url}/classify")).multipart(form).send().await.unwrap();
            assert_eq!(response.status(), 200);
            assert!(response.headers()["content-type"].to_str().unwrap().starts_with("text/plain"));
            (n, response.text().await.unwrap())
        });
    }
    let answers = calls.join_all().await;
    for (n, label) in answers {
        let row: serde_json::Value =
            client.get(format!("{}/api/results/call{n}.png", server.url)).send().await.unwrap().json().await.unwrap();
        assert_eq!(row["label"], label.trim(), "{row}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn features_come_with_the_label_for_who_asks() {
    let server = Server::start(&[]);
    let client = client();
    let path = labelled().join("4_frog.png");
    let classify = async |query: &str| {
        let part = reqwest::multipart::Part::bytes(std::fs::read(&path).unwrap()).file_name("frog.png");
        let form = reqwest::multipart::Form::new().part("file", part);
        client.post(format!("{}/classify{query}", server.url)).multipart(form).send().await.unwrap()
    };
    let answer: serde_json::Value = classify("?features=true").await.json().await.unwrap();
    assert_eq!((&answer["label"], &answer["image"]), (&"frog".into(), &"frog.png".into()), "{answer}");
    let output = imgcls().args(["classify", "--json", "--features"]).arg(&path).output().unwrap();
    let local: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(answer["features"].as_array().unwrap().len(), 512);
    assert_eq!(answer["features"], local["features"]);
    assert_eq!(classify("?features=false").await.text().await.unwrap(), "frog");
    let refused = classify("?features=yes").await;
    assert_eq!(refused.status(), 400);
    assert!(refused.text().await.unwrap().contains("must be true or false"));
    let page = client.get(format!("{}/classes", server.url)).send().await.unwrap().text().await.unwrap();
    assert!(page.contains("/results?label=airplane") && page.contains("one of these labels"), "{page}");
}

/// The promise of the whole: what was acknowledged has exactly one result, whatever is killed and when.
#[tokio::test(flavor = "multi_thread")]
async fn kills_at_random_moments_lose_and_double_nothing() {
    let args = ["--max-workers", "2", "--set", "queue.visibility_timeout=2s", "--set", "scaling.interval=1s"];
    let mut server = Server::start(&args);
    let client = client();
    let mut acknowledged = HashSet::new();
    let mut next = 0;
    for round in 0..24u32 {
        let files: Vec<(String, Vec<u8>)> = (next..next + 25).map(|n| (format!("{n}.png"), picture(n))).collect();
        next += 25;
        let (url, sender) = (server.url.clone(), client.clone());
        let request = tokio::spawn(async move {
            sender
                .post(format!("{url}/"))
                .header("accept", "application/json")
                .multipart(form(files))
                .send()
                .await?
                .json()
                .await
        });
        // Anything from the middle of the upload to the middle of the work.
        tokio::time::sleep(Duration::from_millis(u64::from(round * 37 % 400))).await;
        if round % 3 == 2 {
            server.kill();
            server.restart();
        } else if let Some(worker) = server.workers().first() {
            std::process::Command::new("kill").args(["-9", &worker.to_string()]).status().unwrap();
        }
        let answer: Result<serde_json::Value, reqwest::Error> = request.await.unwrap();
        if let Ok(answer) = answer {
            let stored = answer["files"].as_array().unwrap().iter().filter(|entry| entry["error"].is_null());
            acknowledged.extend(stored.map(|entry| entry["image"].as_str().unwrap().to_owned()));
        }
    }
    assert!(acknowledged.len() >= 300, "only {} uploads were acknowledged", acknowledged.len());
    no_messages(&client, &server.url).await;
    let rows = results(&client, &server.url).await;
    let names: Vec<&str> = rows.iter().map(|r| r["image"].as_str().unwrap()).collect();
    assert_eq!(names.iter().collect::<HashSet<_>>().len(), names.len(), "a row is doubled");
    for image in &acknowledged {
        assert!(names.contains(&image.as_str()), "{image} was acknowledged and has no result; log: {}", server.log());
    }
    assert!(rows.iter().all(|row| row["label"].is_string()), "{:?}", rows.iter().find(|row| !row["label"].is_string()));
}

fn signal(pid: u32, name: &str) {
    assert!(std::process::Command::new("kill").args(["-s", name, &pid.to_string()]).status().unwrap().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_is_stopped_ends_by_itself_and_is_replaced() {
    let server = Server::start(&["--max-workers", "1"]);
    for name in ["TERM", "INT"] {
        let working = async || {
            let output = server.tool(&["status", "--json"]).output().unwrap();
            let status: serde_json::Value = serde_json::from_slice(&output.stdout).ok()?;
            let workers = server.workers();
            (status["fleet"]["running"] == 1 && workers.len() == 1).then(|| workers[0])
        };
        let worker = eventually("a worker", async || working().await).await;
        signal(worker, name);
        eventually("another worker", async || working().await.filter(|now| *now != worker)).await;
    }
    let client = client();
    upload(&client, &server.url, [("a.png".to_owned(), picture(1))]).await;
    all_done(&client, &server.url, 1).await;
}

/// A stop at any moment of a start ends a role in its time, with 0, or by the signal itself before it is listened to.
#[test]
fn a_role_that_is_stopped_while_it_starts_ends() {
    use std::os::unix::process::ExitStatusExt;
    let dir = tempfile::tempdir().unwrap();
    for (role, name) in [("serve", "TERM"), ("work", "TERM"), ("scale", "TERM"), ("work", "INT"), ("serve", "INT")] {
        for after_ms in [0, 10, 30, 60, 100, 200, 500] {
            let data = dir.path().join(format!("{role}-{name}-{after_ms}"));
            std::fs::create_dir(&data).unwrap();
            let mut command = imgcls();
            command.args([role, "--data-dir", data.to_str().unwrap()]);
            match role {
                "serve" => command.args(["--listen", "127.0.0.1:0"]),
                "scale" => command.args(["--loop", "1s"]),
                _ => &mut command,
            };
            let (out, err) = (std::process::Stdio::null(), std::process::Stdio::null());
            let mut child = command.stdout(out).stderr(err).spawn().unwrap();
            std::thread::sleep(Duration::from_millis(after_ms));
            signal(child.id(), name);
            let status = ended(&mut child, Duration::from_secs(60));
            let is_signalled = status.signal() == Some(if name == "TERM" { 15 } else { 2 });
            assert!(status.success() || is_signalled, "{role} after {after_ms} ms: {status}");
        }
    }
}

/// How a process ends that must end in time.
fn ended(child: &mut std::process::Child, within: Duration) -> std::process::ExitStatus {
    let deadline = std::time::Instant::now() + within;
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status;
        }
        if std::time::Instant::now() > deadline {
            child.kill().unwrap();
            panic!("it does not end");
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Workers of one's own that are stopped in the middle of their work hand it back: another does it at once.
#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_is_stopped_at_work_loses_nothing() {
    let mut server = Server::start(&["--no-workers"]);
    let for_an_hour = ["--set", "queue.visibility_timeout=1h"];
    let client = client();
    upload(&client, &server.url, (0..400).map(|n| (format!("{n}.png"), picture(n)))).await;
    for (after_ms, name) in [(300, "TERM"), (600, "INT"), (900, "TERM"), (1500, "TERM")] {
        let mut command = server.tool(&["work", for_an_hour[0], for_an_hour[1]]);
        let mut child = command.stderr(std::process::Stdio::null()).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(after_ms));
        signal(child.id(), name);
        assert!(ended(&mut child, Duration::from_secs(30)).success());
    }
    // The visibility time-out is an hour: what was not handed back would be missing.
    let output = server.tool(&["work", "--until-empty", for_an_hour[0], for_an_hour[1]]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(results(&client, &server.url).await.len(), 400);
    no_messages(&client, &server.url).await;
    assert!(server.terminate().success());
}

/// What a supervisor sees of a worker that cannot start: its end, its reason and its exit code, though standard input
/// stays open.
#[test]
fn a_supervised_worker_that_cannot_start_says_why_and_ends() {
    let dir = tempfile::tempdir().unwrap();
    let mut child = imgcls()
        .args(["work", "--supervised", "--data-dir", "/proc/nowhere"])
        .current_dir(dir.path())
        .stdin(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    ended(&mut child, DEADLINE);
    let output = child.wait_with_output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(1) && stderr.contains("/proc/nowhere"), "{stderr}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_is_halted_is_killed_and_replaced() {
    let server = Server::start(&["--max-workers", "1"]);
    let client = client();
    upload(&client, &server.url, [("a.png".to_owned(), picture(1))]).await;
    all_done(&client, &server.url, 1).await;
    let halted = server.workers()[0];
    signal(halted, "STOP");
    upload(&client, &server.url, [("b.png".to_owned(), picture(2))]).await;
    all_done(&client, &server.url, 2).await;
    assert!(!server.workers().contains(&halted), "{}", server.log());
}

/// The web tier's keys are not the workers', and those that are reach them from file, environment and flags alike.
#[tokio::test(flavor = "multi_thread")]
async fn an_open_server_has_workers() {
    let server = Server::start(&["--listen", "0.0.0.0:0", "--open", "--set", "limits.max_side=30"]);
    let url = server.url.replace("0.0.0.0", "127.0.0.1");
    let client = client();
    upload(&client, &url, [("a.png".to_owned(), picture(1))]).await;
    let rows = all_done(&client, &url, 1).await;
    assert!(rows[0]["error"].as_str().unwrap().contains("the limit for a side is 30"), "{rows:?}");
}

/// Workers that cannot start are an error that is seen from outside.
#[tokio::test(flavor = "multi_thread")]
async fn a_fleet_that_cannot_start_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let model = dir.path().join("model");
    std::fs::create_dir(&model).unwrap();
    for file in ["model.toml", "labels.txt", "weights.safetensors"] {
        std::fs::copy(format!("{}/assets/model/{file}", env!("CARGO_MANIFEST_DIR")), model.join(file)).unwrap();
    }
    let server = Server::start(&["--max-workers", "1", "--model", model.to_str().unwrap()]);
    let client = client();
    let ready = async || {
        let response = client.get(format!("{}/readyz", server.url)).send().await.ok()?;
        Some((response.status().as_u16(), response.json::<serde_json::Value>().await.ok()?))
    };
    eventually("a server that is ready", async || ready().await.filter(|(status, _)| *status == 200)).await;
    eventually("a worker", async || server.workers().first().copied()).await;
    std::fs::remove_file(model.join("labels.txt")).unwrap();
    for worker in server.workers() {
        signal(worker, "KILL");
    }
    let (_, checks) = eventually("a fault", async || ready().await.filter(|(status, _)| *status == 503)).await;
    let fault = checks["checks"]["workers"].as_str().unwrap();
    assert!(fault.contains("workers cannot start") && fault.contains("labels.txt"), "{fault}");
    let status: serde_json::Value =
        client.get(format!("{}/api/status", server.url)).send().await.unwrap().json().await.unwrap();
    assert_eq!(status["fleet"]["fault"], fault);
    let page = client.get(format!("{}/status", server.url)).send().await.unwrap().text().await.unwrap();
    assert!(page.contains("workers cannot start"), "{page}");
    assert!(server.log().contains("workers cannot start"));
    // Mended, it works again.
    let labels = format!("{}/assets/model/labels.txt", env!("CARGO_MANIFEST_DIR"));
    std::fs::copy(labels, model.join("labels.txt")).unwrap();
    eventually("a server that is ready again", async || ready().await.filter(|(status, _)| *status == 200)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn reset_and_stop() {
    let mut server = Server::start(&[]);
    let client = client();
    upload(&client, &server.url, (0..10).map(|n| (format!("{n}.png"), picture(n)))).await;
    all_done(&client, &server.url, 10).await;
    no_messages(&client, &server.url).await;
    let refused = server.tool(&["reset"]).stdin(std::process::Stdio::null()).output().unwrap();
    assert!(!refused.status.success() && String::from_utf8_lossy(&refused.stderr).contains("--yes"));
    let output = server.tool(&["reset", "--yes"]).output().unwrap();
    assert!(output.status.success());
    assert_eq!(String::from_utf8_lossy(&output.stdout), "removed 10 images, 10 outputs, 0 messages, 10 results\n");
    assert!(results(&client, &server.url).await.is_empty());
    assert!(server.terminate().success(), "{}", server.log());
    assert!(server.workers().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_of_ones_own_ends_with_the_queue() {
    let server = Server::start(&["--no-workers"]);
    let client = client();
    upload(&client, &server.url, (0..20).map(|n| (format!("{n}.png"), picture(n)))).await;
    let marker = server.dir.join("shut-down");
    let command = format!("worker.shutdown_command=[\"touch\", \"{}\"]", marker.display());
    let output = server.tool(&["work", "--until-empty", "--shutdown-after", "--set", &command]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(results(&client, &server.url).await.len(), 20);
    assert!(marker.exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_pictures_of_the_original_report_get_their_labels() {
    let server = Server::start(&[]);
    let client = client();
    let files: Vec<_> = std::fs::read_dir(labelled())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == "png"))
        .map(|path| (path.file_name().unwrap().to_string_lossy().into_owned(), std::fs::read(&path).unwrap()))
        .collect();
    let count = files.len();
    upload(&client, &server.url, files).await;
    for row in all_done(&client, &server.url, count).await {
        let name = row["image"].as_str().unwrap();
        assert!(name.contains(&format!("_{}.", row["label"].as_str().unwrap())), "{row}");
    }
}

/// Other users of the machine see nothing of a data directory, whether it is new or was there.
#[tokio::test(flavor = "multi_thread")]
async fn the_data_directory_is_its_owners_alone() {
    use std::os::unix::fs::PermissionsExt;
    // What the server removed meanwhile is open to nobody.
    let mode = |path: &std::path::Path| std::fs::metadata(path).map_or(0, |found| found.permissions().mode() & 0o777);
    let mut server = Server::start(&["--no-workers"]);
    let client = client();
    upload(&client, &server.url, [("a.png".to_owned(), picture(1))]).await;
    let dir = server.dir.clone();
    let entries = || std::fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().path());
    let open_to_others = || entries().chain([dir.clone()]).filter(|path| mode(path) & 0o077 != 0).collect::<Vec<_>>();
    assert_eq!(open_to_others(), Vec::<std::path::PathBuf>::new());
    server.kill();
    for path in entries().chain([dir.clone()]).collect::<Vec<_>>() {
        let open = std::fs::Permissions::from_mode(mode(&path) | 0o055);
        std::fs::set_permissions(path, open).unwrap();
    }
    server.restart();
    assert_eq!(open_to_others(), Vec::<std::path::PathBuf>::new());
}

#[test]
fn a_health_check_asks_the_server_whether_it_is_ready() {
    let mut server = Server::start(&[]);
    let listen = format!("web.listen={}", server.url.trim_start_matches("http://"));
    let check = || imgcls().args(["status", "--ready", "--set", &listen]).output().unwrap();
    let output = check();
    assert!(output.status.success() && output.stdout == b"ready\n", "{output:?}");
    server.kill();
    let output = check();
    assert_eq!(output.status.code(), Some(1));
    assert!(
        String::from_utf8_lossy(&output.stderr).contains("cannot ask the server at http://127.0.0.1:"),
        "{output:?}"
    );
}

#[test]
fn a_second_server_on_the_same_directory_is_refused() {
    let server = Server::start(&["--no-workers"]);
    let output = imgcls().args(["serve", "--listen", "127.0.0.1:0", "--data-dir"]).arg(&server.dir).output().unwrap();
    assert!(!output.status.success());
    assert!(output.stdout.is_empty());
}
