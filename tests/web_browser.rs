//! The page in a real browser: Chromium, driven by its own driver.

use std::{
    io::{BufRead, BufReader},
    process::{Child, Command, Stdio},
    time::Duration,
};

use thirtyfour::{By, ChromiumLikeCapabilities as _, DesiredCapabilities, WebDriver};

use crate::support::{Server, eventually, picture, provide_tls};

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
