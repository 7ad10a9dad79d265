//! A server with few open files: uploads, each of which has one beside its connection, leave some for the health check.

use std::{
    io::{BufRead as _, BufReader},
    process::{Command, Stdio},
    time::Duration,
};

use reqwest::StatusCode;
use tokio::{io::AsyncWriteExt as _, net::TcpStream, time::timeout};

use crate::support::{client_builder, picture};

/// More than the server has files.
const UPLOADS: usize = 450;

const SOON: Duration = Duration::from_secs(1);

#[tokio::test(flavor = "multi_thread")]
async fn uploads_leave_files_for_the_health_check() {
    let dir = tempfile::tempdir().unwrap();
    let mut server = Command::new("sh")
        .args(["-c", "ulimit -n 400; exec \"$@\"", "sh", env!("CARGO_BIN_EXE_imgcls")])
        .args(["serve", "--no-workers", "--listen", "127.0.0.1:0", "--data-dir"])
        .arg(dir.path())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(server.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let url = line.trim().strip_prefix("listening on ").unwrap().to_owned();
    // So much of an image that the server keeps it on disk, and then no more.
    let mut image = picture(1);
    image.resize(200_000, 0);
    let head = "POST / HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=X\r\n\
                Content-Length: 10000000\r\n\r\n\
                --X\r\nContent-Disposition: form-data; name=\"f\"; filename=\"a.png\"\r\n\r\n";
    let upload = [head.as_bytes(), &image].concat();
    let address = url.trim_start_matches("http://");
    let mut held = Vec::new();
    for _ in 0..UPLOADS {
        if let Ok(Ok(mut stream)) = timeout(SOON, TcpStream::connect(address)).await
            && timeout(SOON, stream.write_all(&upload)).await.is_ok()
        {
            held.push(stream);
        }
    }
    let client = client_builder().timeout(4 * SOON).build().unwrap();
    let health = client.get(format!("{url}/healthcheck")).send().await;
    server.kill().unwrap();
    server.wait().unwrap();
    assert_eq!(health.unwrap().status(), StatusCode::OK);
}
