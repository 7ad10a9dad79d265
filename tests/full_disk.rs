//! A disk that others have filled to the last byte: what is stored can be deleted, and the server starts.

use reqwest::StatusCode;

use crate::support::{Server, client, disk::Disk, eventually, picture, results, upload};

/// Room for what uploads leave and for the reserve.
const DISK_MIB: u64 = 96;

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_can_be_cleared_by_a_server_that_runs_and_by_one_that_starts() {
    let dir = tempfile::tempdir().unwrap();
    let Some(disk) = Disk::mount(&dir.path().join("disk"), DISK_MIB) else { return };
    let args = ["--max-workers", "1"].map(str::to_owned).to_vec();
    let mut server = Server::start_in(&dir.path().join("disk/data"), &dir.path().join("log"), args, Vec::new());
    let reserve = server.dir.join("reserve");
    let count = 6;
    upload(&client(), &server.url, (0..count).map(|n| (format!("{n}.png"), picture(n)))).await;
    eventually("labels", async || (results(&client(), &server.url).await.len() == count as usize).then_some(())).await;
    let status = async |server: &Server, method, path: &str| {
        client().request(method, format!("{}{path}", server.url)).send().await.unwrap().status()
    };
    let delete = async |server: &Server, n: u32| {
        let path = format!("/images/{n}.png");
        assert_eq!(status(server, reqwest::Method::DELETE, &path).await, StatusCode::OK, "{}", server.log());
        assert_eq!(status(server, reqwest::Method::GET, &path).await, StatusCode::NOT_FOUND);
    };

    // The log of the database is emptied when it is closed, so that there is no room in it.
    assert!(server.terminate().success());
    server.restart();
    assert!(reserve.exists());
    disk.fill();
    delete(&server, 0).await;
    assert!(!reserve.exists(), "it was needed");

    disk.free();
    upload(&client(), &server.url, [("new.png".to_owned(), picture(count))]).await;
    assert!(reserve.exists(), "there is room for it again");
    assert!(server.terminate().success());
    disk.fill();
    server.restart();
    assert_eq!(status(&server, reqwest::Method::GET, "/results").await, StatusCode::OK);
    for n in 1..count {
        delete(&server, n).await;
    }
    let form = crate::support::form([("more.png".to_owned(), picture(100))]);
    let refused = client().post(&server.url).multipart(form).header("accept", "application/json").send().await.unwrap();
    assert_eq!(refused.status(), StatusCode::INSUFFICIENT_STORAGE, "uploads leave that room alone");
}
