//! Image files, damaged: the real program labels them all under a limit of memory.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use rand::{RngExt, SeedableRng, rngs::StdRng};

use crate::support::binary;

/// Damaged files in a run.
const FILES: usize = 1200;

/// Of the address space; the intact files take 300 MB of it.
const MOST_KIB: u64 = 600 << 10;

fn fixtures(dir: &str) -> Vec<PathBuf> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(dir);
    let mut files: Vec<PathBuf> = fs::read_dir(dir).into_iter().flatten().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

/// One of the ways to damage a file.
fn damaged(rng: &mut StdRng, mut bytes: Vec<u8>, other: &[u8]) -> Vec<u8> {
    // Most of what decides is in the head.
    let place = |rng: &mut StdRng, len: usize| {
        let end = if rng.random_bool(0.6) { len.min(200) } else { len };
        rng.random_range(0..end.max(1))
    };
    for _ in 0..rng.random_range(1..5) {
        let at = place(rng, bytes.len());
        match rng.random_range(0..6) {
            0 => bytes[at] ^= 1 << rng.random_range(0..8),
            1 => bytes[at] = rng.random(),
            2 => {
                let extreme: [u8; 4] =
                    [[0xff; 4], [0; 4], [0x7f, 0xff, 0xff, 0xff], [0, 0, 0xff, 0xff]][rng.random_range(0..4)];
                let end = (at + rng.random_range(1..5)).min(bytes.len());
                bytes[at..end].copy_from_slice(&extreme[..end - at]);
            }
            3 => bytes.truncate(at.max(20)),
            4 => {
                let piece = rng.random_range(0..other.len());
                bytes.splice(at..at, other[piece..(piece + 40).min(other.len())].iter().copied());
            }
            _ => {
                let end = (at + rng.random_range(1..60)).min(bytes.len());
                bytes.drain(at..end);
            }
        }
        if bytes.len() < 20 {
            bytes.resize(20, 0);
        }
    }
    bytes
}

/// Labels the files in `dir`; why that is not as it should be.
fn label(paths: &[PathBuf]) -> Result<(), String> {
    let mut command = Command::new("sh");
    command.args(["-c", &format!("ulimit -v {MOST_KIB}; exec \"$@\""), "sh"]).arg(binary());
    // Each thread's heap reserves addresses, and the bound is on these.
    command.env("MALLOC_ARENA_MAX", "1");
    command.args(["classify", "--json", "--threads", "1", "--max-pixels", "1000000"]).args(paths);
    let output = command.output().map_err(|e| e.to_string())?;
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    if !matches!(output.status.code(), Some(0 | 1)) || stderr.contains("panicked") {
        return Err(format!("it ended with {}: {stderr}", output.status));
    }
    let lines: Vec<serde_json::Value> = stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    if lines.len() != paths.len() {
        return Err(format!("{} files have {} lines", paths.len(), lines.len()));
    }
    let is_told = |line: &serde_json::Value| {
        line["label"].is_string() != line["error"].as_str().is_some_and(|error| error.len() > 10)
    };
    lines.iter().find(|line| !is_told(line)).map_or(Ok(()), |line| Err(line.to_string()))
}

#[test]
fn damaged_files_are_labelled_or_refused_within_bounds() {
    label(&fixtures("images")).unwrap();
    let found = fixtures("damaged");
    if !found.is_empty() {
        label(&found).unwrap();
    }
    let seed = rand::random();
    let mut rng = StdRng::seed_from_u64(seed);
    let originals: Vec<Vec<u8>> = fixtures("images").iter().map(|path| fs::read(path).unwrap()).collect();
    let dir = tempfile::tempdir().unwrap();
    let files: Vec<PathBuf> = (0..FILES)
        .map(|n| {
            let (one, other) = (rng.random_range(0..originals.len()), rng.random_range(0..originals.len()));
            let path = dir.path().join(n.to_string());
            fs::write(&path, damaged(&mut rng, originals[one].clone(), &originals[other])).unwrap();
            path
        })
        .collect();
    let Err(all) = label(&files) else { return };
    // Which ones: these become fixtures.
    let kept = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/damaged");
    fs::create_dir_all(&kept).unwrap();
    let mut bad = Vec::new();
    for file in &files {
        if let Err(why) = label(std::slice::from_ref(file)) {
            let to = kept.join(format!("{seed:x}-{}", file.file_name().unwrap().to_string_lossy()));
            fs::copy(file, &to).unwrap();
            bad.push(format!("{}: {why}", to.display()));
        }
    }
    panic!("together: {all}; alone: {bad:#?}");
}
