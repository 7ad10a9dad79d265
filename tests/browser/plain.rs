//! The pages without JavaScript.

use serde_json::json;

use super::Browser;
use crate::support::{Server, client, eventually, picture, results};

#[tokio::test(flavor = "multi_thread")]
async fn everything_works_without_javascript() {
    let Some(browser) = Browser::start().await else { return };
    let server = Server::start(&["--max-workers", "1"]);
    browser.cdp("Emulation.setScriptExecutionDisabled", json!({ "value": true })).await;
    browser.open(server.url.clone()).await;
    let paths: Vec<_> = (0..3).map(|n| browser.file(&format!("{n}.png"), &picture(n))).collect();
    browser.choose("files", &paths).await;
    browser.click("#send").await;
    browser.says("h1", "Results").await;
    eventually("all results", async || (results(&client(), &server.url).await.len() == 3).then_some(())).await;

    browser.find("[type=search]").await.send_keys("1.png").await.unwrap();
    browser.click(".search button").await;
    browser.says("#shown", "1 image with “1.png”").await;
    browser.click("#table th.name a").await;
    browser.says("h1", "1.png").await;
    browser.click("[value=delete]").await;
    browser.says("h1", "Delete this image?").await;
    browser.click("main .danger").await;
    browser.says("p.done", "1 deleted").await;

    browser.open(format!("{}/results", server.url)).await;
    browser.click("#table tbody tr:first-child input").await;
    browser.click(".selected [value=again]").await;
    browser.says("p.done", "1 is classified again").await;
    browser.click("#table tbody tr:last-child input").await;
    browser.click(".selected [value=delete]").await;
    browser.click("main .danger").await;
    browser.says("p.done", "1 deleted").await;
    assert_eq!(browser.count("#table tbody tr").await, 1);
    browser.open(format!("{}/status", server.url)).await;
    browser.says("#workers-title", "Workers").await;
    browser.end().await;
}
