//! A model bundle: card, labels and weights, embedded or from a directory.

use std::{
    collections::HashMap,
    fmt,
    path::{Path, PathBuf},
};

use candle_core::{DType, Device, Tensor};
use safetensors::Dtype;

pub use super::layout::Card;
use super::{
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
        let read = |name: &str| {
            let path = dir.join(name);
            std::fs::read(&path).map_err(|source| BundleError::Read { path, source })
        };
        let text = |name: &str| {
            let not_text = |e| std::io::Error::new(std::io::ErrorKind::InvalidData, e);
            String::from_utf8(read(name)?)
                .map_err(|e| BundleError::Read { path: dir.join(name), source: not_text(e.utf8_error()) })
        };
        let refused = |source| BundleError::Layout { dir: dir.to_owned(), source };
        let (card, labels, weights) = (text(layout::CARD)?, text(layout::LABELS)?, read(layout::WEIGHTS)?);
        layout::check_digest(&card, &weights).map_err(refused)?;
        Self::from_parts(layout::parse(&card, &labels, &weights).map_err(refused)?)
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
