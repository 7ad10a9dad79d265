//! The page in a real browser: Chromium, driven by its own driver.

use std::{
    io::{BufRead, BufReader},
    process::{Child, Command, Stdio},
    sync::Arc,
    time::Duration,
};

use thirtyfour::{
    By, ChromiumLikeCapabilities as _, DesiredCapabilities, WebDriver,
    extensions::cdp::{ChromeDevTools, NetworkConditions},
};

use crate::support::{Server, client, eventually, picture, provide_tls, results};

/// A running chromedriver on a free port; killed when dropped.
struct Driver {
    child: Child,
    url: String,
}

impl Drop for Driver {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// Starts chromedriver; `None` where there is none, which is no success in CI.
fn driver() -> Option<Driver> {
    provide_tls();
    let started = Command::new("chromedriver").arg("--port=0").stdout(Stdio::piped()).stderr(Stdio::null()).spawn();
    let mut child = match started {
        Ok(child) => child,
        Err(error) => {
            assert!(
                std::env::var_os("CI").is_none(),
                "CI needs chromedriver (apt-get install chromium chromium-driver): {error}"
            );
            eprintln!("skipped: no chromedriver ({error}); apt-get install chromium chromium-driver");
            return None;
        }
    };
    let lines = BufReader::new(child.stdout.take().expect("stdout is piped")).lines();
    let port = lines
        .map_while(Result::ok)
        .find_map(|line| line.split_once("successfully on port ")?.1.trim_end_matches('.').parse::<u16>().ok());
    let url = format!("http://127.0.0.1:{}", port.expect("chromedriver says its port"));
    Some(Driver { child, url })
}

async fn browser(driver: &Driver, profile: &std::path::Path) -> WebDriver {
    let mut capabilities = DesiredCapabilities::chrome();
    for flag in [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--window-size=1200,1400",
        &format!("--user-data-dir={}", profile.display()),
    ] {
        capabilities.add_arg(flag).unwrap();
    }
    provide_tls();
    WebDriver::new(&driver.url, capabilities).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_chooses_files_and_sees_labels_appear() {
    let Some(driver) = driver() else { return };
    let temp = tempfile::tempdir().unwrap();
    let server = Server::start(&[]);
    let mut paths = Vec::new();
    for n in 0..12 {
        let path = temp.path().join(format!("{n}_picture é.png"));
        std::fs::write(&path, picture(n)).unwrap();
        paths.push(path.display().to_string());
    }
    let text = temp.path().join("notes.png");
    std::fs::write(&text, "no picture").unwrap();
    paths.push(text.display().to_string());

    let page = browser(&driver, &temp.path().join("profile")).await;
    page.goto(&server.url).await.unwrap();
    page.find(By::Id("files")).await.unwrap().send_keys(paths.join("\n")).await.unwrap();
    eventually("labels beside the uploaded files", async || {
        let done = page.find_all(By::Css("#list li.done")).await.ok()?;
        (done.len() == 12).then_some(())
    })
    .await;
    let failed = page.find(By::Css("#list li.failed")).await.unwrap().text().await.unwrap();
    assert!(failed.contains("notes.png") && failed.contains("looks like text"), "{failed}");
    // The table below follows by itself, in natural order, with pictures that load.
    eventually("rows in the table", async || {
        let rows = page.find_all(By::Css("#table tbody tr")).await.ok()?;
        (rows.len() == 12).then_some(())
    })
    .await;
    let mut names = Vec::new();
    for name in page.find_all(By::Css("#table tbody th")).await.unwrap() {
        names.push(name.text().await.unwrap());
    }
    let expected: Vec<String> = (0..12).map(|n| format!("{n}_picture é.png")).collect();
    assert_eq!(names, expected);
    let script = "return [...document.querySelectorAll('#table img')].slice(0, 3).every(i => i.complete && i.naturalWidth == 40)";
    eventually("pictures in the table", async || {
        page.execute(script, Vec::new()).await.ok()?.json().as_bool()?.then_some(())
    })
    .await;
    if let Some(path) = std::env::var_os("IMGCLS_SCREENSHOT") {
        tokio::time::sleep(Duration::from_millis(500)).await;
        page.screenshot(std::path::Path::new(&path)).await.unwrap();
    }
    page.quit().await.unwrap();
}

/// Chooses `count` files `0.png`, `1.png` …, all different, as a person would with the button, and notes how long the page is not
/// responsive at a time.
const CHOOSE: &str = r##"
  const [bytes, count] = arguments;
  window.longest = 0;
  new PerformanceObserver((seen) => {
    for (const task of seen.getEntries()) window.longest = Math.max(window.longest, task.duration);
  }).observe({ type: "longtask" });
  const chosen = new DataTransfer();
  // What follows a picture's end is not looked at.
  for (let n = 0; n < count; n += 1) chosen.items.add(new File([new Uint8Array(bytes), String(n)], `${n}.png`, { type: "image/png" }));
  const input = document.querySelector("#files");
  input.files = chosen.files;
  setTimeout(() => input.dispatchEvent(new Event("change")));
"##;

async fn choose(page: &WebDriver, count: usize) {
    page.execute(CHOOSE, vec![picture(1).into(), count.into()]).await.unwrap();
}

/// Presses a button as soon as it can be pressed: a page that has just loaded shows it when it has heard of the upload.
async fn press(page: &WebDriver, id: &str) {
    eventually("a button", async || page.find(By::Id(id)).await.ok()?.click().await.ok()).await;
}

/// The summary of the upload.
async fn summary(page: &WebDriver) -> String {
    page.find(By::Id("summary")).await.unwrap().text().await.unwrap()
}

/// Waits until so many files are stored.
async fn stored(page: &WebDriver, count: usize) {
    eventually(&format!("{count} stored files"), async || {
        let stored = summary(page).await.split(" of ").next()?.replace(',', "").parse::<usize>().ok()?;
        (stored >= count).then_some(())
    })
    .await;
}

async fn network(page: &WebDriver, offline: bool) {
    let mut conditions = NetworkConditions::new();
    conditions.offline = offline;
    conditions.latency = 5;
    conditions.download_throughput = 1 << 20;
    conditions.upload_throughput = 400 << 10;
    ChromeDevTools::new(Arc::clone(&page.handle)).set_network_conditions(&conditions).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_survives_what_becomes_of_the_server_and_the_network() {
    const FILES: usize = 2000;
    let Some(driver) = driver() else { return };
    let temp = tempfile::tempdir().unwrap();
    let mut server = Server::start(&["--max-workers", "1"]);
    let page = browser(&driver, &temp.path().join("profile")).await;
    page.goto(&server.url).await.unwrap();
    // Slow enough that all of it happens in the midst of the upload.
    network(&page, false).await;
    choose(&page, FILES).await;
    for count in [200, 900] {
        stored(&page, count).await;
        server.kill();
        eventually("the page to say so", async || summary(&page).await.contains("Reconnecting").then_some(())).await;
        server.restart_here();
    }
    stored(&page, 1400).await;
    network(&page, true).await;
    eventually("the page to say so", async || summary(&page).await.contains("Reconnecting").then_some(())).await;
    // Far longer than a first try.
    tokio::time::sleep(Duration::from_secs(5)).await;
    network(&page, false).await;
    eventually("all labels, without a click", async || {
        (summary(&page).await == "2,000 of 2,000 stored, 2,000 labelled").then_some(())
    })
    .await;
    let rows = results(&client(), &server.url).await;
    let mut names: Vec<usize> =
        rows.iter().map(|row| row["image"].as_str().unwrap().trim_end_matches(".png").parse().unwrap()).collect();
    names.sort_unstable();
    assert_eq!(names, (0..FILES).collect::<Vec<_>>(), "none is lost, doubled or renamed");
    page.quit().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_files_do_not_freeze_the_page() {
    let Some(driver) = driver() else { return };
    let temp = tempfile::tempdir().unwrap();
    let server = Server::start(&["--no-workers"]);
    let page = browser(&driver, &temp.path().join("profile")).await;
    page.goto(&server.url).await.unwrap();
    network(&page, false).await;
    choose(&page, 10_000).await;
    stored(&page, 100).await;
    let rows = page.find_all(By::Css("#list li")).await.unwrap().len();
    assert!((8..100).contains(&rows), "{rows} rows are in the document");
    let scroll = "const list = document.querySelector('#list'); list.scrollTop = list.scrollHeight;";
    page.execute(scroll, Vec::new()).await.unwrap();
    eventually("the last file", async || {
        let last = page.find(By::Css("#list li:last-child")).await.ok()?.text().await.ok()?;
        last.contains("9999.png").then_some(())
    })
    .await;
    page.find(By::Id("cancel")).await.unwrap().click().await.unwrap();
    eventually("the end of the upload", async || {
        let summary = summary(&page).await;
        (summary.contains("cancelled") && !summary.contains("left")).then_some(())
    })
    .await;
    let longest = page.execute("return window.longest", Vec::new()).await.unwrap().json().as_f64().unwrap();
    println!("10,000 files: the page was busy for at most {longest} ms at a time");
    assert!(longest < 2000.0, "the page was busy for {longest} ms");
    page.quit().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_survives_other_pages_and_a_lost_session() {
    let Some(driver) = driver() else { return };
    let temp = tempfile::tempdir().unwrap();
    let server = Server::start(&["--no-workers", "--token", "secret"]);
    let page = browser(&driver, &temp.path().join("profile")).await;
    page.goto(&server.url).await.unwrap();
    let log_in = async |form: &str| {
        eventually("a form to log in", async || {
            let field = page.find(By::Css(format!("{form} input[type=password]"))).await.ok()?;
            field.send_keys("secret").await.ok()
        })
        .await;
        page.find(By::Css(format!("{form} button"))).await.unwrap().click().await.unwrap();
    };
    log_in("main").await;
    eventually("the upload page", async || page.find(By::Id("files")).await.ok()).await;
    network(&page, false).await;
    choose(&page, 500).await;
    stored(&page, 50).await;
    press(&page, "pause").await;
    eventually("a pause", async || summary(&page).await.contains("paused").then_some(())).await;
    page.find(By::LinkText("Results")).await.unwrap().click().await.unwrap();
    eventually("the results", async || {
        let title = page.find(By::Css("main h1")).await.ok()?.text().await.ok()?;
        (title == "Results" && page.current_url().await.ok()?.path() == "/results").then_some(())
    })
    .await;
    page.delete_all_cookies().await.unwrap();
    press(&page, "pause").await;
    log_in("#login").await;
    stored(&page, 500).await;
    assert!(!summary(&page).await.contains("failed"));
    page.quit().await.unwrap();
}
