//! What is acknowledged is on the disk, seen by the order of the server's system calls.

use std::{
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
};

use crate::support::{client, eventually, form, imgcls, picture};

/// The calls that make something durable, and those that can answer.
const CALLS: &str = "trace=fsync,fdatasync,syncfs,rename,renameat,renameat2,pwrite64,write,writev,sendto,sendmsg";

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
    // One that is written from memory, many that share their sync where the file system has one for all, and one that is
    // spooled and moved.
    let small = |i: u32| (format!("{i}.png"), picture(i));
    let large = ("large.png".to_owned(), [picture(0).as_slice(), &[0; 200_000]].concat());
    for files in [vec![small(0)], (0..24).map(small).collect(), vec![large]] {
        are_on_disk_before_their_answer(files).await;
    }
}

async fn are_on_disk_before_their_answer(files: Vec<(String, Vec<u8>)>) {
    let temp = tempfile::tempdir().unwrap();
    let (data, trace) = (temp.path().join("data"), temp.path().join("trace"));
    let (server, url) = Traced::start(&data, &trace);
    let count = files.len();
    let answer = client()
        .post(format!("{url}/"))
        .header("accept", "application/json")
        .multipart(form(files))
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
    // The first call between two others that is one of these.
    let between = |from: &Call, to: &Call, what: &str, is: &dyn Fn(&Call) -> bool| {
        let found = calls.iter().find(|call| call.begins > from.ends && call.ends < to.begins && is(call));
        found.unwrap_or_else(|| panic!("no {what} between {from:?} and {to:?}:\n{trace}"))
    };
    let is_sync = |call: &Call, of: &str| {
        let of_file = call.text.contains(" fsync(") || call.text.contains(" fdatasync(");
        of_file && call.text.contains(&format!("<{of}>"))
    };
    let images = data.join("images").display().to_string();
    let is_sync_of_all = |call: &Call| call.text.contains(" syncfs(") && call.text.contains(&format!("<{images}>"));

    let places = placed(&calls, &images);
    assert_eq!(places.len(), count, "{places:?}");
    for (place, path) in places {
        let (shard, id) = path.rsplit_once('/').unwrap();
        // The bytes and their name, then the record that names them, then the answer.
        let record = between(place, answer, "record in the database's log", &|call| {
            call.text.contains(" pwrite64(") && call.text.contains("imgcls.db-wal") && call.text.contains(id)
        });
        let named =
            between(place, record, "sync of the image's name", &|call| is_sync(call, shard) || is_sync_of_all(call));
        if is_sync_of_all(named) {
            between(named, record, "flush after the sync of all", &|call| is_sync(call, &images));
        }
        match place.text.split('"').next() {
            Some(call) if call.contains(" rename") => {
                let spooled = place.text.split('"').nth(1).unwrap();
                between(&calls[0], place, "sync of the image's bytes", &|call| is_sync(call, spooled));
            }
            _ => {
                between(place, record, "sync of the image's bytes", &|call| {
                    is_sync(call, &path) || is_sync_of_all(call)
                });
            }
        }
        let wal = data.join("imgcls.db-wal").display().to_string();
        between(record, answer, "commit", &|call| is_sync(call, &wal));
    }
}

/// The calls that put an image where it stays, a write or a rename, and the path it has there.
fn placed<'a>(calls: &'a [Call], images: &str) -> Vec<(&'a Call, String)> {
    let path = |call: &Call| {
        if call.text.contains(" rename") {
            return call.text.split('"').nth(3).map(str::to_owned);
        }
        let written = [" write(", " writev("].iter().any(|name| call.text.contains(name));
        let path = call.text.split_once('<').and_then(|(_, rest)| rest.split_once('>'));
        path.filter(|_| written).map(|(path, _)| path.to_owned())
    };
    let in_shard = |path: &String| path.strip_prefix(images).is_some_and(|rest| rest.matches('/').count() == 2);
    calls.iter().filter_map(|call| Some((call, path(call).filter(in_shard)?))).collect()
}
