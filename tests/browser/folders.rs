//! Folders keep their paths, from the button to the results.

use super::Browser;
use crate::support::{Server, client, eventually, picture, results};

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_keeps_its_paths() {
    let Some(browser) = Browser::start().await else { return };
    let server = Server::start(&["--max-workers", "1"]);
    for (seed, name) in ["tree/cat/0.png", "tree/cat/1.png", "tree/dog/0.png", "tree/dog/old/2.png"].iter().enumerate()
    {
        browser.file(name, &picture(u32::try_from(seed).unwrap()));
    }
    for clutter in ["tree/.DS_Store", "tree/cat/Thumbs.db", "tree/dog/notes.txt", "tree/dog/README"] {
        browser.file(clutter, b"no picture");
    }
    let unnamed = browser.file("tree/dog/picture", &picture(9));
    browser.open(server.url.clone()).await;
    browser.choose("folder", &[unnamed.ancestors().nth(2).unwrap().to_owned()]).await;
    browser.says("#summary", "5 of 5 stored, 5 labelled").await;
    browser.says("#left-out", "4 files are left out: hidden or no pictures").await;
    let rows = results(&client(), &server.url).await;
    let names: Vec<&str> = rows.iter().map(|row| row["image"].as_str().unwrap()).collect();
    let expected = ["tree/cat/0.png", "tree/cat/1.png", "tree/dog/0.png", "tree/dog/old/2.png", "tree/dog/picture"];
    assert_eq!(names, expected);

    // One folder of the upload.
    browser
        .run(
            "const s = document.querySelector('#folders'); s.value = 'tree/dog/'; s.dispatchEvent(new Event('change'))",
        )
        .await;
    browser.reads("#list li .name", &["tree/dog/0.png", "tree/dog/picture"]).await;

    // Folders among the results: headings, links, the way back.
    browser.open(format!("{}/results", server.url)).await;
    browser.reads("tr.heading", &["tree/cat/", "tree/dog/", "tree/dog/old/", "tree/dog/"]).await;
    browser.click("#by-folder .choices a").await;
    browser.says("#by-folder .choices li:last-child", "dog/").await;
    browser.click("#by-folder .choices li:last-child a").await;
    browser.reads("#table th.name", &["0.png", "2.png", "picture"]).await;
    browser.says("#shown", "3 images in tree/dog/").await;
    browser.reads("#by-folder .crumbs a", &["All", "tree", "dog"]).await;
    browser.click("#table th.name a").await;
    browser.says("h1", "0.png").await;
    let loaded = "return document.querySelector('.large img').naturalWidth";
    eventually("the large picture", async || (browser.run(loaded).await == 40).then_some(())).await;
    browser.click("[rel=next]").await;
    browser.says("h1", "2.png").await;
    browser.click(".crumbs a:first-child").await;
    browser.says("#shown", "3 images in tree/dog/").await;
    browser.end().await;
}

/// Drops a folder with a file that cannot be read before one that can, beside the form. Returns whether the browser
/// would have left the page for it.
const DROP: &str = r##"
  const [bytes] = arguments;
  const lost = { isFile: true, file: (taken, refused) => refused(new Error("lost")) };
  const picture = new File([new Uint8Array(bytes)], "a.png", { type: "image/png" });
  const kept = { isFile: true, fullPath: "/folder/a.png", file: (taken) => taken(picture) };
  const batches = [[lost, kept], []];
  const folder = { isFile: false, createReader: () => ({ readEntries: (taken) => taken(batches.shift()) }) };
  const drop = new Event("drop", { bubbles: true, cancelable: true });
  drop.dataTransfer = { types: ["Files"], items: [{ webkitGetAsEntry: () => folder }] };
  return document.querySelector("h1").dispatchEvent(drop);
"##;

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_cannot_be_read_does_not_keep_the_others() {
    let Some(browser) = Browser::start().await else { return };
    let server = Server::start(&["--no-workers"]);
    browser.open(server.url.clone()).await;
    browser.find("#files").await;
    let drop = async || browser.page.execute(DROP, vec![picture(1).into()]).await.unwrap().json().clone();
    assert_eq!(drop().await, false);
    browser.says("#summary", "1 of 1 stored").await;
    browser.says("#notice", "One file or folder of what was dropped cannot be read").await;
    // Where there is no form a drop does nothing.
    browser.open(format!("{}/status", server.url)).await;
    browser.says("h1", "Status").await;
    assert_eq!(drop().await, false);
    assert!(!browser.find("#progress").await.is_displayed().await.unwrap());
    browser.end().await;
}
