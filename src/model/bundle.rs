//! A model bundle: card, labels and weights, embedded or from a directory.

use std::{
    collections::HashMap,
    fmt,
    fs::File,
    io::{self, Read as _},
    path::{Path, PathBuf},
};

use candle_core::{DType, Device, Tensor};
use safetensors::Dtype;

pub use super::layout::Card;
use super::{
    import,
    kernel::unload,
    layout::{self, LayoutError, Parts},
    shelf::{self, Place, ShelfError},
};

/// Why there is no bundle.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// A file cannot be read.
    #[error("cannot read {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file that is not what it should be.
    #[error("the model bundle in {dir} is refused")]
    Layout {
        /// The bundle's directory, or "the binary".
        dir: PathBuf,
        /// The file and what is wrong with it.
        source: LayoutError,
    },
    /// A name or directory that leads to no model.
    #[error(transparent)]
    Shelf(#[from] ShelfError),
    /// The tensor library refuses the weights.
    #[error("cannot take over the weights: {0}")]
    Tensor(#[from] candle_core::Error),
}

/// Most bytes of a card and of labels.
const MOST_TEXT: u64 = 16 << 20;

/// The embedded weights.
static WEIGHTS: &[u8] = include_bytes!(concat!(env!("IMGCLS_EMBEDDED_MODEL"), "/weights.safetensors"));

/// A checked model.
pub struct Bundle {
    /// What the model is and how its input is made.
    pub card: Card,
    /// One label for each row of the last layer.
    pub labels: Vec<String>,
    /// The weights in f32 by the architecture's names.
    pub tensors: HashMap<String, Tensor>,
}

impl fmt::Debug for Bundle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bundle").field("card", &self.card).field("labels", &self.labels.len()).finish_non_exhaustive()
    }
}

impl Bundle {
    /// The name of the bundle in the binary.
    pub const EMBEDDED_NAME: &'static str = shelf::EMBEDDED_NAME;

    /// Size of the embedded weights in bytes.
    pub const EMBEDDED_BYTES: u64 = WEIGHTS.len() as u64;

    /// The bundle in the binary. Its SHA-256 was checked when it was built.
    ///
    /// # Errors
    /// [`BundleError::Tensor`] if there is no memory for the tensors.
    pub fn embedded() -> Result<Self, BundleError> {
        const CARD: &str = include_str!(concat!(env!("IMGCLS_EMBEDDED_MODEL"), "/model.toml"));
        const LABELS: &str = include_str!(concat!(env!("IMGCLS_EMBEDDED_MODEL"), "/labels.txt"));

        let refused = |source| BundleError::Layout { dir: "the binary".into(), source };
        let bundle = Self::from_parts(layout::parse(CARD, LABELS, WEIGHTS).map_err(refused)?);
        unload(WEIGHTS);
        bundle
    }

    /// The bundle of a model by its name or directory, the one in the binary without either.
    ///
    /// # Errors
    /// [`BundleError::Shelf`] if there is none; as for [`Self::load`] and [`Self::embedded`].
    pub fn open(model: Option<&Path>) -> Result<Self, BundleError> {
        match shelf::find(model.unwrap_or(Path::new("")))? {
            Place::Embedded => Self::embedded(),
            Place::Dir(dir) => Self::load(&dir),
        }
    }

    /// The bundle in `dir`, checked as the build checks the embedded one.
    ///
    /// # Errors
    /// [`BundleError`], which names the file and in it the tensor, key or line.
    pub fn load(dir: &Path) -> Result<Self, BundleError> {
        let files = Files::read(dir)?;
        Self::from_parts(files.parts(dir)?)
    }

    /// Checks the bundle in `dir` as [`Self::load`] does, and returns its card and the number of its labels.
    ///
    /// # Errors
    /// As for [`Self::load`].
    pub fn check(dir: &Path) -> Result<(Card, usize), BundleError> {
        let files = Files::read(dir)?;
        let parts = files.parts(dir)?;
        Ok((parts.card.clone(), parts.labels.len()))
    }

