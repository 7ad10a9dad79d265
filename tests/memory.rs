//! What a worker, a server and `imgcls classify` take for the largest images that they accept.

use std::{io::Cursor, process::Stdio, time::Duration};

use image::{ImageEncoder as _, ImageFormat, RgbImage, RgbaImage, codecs::gif::GifEncoder};
use serde_json::Value;

use crate::support::{Server, client, eventually, imgcls, results, upload};

/// Bytes that each of them stays below, whatever mixture of images it gets.
const MOST: u64 = 400_000_000;

/// The most memory that a process ever had, in bytes; `None` once it has ended.
fn peak(pid: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024)
}

fn encoded(image: impl Into<image::DynamicImage>, format: ImageFormat) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    image.into().write_to(&mut bytes, format).unwrap();
    bytes.into_inner()
}

/// A lossless WebP of one colour.
fn webp(side: u32) -> Vec<u8> {
    let mut bytes = Vec::new();
    let encoder = image::codecs::webp::WebPEncoder::new_lossless(&mut bytes);
    encoder.write_image(&RgbImage::new(side, side), side, side, image::ExtendedColorType::Rgb8).unwrap();
    bytes
}

fn gif(side: u32) -> Vec<u8> {
    let mut bytes = Vec::new();
    GifEncoder::new_with_speed(&mut bytes, 30)
        .encode(&RgbImage::new(side, side), side, side, image::ExtendedColorType::Rgb8)
        .unwrap();
    bytes
}

/// Bytes behind the end of an image, which make its file large.
fn padded(mut image: Vec<u8>, to: usize) -> Vec<u8> {
    image.resize(to, 0);
    image
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_stays_small_whatever_it_is_given() {
    let large =
        encoded(RgbaImage::from_fn(8000, 8000, |x, y| image::Rgba([x as u8, y as u8, 7, 200])), ImageFormat::Png);
    let files = [
        ("rgba1.png", large.clone()),
        ("rgba2.png", [&large[..], b"x"].concat()),
        ("8000.jpg", encoded(RgbImage::new(8000, 8000), ImageFormat::Jpeg)),
        ("4000.webp", webp(4000)),
        ("4001.webp", webp(4001)),
        ("5100.gif", gif(5100)),
        ("5101.gif", gif(5101)),
        ("30MiB.png", padded(encoded(RgbImage::new(60, 60), ImageFormat::Png), 30 << 20)),
        ("31MiB.png", padded(encoded(RgbImage::new(61, 61), ImageFormat::Png), 31 << 20)),
        ("7000.webp", webp(7000)),
    ];
    let server = Server::start(&["--max-workers", "1"]);
    let client = client();
    let count = files.len();
    for (name, bytes) in files {
        upload(&client, &server.url, [(name.to_owned(), bytes)]).await;
    }
    for n in 0..40 {
        upload(&client, &server.url, [(format!("4MiB-{n}.png"), padded(crate::support::picture(n), 4 << 20))]).await;
    }
    let rows = eventually("all results", async || {
        let rows = results(&client, &server.url).await;
        (rows.len() == count + 40).then_some(rows)
    })
    .await;
    let errors: Vec<&Value> = rows.iter().filter(|row| !row["error"].is_null()).collect();
    assert_eq!(errors.iter().map(|row| &row["image"]).collect::<Vec<_>>(), ["7000.webp"], "{errors:?}");
    assert!(errors[0]["error"].as_str().unwrap().contains("worker.pixel_budget"), "{errors:?}");
    let [worker] = server.workers()[..] else { panic!("{:?}", server.workers()) };
    let peak = peak(worker).unwrap();
    println!("a worker's peak: {} MB", peak / 1_000_000);
    assert!(peak < MOST, "{peak} bytes");
}

/// Small files of large pictures, as many at a time as there are places.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_stays_small_whatever_it_makes_thumbnails_of() {
    let server = Server::start(&["--max-workers", "1"]);
    let client = client();
    let file = gif(7200);
    let names: Vec<String> = (0..6).map(|n| format!("{n}.gif")).collect();
    for (n, name) in names.iter().enumerate() {
        upload(&client, &server.url, [(name.clone(), [&file[..], &[n as u8]].concat())]).await;
    }
    let asked = names.iter().map(|name| {
        let ask = client.get(format!("{}/images/{name}?size=128", server.url));
        async move { ask.send().await.unwrap().status().as_u16() }
    });
    let statuses = futures_util::future::join_all(asked).await;
    // Who waits too long is told to come again.
    assert!(statuses.contains(&200) && statuses.iter().all(|status| [200, 503].contains(status)), "{statuses:?}");
    let peak = server.peak_memory();
    println!("a server's peak: {} MB", peak / 1_000_000);
    assert!(peak < MOST, "{peak} bytes");
}

#[test]
fn classify_stays_small_whatever_its_threads_decode() {
    let dir = tempfile::tempdir().unwrap();
    let file = gif(5100);
    for n in 0..6 {
        std::fs::write(dir.path().join(format!("{n}.gif")), &file).unwrap();
    }
    let args = ["classify", "--json", "--threads", "6", "."];
    let mut child = imgcls().args(args).current_dir(dir.path()).stdout(Stdio::null()).spawn().unwrap();
    let mut most = 0;
    let status = loop {
        most = most.max(peak(child.id()).unwrap_or(0));
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        std::thread::sleep(Duration::from_millis(2));
    };
    println!("the peak of classify: {} MB", most / 1_000_000);
    assert!(status.success());
    assert!(0 < most && most < MOST, "{most} bytes");
}
