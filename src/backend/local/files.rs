//! The image files: under random ids, never under names that users gave.

use std::{
    fs::{self, File, TryLockError},
    io::{self, Write as _},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::SystemTime,
};

use super::{
    DATABASE,
    unsynced::{Unsynced, sync_dir},
};
use crate::{
    backend::{Error, ErrorKind, Result},
    private,
};

/// Files in the data directory.
const IMAGES: &str = "images";
const UPLOADS: &str = "uploads";

/// Where the web tier keeps small pictures.
const THUMBNAILS: &str = "thumbnails";
const LOCK: &str = "server.lock";

/// What a data directory holds, but for the files of the database.
const OURS: [&str; 4] = [IMAGES, UPLOADS, THUMBNAILS, LOCK];

/// Uploads leave so many bytes of the disk free: workers, deletes and a reset need room to write, or a full disk could
/// not be cleared.
const HEADROOM: u64 = 32 << 20;

/// So many images go to one directory before the next is used: files that come at the same time share its sync, and lie
/// beside each other on the disk.
const NEIGHBOURS: usize = 64;

/// The directories of one data directory.
#[derive(Debug, Clone)]
pub(super) struct Files {
    root: PathBuf,
    /// How many images were placed, from a random number on.
    placed: Arc<AtomicUsize>,
    unsynced: Arc<Unsynced>,
}

/// Held by the one server of a data directory; released when dropped or when the process ends.
#[derive(Debug)]
pub struct ServerLock {
    _file: File,
    since: SystemTime,
}

impl ServerLock {
    /// When it was taken, by the file system's time.
    pub(super) fn since(&self) -> SystemTime {
        self.since
    }
}

/// A file that is in its place and not yet recorded: removed when dropped, unless it is kept.
#[derive(Debug)]
pub(super) struct Placed {
    pub(super) id: String,
    path: PathBuf,
    kept: bool,
}

impl Placed {
    /// Leaves the file where it is.
    pub(super) fn keep(&mut self) {
        self.kept = true;
    }
}

impl Drop for Placed {
    fn drop(&mut self) {
        if !self.kept {
            remove(&self.path);
        }
    }
}

impl Files {
    /// Creates the directories under `root`, and sees to it that only their owner can read what is in them.
    pub(super) fn create(root: &Path) -> Result<Self> {
        let placed = Arc::new(AtomicUsize::new(rand::random_range(0..256 * NEIGHBOURS)));
        let images = root.join(IMAGES);
        let unsynced = private::create_dir(&images).and_then(|()| Unsynced::of(&images));
        let unsynced = Arc::new(unsynced.map_err(|e| Error::from(e).of(root))?);
        let files = Self { root: root.to_owned(), placed, unsynced };
        files.restrict().map_err(|e| Error::from(e).of(root))?;
        // The last one is there when all are.
        if !images.join("ff").is_dir() {
            for first in 0..=255_u8 {
                fs::create_dir_all(images.join(format!("{first:02x}")))?;
            }
            sync_dir(&images)?;
            sync_dir(root)?;
        }
        Ok(files)
    }

    /// Takes from other users what they may do here. A directory that holds other things too stays as its owner wants
    /// it.
    fn restrict(&self) -> io::Result<()> {
        let names = fs::read_dir(&self.root)?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
        let names = names.collect::<io::Result<Vec<String>>>()?;
        let is_ours = |name: &String| OURS.contains(&name.as_str()) || name.starts_with(DATABASE);
        if names.iter().all(is_ours) {
            private::restrict(&self.root)?;
        }
        // SQLite gives its other files the mode of the database.
        private::writing().create(true).truncate(false).open(self.root.join(DATABASE))?;
        names.iter().filter(|name| is_ours(name)).try_for_each(|name| private::restrict(&self.root.join(name)))
    }

    /// The file with this id.
    pub(super) fn path(&self, id: &str) -> PathBuf {
        let shard = id.get(..2).unwrap_or("00");
        self.root.join(IMAGES).join(shard).join(id)
    }

    /// Refuses another image where the disk has too little room left.
    pub(super) fn check_room(&self) -> Result<()> {
        self.check_available(available(&self.root)?)
    }

    fn check_available(&self, bytes: u64) -> Result<()> {
        if bytes >= HEADROOM {
            return Ok(());
        }
        let message = format!(
            "the disk of the data directory {} has less than {} MiB left; make room, remove images, or empty it with \
             `imgcls reset`",
            self.root.display(),
            HEADROOM >> 20
        );
        Err(Error::new(ErrorKind::Full, message))
    }

    /// Writes an image into its place. Its bytes and its name are on disk after the next [`Self::sync`].
    pub(super) fn write(&self, bytes: &[u8]) -> Result<Placed> {
        let placed = self.place()?;
        let create = || {
            let mut file = private::writing().create_new(true).open(&placed.path)?;
            file.write_all(bytes)?;
            Ok(file)
        };
        let file = create().map_err(|e: io::Error| Error::from(e).of(&placed.path))?;
        self.unsynced.bytes(&placed.path, file);
        self.unsynced.name(&placed.path);
        Ok(placed)
    }

    /// Moves a spooled image into its place. Its bytes are on disk when this returns.
    pub(super) fn adopt(&self, spooled: &Path) -> Result<Placed> {
        let placed = self.place()?;
        File::open(spooled)
            .and_then(|file| file.sync_data())
            .and_then(|()| fs::rename(spooled, &placed.path))
            .map_err(|e| Error::from(e).of(spooled))?;
        Ok(placed)
    }

