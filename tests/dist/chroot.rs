//! The binary where there is nothing else: no `/etc`, no certificates, no resolver, no home.

use std::{
    ffi::OsStr,
    io::{BufRead, BufReader},
    process::{Child, Command, Stdio},
};

use super::root::{Beside, PROGRAM, Root};
use crate::{
    aws::{emulator, system::System},
    support::{binary, client, eventually, is_shipped, labelled, picture, results, upload},
};

/// Killed when dropped.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// Starts `serve` and answers its address.
fn serve(mut command: Command) -> (Running, String) {
    let mut child = Running(command.stdout(Stdio::piped()).spawn().unwrap());
    let mut line = String::new();
    BufReader::new(child.0.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let url = line.trim().strip_prefix("listening on ").map(str::to_owned);
    (child, url.unwrap_or_else(|| panic!("no address in {line:?}")))
}

fn number(bytes: &[u8]) -> usize {
    bytes.iter().rev().fold(0, |number, byte| number << 8 | usize::from(*byte))
}

/// By its ELF header: it is placed anywhere (PIE), and asks for no interpreter, which is what would load libraries.
#[test]
fn what_is_shipped_is_a_static_pie() {
    const DYNAMIC: usize = 3;
    const INTERPRETER: usize = 3;
    let file = std::fs::read(binary()).unwrap();
    assert_eq!(&file[..4], b"\x7fELF");
    let (headers, size, count) = (number(&file[32..40]), number(&file[54..56]), number(&file[56..58]));
    let has_interpreter = (0..count).any(|n| number(&file[headers + n * size..][..4]) == INTERPRETER);
    assert_eq!(number(&file[16..18]), DYNAMIC);
    assert_eq!(!has_interpreter, is_shipped());
}

#[test]
fn pictures_are_classified_in_an_empty_root() {
    let root = Root::new(Beside::Nothing);
    let name = "3_cat.png";
    let source = std::fs::read_dir(labelled()).unwrap().map(|entry| entry.unwrap().path());
    let source = source.into_iter().find(|path| path.to_string_lossy().ends_with("_cat.png")).unwrap();
    std::fs::copy(source, root.path(name)).unwrap();
    let output = root.imgcls(&["classify", "--json", name], &[]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let line: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(line["label"], "cat");
}

/// Without `/proc`, `/dev` and a network some of it cannot be done. That is told in words, and no thread panics.
#[test]
fn what_cannot_be_done_beside_nothing_is_told() {
    const TOOLS: [(&str, &str); 3] = [
        ("serve --listen localhost:0", "/proc"),
        ("model pull resnet18-imagenet --set=model_mirror=http://nowhere.example:1", "nothing answers"),
        (
            "queue peek --backend=aws --set=aws.bucket=a --set=aws.output_bucket=b \
             --set=aws.queue_url=http://localhost:1/1/q --set=aws.endpoint_url=http://localhost:1",
            "tcp connect error",
        ),
    ];
    let variables = ["XDG_CACHE_HOME=/cache", "AWS_REGION=a", "AWS_ACCESS_KEY_ID=a", "AWS_SECRET_ACCESS_KEY=a"];
    let variables = variables.map(|one| one.split_once('=').unwrap());
    let variables = variables.map(|(name, value)| (OsStr::new(name), OsStr::new(value)));
    // No file, and one as containers without a network have it.
    let roots = [None, Some("search example.com\n")].map(|resolv_conf| {
        let root = Root::new(Beside::Nothing);
        if let Some(text) = resolv_conf {
            std::fs::create_dir_all(root.path("/etc")).unwrap();
            std::fs::write(root.path("/etc/resolv.conf"), text).unwrap();
        }
        root
    });
    let started =
        roots.iter().flat_map(|root| TOOLS.map(|(line, want)| (root, line, want))).map(|(root, line, want)| {
            let words: Vec<&str> = line.split_whitespace().collect();
            let mut command = root.imgcls(&words, &variables);
            (command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap(), line, want)
        });
    // They wait for the network all at the same time.
    for (child, line, want) in started.collect::<Vec<_>>() {
        let output = child.wait_with_output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{line}: {stderr}");
        assert!(stderr.contains(want) && !stderr.contains("panicked"), "{line}: {stderr}");
    }
}

/// Certificates that are named and not there are not replaced by others without a word.
#[test]
fn whom_to_trust_is_not_guessed() {
    let root = Root::new(Beside::Nothing);
    let variables = [("XDG_CACHE_HOME", "/cache"), ("SSL_CERT_FILE", "/roots.pem")];
    let variables = variables.map(|(name, value)| (OsStr::new(name), OsStr::new(value)));
    let output = root.imgcls(&["model", "pull", "resnet18-imagenet"], &variables).output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(1) && stderr.contains("SSL_CERT_FILE is \"/roots.pem\""), "{stderr}");
}

/// The whole system of a laptop, and the health check of a container.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_service_runs_in_a_root_with_a_data_directory() {
    let root = Root::new(Beside::Data);
    let (server, url) = serve(root.imgcls(&["serve", "--listen", "127.0.0.1:0", "--data-dir", "/data"], &[]));
    let client = client();
    let names = (0..5).map(|n| (format!("{n}.png"), picture(n)));
    assert!(upload(&client, &url, names).await.iter().all(|entry| entry["error"].is_null()));
    let all = eventually("five results", async || {
        let all = results(&client, &url).await;
        (all.len() == 5).then_some(all)
    })
    .await;
    assert!(all.iter().all(|result| result["label"].is_string()), "{all:?}");
    let address = url.trim_start_matches("http://").to_owned();
    let health = root.imgcls(&["status", "--ready", "--set", &format!("web.listen={address}")], &[]).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&health.stdout), "ready\n", "{}", String::from_utf8_lossy(&health.stderr));
    drop(server);
    let health = root.imgcls(&["status", "--ready", "--set", &format!("web.listen={address}")], &[]).output().unwrap();
    assert_eq!(health.status.code(), Some(1));
}

