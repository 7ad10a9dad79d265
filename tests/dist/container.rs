//! The container's image, built without a daemon by buildah, and run as its runtime would: as nobody, on a root that is
//! read-only.

use std::{
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use serde_json::Value;

use super::root::{add_libraries, namespace};
use crate::{
    aws::stack::{project, succeed},
    support::{binary, client, eventually, form, is_shipped, picture},
};

/// What an image may have, in bytes.
const MOST: u64 = 60_000_000;

/// Images and containers of this test alone.
struct Store(PathBuf);

impl Store {
    fn buildah(&self, arguments: &[&str]) -> String {
        let mut command = Command::new("buildah");
        command.arg("--root").arg(self.0.join("images")).arg("--runroot").arg(self.0.join("run"));
        succeed(command.args(["--storage-driver", "vfs"]).args(arguments)).trim().to_owned()
    }
}

/// Builds `imgcls:test` as `make container` does, and answers its configuration.
fn build(store: &Store) -> Value {
    let context = store.0.join("context");
    std::fs::create_dir_all(context.join("data")).unwrap();
    std::fs::copy(binary(), context.join("imgcls")).unwrap();
    let file = project("config/container/Containerfile");
    let build = ["build", "--isolation=chroot", "--format=docker", "--timestamp=0", "--tag=imgcls:test", "--file"];
    store.buildah(&[&build[..], &[file.to_str().unwrap(), context.to_str().unwrap()]].concat());
    let image: Value = serde_json::from_str(&store.buildah(&["inspect", "--type=image", "imgcls:test"])).unwrap();
    image["Docker"]["config"].clone()
}

fn strings(list: &Value) -> Vec<String> {
    list.as_array().unwrap().iter().map(|word| word.as_str().unwrap().to_owned()).collect()
}

fn size(dir: &Path) -> u64 {
    let entries = std::fs::read_dir(dir).unwrap().map(Result::unwrap);
    entries.map(|e| if e.file_type().unwrap().is_dir() { size(&e.path()) } else { e.metadata().unwrap().len() }).sum()
}

/// A command of the image in its root, which is read-only but for the volume, as the image's user and with its
/// variables.
fn run(config: &Value, root: &Path, volume: &Path, words: &[String], variables: &[(&str, &str)]) -> Command {
    const SCRIPT: &str = r#"root=$1 volume=$2 user=$3; shift 3
        mount --bind "$root" "$root" && mount -o remount,bind,ro "$root" &&
        mount --rbind /proc "$root/proc" && mount --rbind /dev "$root/dev" && mount --bind "$volume" "$root/data" &&
        exec chroot --userspec="$user" --groups= "$root" "$@""#;
    let mut command = namespace();
    command.args(["sh", "-c", SCRIPT, "sh"]).args([root, volume]).arg(config["User"].as_str().unwrap()).args(words);
    for variable in strings(&config["Env"]) {
        let (name, value) = variable.split_once('=').unwrap();
        // The image's search path is for what is in the image: nothing.
        if name != "PATH" {
            command.env(name, value);
        }
    }
    command.envs(variables.iter().copied()).stdin(Stdio::null());
    command
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_container_serves_as_nobody_on_a_read_only_root() {
    let is_root = rustix::process::geteuid().is_root();
    if !is_root || Command::new("buildah").arg("--version").output().is_err() {
        println!("this needs root and buildah; nothing was checked");
        return;
    }
    let temp = tempfile::tempdir().unwrap();
    let store = Store(temp.path().to_owned());
    let config = build(&store);
    let container = store.buildah(&["from", "imgcls:test"]);
    let root = PathBuf::from(store.buildah(&["mount", &container]));
    let mut names: Vec<_> = std::fs::read_dir(&root).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["data", "imgcls"], "nothing else is in it");
    println!("the container has {} bytes", size(&root));
    assert!(!is_shipped() || size(&root) < MOST, "{} bytes", size(&root));

    // What the runtime does: mount points, and a volume that begins as the image has it.
    for name in ["proc", "dev"] {
        std::fs::create_dir(root.join(name)).unwrap();
    }
    add_libraries(&root);
    let volume = temp.path().join("volume");
    succeed(Command::new("cp").arg("-a").arg(root.join("data")).arg(&volume));
    let words = [strings(&config["Entrypoint"]), strings(&config["Cmd"])].concat();
    let variables = [("IMGCLS_WEB_TOKEN", "secret"), ("IMGCLS_WEB_LISTEN", "0.0.0.0:0")];
    let mut server = run(&config, &root, &volume, &words, &variables).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(server.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let address = line.trim().strip_prefix("listening on http://").unwrap_or_else(|| panic!("no address in {line:?}"));
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.id())).unwrap();
    assert!(status.contains("Uid:\t65532\t65532"), "{status}");

    let check = strings(&config["Healthcheck"]["Test"]);
    assert_eq!(check[0], "CMD");
    let healthy = || run(&config, &root, &volume, &check[1..], &[("IMGCLS_WEB_LISTEN", address)]).output().unwrap();
    let client = client();
    let url = format!("http://127.0.0.1:{}", address.rsplit_once(':').unwrap().1);
    let file = form([("a.png".to_owned(), picture(1))]);
    let answer = client.post(format!("{url}/classify")).bearer_auth("secret").multipart(file).send().await.unwrap();
    let label = answer.text().await.unwrap();
    assert!(include_str!("../../assets/model/labels.txt").lines().any(|known| known == label.trim()), "{label}");
    eventually("a healthy container", async || healthy().status.success().then_some(())).await;
    server.kill().unwrap();
    server.wait().unwrap();
    assert_eq!(healthy().status.code(), Some(1));
    store.buildah(&["umount", &container]);
}
