//! A part of the disk that is kept for what makes room: where others have filled it, SQLite could neither open its files
//! nor delete.

use std::{
    fs::{self, File},
    io,
    path::Path,
};

use crate::private;

/// The file in the data directory.
pub(super) const FILE: &str = "reserve";

/// As much as the log takes before it is written over from its beginning: then deletes need no more of it.
const SIZE: u64 = 16 << 20;

/// Where less is left, the reserve is given up.
const LITTLE: u64 = 4 << 20;

/// Bytes that this user may still write on the disk of `dir`.
pub(super) fn available(dir: &Path) -> io::Result<u64> {
    let disk = rustix::fs::statvfs(dir)?;
    Ok(disk.f_frsize.saturating_mul(disk.f_bavail))
}

/// Keeps the reserve of `dir`, if so much is left beside it. Best effort: not every file system can.
pub(super) fn keep(dir: &Path, beside: u64) {
    let path = dir.join(FILE);
    if path.exists() || !available(dir).is_ok_and(|bytes| bytes >= SIZE + beside) {
        return;
    }
    // One that another process has made meanwhile is as good.
    let Ok(file) = private::writing().create_new(true).open(&path) else { return };
    if let Err(error) = allocate(&file) {
        tracing::debug!(path = %path.display(), %error, "no room is kept for deletes on a full disk");
        fs::remove_file(&path).ok();
    }
}

/// Gives the reserve of `dir` up, if the disk is full: for what opens the directory, or makes room in it.
pub(super) fn give_up(dir: &Path) {
    if available(dir).is_ok_and(|bytes| bytes < LITTLE) && fs::remove_file(dir.join(FILE)).is_ok() {
        tracing::warn!(data_dir = %dir.display(), "the disk is full; what was kept for deletes is used");
    }
}

#[cfg(target_os = "linux")]
fn allocate(file: &File) -> io::Result<()> {
    Ok(rustix::fs::fallocate(file, rustix::fs::FallocateFlags::empty(), 0, SIZE)?)
}

#[cfg(not(target_os = "linux"))]
fn allocate(_: &File) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}
