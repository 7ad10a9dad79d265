//! Sessions of servers that share a host.

use super::Browser;
use crate::support::Server;

#[tokio::test(flavor = "multi_thread")]
async fn who_signs_in_at_one_server_stays_in_at_another() {
    let Some(browser) = Browser::start().await else { return };
    let servers = ["one", "two"].map(|token| (token, Server::start(&["--no-workers", "--token", token])));
    for (token, server) in &servers {
        browser.open(format!("{}/results", server.url)).await;
        browser.find("main [name=token]").await.send_keys(*token).await.unwrap();
        browser.click("main .login button").await;
        browser.says("h1", "Results").await;
    }
    for (_, server) in &servers {
        browser.open(format!("{}/status", server.url)).await;
        browser.says("h1", "Status").await;
    }
    let [(_, first), (_, second)] = &servers;
    browser.click("form[action='/logout'] button").await;
    browser.says("h1", "Log in").await;
    browser.open(format!("{}/status", first.url)).await;
    browser.says("h1", "Status").await;
    browser.open(format!("{}/status", second.url)).await;
    browser.says("h1", "Log in").await;
    browser.end().await;
}
