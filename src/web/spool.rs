//! Uploads in progress: a directory of this process alone, with files that go away with their handles.

use std::{
    fs::{self, File, TryLockError},
    io::{self, Write as _},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use axum::body::Bytes;
use sha2::{Digest as _, Sha256};

use crate::{contract::Digest, model::format, private};

/// So many bytes of a file wait in memory before they are written: small files take one write, large ones few.
const BUFFER_BYTES: usize = 128 << 10;

/// A directory for uploads in progress. Several servers may share the parent directory.
#[derive(Debug)]
pub(crate) struct Spool {
    dir: PathBuf,
    lock_path: PathBuf,
    /// Locked as long as this process lives, so that others can tell a living spool from what a killed server left.
    _lock: File,
    next: AtomicU64,
}

impl Spool {
    /// Makes a spool below `parent` and removes those that killed servers left there.
    pub(crate) fn open(parent: &Path) -> io::Result<Arc<Self>> {
        private::create_dir(parent)?;
        private::restrict(parent)?;
        sweep(parent)?;
        loop {
            let id = format!("{:016x}", rand::random::<u64>());
            let lock_path = parent.join(format!("{id}.lock"));
            let lock = private::writing().create_new(true).open(&lock_path)?;
            match lock.try_lock() {
                Ok(()) => {}
                // Another server that starts now takes it for a leftover: leave it and take another name.
                Err(TryLockError::WouldBlock) => continue,
                Err(TryLockError::Error(error)) => return Err(error),
            }
            let dir = parent.join(id);
            fs::create_dir(&dir)?;
            return Ok(Arc::new(Self { dir, lock_path, _lock: lock, next: AtomicU64::new(0) }));
        }
    }

    /// Fails if nothing can be written to the spool.
    pub(crate) fn check(&self) -> io::Result<()> {
        // A name of its own: another check may be under way.
        let path = self.dir.join(format!("check-{}", self.next.fetch_add(1, Ordering::Relaxed)));
        fs::write(&path, b"writable")?;
        fs::remove_file(path)
    }
}

impl Drop for Spool {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.dir).and_then(|()| fs::remove_file(&self.lock_path)) {
            tracing::debug!(%error, dir = %self.dir.display(), "spool not removed; the next start does");
        }
    }
}

/// Removes the spools whose lock nobody holds.
fn sweep(parent: &Path) -> io::Result<()> {
    for entry in fs::read_dir(parent)? {
        let path = entry?.path();
        if path.extension().is_none_or(|e| e != "lock") {
            continue;
        }
        let Ok(lock) = File::open(&path) else { continue };
        if lock.try_lock().is_ok() {
            match fs::remove_dir_all(path.with_extension("")) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => fs::remove_file(&path)?,
            }
        }
    }
    Ok(())
}

/// A file of the spool, removed on drop if it is still there.
#[derive(Debug)]
struct SpoolFile {
    path: PathBuf,
    /// Keeps the directory as long as it has files.
    _spool: Arc<Spool>,
}

impl Drop for SpoolFile {
    fn drop(&mut self) {
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(%error, path = %self.path.display(), "spooled upload not removed");
            }
            _ => {}
        }
    }
}

/// One upload on its way to the disk, hashed as it goes.
#[derive(Debug)]
pub(crate) struct Writer {
    spool: Arc<Spool>,
    head: Vec<u8>,
    buffer: Vec<u8>,
    disk: Option<Disk>,
    size: u64,
}

/// What is written so far.
#[derive(Debug)]
struct Disk {
    file: File,
    entry: SpoolFile,
    hash: Sha256,
}

/// A whole upload on disk.
#[derive(Debug)]
pub(crate) struct Spooled {
    entry: SpoolFile,
    /// Its length in bytes.
    pub(crate) size: u64,
    /// SHA-256 of its bytes.
    pub(crate) digest: Digest,
}

