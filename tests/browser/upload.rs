//! Uploads that survive: a server that is killed, a network that is gone, a session that ends, ten thousand files.

use std::{sync::Arc, time::Duration};

use thirtyfour::{
    By,
    extensions::cdp::{ChromeDevTools, NetworkConditions},
};

use super::Browser;
use crate::support::{Server, client, eventually, picture, results};

#[tokio::test(flavor = "multi_thread")]
async fn a_person_chooses_files_and_sees_labels_appear() {
    let Some(browser) = Browser::start().await else { return };
    let server = Server::start(&[]);
    let mut paths: Vec<_> = (0..12).map(|n| browser.file(&format!("{n}_picture é.png"), &picture(n))).collect();
    paths.push(browser.file("notes.png", b"no picture"));
    browser.open(server.url.clone()).await;
    browser.choose("files", &paths).await;
    eventually("labels beside the uploaded files", async || (browser.count("#list li.done").await == 12).then_some(()))
        .await;
    let are_even = "const tops = [...document.querySelectorAll('#list li')].map((row) => row.offsetTop); \
        return tops.every((top, n) => top === tops[0] + 40 * n)";
    assert_eq!(browser.run(are_even).await, true, "rows are as far apart as the list reckons");
    let failed = browser.text("#list li:first-child").await;
    assert!(failed.contains("notes.png") && failed.contains("looks like text"), "failed files come first: {failed}");
    // The table below follows by itself, the newest first, with pictures that load.
    eventually("rows in the table", async || (browser.count("#table tbody tr").await == 12).then_some(())).await;
    let mut names = browser.texts("#table tbody th").await;
    names.sort_unstable();
    let mut expected: Vec<String> = (0..12).map(|n| format!("{n}_picture é.png")).collect();
    expected.sort_unstable();
    assert_eq!(names, expected);
    let script = "return [...document.querySelectorAll('#table img')].slice(0, 3).every(i => i.complete && \
        i.naturalWidth == 40)";
    eventually("pictures in the table", async || (browser.run(script).await == true).then_some(())).await;
    // What becomes of a removed image is told, too.
    browser.click("#table tbody th a").await;
    browser.says("h1", "_picture é.png").await;
    browser.end().await;
}

/// Chooses `count` files `0.png`, `1.png` …, all different, as a person would with the button, and notes how long the
/// page is not responsive at a time.
const CHOOSE: &str = r##"
  const [bytes, count] = arguments;
  const chosen = new DataTransfer();
  // What follows a picture's end is not looked at.
  const type = "image/png";
  const named = (n) => new File([new Uint8Array(bytes), String(n)], `${n}.png`, { type });
  for (let n = 0; n < count; n += 1) chosen.items.add(named(n));
  const input = document.querySelector("#files");
  input.files = chosen.files;
  window.busy = [];
  setTimeout(() => {
    new PerformanceObserver((seen) => {
      for (const task of seen.getEntries()) window.busy.push(Math.round(task.duration));
    }).observe({ type: "longtask" });
    input.dispatchEvent(new Event("change"));
  }, 200);
"##;

impl Browser {
    async fn choose_many(&self, count: usize) {
        self.page.execute(CHOOSE, vec![picture(1).into(), count.into()]).await.unwrap();
    }

    /// Waits until so many files are stored.
    pub(super) async fn stored(&self, count: usize) {
        eventually(&format!("{count} stored files"), async || {
            let summary = self.text("#summary").await;
            let stored = summary.split(" of ").next()?.replace(',', "").parse::<usize>().ok()?;
            (stored >= count).then_some(())
        })
        .await;
    }

    /// Waits until this file is the one that the list says has failed, and why.
    async fn only_failure(&self, file: &str, why: &str) {
        eventually(&format!("{why:?} of {file} alone"), async || {
            let failed = self.texts("#list li.failed").await;
            (failed.len() == 1 && failed[0].contains(file) && failed[0].contains(why)).then_some(())
        })
        .await;
    }

    /// Logs in by the form that is or comes there.
    async fn log_in(&self, form: &str, token: &str) {
        eventually("a form to log in", async || {
            let field = self.page.find(By::Css(format!("{form} input[type=password]"))).await.ok()?;
            field.clear().await.ok()?;
            field.send_keys(token).await.ok()
        })
        .await;
        self.click(&format!("{form} button")).await;
    }