    /// The model as results have it, `name@hash8`: its name with the first 8 hex digits of its weights' SHA-256.
    #[must_use]
    pub fn id(&self) -> String {
        let Card { name, sha256, .. } = &self.card;
        let hash: String = sha256.chars().take(8).flat_map(char::to_lowercase).collect();
        format!("{name}@{hash}")
    }

    fn from_parts(parts: Parts<'_>) -> Result<Self, BundleError> {
        let mut tensors = HashMap::new();
        for (name, view) in parts.tensors.iter().filter(|(name, _)| !layout::is_counter(name)) {
            let dtype = match view.dtype() {
                Dtype::F16 => DType::F16,
                Dtype::BF16 => DType::BF16,
                _ => DType::F32,
            };
            let tensor = Tensor::from_raw_buffer(view.data(), dtype, view.shape(), &Device::Cpu)?;
            tensors.insert(name.to_owned(), tensor.to_dtype(DType::F32)?);
        }
        Ok(Self { card: parts.card, labels: parts.labels, tensors })
    }
}

/// A bundle's files.
struct Files {
    card: String,
    labels: String,
    weights: Vec<u8>,
}

impl Files {
    fn read(dir: &Path) -> Result<Self, BundleError> {
        let failed = |name: &str, source| BundleError::Read { path: dir.join(name), source };
        let read = |name: &str, most| read(&dir.join(name), most).map_err(|source| failed(name, source));
        let text = |name: &str| {
            let not_text = |e| io::Error::new(io::ErrorKind::InvalidData, e);
            String::from_utf8(read(name, MOST_TEXT)?).map_err(|e| failed(name, not_text(e.utf8_error())))
        };
        let (card, labels) = (text(layout::CARD)?, text(layout::LABELS)?);
        Ok(Self { card, labels, weights: read(layout::WEIGHTS, import::MOST_BYTES)? })
    }

    fn parts(&self, dir: &Path) -> Result<Parts<'_>, BundleError> {
        let checked = layout::check_digest(&self.card, &self.weights).and_then(|()| {
            let parts = layout::parse(&self.card, &self.labels, &self.weights)?;
            parts.check_numbers().map(|()| parts)
        });
        checked.map_err(|source| BundleError::Layout { dir: dir.to_owned(), source })
    }
}

/// The bytes of a regular file, if they are not too many: a pipe would be waited for, and some devices have no end.
fn read(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    let refused = |reason| Err(io::Error::new(io::ErrorKind::InvalidInput, reason));
    if !path.metadata()?.is_file() {
        return refused("it is not a regular file".to_owned());
    }
    let mut bytes = Vec::new();
    File::open(path)?.take(most + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > most { refused(format!("it is larger than {} MB", most >> 20)) } else { Ok(bytes) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_have_the_name_and_the_beginning_of_the_hash() {
        let mut bundle = Bundle::embedded().unwrap();
        bundle.card.name = "photos".to_owned();
        bundle.card.sha256.replace_range(..8, "0123ABCD");
        assert_eq!(bundle.id(), "photos@0123abcd");
    }

    #[test]
    fn what_has_no_end_is_not_read() {
        let dir = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("/dev/zero", dir.path().join("zero")).unwrap();
        let reason = |name: &str, most| read(&dir.path().join(name), most).unwrap_err().to_string();
        assert_eq!(reason("zero", 1 << 20), "it is not a regular file");
        let pipe = dir.path().join("pipe");
        rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, rustix::fs::Mode::RUSR).unwrap();
        assert_eq!(reason("pipe", 1 << 20), "it is not a regular file");
        File::create(dir.path().join("huge")).unwrap().set_len((1 << 20) + 1).unwrap();
        assert_eq!(reason("huge", 1 << 20), "it is larger than 1 MB");
        assert_eq!(read(&dir.path().join("huge"), 2 << 20).unwrap().len(), (1 << 20) + 1);
    }
}
