//! The pictures of the README, made anew by `make screenshots`.

use std::{path::Path, time::Duration};

use super::{Browser, results::pictures};
use crate::support::{Server, client, eventually, picture, results, upload};

/// The pictures' names without the label, in folders that a person might have.
fn album() -> Vec<(String, Vec<u8>)> {
    let folder = |label: &str| match label {
        "cat" | "frog" => "animals",
        "ship" => "harbour",
        _ => "traffic",
    };
    let name = |name: &str| {
        let (number, label) = name.trim_end_matches(".png").split_once('_').unwrap();
        format!("{}/IMG_{:04}.png", folder(label), 4210 + 7 * number.parse::<u32>().unwrap())
    };
    let mut album: Vec<_> = pictures().into_iter().map(|(file, bytes)| (name(&file), bytes)).collect();
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/images");
    for (file, name) in [("baseline-444.jpg", "patterns/blots.jpg"), ("lossless.webp", "patterns/squares.webp")] {
        album.push((name.to_owned(), std::fs::read(fixtures.join(file)).unwrap()));
    }
    let mut broken = picture(4);
    broken.truncate(60);
    album.push(("patterns/cut off.png".to_owned(), broken));
    album
}

/// Keeps what the browser shows, in 256 colours.
async fn keep(browser: &Browser, name: &str) {
    // Far below the view they are not asked for.
    let loaded = "return [...document.images].every((image) => image.complete || image.getBoundingClientRect().top > innerHeight)";
    eventually("pictures", async || (browser.run(loaded).await == true).then_some(())).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    let shot = browser.page.screenshot_as_png().await.unwrap();
    let shot = image::load_from_memory(&shot).unwrap().to_rgba8();
    let colours = color_quant::NeuQuant::new(3, 256, shot.as_raw());
    let indices: Vec<u8> = shot.pixels().map(|pixel| u8::try_from(colours.index_of(&pixel.0)).unwrap()).collect();
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("assets/readme/{name}.png"));
    let mut encoder = png::Encoder::new(std::fs::File::create(&path).unwrap(), shot.width(), shot.height());
    encoder.set_color(png::ColorType::Indexed);
    encoder.set_palette(colours.color_map_rgb());
    encoder.set_compression(png::Compression::High);
    encoder.set_filter(png::Filter::NoFilter);
    encoder.write_header().unwrap().write_image_data(&indices).unwrap();
    let bytes = std::fs::metadata(&path).unwrap().len();
    println!("{name}.png: {} x {}, {} kB", shot.width(), shot.height(), bytes / 1000);
    assert!(bytes < 150_000, "{name}.png has {bytes} bytes");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "writes the README's pictures, and tests nothing; make screenshots runs it"]
async fn screenshots() {
    let browser = Browser::start().await.expect("needs chromium and chromedriver");
    let server = Server::start(&["--max-workers", "2"]);
    let album = album();
    let count = album.len();
    upload(&client(), &server.url, album).await;
    eventually("all results", async || (results(&client(), &server.url).await.len() == count).then_some(())).await;

    browser.size(1180, 980, 1.0, false).await;
    for (name, is_dark) in [("results", false), ("results-dark", true)] {
        browser.dark(is_dark).await;
        browser.open(format!("{}/results", server.url)).await;
        keep(&browser, name).await;
    }
    browser.dark(false).await;
    browser.size(1180, 640, 1.0, false).await;
    browser.open(format!("{}/results/animals/IMG_4238.png", server.url)).await;
    keep(&browser, "image").await;
    browser.size(390, 780, 2.0, true).await;
    browser.open(format!("{}/results", server.url)).await;
    keep(&browser, "phone").await;

    browser.size(1180, 900, 1.0, false).await;
    browser.open(server.url.clone()).await;
    upload_some(&browser).await;
    keep(&browser, "upload").await;
    browser.says("#summary", "1,200 labelled").await;
    browser.size(1180, 1000, 1.0, false).await;
    // A chart of a load that has come and gone.
    tokio::time::sleep(Duration::from_secs(40)).await;
    browser.open(format!("{}/status", server.url)).await;
    keep(&browser, "status").await;
    if let Some(folder) = std::env::var_os("PHOTOS").filter(|folder| !folder.is_empty()) {
        photos(&browser, Path::new(&folder)).await;
    }
    browser.end().await;
}

/// The results of photos by the best model that can be had, as a first run shows them.
async fn photos(browser: &Browser, folder: &Path) {
    let best = std::process::Command::new(crate::support::binary()).args(["model", "best"]).output().unwrap();
    let server = Server::start(&["--model", std::str::from_utf8(&best.stdout).unwrap().trim()]);
    let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap());
    let files: Vec<_> =
        files.map(|file| (file.file_name().into_string().unwrap(), std::fs::read(file.path()).unwrap())).collect();
    let count = files.len();
    upload(&client(), &server.url, files).await;
    eventually("all labels", async || (results(&client(), &server.url).await.len() == count).then_some(())).await;
    browser.size(1180, 560, 1.0, false).await;
    browser.open(format!("{}/results?order=name", server.url)).await;
    keep(browser, "photos").await;
}

/// Chooses folders of many pictures, and waits until some are labelled.
async fn upload_some(browser: &Browser) {
    const CHOOSE: &str = r##"
      const [pictures, count] = arguments;
      const files = [];
      for (let n = 0; n < count; n += 1) {
        const [name, bytes] = pictures[n % pictures.length];
        const file = new File([new Uint8Array(bytes), String(n)], `IMG_${2000 + n}.png`, { type: "image/png" });
        Object.defineProperty(file, "webkitRelativePath", { value: `holiday/${name}/${file.name}` });
        files.push(file);
      }
      const input = document.querySelector("#folder");
      Object.defineProperty(input, "files", { value: files, configurable: true });
      input.dispatchEvent(new Event("change"));
    "##;
    browser.network(false).await;
    let pictures: Vec<serde_json::Value> = pictures()
        .into_iter()
        .map(|(name, bytes)| serde_json::json!([name.trim_end_matches(".png").split_once('_').unwrap().1, bytes]))
        .collect();
    browser.page.execute(CHOOSE, vec![pictures.into(), 1200.into()]).await.unwrap();
    browser.stored(600).await;
}
