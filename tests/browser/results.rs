//! Results: filter, detail, delete, reset.

use serde_json::json;

use super::Browser;
use crate::support::{Server, client, eventually, labelled, picture, results, upload};

/// The pictures whose labels are known.
pub(super) fn pictures() -> Vec<(String, Vec<u8>)> {
    let files = std::fs::read_dir(labelled()).unwrap().map(|entry| entry.unwrap());
    files.map(|file| (file.file_name().into_string().unwrap(), std::fs::read(file.path()).unwrap())).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn results_are_filtered_shown_deleted_and_reset() {
    let Some(browser) = Browser::start().await else { return };
    let server = Server::start(&["--max-workers", "1", "--set", "min_confidence=0.99"]);
    let mut files = pictures();
    files.push(("unsure.png".to_owned(), picture(3)));
    let mut broken = picture(4);
    broken.truncate(60);
    files.push(("broken.png".to_owned(), broken));
    upload(&client(), &server.url, files).await;
    eventually("all results", async || (results(&client(), &server.url).await.len() == 12).then_some(())).await;

    browser.open(format!("{}/results", server.url)).await;
    let said = browser.shown(".said .verdict").await;
    assert!(said.iter().any(|text| text.starts_with("not sure: ")), "{said:?}");
    let color = "return getComputedStyle(document.querySelector('.said .verdict.unsure')).color";
    assert_eq!(browser.run(color).await, "rgb(138, 82, 0)", "what is not sure is amber");
    browser.click(".states a[href*=failed]").await;
    browser.says("#shown", "1 failed image").await;
    assert_eq!(browser.shown("#table th.name").await, ["broken.png"]);
    browser.click(".states a[href='/results']").await;
    browser.click(".counts a[href*='label=frog']").await;
    browser.says("#shown", "labelled “frog”").await;
    let frogs = browser.shown("#table th.name").await;
    let rows = results(&client(), &server.url).await;
    let expected = rows.iter().filter(|row| row["label"] == "frog").map(|row| row["image"].as_str().unwrap());
    assert_eq!(frogs, expected.collect::<Vec<_>>());
    let csv = browser.find("a[download]").await.attr("href").await.unwrap().unwrap();
    let csv = client().get(format!("{}{csv}", server.url)).send().await.unwrap().text().await.unwrap();
    assert_eq!(csv.lines().count(), frogs.len() + 1, "{csv}");

    detail_and_delete(&browser, &server).await;

    browser.open(format!("{}/status", server.url)).await;
    browser.click("a[href='/reset']").await;
    browser.click("main button.danger").await;
    browser.says("h1", "Everything is removed").await;
    upload(&client(), &server.url, [("new.png".to_owned(), picture(7))]).await;
    browser.page.refresh().await.unwrap();
    browser.says("h1", "Everything is removed").await;
    eventually("the new image's result", async || (results(&client(), &server.url).await.len() == 1).then_some(()))
        .await;
    browser.end().await;
}

/// Pages cannot be fetched while `down` is true.
const DOWN: &str = r##"
  const real = window.fetch;
  [window.down, window.failed] = [true, 0];
  window.fetch = (url, request) => {
    if (!window.down || request?.headers?.Accept !== "text/html") return real(url, request);
    window.failed += 1;
    return Promise.reject(new TypeError("down"));
  };
"##;

#[tokio::test(flavor = "multi_thread")]
async fn what_could_not_be_fetched_is_shown_later() {
    let Some(browser) = Browser::start().await else { return };
    let server = Server::start(&["--no-workers"]);
    browser.open(format!("{}/results?state=waiting", server.url)).await;
    browser.run(DOWN).await;
    upload(&client(), &server.url, [("new.png".to_owned(), picture(7))]).await;
    eventually("a page that does not come", async || (browser.run("return failed > 1").await == true).then_some(()))
        .await;
    // Nothing else changes from now on.
    browser.run("window.down = false").await;
    browser.reads("#table th.name", &["new.png"]).await;
    browser.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_of_an_image_says_what_is_not_there() {
    let Some(browser) = Browser::start().await else { return };
    let server = Server::start(&["--max-workers", "1"]);
    let files = [("junk.png".to_owned(), b"\x89PNG\r\n\x1a\njunk".to_vec()), ("a.png".to_owned(), picture(1))];
    upload(&client(), &server.url, files).await;
    eventually("all results", async || (results(&client(), &server.url).await.len() == 2).then_some(())).await;
    browser.open(format!("{}/results/junk.png", server.url)).await;
    browser.reads(".large", &["!"]).await;
    browser.open(format!("{}/results/a.png", server.url)).await;
    browser.find("#detail form").await;
    client().delete(format!("{}/images/a.png", server.url)).send().await.unwrap().error_for_status().unwrap();
    browser.says("#detail p.problem", "This image was removed.").await;
    assert_eq!(browser.count("#detail form").await, 0);
    browser.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thumbnail_that_does_not_come_is_asked_for_again() {
    let Some(browser) = Browser::start().await else { return };
    let server = Server::start(&["--no-workers"]);
    upload(&client(), &server.url, [("a.png".to_owned(), picture(1))]).await;
    browser.open(format!("{}/results?state=waiting", server.url)).await;
    browser.find(".thumb img").await;
    browser.run("document.querySelector('.thumb img').src = '/nowhere.png'").await;
    let asked = "return performance.getEntriesByType('resource').filter((r) => r.name.endsWith('/nowhere.png')).length";
    eventually("another try", async || (browser.run(asked).await.as_u64()? > 1).then_some(())).await;
    browser.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn all_rows_are_chosen_on_a_phone_too() {
    let Some(browser) = Browser::start().await else { return };
    let server = Server::start(&["--no-workers"]);
    upload(&client(), &server.url, (1..4).map(|n| (format!("{n}.png"), picture(n)))).await;
    browser.phone().await;
    browser.open(format!("{}/results?state=waiting", server.url)).await;
    browser.reads("#table thead th", &["Choose all on this page", "", "", "", "", ""]).await;
    browser.click("#all").await;
    browser.says("#chosen", "3 images").await;
    browser.click("#table tbody input").await;
    browser.says("#chosen", "2 images").await;
    browser.open(format!("{}/", server.url)).await;
    assert_eq!(browser.text("#table thead").await, "", "nothing is chosen there");
    browser.end().await;
}

/// How often scripts have fetched the page that is shown, and the state.
const FETCHED: &str = r"
  const fetched = performance.getEntriesByType('resource').filter((r) => r.initiatorType === 'fetch');
  const count = (address) => fetched.filter((r) => r.name === address).length;
  return [count(location.href), count(`${location.origin}/api/status`)];
";

#[tokio::test(flavor = "multi_thread")]
async fn a_page_that_has_just_come_is_not_fetched_again() {
    let Some(browser) = Browser::start().await else { return };
    let server = Server::start(&["--no-workers"]);
    upload(&client(), &server.url, [("a.png".to_owned(), picture(1))]).await;
    for (n, address) in ["/results?state=waiting", "/results/a.png", "/"].into_iter().enumerate() {
        // The server knows what is new from then on.
        tokio::time::sleep(std::time::Duration::from_secs(1)).await;
        client().get(format!("{}/api/status", server.url)).send().await.unwrap().error_for_status().unwrap();
        browser.open(format!("{}{address}", server.url)).await;
        let fetched = async || browser.run(FETCHED).await;
        eventually("a look at the state", async || (fetched().await[1].as_u64()? > 1).then_some(())).await;
        assert_eq!(fetched().await[0], 0, "{address}");
        upload(&client(), &server.url, [(format!("{n}.png"), picture(10 + n as u32))]).await;
        eventually("the page as it is now", async || (fetched().await[0] == 1).then_some(())).await;
    }
    browser.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_pass_by_an_order_and_a_pointer_chooses_it() {
    let Some(browser) = Browser::start().await else { return };
    let server = Server::start(&["--no-workers"]);
    browser.open(format!("{}/results", server.url)).await;
    browser.run("window.submits = 0; document.addEventListener('submit', () => (window.submits += 1))").await;
    let order = browser.find("[name=order]").await;
    order.send_keys("\u{e015}").await.unwrap();
    assert_eq!(
        browser.run("return [document.querySelector('[name=order]').value, submits]").await,
        json!(["newest", 0])
    );
    browser.click(".search button").await;
    let at = async |order: &str| {
        let is_there = async || browser.page.current_url().await.ok()?.query()?.contains(order).then_some(());
        eventually(order, is_there).await;
    };
    at("order=newest").await;
    let choose = "const order = document.querySelector('[name=order]'); \
        order.dispatchEvent(new Event('pointerdown', { bubbles: true })); order.value = 'confidence'; \
        order.dispatchEvent(new Event('change', { bubbles: true }))";
    browser.run(choose).await;
    at("order=confidence").await;
    browser.end().await;
}

async fn detail_and_delete(browser: &Browser, server: &Server) {
    browser.open(format!("{}/results?q=frog", server.url)).await;
    let names = browser.shown("#table th.name").await;
    browser.click("#table th.name a").await;
    browser.says("h1", &names[0]).await;
    assert_eq!(browser.count(".bars li").await, 5, "the five most likely labels");
    let time = browser.text(".facts time").await;
    assert!(!time.ends_with('Z') && !time.is_empty(), "a local time: {time}");
    // Arrow keys lead on.
    browser.find("body").await.send_keys("\u{e014}").await.unwrap();
    browser.says("h1", &names[1]).await;
    browser.click("[value=again]").await;
    browser.says("p.done", "classified again").await;
    browser.page.refresh().await.unwrap();
    browser.says("h1", &names[1]).await;
    assert_eq!(browser.count("p.done").await, 0, "what was done is said once");
    browser.click("[value=delete]").await;
    browser.says("#confirm h2", "Delete this image?").await;
    browser.click("#confirm .quiet").await;
    let address = format!("{}/api/results/lookup", server.url);
    let left = async || {
        let answer = client().post(&address).json(&json!(names)).send().await.unwrap();
        answer.json::<serde_json::Value>().await.unwrap()["results"].as_array().unwrap().len()
    };
    assert_eq!(left().await, names.len(), "it was kept");
    browser.open(format!("{}/results?q=frog", server.url)).await;
    browser.click("#all").await;
    browser.says("#chosen", &format!("{} images", names.len())).await;
    browser.click(".selected [value=delete]").await;
    browser.says("#confirm h2", &format!("these {} images", names.len())).await;
    // What was asked about is done, even if the table is a fresh one by now ...
    browser.run("const t = document.querySelector('#table'); t.replaceWith(t.cloneNode(true))").await;
    browser.click("#confirm .danger").await;
    browser.says("p.done", "deleted").await;
    assert_eq!(left().await, 0);
    // ... and the next time it is asked again.
    browser.open(format!("{}/results", server.url)).await;
    browser.click("#table tbody input").await;
    browser.click(".selected [value=delete]").await;
    browser.says("#confirm h2", "Delete this image?").await;
    browser.click("#confirm .quiet").await;
}