impl Spooled {
    /// The file.
    pub(crate) fn path(&self) -> &Path {
        &self.entry.path
    }
}

impl Writer {
    /// A writer of nothing so far; the file is made when bytes have to be written.
    pub(crate) fn new(spool: &Arc<Spool>) -> Self {
        Self { spool: Arc::clone(spool), head: Vec::new(), buffer: Vec::new(), disk: None, size: 0 }
    }

    /// How many bytes it has.
    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    /// The first bytes, [`format::HEAD_BYTES`] if there are so many.
    pub(crate) fn head(&self) -> &[u8] {
        &self.head
    }

    /// Takes more bytes; true if [`Self::flush`] is due.
    pub(crate) fn push(&mut self, bytes: &Bytes) -> bool {
        let missing = format::HEAD_BYTES - self.head.len();
        self.head.extend_from_slice(&bytes[..bytes.len().min(missing)]);
        self.buffer.extend_from_slice(bytes);
        self.size += bytes.len() as u64;
        self.buffer.len() >= BUFFER_BYTES
    }

    /// Writes what waits in memory.
    pub(crate) async fn flush(self) -> io::Result<Self> {
        blocking(move || self.flush_blocking()).await
    }

    /// Writes the rest.
    pub(crate) async fn finish(self) -> io::Result<Spooled> {
        blocking(move || {
            let size = self.size;
            let written = self.flush_blocking()?.disk;
            let Disk { entry, hash, .. } = written.ok_or_else(|| io::Error::other("nothing was written"))?;
            Ok(Spooled { entry, size, digest: Digest(hash.finalize().into()) })
        })
        .await
    }

    fn flush_blocking(mut self) -> io::Result<Self> {
        let mut disk = match self.disk.take() {
            Some(disk) => disk,
            None => {
                let path = self.spool.dir.join(self.spool.next.fetch_add(1, Ordering::Relaxed).to_string());
                let file = private::writing().create_new(true).open(&path)?;
                Disk { file, entry: SpoolFile { path, _spool: Arc::clone(&self.spool) }, hash: Sha256::new() }
            }
        };
        disk.file.write_all(&self.buffer)?;
        disk.hash.update(&self.buffer);
        self.buffer.clear();
        self.disk = Some(disk);
        Ok(self)
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn writes_hashes_and_removes() {
        let dir = tempfile::tempdir().unwrap();
        let spool = Spool::open(dir.path()).unwrap();
        spool.check().unwrap();
        let bytes = Bytes::from(vec![7_u8; 300_000]);
        let mut writer = Writer::new(&spool);
        for chunk in bytes.chunks(50_000) {
            if writer.push(&Bytes::copy_from_slice(chunk)) {
                writer = writer.flush().await.unwrap();
            }
        }
        assert_eq!(writer.head(), &bytes[..format::HEAD_BYTES]);
        let spooled = writer.finish().await.unwrap();
        assert_eq!((spooled.size, spooled.digest), (300_000, Digest::of(&bytes)));
        assert_eq!(fs::read(spooled.path()).unwrap(), bytes);
        let path = spooled.path().to_owned();
        drop(spooled);
        assert!(!path.exists());
        drop(spool);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn may_be_checked_many_times_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let spool = Spool::open(dir.path()).unwrap();
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| (0..100).for_each(|_| spool.check().unwrap()));
            }
        });
    }

    #[test]
    fn sweeps_what_a_killed_server_left_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let alive = Spool::open(dir.path()).unwrap();
        fs::create_dir(dir.path().join("dead")).unwrap();
        fs::write(dir.path().join("dead/0"), "x").unwrap();
        fs::write(dir.path().join("dead.lock"), "").unwrap();
        let other = Spool::open(dir.path()).unwrap();
        assert!(!dir.path().join("dead").exists() && !dir.path().join("dead.lock").exists());
        alive.check().unwrap();
        other.check().unwrap();
    }
}
