//! Uploads in progress: small ones in memory, others in a directory of this process alone, with files that go away with
//! their handles.

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

use crate::{backend::UploadBytes, contract::Digest, model::format, private};

/// So many bytes of a file wait in memory before they are written: small files need no spool, large ones few writes.
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
    hash: Sha256,
    disk: Option<Disk>,
    size: u64,
}

/// What is written so far.
#[derive(Debug)]
struct Disk {
    file: File,
    entry: SpoolFile,
}

/// A whole upload.
#[derive(Debug)]
pub(crate) struct Spooled {
    whole: Whole,
    /// Its length in bytes.
    pub(crate) size: u64,
    /// SHA-256 of its bytes.
    pub(crate) digest: Digest,
}

#[derive(Debug)]
enum Whole {
    Memory(Bytes),
    File(SpoolFile),
}

impl Spooled {
    /// Where its bytes are. A file is there as long as this one lives.
    pub(crate) fn bytes(&self) -> UploadBytes {
        match &self.whole {
            Whole::Memory(bytes) => UploadBytes::Memory(bytes.clone()),
            Whole::File(entry) => UploadBytes::File(entry.path.clone()),
        }
    }
}

impl Writer {
    /// A writer of nothing so far; the file is made when bytes have to be written.
    pub(crate) fn new(spool: &Arc<Spool>) -> Self {
        let (head, buffer, hash) = (Vec::new(), Vec::new(), Sha256::new());
        Self { spool: Arc::clone(spool), head, buffer, hash, disk: None, size: 0 }
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
        self.hash.update(bytes);
        self.size += bytes.len() as u64;
        self.buffer.len() >= BUFFER_BYTES
    }

    /// Writes what waits in memory.
    pub(crate) async fn flush(self) -> io::Result<Self> {
        blocking(move || self.flush_blocking()).await
    }

    /// Writes the rest of what is in the spool; what is not stays in memory.
    pub(crate) async fn finish(self) -> io::Result<Spooled> {
        let Self { size, hash, buffer, disk, .. } = self;
        let whole = match disk {
            None => Whole::Memory(buffer.into()),
            Some(mut disk) => {
                blocking(move || {
                    disk.file.write_all(&buffer)?;
                    Ok(Whole::File(disk.entry))
                })
                .await?
            }
        };
        Ok(Spooled { whole, size, digest: Digest(hash.finalize().into()) })
    }

    fn flush_blocking(mut self) -> io::Result<Self> {
        let disk = match &mut self.disk {
            Some(disk) => disk,
            none => {
                let path = self.spool.dir.join(self.spool.next.fetch_add(1, Ordering::Relaxed).to_string());
                let file = private::writing().create_new(true).open(&path)?;
                none.insert(Disk { file, entry: SpoolFile { path, _spool: Arc::clone(&self.spool) } })
            }
        };
        disk.file.write_all(&self.buffer)?;
        self.buffer.clear();
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
        let UploadBytes::File(path) = spooled.bytes() else { panic!("it is in memory") };
        assert_eq!(fs::read(&path).unwrap(), bytes);
        drop(spooled);
        assert!(!path.exists());

        let small = bytes.slice(..BUFFER_BYTES - 1);
        let mut writer = Writer::new(&spool);
        assert!(!writer.push(&small));
        let kept = writer.finish().await.unwrap();
        assert!(matches!(kept.bytes(), UploadBytes::Memory(bytes) if bytes == small));
        assert_eq!((kept.size, kept.digest), (small.len() as u64, Digest::of(&small)));
        assert_eq!(fs::read_dir(&spool.dir).unwrap().count(), 0);
        drop((kept, spool));
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
