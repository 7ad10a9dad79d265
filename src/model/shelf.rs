//! Models by name: each a bundle in a directory of the user's cache.

use std::path::{Path, PathBuf};

use super::{catalogue, layout};

/// The name of the model in the binary.
pub const EMBEDDED_NAME: &str = env!("IMGCLS_EMBEDDED_NAME");

/// Most bytes of a name.
const MOST_NAME: usize = 64;

/// Why a name or directory leads to no model. All of these are for the user to put right before anything starts.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ShelfError {
    /// A known model that is not in the cache.
    #[error("the model {0} is not in the cache; `imgcls model pull {0}` fetches it")]
    NotPulled(String),
    /// No such model.
    #[error("there is no model {0:?}, neither by name nor as a directory; `imgcls model list` shows the names")]
    Unknown(String),
    /// A directory that is none.
    #[error("there is no model bundle in {0}: no {name} is there", name = layout::CARD)]
    NoBundle(PathBuf),
    /// Not a name for a model.
    #[error("{0:?} is no name for a model; use up to {MOST_NAME} small letters, digits, dots, hyphens and underscores")]
    Name(String),
    /// Neither variable is set.
    #[error("there is no place for models; set XDG_CACHE_HOME or HOME to an absolute path")]
    NoCache,
}

/// Where a model is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// In the binary.
    Embedded,
    /// A bundle's directory.
    Dir(PathBuf),
}

/// The directory of models by name: `imgcls/models` in `XDG_CACHE_HOME`, or in `~/.cache`.
///
/// # Errors
/// [`ShelfError::NoCache`].
pub fn cache() -> Result<PathBuf, ShelfError> {
    let absolute = |variable: &str| std::env::var_os(variable).map(PathBuf::from).filter(|path| path.is_absolute());
    let caches = absolute("XDG_CACHE_HOME").or_else(|| absolute("HOME").map(|home| home.join(".cache")));
    Ok(caches.ok_or(ShelfError::NoCache)?.join("imgcls").join("models"))
}

/// Whether a model may have that name, which becomes that of a directory.
///
/// # Errors
/// [`ShelfError::Name`].
pub fn check_name(name: &str) -> Result<(), ShelfError> {
    let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '.' | '-' | '_');
    let sound = name.starts_with(|c: char| c.is_ascii_alphanumeric()) && name.chars().all(fits);
    if sound && name.len() <= MOST_NAME { Ok(()) } else { Err(ShelfError::Name(name.to_owned())) }
}

/// Finds a model by what `--model` says: nothing or the embedded one's name, the name of one in the cache, or a
/// directory.
///
/// # Errors
/// [`ShelfError`].
pub fn find(model: &Path) -> Result<Place, ShelfError> {
    let is_bundle = |dir: &Path| dir.join(layout::CARD).is_file();
    let text = model.to_string_lossy();
    if text.is_empty() || text == EMBEDDED_NAME {
        return Ok(Place::Embedded);
    }
    if check_name(&text).is_ok() {
        let cached = cache().ok().map(|cache| cache.join(model)).filter(|dir| is_bundle(dir));
        if let Some(dir) = cached {
            return Ok(Place::Dir(dir));
        }
    }
    if is_bundle(model) {
        return Ok(Place::Dir(model.to_owned()));
    }
    if catalogue::find(&text).is_some() {
        Err(ShelfError::NotPulled(text.into_owned()))
    } else if model.is_dir() || model.components().count() > 1 {
        Err(ShelfError::NoBundle(model.to_owned()))
    } else {
        Err(ShelfError::Unknown(text.into_owned()))
    }
}

/// A bundle's directory as `--model` takes it: what could be a name gets `./` before it, since a model of that name goes
/// first.
#[must_use]
pub fn as_path(dir: &Path) -> PathBuf {
    if dir.components().count() == 1 && dir.is_relative() { Path::new(".").join(dir) } else { dir.to_owned() }
}

/// Names and directories of the models in the cache, sorted; none if there is no cache.
#[must_use]
pub fn cached() -> Vec<(String, PathBuf)> {
    let entries = cache().ok().and_then(|cache| std::fs::read_dir(cache).ok());
    let mut found: Vec<(String, PathBuf)> = entries
        .into_iter()
        .flatten()
        .filter_map(|entry| Some((entry.as_ref().ok()?.file_name().into_string().ok()?, entry.ok()?.path())))
        .filter(|(name, dir)| check_name(name).is_ok() && dir.join(layout::CARD).is_file())
        .collect();
    found.sort();
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_leads_to_no_model_says_so() {
        assert_eq!(find(Path::new("")), Ok(Place::Embedded));
        assert_eq!(find(Path::new(EMBEDDED_NAME)), Ok(Place::Embedded));
        assert_eq!(find(Path::new("no-such-model")), Err(ShelfError::Unknown("no-such-model".to_owned())));
        assert_eq!(find(Path::new("no/such/dir")), Err(ShelfError::NoBundle("no/such/dir".into())));
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(find(dir.path()), Err(ShelfError::NoBundle(dir.path().to_owned())));
        std::fs::write(dir.path().join(layout::CARD), "").unwrap();
        assert_eq!(find(dir.path()), Ok(Place::Dir(dir.path().to_owned())));
    }

    #[test]
    fn a_directory_is_no_name() {
        for (dir, want) in [(EMBEDDED_NAME, format!("./{EMBEDDED_NAME}")), ("./a", "./a".into()), ("/a", "/a".into())] {
            assert_eq!(as_path(Path::new(dir)).as_os_str(), &*want);
        }
        assert_eq!(find(Path::new(EMBEDDED_NAME)), Ok(Place::Embedded));
        assert!(matches!(find(&as_path(Path::new(EMBEDDED_NAME))), Err(ShelfError::NoBundle(_))));
    }

    #[test]
    fn names_stay_in_the_cache() {
        for name in ["resnet18-imagenet", "a", "my.birds_2"] {
            assert_eq!(check_name(name), Ok(()));
        }
        for name in ["", ".", "..", "a/b", "/a", "Birds", ".hidden", "-x", "a\\b", "ä", &"x".repeat(65)] {
            assert_eq!(check_name(name), Err(ShelfError::Name(name.to_owned())));
        }
    }
}
