//! The pages for everybody: what axe-core finds, in light, in dark and on a phone.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use super::{Browser, results::pictures};
use crate::support::{Server, client, eventually, picture, results, upload};

/// A package that has axe-core in it, of this version.
const PACKAGE: &str = "axe-playwright-python==0.1.8";

/// axe-core, kept beside other things that are built; `None` where it cannot be had, which is no success in CI.
fn axe() -> Option<String> {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("axe");
    if !dir.join("ready").exists() {
        let get = format!(
            "set -e; mkdir -p '{0}'; cd '{0}'; python3 -m venv venv; venv/bin/pip download -q --no-deps {PACKAGE}; \
             python3 -m zipfile -e *.whl .; touch ready",
            dir.display()
        );
        if !Command::new("sh").args(["-c", &get]).status().is_ok_and(|status| status.success()) {
            assert!(std::env::var_os("CI").is_none(), "CI needs axe-core: pip download {PACKAGE}");
            eprintln!("skipped: no axe-core (pip download {PACKAGE})");
            return None;
        }
    }
    let script: PathBuf = dir.join("axe_playwright_python/axe.min.js");
    Some(std::fs::read_to_string(script).unwrap())
}

/// What axe-core finds that is serious or worse, on this page as it is: its rules for WCAG 2.2 AA, target sizes among
/// them.
const RUN: &str = r##"
  const done = arguments[0];
  const tags = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"];
  axe.run({ runOnly: tags, rules: { "target-size": { enabled: true } } }).then(
    ({ violations }) => done(violations
      .filter(({ impact }) => impact === "serious" || impact === "critical")
      .map(({ id, nodes }) => {
        const first = nodes.slice(0, 3).map(({ html, failureSummary }) => `${html} ${failureSummary}`);
        return `${id}: ${first.join(" | ")}`;
      })),
    (error) => done([String(error)]));
"##;

#[tokio::test(flavor = "multi_thread")]
async fn the_pages_are_for_everybody() {
    let Some(axe) = axe() else { return };
    let Some(browser) = Browser::start().await else { return };
    let server = Server::start(&["--max-workers", "1", "--set", "min_confidence=0.9"]);
    let mut files = pictures();
    files.push((
        "folder/a picture with a name that is far longer than the names of most pictures are.png".into(),
        picture(3),
    ));
    let mut broken = picture(4);
    broken.truncate(60);
    files.push(("broken.png".to_owned(), broken));
    let count = files.len();
    upload(&client(), &server.url, files).await;
    eventually("all results", async || (results(&client(), &server.url).await.len() == count).then_some(())).await;
    let path = browser.file("a.png", &picture(5));
    let notes = browser.file("notes.png", b"no picture");
    let mut found = Vec::new();
    let long = format!("/results?q={}", "x".repeat(100));
    let plain = ["/", "/results", "/results/0_cat.png", "/status", "/classes", "/reset", "/queue/dead", "/nowhere"];
    for address in plain.into_iter().chain([long.as_str()]) {
        browser.open(format!("{}{address}", server.url)).await;
        if address == "/" {
            browser.choose("files", &[path.clone(), notes.clone()]).await;
            browser.says("#summary", "1 labelled, 1 failed").await;
        }
        browser.run(&axe).await;
        for (look, is_dark, is_phone) in [("light", false, false), ("dark", true, false), ("phone", true, true)] {
            browser.dark(is_dark).await;
            if is_phone {
                browser.phone().await;
            }
            let seen = browser.page.execute_async(RUN, Vec::new()).await.unwrap().json().clone();
            found.extend(seen.as_array().unwrap().iter().map(|finding| format!("{address} {look}: {finding}")));
            let wide =
                browser.run("return document.documentElement.scrollWidth - document.documentElement.clientWidth").await;
            if wide != 0 {
                found.push(format!("{address} {look}: the page is {wide} pixels too wide"));
            }
        }
        browser.cdp("Emulation.clearDeviceMetricsOverride", serde_json::json!({})).await;
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
    browser.end().await;
}
