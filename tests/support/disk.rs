//! A disk that can be filled.

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::Command,
};

/// A small disk.
#[derive(Debug)]
pub(crate) struct Disk {
    pub(crate) path: PathBuf,
}

impl Disk {
    /// Mounts one of so many MiB at `path`, if this user may.
    pub(crate) fn mount(path: &Path, mib: u64) -> Option<Self> {
        fs::create_dir(path).expect("it is not there yet");
        let options = format!("size={mib}m,mode=700");
        let output = Command::new("mount").args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(path).output();
        match output {
            Ok(output) if output.status.success() => Some(Self { path: path.to_owned() }),
            _ => {
                eprintln!("skipped: full disks, since this user cannot mount a small one");
                None
            }
        }
    }

    fn ballast(&self) -> PathBuf {
        self.path.join("ballast")
    }

    /// Leaves not a byte free.
    pub(crate) fn fill(&self) {
        let mut file = fs::File::create(self.ballast()).expect("a file without bytes can be made");
        for size in [1 << 20, 4096, 1] {
            let block = vec![0x5a; size];
            while file.write_all(&block).is_ok() {}
        }
    }

    pub(crate) fn free(&self) {
        fs::remove_file(self.ballast()).ok();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Lazily, since workers of a killed server take a moment to end.
        Command::new("umount").arg("-l").arg(&self.path).status().ok();
    }
}