/// The command `tool`, in this root and with its own variables only.
fn inside(root: &Root, tool: &Command) -> Command {
    let args: Vec<&str> = tool.get_args().map(|arg| arg.to_str().unwrap()).collect();
    let variables: Vec<_> = tool.get_envs().filter_map(|(name, value)| Some((name, value?))).collect();
    let mut command = root.imgcls(&args, &variables);
    command.env(OsStr::new("IMGCLS_DATA_DIR"), "/data");
    command
}

/// `setup`, the page and a worker on the stores of AWS.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_roles_on_aws_run_in_roots_with_a_data_directory() {
    let endpoint = tokio::task::spawn_blocking(emulator::shared_ministack).await.unwrap();
    let system = System::bare(endpoint, endpoint).await;
    let [web, app] = [(); 2].map(|()| Root::new(Beside::Data));
    let setup = inside(&web, &system.tool(&["setup"])).output().unwrap();
    assert!(setup.status.success(), "{}", String::from_utf8_lossy(&setup.stderr));
    let (_server, url) = serve(inside(&web, &system.tool(&["serve", "--listen", "127.0.0.1:0"])));
    let _worker = Running(inside(&app, &system.tool(&["work"])).spawn().unwrap());
    let pictures: Vec<Vec<u8>> = (0..3).map(picture).collect();
    let files = pictures.iter().enumerate().map(|(n, picture)| (format!("{n}.png"), picture.clone()));
    let client = client();
    assert!(upload(&client, &url, files).await.iter().all(|entry| entry["error"].is_null()));
    let rows = eventually("three rows", async || {
        let rows = system.rows().await;
        (rows.len() == 3).then_some(rows)
    })
    .await;
    let labels: Vec<String> = rows.into_values().map(Result::unwrap).collect();
    assert_eq!(labels, system.labels(&pictures));
    assert!(web.path(PROGRAM).exists() && std::fs::read_dir(web.path("/")).unwrap().count() <= 6);
}
