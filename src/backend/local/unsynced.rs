//! Files that were written and may not be on disk yet, and how they get there: all that wait, at once.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    thread,
};

use parking_lot::Mutex;

use crate::backend::{Error, Result};

/// From so many files on, one sync of the file system is less work than one for each file.
const MANY: usize = 2;

/// Syncs at a time where each file has its own: enough for a disk to join them.
const THREADS: usize = 8;

/// With more unwritten bytes in the machine's memory than this, mostly other programs', a sync of the file system would
/// take too long.
const MAX_DIRTY: u64 = 256 << 20;

/// What waits to be synced in one data directory.
#[derive(Debug)]
pub(super) struct Unsynced {
    /// The data directory, open from the beginning on: `syncfs` reports what went wrong since.
    root: File,
    /// Whether `syncfs` makes durable what it is told to, and says so.
    can_sync_all: bool,
    waiting: Mutex<Waiting>,
}

#[derive(Debug, Default)]
struct Waiting {
    /// Files with bytes that may not be on disk.
    files: Vec<PathBuf>,
    /// Directories with names that may not be on disk.
    dirs: BTreeSet<PathBuf>,
}

impl Unsynced {
    /// Of the data directory `root`.
    pub(super) fn of(root: &Path) -> io::Result<Self> {
        let root = File::open(root)?;
        let can_sync_all = can_sync_all(&root);
        Ok(Self { root, can_sync_all, waiting: Mutex::default() })
    }

    /// The file's bytes need a sync.
    pub(super) fn bytes(&self, file: &Path) {
        self.waiting.lock().files.push(file.to_owned());
    }

    /// The file's name needs a sync.
    pub(super) fn name(&self, file: &Path) {
        self.waiting.lock().dirs.extend(file.parent().map(Path::to_owned));
    }

    /// Makes all that waits durable. If it fails, none of it may be relied on.
    pub(super) fn sync(&self) -> Result<()> {
        let Waiting { files, dirs } = std::mem::take(&mut *self.waiting.lock());
        if files.len() >= MANY && self.can_sync_all && dirty_bytes().is_some_and(|bytes| bytes < MAX_DIRTY) {
            return Ok(sync_all(&self.root)?);
        }
        each(&files, sync_bytes)?;
        // Names follow bytes: a file that has its name has all of it.
        dirs.iter().try_for_each(|dir| sync_dir(dir).map_err(|e| Error::from(e).of(dir)))
    }
}

/// Makes the bytes of a file durable.
pub(super) fn sync_bytes(file: &Path) -> io::Result<()> {
    File::open(file)?.sync_data()
}

/// Makes the names in a directory durable.
pub(super) fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

/// Does the same with each path, several at a time if there are many.
fn each(paths: &[PathBuf], work: impl Fn(&Path) -> io::Result<()> + Sync) -> Result<()> {
    let one_by_one =
        |paths: &[PathBuf]| paths.iter().try_for_each(|path| work(path).map_err(|e| Error::from(e).of(path)));
    if paths.len() < MANY {
        return one_by_one(paths);
    }
    thread::scope(|scope| {
        let shares = paths.chunks(paths.len().div_ceil(THREADS));
        let threads: Vec<_> = shares.map(|share| scope.spawn(move || one_by_one(share))).collect();
        let ends = threads.into_iter().map(|thread| thread.join().unwrap_or_else(|e| std::panic::resume_unwind(e)));
        // All of them have ended before the first failure is told.
        ends.collect::<Vec<_>>().into_iter().collect()
    })
}

/// Makes everything on a directory's file system durable.
#[cfg(target_os = "linux")]
fn sync_all(dir: &File) -> io::Result<()> {
    Ok(rustix::fs::syncfs(dir)?)
}

#[cfg(not(target_os = "linux"))]
fn sync_all(_: &File) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Whether [`sync_all`] can be relied on: on file systems that flush the disk's own cache in it, under Linux 5.8 and
/// later, where it returns the errors of all writes before (`syncfs(2)`).
#[cfg(target_os = "linux")]
fn can_sync_all(dir: &File) -> bool {
    /// Of `linux/magic.h`: ext2 to ext4 have one number.
    const FLUSHED: [rustix::fs::FsWord; 2] = [0xef53, 0x5846_5342];
    let Ok(file_system) = rustix::fs::fstatfs(dir) else { return false };
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    FLUSHED.contains(&file_system.f_type) && version(&release).is_some_and(|version| version >= (5, 8))
}

#[cfg(not(target_os = "linux"))]
fn can_sync_all(_: &File) -> bool {
    false
}

/// Major and minor of a kernel's release.
fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

/// Bytes in this machine's memory that wait to be written to some disk, if they can be told.
fn dirty_bytes() -> Option<u64> {
    dirty(&fs::read_to_string("/proc/meminfo").ok()?)
}

fn dirty(meminfo: &str) -> Option<u64> {
    let kilobytes = meminfo.lines().find_map(|line| line.strip_prefix("Dirty:")?.trim().strip_suffix(" kB"))?;
    Some(kilobytes.parse::<u64>().ok()?.saturating_mul(1024))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn files_and_names_are_synced_and_what_is_gone_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let unsynced = |can_sync_all| Unsynced { can_sync_all, ..Unsynced::of(dir.path()).unwrap() };
        for (can_sync_all, count) in [(false, 1), (false, 9), (true, 9)] {
            let unsynced = unsynced(can_sync_all);
            for path in (0..count).map(|i| dir.path().join(i.to_string())) {
                fs::write(&path, "bytes").unwrap();
                unsynced.bytes(&path);
                unsynced.name(&path);
            }
            unsynced.sync().unwrap();
            assert!(unsynced.waiting.lock().files.is_empty() && unsynced.waiting.lock().dirs.is_empty());
        }
        let unsynced = unsynced(false);
        for gone in ["gone", "gone/too"] {
            unsynced.bytes(&dir.path().join(gone));
            assert!(unsynced.sync().unwrap_err().to_string().contains("gone"));
        }
        unsynced.name(&dir.path().join("gone/too"));
        assert!(unsynced.sync().unwrap_err().to_string().contains("gone"));
    }

    #[test]
    fn each_path_has_its_turn_once() {
        let paths: Vec<PathBuf> = (0..37).map(|i| i.to_string().into()).collect();
        for count in 0..paths.len() {
            let turns: Vec<AtomicUsize> = (0..count).map(|_| AtomicUsize::new(0)).collect();
            let turn = |path: &Path| path.to_str().unwrap().parse::<usize>().unwrap();
            each(&paths[..count], |path| {
                turns[turn(path)].fetch_add(1, Ordering::Relaxed);
                Ok(())
            })
            .unwrap();
            assert!(turns.iter().all(|turns| turns.load(Ordering::Relaxed) == 1));
            for failing in 0..count {
                let refused = |path: &Path| if turn(path) == failing { Err(io::Error::other("no")) } else { Ok(()) };
                each(&paths[..count], refused).unwrap_err();
            }
        }
    }

    #[test]
    fn reads_what_the_kernel_says() {
        assert_eq!(version("6.1.0-13-amd64"), Some((6, 1)));
        assert_eq!(version("5.10.0"), Some((5, 10)));
        assert_eq!(version("4.14"), Some((4, 14)));
        assert_eq!(version("next"), None);
        assert_eq!(dirty("MemTotal: 1 kB\nDirty:               428 kB\nWriteback: 0 kB\n"), Some(428 << 10));
        assert_eq!(dirty("MemTotal: 1 kB\n"), None);
        assert_eq!(dirty_bytes().is_some(), cfg!(target_os = "linux"));
    }
}