    pub(super) async fn network(&self, offline: bool) {
        let mut conditions = NetworkConditions::new();
        conditions.offline = offline;
        conditions.latency = 5;
        conditions.download_throughput = 1 << 20;
        conditions.upload_throughput = 400 << 10;
        ChromeDevTools::new(Arc::clone(&self.page.handle)).set_network_conditions(&conditions).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_survives_what_becomes_of_the_server_and_the_network() {
    const FILES: usize = 2000;
    let Some(browser) = Browser::start().await else { return };
    let mut server = Server::start(&["--max-workers", "1"]);
    browser.open(server.url.clone()).await;
    // Slow enough that all of it happens in the midst of the upload.
    browser.network(false).await;
    browser.choose_many(FILES).await;
    for count in [200, 900] {
        browser.stored(count).await;
        server.kill();
        browser.says("#summary", "Reconnecting").await;
        browser.says("#notice", "The server does not answer").await;
        server.restart_here();
    }
    browser.stored(1400).await;
    browser.network(true).await;
    browser.says("#summary", "Reconnecting").await;
    // Far longer than a first try.
    tokio::time::sleep(Duration::from_secs(5)).await;
    browser.network(false).await;
    eventually("all labels, without a click", async || {
        (browser.text("#summary").await == "2,000 of 2,000 stored, 2,000 labelled").then_some(())
    })
    .await;
    let rows = results(&client(), &server.url).await;
    let mut names: Vec<usize> =
        rows.iter().map(|row| row["image"].as_str().unwrap().trim_end_matches(".png").parse().unwrap()).collect();
    names.sort_unstable();
    assert_eq!(names, (0..FILES).collect::<Vec<_>>(), "none is lost, doubled or renamed");
    browser.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_files_do_not_freeze_the_page() {
    let Some(browser) = Browser::start().await else { return };
    let server = Server::start(&["--no-workers"]);
    browser.open(server.url.clone()).await;
    browser.network(false).await;
    browser.choose_many(10_000).await;
    browser.stored(100).await;
    browser.says("#summary", "left").await;
    browser.says("#notice", "No worker is running").await;
    let rows = browser.count("#list li").await;
    assert!((8..100).contains(&rows), "{rows} rows are in the document");
    browser.run("const list = document.querySelector('#list'); list.scrollTop = list.scrollHeight").await;
    browser.says("#list li:last-child", "9999.png").await;
    browser.click("#cancel").await;
    eventually("the end of the upload", async || {
        let summary = browser.text("#summary").await;
        (summary.contains("cancelled") && !summary.contains("left")).then_some(())
    })
    .await;
    let busy = browser.run("return window.busy").await;
    let mut busy: Vec<u64> = busy.as_array().unwrap().iter().filter_map(serde_json::Value::as_u64).collect();
    busy.sort_unstable();
    println!("10,000 files: the page was busy for more than 50 ms at a time: {busy:?} ms");
    // 200 ms on a machine that does nothing else; tests run beside others.
    assert!(busy.last().is_none_or(|longest| *longest < 600), "the page was busy for {busy:?} ms");
    browser.end().await;
}

/// Holds the status page back until `late()`, and counts pages of results that are shown.
const LATE_STATUS: &str = r##"
  const real = window.fetch;
  window.shown = 0;
  new MutationObserver(() => (window.shown += 1)).observe(document.body, { childList: true });
  window.fetch = (url, request) => {
    if (new URL(url, location.href).pathname !== "/status") return real(url, request);
    return new Promise((come) => {
      window.late = async () => {
        const response = await real(url, request);
        come(response.clone());
        await response.text();
      };
    });
  };
"##;

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_survives_other_pages_and_a_lost_session() {
    // So many that the upload is on its way for a while.
    const FILES: usize = 2000;
    let Some(browser) = Browser::start().await else { return };
    let server = Server::start(&["--no-workers", "--token", "secret"]);
    browser.open(server.url.clone()).await;
    browser.log_in("main", "secret").await;
    browser.find("#files").await;
    browser.network(false).await;
    browser.choose_many(FILES).await;
    browser.stored(50).await;
    browser.click("#pause").await;
    browser.says("#summary", "paused").await;
    browser.click("header a[href='/results']").await;
    browser.says("main h1", "Results").await;
    assert_eq!(browser.page.current_url().await.unwrap().path(), "/results");
    // The last click counts, whichever page comes first.
    browser.run(LATE_STATUS).await;
    browser.click("header a[href='/status']").await;
    browser.click("header a[href='/results']").await;
    eventually("the page of results", async || (browser.run("return window.shown").await == 1).then_some(())).await;
    browser.run("return window.late()").await;
    assert_eq!(browser.text("main h1").await, "Results");
    // What changes something does not end it either.
    browser.click(".states a[href*=waiting]").await;
    browser.says("#shown", "waiting images").await;
    browser.click("#table tbody input").await;
    browser.click(".selected [value=delete]").await;
    browser.click("#confirm .danger").await;
    browser.says("p.done", "1 deleted").await;
    browser.page.delete_all_cookies().await.unwrap();
    // By script: the form to log in may stand before it already.
    let resume = "document.querySelector('#pause').click()";
    browser.run(resume).await;
    browser.click("#login [type=button]").await;
    browser.says("#summary", "paused").await;
    browser.run(resume).await;
    browser.log_in("#login", "secret").await;
    // What was removed may be missed before the last file is stored, or after.
    browser.says("#summary", "1,999 of 2,000 stored, 0 labelled, 1 failed").await;
    browser.only_failure(".png", "the image was removed").await;
    browser.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removed_image_is_missed_among_many_that_wait() {
    // Asked about in blocks of 500, of which some are asked about one by one.
    const FILES: usize = 520;
    let Some(browser) = Browser::start().await else { return };
    let server = Server::start(&["--no-workers"]);
    browser.open(server.url.clone()).await;
    browser.choose_many(FILES).await;
    browser.stored(FILES).await;
    client().delete(format!("{}/images/300.png", server.url)).send().await.unwrap().error_for_status().unwrap();
    browser.says("#summary", "519 of 520 stored, 0 labelled, 1 failed").await;
    browser.only_failure("300.png", "the image was removed").await;
    browser.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_session_is_noticed_before_a_request_ends() {
    let Some(browser) = Browser::start().await else { return };
    let server = Server::start(&["--no-workers", "--token", "secret"]);
    browser.open(server.url.clone()).await;
    browser.log_in("main", "secret").await;
    browser.find("#files").await;
    browser.run("XMLHttpRequest.prototype.send = () => {}").await;
    browser.choose_many(1).await;
    browser.says("#summary", "0 of 1 stored").await;
    browser.page.delete_all_cookies().await.unwrap();
    browser.says("#login h2", "Your session has ended").await;
    browser.click("#login [type=button]").await;
    browser.says("#summary", "paused").await;
    // Who has declined finds the way back in the header.
    browser.says("#notice", "Your session has ended. Log in").await;
    browser.click("#notice a").await;
    browser.log_in("#login", "secret").await;
    eventually("no problem in the header", async || browser.text("#notice").await.is_empty().then_some(())).await;
    browser.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_asked_for_the_admin_token_may_decline() {
    let Some(browser) = Browser::start().await else { return };
    let server = Server::start(&["--no-workers", "--token", "user", "--set", "web.admin_token=admin"]);
    browser.open(server.url.clone()).await;
    browser.log_in("main", "user").await;
    browser.find("#files").await;
    browser.network(false).await;
    browser.choose_many(2000).await;
    browser.stored(50).await;
    browser.click("#pause").await;
    browser.says("#summary", "paused").await;
    // What is refused leaves the page as it is.
    browser.click("header a[href='/results']").await;
    browser.click(".states a[href*=waiting]").await;
    browser.says("#shown", "waiting images").await;
    browser.click("#table tbody input").await;
    browser.click(".selected [value=delete]").await;
    browser.click("#confirm .danger").await;
    browser.says("#login h2", "The admin token is needed").await;
    browser.click("#login [type=button]").await;
    browser.says("#chosen", "1 image").await;
    browser.click("header a[href='/status']").await;
    browser.click("a[href='/queue/dead']").await;
    browser.says("#login h2", "The admin token is needed").await;
    // The session of the user is no answer to that.
    browser.run("performance.clearResourceTimings()").await;
    let polls = "return performance.getEntriesByType('resource').filter((r) => r.name.endsWith('/api/status')).length";
    eventually("some polls", async || (browser.run(polls).await.as_u64()? > 2).then_some(())).await;
    browser.click("#login [type=button]").await;
    assert_eq!(browser.count("dialog[open]").await, 0);
    assert_eq!(browser.page.current_url().await.unwrap().path(), "/status");
    browser.click("a[href='/queue/dead']").await;
    browser.log_in("#login", "user").await;
    browser.says("#login [role=alert]", "not the admin token").await;
    browser.log_in("#login", "admin").await;
    browser.says("main h1", "Dead letters").await;
    browser.click("#pause").await;
    browser.stored(2000).await;
    browser.end().await;
}
