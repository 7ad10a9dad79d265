//! Files that were written and may not be on disk yet, and how they get there: all that wait, at once.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    thread::{self, ScopedJoinHandle},
};

use parking_lot::Mutex;

use crate::backend::{Error, Result};

/// From so many files on, one sync of the file system is less work than one for each file.
const MANY: usize = 2;

/// Syncs at a time where each file has its own: enough for a disk to join them.
const THREADS: usize = 8;

/// With more bytes in the machine's memory on their way to disks than this, mostly other programs', a sync of the file
/// system would take too long.
const MAX_DIRTY: u64 = 64 << 20;

/// What waits to be synced below one directory.
#[derive(Debug)]
pub(super) struct Unsynced {
    path: PathBuf,
    /// The directory, open from the beginning on: `syncfs` reports what went wrong since.
    root: File,
    /// Whether `syncfs` makes durable what it is told to, and says so.
    can_sync_all: bool,
    waiting: Mutex<Waiting>,
}

#[derive(Debug, Default)]
struct Waiting {
    /// Files with bytes that may not be on disk. They stay open: who closes a file may be told of no error.
    files: Vec<(PathBuf, File)>,
    /// Directories with names that may not be on disk.
    dirs: BTreeSet<PathBuf>,
}

impl Unsynced {
    /// Below `path`, and on its file system.
    pub(super) fn of(path: &Path) -> io::Result<Self> {
        let root = File::open(path)?;
        let can_sync_all = can_sync_all(&root);
        Ok(Self { path: path.to_owned(), root, can_sync_all, waiting: Mutex::default() })
    }

    /// The file's bytes need a sync.
    pub(super) fn bytes(&self, path: &Path, file: File) {
        self.waiting.lock().files.push((path.to_owned(), file));
    }

    /// The file's name needs a sync.
    pub(super) fn name(&self, file: &Path) {
        self.waiting.lock().dirs.extend(file.parent().map(Path::to_owned));
    }

    /// Makes all that waits durable. If it fails, none of it may be relied on.
    pub(super) fn sync(&self) -> Result<()> {
        let Waiting { files, dirs } = std::mem::take(&mut *self.waiting.lock());
        if files.len() >= MANY && self.can_sync_all && dirty_bytes().is_some_and(|bytes| bytes < MAX_DIRTY) {
            return sync_all(&self.root).map_err(|e| Error::from(e).of(&self.path));
        }
        each(&files, |(path, file)| file.sync_data().map_err(|e| Error::from(e).of(path)))?;
        // Names follow bytes: a file that has its name has all of it.
        dirs.iter().try_for_each(|dir| sync_dir(dir).map_err(|e| Error::from(e).of(dir)))
    }
}

/// Makes the names in a directory durable.
pub(super) fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

/// Does the same with each item, several at a time if there are many.
fn each<T: Sync>(items: &[T], work: impl Fn(&T) -> Result<()> + Sync) -> Result<()> {
    let one_by_one = |items: &[T]| items.iter().try_for_each(&work);
    if items.len() < MANY {
        return one_by_one(items);
    }
    thread::scope(|scope| {
        let shares = items.chunks(items.len().div_ceil(THREADS));
        let begin = |share| match thread::Builder::new().spawn_scoped(scope, move || one_by_one(share)) {
            Ok(thread) => Share::Begun(thread),
            // Where there are no more threads, this one does it.
            Err(_) => Share::Done(one_by_one(share)),
        };
        let shares: Vec<_> = shares.map(begin).collect();
        // All of them have ended before the first failure is told.
        shares.into_iter().map(Share::end).collect::<Vec<_>>().into_iter().collect()
    })
}

/// A share of the work.
enum Share<'scope> {
    Begun(ScopedJoinHandle<'scope, Result<()>>),
    Done(Result<()>),
}

impl Share<'_> {
    fn end(self) -> Result<()> {
        match self {
            Self::Begun(thread) => thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
            Self::Done(outcome) => outcome,
        }
    }
}

