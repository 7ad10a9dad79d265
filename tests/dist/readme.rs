//! The examples in the papers: every command in a block of `sh` is run, or at least what it is given is taken.

use std::{
    path::Path,
    process::{Command, Stdio},
};

use crate::{
    aws::stack::project,
    support::{Server, imgcls, labelled, picture},
};

/// The papers with examples.
const PAPERS: [&str; 4] = ["README.md", "CONTRIBUTING.md", "SECURITY.md", "config/README.md"];

/// Commands of the binary that need the network or a model that comes from there: only their arguments are checked.
const FETCHING: [&str; 4] = ["model pull", "model import", "train", "serve"];

/// The commands in the blocks of `sh`, without their comments.
fn commands(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut is_inside = false;
    for line in text.lines() {
        if line.starts_with("```") {
            is_inside = line == "```sh";
        } else if is_inside {
            let command = line.split(" #").next().unwrap_or_default().trim();
            found.extend((!command.is_empty()).then(|| command.to_owned()));
        }
    }
    found
}

/// A directory with what the examples name.
fn workplace() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let put = |name: &str, seed: u32| {
        let path = dir.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, picture(seed)).unwrap();
    };
    for (seed, name) in (0..).zip(["a.jpg", "b.png", "new.jpg", "photos/1.jpg", "photos/2.png"]) {
        put(name, seed);
    }
    for entry in std::fs::read_dir(labelled()).unwrap().map(Result::unwrap) {
        std::fs::copy(entry.path(), dir.path().join("photos").join(entry.file_name())).unwrap();
    }
    std::os::unix::fs::symlink(project("config"), dir.path().join("config")).unwrap();
    std::fs::create_dir_all(dir.path().join("assets/charts")).unwrap();
    dir
}

/// Runs a command in `dir`; services are at `url`. What went wrong.
fn run(command: &str, dir: &Path, url: &str) -> Result<(), String> {
    let words: Vec<&str> = command.split_whitespace().collect();
    let program = words[0];
    let arguments = match words[..] {
        ["cargo", "run", "--release", "--", ..] => Some(&words[4..]),
        ["imgcls", ..] => Some(&words[1..]),
        _ => None,
    };
    let mut shell = Command::new("sh");
    shell.current_dir(dir).stdin(Stdio::null()).arg("-c");
    if let Some(arguments) = arguments {
        // In the examples a model may be named that is fetched.
        let spoken = arguments.join(" ");
        let is_fetching = FETCHING.iter().any(|start| spoken.starts_with(start)) || spoken.contains("--model");
        let mut tool = imgcls();
        tool.args(arguments).args(is_fetching.then_some("--help")).current_dir(dir);
        // `-` is standard input: a picture comes from there.
        tool.stdin(std::fs::File::open(dir.join("a.jpg")).unwrap());
        return succeeded(&mut tool);
    }
    match program {
        // Told, not done: targets, variables and what they need are there.
        "make" => {
            let mut make = Command::new("make");
            make.arg("--dry-run").args(&words[1..]).current_dir(project(""));
            // These may be tests of `make test`.
            succeeded(make.env_remove("MAKEFLAGS").env_remove("MAKELEVEL"))
        }
        "curl" => {
            let here = command.replacen("curl ", "curl --silent --show-error --fail --max-time 120 ", 1);
            succeeded(shell.arg(here.replace("http://127.0.0.1:8080", url)))
        }
        _ if project(program).is_file() => succeeded(shell.arg(format!("bash -n '{}'", project(program).display()))),
        _ => Err("nobody knows how to check it".to_owned()),
    }
}

fn succeeded(command: &mut Command) -> Result<(), String> {
    let output = command.output().map_err(|error| error.to_string())?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if output.status.success() { Ok(()) } else { Err(format!("{}{}", text(&output.stdout), text(&output.stderr))) }
}

#[test]
fn the_examples_in_the_papers_work() {
    let dir = workplace();
    let server = Server::start(&["--max-workers", "1"]);
    let has_curl = Command::new("curl").arg("--version").output().is_ok();
    let mut seen = 0;
    for paper in PAPERS {
        for command in commands(&std::fs::read_to_string(project(paper)).unwrap()) {
            if command.starts_with("curl ") && !has_curl {
                println!("there is no curl here; not run: {command}");
                continue;
            }
            if let Err(error) = run(&command, dir.path(), &server.url) {
                panic!("{paper}: `{command}`: {error}");
            }
            seen += 1;
        }
    }
    assert!(seen > 20, "only {seen} commands were found");
}

/// What the papers and the code link to on this machine is there.
#[test]
fn links_of_the_papers_lead_somewhere() {
    for paper in PAPERS.into_iter().chain(["ARCHITECTURE.md", "CHANGELOG.md"]) {
        let text = std::fs::read_to_string(project(paper)).unwrap();
        for link in text.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(link, _)| link) {
            let file = link.split('#').next().unwrap_or_default();
            let is_ours = !file.is_empty() && !file.contains("://");
            let path = project(paper).parent().unwrap().join(file);
            assert!(!is_ours || path.exists(), "{paper} links to {link}");
        }
    }
}
