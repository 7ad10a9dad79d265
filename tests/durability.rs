//! What is acknowledged is on the disk, seen by the order of the server's system calls.

use std::{
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
};

use crate::support::{client, eventually, form, imgcls, picture};

/// The calls that make something durable, and those that can answer.
const CALLS: &str = "trace=fsync,fdatasync,rename,renameat,renameat2,pwrite64,write,writev,sendto,sendmsg";

/// Where one call is in the trace: the lines of its beginning and its end, which differ where another thread's calls
/// came between.
#[derive(Debug)]
struct Call {
    begins: usize,
    ends: usize,
    /// Name and arguments.
    text: String,
}

/// The calls in a trace, in the order of their beginnings.
fn calls(trace: &str) -> Vec<Call> {
    let mut calls: Vec<Call> = Vec::new();
    for (line, text) in trace.lines().enumerate() {
        let Some((thread, text)) = text.split_once(char::is_whitespace) else { continue };
        let (thread, text) = (format!("{thread} "), text.trim_start());
        if let Some(resumed) = text.strip_prefix("<... ") {
            let name = resumed.split(' ').next().unwrap_or_default();
            let open = calls
                .iter_mut()
                .rev()
                .find(|c| c.ends == usize::MAX && c.text.starts_with(&format!("{thread}{name}(")));
            if let Some(open) = open {
                open.ends = line;
            }
        } else {
            let ends = if text.ends_with("<unfinished ...>") { usize::MAX } else { line };
            calls.push(Call { begins: line, ends, text: thread + text });
        }
    }
    calls
}

/// A server that runs under `strace`; killed when dropped.
struct Traced(Child);

impl Traced {
    fn start(dir: &Path, trace: &Path) -> (Self, String) {
        let binary = imgcls();
        // The tracer is a process of its own (`-D`), so that the server can be killed, and shows whole pages of the
        // database.
        let mut child = Command::new("strace")
            .args(["-D", "-f", "-y", "-s", "8192", "-e", CALLS, "-o"])
            .arg(trace)
            .arg(binary.get_program())
            .args(["serve", "--listen", "127.0.0.1:0", "--set", "fleet.supervise=false", "--data-dir"])
            .arg(dir)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let url = line.trim().strip_prefix("listening on ").map(str::to_owned);
        (Self(child), url.unwrap_or_else(|| panic!("no address in {line:?}; may processes be traced here?")))
    }
}

impl Drop for Traced {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_is_on_disk_before_the_first_byte_of_its_answer() {
    if Command::new("strace").arg("-V").stdout(Stdio::null()).status().is_err() {
        eprintln!("skipped: strace is not installed, and it is what shows the order of system calls");
        return;
    }
    // One that is written from memory, and one that is spooled and moved.
    let small = picture(1);
    let large = [small.as_slice(), &[0; 200_000]].concat();
    for (bytes, is_moved) in [(small, false), (large, true)] {
        is_on_disk_before_its_answer(bytes, is_moved).await;
    }
}

async fn is_on_disk_before_its_answer(bytes: Vec<u8>, is_moved: bool) {
    let temp = tempfile::tempdir().unwrap();
    let (data, trace) = (temp.path().join("data"), temp.path().join("trace"));
    let (server, url) = Traced::start(&data, &trace);
    let name = "a-name-that-is-nowhere-else.png";
    let answer = client()
        .post(format!("{url}/"))
        .header("accept", "application/json")
        .multipart(form([(name.to_owned(), bytes)]))
        .send()
        .await
        .unwrap();
    assert_eq!(answer.status(), 200);
    drop(server);
    let trace = eventually("the end of the trace", async || {
        std::fs::read_to_string(&trace).ok().filter(|text| text.contains("+++ killed by SIGKILL"))
    })
    .await;

    let calls = calls(&trace);
    let answers = |call: &&Call| call.text.contains("socket:[") || call.text.contains("TCP:");
    let answer = calls.iter().filter(answers).find(|call| call.text.contains("HTTP/1.1 200")).expect("an answer");
    let find = |what: &str, is: &dyn Fn(&Call) -> bool| {
        let found = calls.iter().rfind(|call| call.begins < answer.begins && is(call));
        found.unwrap_or_else(|| panic!("no {what} before the answer:\n{trace}"))
    };
    let is_sync = |call: &Call| call.text.contains(" fsync(") || call.text.contains(" fdatasync(");
    let written = find("record in the database's log", &|call| {
        call.text.contains(" pwrite64(") && call.text.contains("imgcls.db-wal") && call.text.contains(name)
    });
    let committed =
        find("commit", &|call| is_sync(call) && call.text.contains("imgcls.db-wal") && call.begins > written.ends);
    let images = data.join("images").display().to_string();
    // The bytes, then their name, then the record that names them, then the answer.
    let mut order = Vec::new();
    let shard = if is_moved {
        let moved = find("rename of the image", &|call| call.text.contains(" rename") && call.text.contains(&images));
        let spooled = moved.text.split('"').nth(1).unwrap();
        order.extend([find("sync of the image's bytes", &|call| is_sync(call) && call.text.contains(spooled)), moved]);
        Path::new(moved.text.split('"').nth(3).unwrap()).parent().unwrap().display().to_string()
    } else {
        let is_file = |call: &Call| call.text.split_once(&format!("<{images}/")).is_some_and(|(_, p)| p.contains('/'));
        let synced = find("sync of the image's bytes", &|call| is_sync(call) && is_file(call));
        order.push(synced);
        let shard = synced.text.split_once(&format!("<{images}/")).unwrap().1.split('/').next().unwrap();
        format!("{images}/{shard}")
    };
    let named = order.last().unwrap().ends;
    order.push(find("sync of the image's directory", &|call| {
        is_sync(call) && call.text.contains(&format!("<{shard}>")) && call.begins > named
    }));
    order.extend([written, committed, answer]);
    assert!(order.windows(2).all(|pair| pair[0].ends < pair[1].begins), "{order:#?}");
}
