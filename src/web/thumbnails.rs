//! Small pictures of stored images: made when one is first asked for, and kept on this machine's disk.

use std::{
    collections::HashMap,
    fs, io,
    num::NonZero,
    path::{Path, PathBuf},
    slice,
    sync::Arc,
    thread,
    time::Duration,
};

use axum::{
    http::{HeaderMap, HeaderValue, StatusCode, Uri, header},
    response::{IntoResponse, Response},
};
use headers::CacheControl;
use parking_lot::Mutex;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    task::spawn_blocking,
    time::timeout,
};

use super::{
    App, ask,
    error::{Error, Result},
    etag, outgoing,
    params::parameters,
    see_through,
};
use crate::{
    contract::{Classification, Digest, ImageName},
    model::{self, DecodeError, Limits},
    private,
};

/// Sizes that can be asked for: pixels along the longer side.
const SIZES: [u32; 3] = [64, 128, 256];

/// So many bytes of them are kept; what has not been used for longest goes first.
const MAX_BYTES: u64 = 256 << 20;

/// Memory in which they are made, in KiB: of one that takes much, or of several.
const MEMORY_KIB: u32 = 256 << 10;

/// How long a browser keeps what does not change.
const A_YEAR: Duration = Duration::from_secs(365 * 24 * 3600);

/// A thumbnail that is asked for.
#[derive(Debug)]
pub(crate) struct Wanted {
    /// One of [`SIZES`].
    size: u32,
    /// The [`version`] that the page knows. While it is the row's, an answer may be kept for ever: the page asks for
    /// another when the image is another.
    version: Option<String>,
}

impl Wanted {
    /// What follows an image's address. `None` asks for the image itself.
    ///
    /// # Errors
    /// 400 for other parameters, and for a size that there is not.
    pub(crate) fn new(uri: &Uri) -> Result<Option<Self>> {
        let [size, version] = parameters(uri, ["size", "v"])?;
        if size.is_empty() {
            return Ok(None);
        }
        let known = size.parse().ok().filter(|size| SIZES.contains(size));
        let size = known.ok_or_else(|| Error::bad_request("size must be 64, 128 or 256 pixels"))?;
        Ok(Some(Self { size, version: Some(version).filter(|v| !v.is_empty()) }))
    }
}

/// Names what a row is about: other bytes under the same name come with another row.
pub(crate) fn version(row: &Classification) -> String {
    let sequencer = row.sequencer.as_ref().map_or("", |s| s.as_str());
    Digest::of(format!("{sequencer} {}", row.classified_at_text()).as_bytes()).to_hex()[..16].to_owned()
}

/// Thumbnails on disk. Copies only: losing some costs time, no more.
#[derive(Debug)]
pub(crate) struct Thumbnails {
    dir: PathBuf,
    max_bytes: u64,
    /// One permit for each that is being made.
    pub(super) making: Arc<Semaphore>,
    /// Memory for these, in KiB.
    pub(super) memory: Arc<Semaphore>,
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    files: HashMap<String, File>,
    bytes: u64,
    uses: u64,
}

#[derive(Debug)]
struct File {
    bytes: u64,
    /// [`Kept::uses`] when it was last used.
    used: u64,
}

impl Kept {
    fn add(&mut self, key: String, bytes: u64) {
        self.uses += 1;
        if let Some(former) = self.files.insert(key, File { bytes, used: self.uses }) {
            self.bytes -= former.bytes;
        }
        self.bytes += bytes;
    }

    fn remove(&mut self, key: &str) {
        if let Some(file) = self.files.remove(key) {
            self.bytes -= file.bytes;
        }
    }

    /// Removes what has not been used for longest, down to nine tenths of `max_bytes` so that it need not be done each
    /// time.
    fn shrink(&mut self, max_bytes: u64) -> Vec<String> {
        if self.bytes <= max_bytes {
            return Vec::new();
        }
        let mut by_use: Vec<_> = self.files.iter().map(|(key, file)| (file.used, key.clone())).collect();
        by_use.sort_unstable();
        let mut gone = Vec::new();
        for (_, key) in by_use {
            if self.bytes <= max_bytes / 10 * 9 {
                break;
            }
            self.remove(&key);
            gone.push(key);
        }
        gone
    }
}

impl Thumbnails {
    /// Those kept in `dir`, which is made if need be.
    pub(crate) fn open(dir: &Path) -> io::Result<Self> {
        Self::with_limit(dir, MAX_BYTES)
    }

