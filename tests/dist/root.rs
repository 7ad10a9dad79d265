//! A root directory of a file system, with the binary in it and nothing else.

use std::{
    ffi::OsStr,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use crate::support::{binary, is_shipped};

/// What there is beside the binary.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Beside {
    /// Nothing.
    Nothing,
    /// This machine's `/proc` and `/dev`, and a directory `/data` to write to.
    Data,
}

/// Where the binary is in it.
pub(super) const PROGRAM: &str = "/imgcls";

/// A directory that is somebody's root; it goes when this is dropped.
#[derive(Debug)]
pub(super) struct Root {
    dir: tempfile::TempDir,
    beside: Beside,
}

impl Root {
    pub(super) fn new(beside: Beside) -> Self {
        let dir = tempfile::tempdir().unwrap();
        put(dir.path(), Path::new(PROGRAM), binary());
        add_libraries(dir.path());
        if beside == Beside::Data {
            for name in ["proc", "dev", "data"] {
                std::fs::create_dir(dir.path().join(name)).unwrap();
            }
        }
        Self { dir, beside }
    }

    /// A file or directory in it, as it is called outside.
    pub(super) fn path(&self, inside: &str) -> PathBuf {
        self.dir.path().join(inside.trim_start_matches('/'))
    }

    /// The binary with these arguments in this root, with no variable but `variables`. Killing the command kills it.
    pub(super) fn imgcls(&self, args: &[&str], variables: &[(&OsStr, &OsStr)]) -> Command {
        const BIND: &str = r#"mount --rbind /proc "$1/proc" && mount --rbind /dev "$1/dev" && exec chroot "$@""#;
        let script = if self.beside == Beside::Data { BIND } else { r#"exec chroot "$@""# };
        let mut command = namespace();
        command.args(["sh", "-c", script, "sh"]).arg(self.dir.path()).arg(PROGRAM).args(args);
        command.envs(variables.iter().copied()).stdin(Stdio::null());
        command
    }
}

/// What runs a command with mounts of its own, and without this process's variables.
pub(super) fn namespace() -> Command {
    let mut command = Command::new("unshare");
    command.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").arg("--mount");
    if !rustix::process::geteuid().is_root() {
        command.arg("--map-root-user");
    }
    command
}

/// Puts the libraries of a binary that needs some into a root. What is shipped needs none.
pub(super) fn add_libraries(root: &Path) {
    if is_shipped() {
        return;
    }
    let output = Command::new("ldd").arg(binary()).output().unwrap();
    // `libc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x…)`, `/lib64/ld-linux-x86-64.so.2 (0x…)`
    for word in String::from_utf8(output.stdout).unwrap().split_whitespace().filter(|word| word.starts_with('/')) {
        put(root, Path::new(word), Path::new(word));
    }
}

/// Copies the file `from` into `root`, where it is called `name`.
fn put(root: &Path, name: &Path, from: &Path) {
    let to = root.join(name.strip_prefix("/").unwrap());
    std::fs::create_dir_all(to.parent().unwrap()).unwrap();
    std::fs::copy(from, to).unwrap();
}