    /// A place with nothing in it yet.
    fn place(&self) -> Result<Placed> {
        self.check_room()?;
        let shard = self.placed.fetch_add(1, Ordering::Relaxed) / NEIGHBOURS % 256;
        let id = format!("{shard:02x}{}", hex::encode(rand::random::<[u8; 15]>()));
        Ok(Placed { path: self.path(&id), id, kept: false })
    }

    /// Has the next [`Self::sync`] make the name of an adopted image durable.
    pub(super) fn name_unsynced(&self, placed: &Placed) {
        self.unsynced.name(&placed.path);
    }

    /// Makes all images that were written, and all names that were told, durable.
    pub(super) fn sync(&self) -> Result<()> {
        self.unsynced.sync()
    }

    /// Removes the file with this id, if it is there.
    pub(super) fn remove(&self, id: &str) {
        remove(&self.path(id));
    }

    /// Removes the small pictures that a server, perhaps one that runs, has made of images.
    pub(super) fn remove_thumbnails(&self) {
        let entries = fs::read_dir(self.root.join(THUMBNAILS)).into_iter().flatten().flatten();
        entries.for_each(|entry| {
            remove(&entry.path());
        });
    }

    /// Takes the server's lock.
    pub(super) fn lock_server(&self) -> Result<ServerLock> {
        let path = self.root.join(LOCK);
        let file = private::writing().create(true).truncate(false).open(&path)?;
        file.try_lock().map_err(|error| match error {
            TryLockError::WouldBlock => Error::new(
                ErrorKind::Refused,
                format!(
                    "another imgcls serve uses the data directory {}; stop it or choose another --data-dir",
                    self.root.display()
                ),
            ),
            TryLockError::Error(error) => Error::from(error).of(&path),
        })?;
        // The file system's own time, to compare with that of other files.
        file.set_len(0)?;
        file.set_modified(SystemTime::now())?;
        let since = file.metadata()?.modified()?;
        Ok(ServerLock { _file: file, since })
    }

    /// Removes the image files that `is_known` does not know. Files that came after `since` are left alone. Answers how
    /// many files went.
    pub(super) fn sweep(&self, since: SystemTime, mut is_known: impl FnMut(&str) -> Result<bool>) -> Result<u64> {
        let mut removed = 0;
        let is_old =
            |entry: &fs::DirEntry| entry.metadata().and_then(|m| m.modified()).is_ok_and(|modified| modified < since);
        for shard in fs::read_dir(self.root.join(IMAGES))?.flatten() {
            for entry in fs::read_dir(shard.path())?.flatten() {
                let name = entry.file_name();
                if is_old(&entry) && !is_known(&name.to_string_lossy())? {
                    removed += u64::from(remove(&entry.path()));
                }
            }
        }
        Ok(removed)
    }
}

/// Best effort: what cannot be removed is swept later. True if it went.
fn remove(path: &Path) -> bool {
    match fs::remove_file(path) {
        Ok(()) => true,
        Err(error) if error.kind() == io::ErrorKind::NotFound => false,
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "cannot remove a file; it is removed at the next start");
            false
        }
    }
}

/// Bytes that this user may still write on the disk of `dir`.
fn available(dir: &Path) -> io::Result<u64> {
    let disk = rustix::fs::statvfs(dir)?;
    Ok(disk.f_frsize.saturating_mul(disk.f_bavail))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn uploads_leave_room() {
        let dir = tempfile::tempdir().unwrap();
        let files = Files::create(dir.path()).unwrap();
        files.check_available(HEADROOM).unwrap();
        let error = files.check_available(HEADROOM - 1).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Full);
        assert!(error.to_string().contains(dir.path().to_str().unwrap()), "{error}");
    }

    #[test]
    fn a_directory_has_one_server() {
        let dir = tempfile::tempdir().unwrap();
        let files = Files::create(dir.path()).unwrap();
        let lock = files.lock_server().unwrap();
        let error = files.lock_server().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Refused);
        assert!(error.to_string().contains("another imgcls serve"), "{error}");
        drop(lock);
        files.lock_server().unwrap();
    }

    #[test]
    fn what_nobody_knows_is_swept() {
        let dir = tempfile::tempdir().unwrap();
        let files = Files::create(dir.path()).unwrap();
        let place = |name: &'static str| {
            let (path, bytes) = (dir.path().join(name), name.as_bytes());
            fs::write(&path, name).unwrap();
            let [placed, moved] = [files.write(bytes), files.adopt(&path)].map(Result::unwrap);
            assert_eq!([&placed.path, &moved.path].map(|path| fs::read(path).unwrap()), [bytes, bytes]);
            let moved_path = moved.path.clone();
            drop(moved);
            assert!(!moved_path.exists());
            placed
        };
        let mut placed = ["known", "orphan", "fresh"].map(place);
        let lock = files.lock_server().unwrap();
        let (before, after) = (lock.since() - Duration::from_secs(5), lock.since() + Duration::from_secs(5));
        for (file, modified) in placed.iter_mut().zip([before, before, after]) {
            file.keep();
            File::options().write(true).open(&file.path).unwrap().set_modified(modified).unwrap();
        }
        assert_eq!(files.sweep(lock.since(), |id| Ok(id == placed[0].id)).unwrap(), 1);
        assert_eq!(placed.each_ref().map(|file| file.path.exists()), [true, false, true]);
    }
}