    fn with_limit(dir: &Path, max_bytes: u64) -> io::Result<Self> {
        private::create_dir(dir)?;
        private::restrict(dir)?;
        let mut found = Vec::new();
        for entry in fs::read_dir(dir)? {
            let (entry, data) = entry.and_then(|entry| Ok((entry.file_name(), entry.metadata()?)))?;
            let key = entry.to_string_lossy().into_owned();
            if key.ends_with(".jpg") {
                found.push((data.modified()?, key, data.len()));
            } else {
                // Cut off while it was written.
                fs::remove_file(dir.join(entry))?;
            }
        }
        found.sort_unstable();
        let mut kept = Kept::default();
        found.into_iter().for_each(|(_, key, bytes)| kept.add(key, bytes));
        // Half of the cores: the other half answers, and labels on a machine that does both.
        let cores = thread::available_parallelism().map_or(1, NonZero::get);
        let making = Arc::new(Semaphore::new((cores / 2).clamp(1, 4)));
        let memory = Arc::new(Semaphore::new(MEMORY_KIB as usize));
        Ok(Self { dir: dir.to_owned(), max_bytes, making, memory, kept: Mutex::new(kept) })
    }

    fn kept<T>(&self, f: impl FnOnce(&mut Kept) -> T) -> T {
        f(&mut self.kept.lock())
    }

    /// A kept thumbnail.
    fn read(&self, key: &str) -> Option<Vec<u8>> {
        self.kept(|kept| {
            kept.uses += 1;
            let uses = kept.uses;
            kept.files.get_mut(key).map(|file| file.used = uses)
        })?;
        // Files are not flushed, so a power cut may leave half of one.
        let whole = |bytes: &Vec<u8>| bytes.starts_with(&[0xff, 0xd8]) && bytes.ends_with(&[0xff, 0xd9]);
        let bytes = fs::read(self.dir.join(key)).ok().filter(whole);
        if bytes.is_none() {
            self.kept(|kept| kept.remove(key));
        }
        bytes
    }

    /// Waits for so many bytes of memory. What takes more than all of it has it alone.
    async fn room(&self, bytes: u64) -> Result<OwnedSemaphorePermit> {
        let kib = u32::try_from(bytes.div_ceil(1024)).unwrap_or(u32::MAX).min(MEMORY_KIB);
        let room = timeout(outgoing::PATIENCE, Arc::clone(&self.memory).acquire_many_owned(kib)).await;
        room.ok().and_then(Result::ok).ok_or_else(too_many)
    }

    /// Keeps a thumbnail.
    fn write(&self, key: &str, bytes: &[u8]) -> io::Result<()> {
        let part = self.dir.join(format!("{key}.{:016x}", rand::random::<u64>()));
        let placed = fs::write(&part, bytes).and_then(|()| fs::rename(&part, self.dir.join(key)));
        if let Err(error) = placed {
            // A full disk takes half of a file, which nobody would count.
            remove(&part);
            return Err(error);
        }
        let gone = self.kept(|kept| {
            kept.add(key.to_owned(), bytes.len() as u64);
            kept.shrink(self.max_bytes)
        });
        gone.iter().for_each(|key| remove(&self.dir.join(key)));
        Ok(())
    }

    /// The thumbnail with this key, or a new one of the image, which is kept.
    fn of(&self, image: &[u8], key: &str, size: u32, limits: &Limits) -> Result<Vec<u8>, DecodeError> {
        if let Some(kept) = self.read(key) {
            return Ok(kept);
        }
        let made = model::thumbnail(image, limits, size)?;
        // A full disk is no reason to show nothing.
        if let Err(error) = self.write(key, &made) {
            tracing::warn!(%error, "a thumbnail cannot be kept");
        }
        Ok(made)
    }

    /// Removes the thumbnails of an image that is gone, or of all. A few small files: no need to leave the thread for
    /// it.
    pub(crate) fn forget(&self, image: Option<&ImageName>) {
        let prefix = image.map(prefix).unwrap_or_default();
        let gone: Vec<String> = self.kept(|kept| {
            let gone: Vec<_> = kept.files.keys().filter(|key| key.starts_with(&prefix)).cloned().collect();
            gone.iter().for_each(|key| kept.remove(key));
            gone
        });
        gone.iter().for_each(|key| remove(&self.dir.join(key)));
    }
}

/// Removes a file, which `imgcls reset` may have done already.
fn remove(path: &Path) {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::warn!(path = %path.display(), %error, "a thumbnail cannot be removed");
        }
        _ => {}
    }
}

/// What the keys of an image's thumbnails begin with.
fn prefix(image: &ImageName) -> String {
    format!("{}-", &Digest::of(image.as_str().as_bytes()).to_hex()[..32])
}

/// The key of an image's thumbnail of this size. `bytes` tells its bytes from others under the same name: the row's
/// [`version`], or the beginning of their hash.
fn key(image: &ImageName, bytes: &str, size: u32) -> String {
    format!("{}{bytes}-{size}.jpg", prefix(image))
}