/// Makes everything on a directory's file system durable.
#[cfg(target_os = "linux")]
fn sync_all(dir: &File) -> io::Result<()> {
    rustix::fs::syncfs(dir)?;
    // Without a journal the disk's own cache was flushed before the last writes; a sync of any file flushes it again.
    dir.sync_all()
}

#[cfg(not(target_os = "linux"))]
fn sync_all(_: &File) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Whether [`sync_all`] can be relied on: on file systems of disks, under Linux 5.17 and later, where `syncfs` returns
/// the errors of all writes before it and its own.
#[cfg(target_os = "linux")]
fn can_sync_all(dir: &File) -> bool {
    /// Of `linux/magic.h`: ext2 to ext4 have one number.
    const FLUSHED: [rustix::fs::FsWord; 2] = [0xef53, 0x5846_5342];
    let Ok(file_system) = rustix::fs::fstatfs(dir) else { return false };
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    FLUSHED.contains(&file_system.f_type) && version(&release).is_some_and(|version| version >= (5, 17))
}

#[cfg(not(target_os = "linux"))]
fn can_sync_all(_: &File) -> bool {
    false
}

/// Major and minor of a kernel's release.
#[cfg(any(test, target_os = "linux"))]
fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

/// Bytes in this machine's memory that wait to be written to some disk, or are being written, if they can be told.
fn dirty_bytes() -> Option<u64> {
    dirty(&fs::read_to_string("/proc/meminfo").ok()?)
}

fn dirty(meminfo: &str) -> Option<u64> {
    let bytes = |key: &str| {
        let kilobytes = meminfo.lines().find_map(|line| line.strip_prefix(key)?.trim().strip_suffix(" kB"))?;
        kilobytes.parse::<u64>().ok()?.checked_mul(1024)
    };
    bytes("Dirty:")?.checked_add(bytes("Writeback:")?)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn files_and_names_are_synced_and_what_is_gone_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let unsynced = |can_sync_all| Unsynced { can_sync_all, ..Unsynced::of(dir.path()).unwrap() };
        for (can_sync_all, count) in [(false, 1), (false, 9), (cfg!(target_os = "linux"), 9)] {
            let unsynced = unsynced(can_sync_all);
            for path in (0..count).map(|i| dir.path().join(i.to_string())) {
                unsynced.bytes(&path, File::create(&path).unwrap());
                unsynced.name(&path);
            }
            unsynced.sync().unwrap();
            assert!(unsynced.waiting.lock().files.is_empty() && unsynced.waiting.lock().dirs.is_empty());
        }
        let unsynced = unsynced(false);
        unsynced.name(&dir.path().join("gone/too"));
        assert!(unsynced.sync().unwrap_err().to_string().contains("gone"));
    }

    #[test]
    fn each_item_has_its_turn_once() {
        for count in 0..37 {
            let items: Vec<(usize, AtomicUsize)> = (0..count).map(|i| (i, AtomicUsize::new(0))).collect();
            let turn = |turns: &AtomicUsize| turns.fetch_add(1, Ordering::Relaxed);
            each(&items, |(_, turns)| {
                turn(turns);
                Ok(())
            })
            .unwrap();
            assert!(items.iter().all(|(_, turns)| turns.load(Ordering::Relaxed) == 1));
            for failing in 0..count {
                let refused = || Err(Error::from(io::Error::other("no")));
                each(&items, |(i, _)| if *i == failing { refused() } else { Ok(()) }).unwrap_err();
            }
        }
    }

    #[test]
    fn reads_what_the_kernel_says() {
        assert_eq!(version("6.1.0-13-amd64"), Some((6, 1)));
        assert_eq!(version("5.10.0"), Some((5, 10)));
        assert_eq!(version("4.14"), Some((4, 14)));
        assert_eq!(version("next"), None);
        assert_eq!(dirty("MemTotal: 1 kB\nDirty:               428 kB\nWriteback: 2 kB\n"), Some(430 << 10));
        assert_eq!(dirty("MemTotal: 1 kB\n"), None);
    }
}
