//! The page in a real browser: Chromium, driven by its own driver.

mod access;
mod folders;
mod pictures;
mod plain;
mod results;
mod sessions;
mod upload;

use std::{
    io::{BufRead, BufReader},
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::Arc,
};

use serde_json::{Value, json};
use thirtyfour::{
    By, ChromiumLikeCapabilities as _, DesiredCapabilities, WebDriver, WebElement, extensions::cdp::ChromeDevTools,
};

use crate::support::{eventually, provide_tls};

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

/// A browser with a profile of its own, and a place for the files that its user has.
struct Browser {
    page: WebDriver,
    dir: tempfile::TempDir,
    _driver: Driver,
}

impl Browser {
    /// `None` where there is no chromedriver.
    async fn start() -> Option<Self> {
        let driver = driver()?;
        let dir = tempfile::tempdir().unwrap();
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
            "--hide-scrollbars",
            "--window-size=1200,1400",
            &format!("--user-data-dir={}", dir.path().join("profile").display()),
        ] {
            capabilities.add_arg(flag).unwrap();
        }
        let page = WebDriver::new(&driver.url, capabilities).await.unwrap();
        Some(Self { page, dir, _driver: driver })
    }

    async fn end(self) {
        self.page.quit().await.unwrap();
    }

    async fn open(&self, address: String) {
        self.page.goto(address).await.unwrap();
    }

    /// Writes a file that the user has.
    fn file(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.dir.path().join("files").join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, bytes).unwrap();
        path
    }

    /// Chooses files with the button of this id.
    async fn choose(&self, id: &str, paths: &[PathBuf]) {
        let paths: Vec<String> = paths.iter().map(|path| path.display().to_string()).collect();
        self.find(&format!("#{id}")).await.send_keys(paths.join("\n")).await.unwrap();
    }

    /// The first element that is or comes.
    async fn find(&self, css: &str) -> WebElement {
        eventually(css, async || self.page.find(By::Css(css)).await.ok()).await
    }

    /// How many elements there are.
    async fn count(&self, css: &str) -> usize {
        self.page.find_all(By::Css(css)).await.map_or(0, |found| found.len())
    }

    /// The texts of all elements; none while the page changes.
    async fn texts(&self, css: &str) -> Vec<String> {
        let mut texts = Vec::new();
        for element in self.page.find_all(By::Css(css)).await.unwrap_or_default() {
            texts.extend(element.text().await);
        }
        texts
    }

    /// The texts of all elements, as soon as there is one.
    async fn shown(&self, css: &str) -> Vec<String> {
        eventually(css, async || Some(self.texts(css).await).filter(|texts| !texts.is_empty())).await
    }

    /// Waits until these are the texts of all elements.
    async fn reads(&self, css: &str, expected: &[&str]) {
        eventually(&format!("{expected:?} in {css}"), async || (self.texts(css).await == expected).then_some(())).await;
    }

    async fn text(&self, css: &str) -> String {
        self.texts(css).await.into_iter().next().unwrap_or_default()
    }

    /// Clicks as soon as it can be clicked: a page that has just loaded may show it later.
    async fn click(&self, css: &str) {
        eventually(css, async || self.page.find(By::Css(css)).await.ok()?.click().await.ok()).await;
    }

    /// Waits until the element's text holds this.
    async fn says(&self, css: &str, text: &str) {
        eventually(&format!("{text:?} in {css}"), async || self.text(css).await.contains(text).then_some(())).await;
    }

    async fn run(&self, script: &str) -> Value {
        self.page.execute(script, Vec::new()).await.unwrap().json().clone()
    }

    async fn cdp(&self, command: &str, parameters: Value) {
        ChromeDevTools::new(Arc::clone(&self.page.handle)).execute_cdp_with_params(command, parameters).await.unwrap();
    }

    async fn dark(&self, is_dark: bool) {
        let value = if is_dark { "dark" } else { "light" };
        // Without transitions, which would be seen half done.
        let motion = json!({ "name": "prefers-reduced-motion", "value": "reduce" });
        let features = json!([{ "name": "prefers-color-scheme", "value": value }, motion]);
        self.cdp("Emulation.setEmulatedMedia", json!({ "features": features })).await;
    }

    async fn size(&self, width: u32, height: u32, scale: f64, mobile: bool) {
        let size = json!({ "width": width, "height": height, "deviceScaleFactor": scale, "mobile": mobile });
        self.cdp("Emulation.setDeviceMetricsOverride", size).await;
    }

    /// A small one: what fits here fits others.
    async fn phone(&self) {
        self.size(360, 780, 1.0, true).await;
    }
}