/// A thumbnail on its way out.
#[derive(Debug)]
struct Small {
    bytes: Vec<u8>,
    /// Whether the address that was asked for never means another one.
    lasts: bool,
}

/// `GET /images/{name}?size=128`
pub(crate) async fn get(app: &Arc<App>, image: &ImageName, wanted: Wanted, headers: &HeaderMap) -> Result<Response> {
    let Small { bytes, lasts } = small(app, image, wanted).await?;
    let cache = if lasts {
        CacheControl::new().with_private().with_max_age(A_YEAR).with_immutable()
    } else {
        CacheControl::new().with_private().with_no_cache()
    };
    let etag = etag::strong(&bytes);
    let full = || ([(header::CONTENT_TYPE, "image/jpeg")], bytes).into_response();
    let mut response = etag::conditional(headers, cache, etag, full);
    let policy = HeaderValue::from_static("default-src 'none'; sandbox");
    response.headers_mut().insert(header::CONTENT_SECURITY_POLICY, policy);
    Ok(response)
}

/// The thumbnail of the image as the row with the version that the page knows has it, or else as it is now. Only the
/// former is found without the image: that is one question to the store of results, and a page has fifty of them.
async fn small(app: &Arc<App>, image: &ImageName, Wanted { size, version }: Wanted) -> Result<Small> {
    let version = match version {
        Some(version) if is_current(app, image, &version).await? => Some(version),
        _ => None,
    };
    let known = version.as_deref().map(|version| key(image, version, size));
    if let Some(kept) = kept(app, known.as_deref()).await {
        return Ok(kept);
    }
    // Who goes away while waiting gives up the place in the queue.
    let making = timeout(outgoing::PATIENCE, Arc::clone(&app.thumbnails.making).acquire_owned()).await;
    // Others may have asked for the same one meanwhile.
    if let Some(kept) = kept(app, known.as_deref()).await {
        return Ok(kept);
    }
    let Ok(Ok(making)) = making else {
        return Err(too_many());
    };
    // From here on it takes memory, and goes on until it has given that back, whoever goes away.
    see_through(app, make(Arc::clone(app), making, image.clone(), version, size)).await
}

fn too_many() -> Error {
    Error::unavailable("too many thumbnails are being made; try again")
}

/// Whether the image's row has this version.
async fn is_current(app: &App, image: &ImageName, version: &str) -> Result<bool> {
    let rows = ask(app.backend.results.get(slice::from_ref(image))).await?;
    Ok(rows.first().is_some_and(|row| self::version(row) == version))
}

/// The thumbnail with this key from the disk.
async fn kept(app: &Arc<App>, key: Option<&str>) -> Option<Small> {
    let (app, key) = (Arc::clone(app), key?.to_owned());
    let bytes = spawn_blocking(move || app.thumbnails.read(&key)).await.ok()??;
    Some(Small { bytes, lasts: true })
}

/// Makes a thumbnail, with a place among those that are `making` one and memory for it, and keeps it. Without a version
/// it is found by the image's bytes, and made only if it is not there.
async fn make(
    app: Arc<App>,
    making: OwnedSemaphorePermit,
    image: ImageName,
    version: Option<String>,
    size: u32,
) -> Result<Small> {
    let (stored, share) = outgoing::fetch(&app, &image).await?;
    let limits = app.config.limits;
    let looked = spawn_blocking(move || {
        // An image of which none can be made is told so where it is tried.
        let needed = model::thumbnail::memory(&stored.bytes, &limits, size).unwrap_or(0);
        (stored, needed)
    });
    let (stored, needed) = looked.await.map_err(|_| interrupted())?;
    let room = app.thumbnails.room(needed).await?;
    let (maker, name, known) = (Arc::clone(&app), image.clone(), version.clone());
    let made = spawn_blocking(move || {
        let of = known.unwrap_or_else(|| Digest::of(&stored.bytes).to_hex()[..16].to_owned());
        let made = maker.thumbnails.of(&stored.bytes, &key(&name, &of, size), size, &limits);
        drop((stored, share, room, making));
        made
    });
    let made = made.await.map_err(|_| interrupted())?;
    let lasts = match &version {
        Some(version) => is_current(&app, &image, version).await?,
        None => false,
    };
    // Who removed the image meanwhile found no thumbnail to remove.
    if !lasts && !ask(app.backend.images.exists(&image)).await? {
        app.thumbnails.forget(Some(&image));
    }
    match made {
        Ok(bytes) => Ok(Small { bytes, lasts }),
        Err(error) => Err(Error::new(StatusCode::UNPROCESSABLE_ENTITY, error.to_string()).of_image(&image)),
    }
}

fn interrupted() -> Error {
    Error::unavailable("the thumbnail could not be made")
}

#[cfg(test)]
#[path = "thumbnails_tests.rs"]
mod tests;
