//! Foreign weights become a bundle: `.pth` files of PyTorch, by [`pth`] and [`pickle`], or safetensors.

mod dtype;
mod pickle;
mod pth;

use std::{
    borrow::Cow,
    collections::BTreeMap,
    fs::{self, File},
    io::Read as _,
    path::{Path, PathBuf},
};

use dtype::Dtype;
use safetensors::{SafeTensors, tensor::TensorView};
use sha2::Digest as _;

use super::layout::{self, Card, LayoutError};
pub use pth::PthError;

/// Largest file of weights that is read, in bytes.
pub const MOST_BYTES: u64 = 1 << 30;

/// Why there is no bundle.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// A file cannot be read.
    #[error("cannot read {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The bundle cannot be written.
    #[error("cannot write {path}")]
    Write {
        /// The file or directory.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Something is already there.
    #[error("{0} exists; remove it, or choose another place")]
    Exists(PathBuf),
    /// More bytes than weights have.
    #[error("{0} is larger than {most} MB", most = MOST_BYTES >> 20)]
    TooLarge(PathBuf),
    /// A file of PyTorch that is refused.
    #[error("{path} is refused")]
    Pth {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: PthError,
    },
    /// A safetensors file that is refused, or a file of no known kind.
    #[error("{path} is neither a .pth file of PyTorch nor a safetensors file: {reason}")]
    Container {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Weights, labels and architecture that do not belong together.
    #[error("these files make no model bundle")]
    Layout(#[from] LayoutError),
}

/// A tensor, row-major.
#[derive(Debug, Clone, PartialEq)]
pub struct Array {
    dtype: Dtype,
    shape: Vec<usize>,
    data: Vec<u8>,
}

impl Array {
    fn new(dtype: Dtype, shape: Vec<usize>, data: Vec<u8>) -> Self {
        Self { dtype, shape, data }
    }

    /// A tensor of `f32`.
    #[must_use]
    pub fn of_f32(shape: Vec<usize>, values: &[f32]) -> Self {
        Self::new(Dtype::F32, shape, values.iter().flat_map(|value| value.to_le_bytes()).collect())
    }

    /// As a bundle has it: `f64`, which no bundle has, becomes `f32`.
    fn view(&self) -> (safetensors::Dtype, Cow<'_, [u8]>) {
        let data = Cow::Borrowed(&self.data[..]);
        match self.dtype {
            Dtype::F16 => (safetensors::Dtype::F16, data),
            Dtype::BF16 => (safetensors::Dtype::BF16, data),
            Dtype::F32 => (safetensors::Dtype::F32, data),
            Dtype::I64 => (safetensors::Dtype::I64, data),
            Dtype::F64 => {
                let narrow = |bytes: &[u8; 8]| (f64::from_le_bytes(*bytes) as f32).to_le_bytes();
                (safetensors::Dtype::F32, self.data.as_chunks().0.iter().flat_map(narrow).collect())
            }
        }
    }
}

/// Tensors by name.
pub type Weights = BTreeMap<String, Array>;

/// Reads a file of weights, whose content says what it is.
///
/// # Errors
/// [`ImportError`], which names the file and what is wrong with it.
pub fn read_weights(path: &Path) -> Result<Weights, ImportError> {
    let bytes = read(path)?;
    let container = |reason: String| ImportError::Container { path: path.to_owned(), reason };
    // A zip archive, or a pickle's PROTO instruction with its version.
    if bytes.starts_with(b"PK") || matches!(bytes[..], [0x80, 2..=5, ..]) {
        return pth::read(&bytes).map_err(|source| ImportError::Pth { path: path.to_owned(), source });
    }
    let tensors = SafeTensors::deserialize(&bytes).map_err(|e| container(e.to_string()))?;
    let array = |(name, view): (&str, TensorView<'_>)| {
        let dtype = match view.dtype() {
            safetensors::Dtype::F16 => Dtype::F16,
            safetensors::Dtype::BF16 => Dtype::BF16,
            safetensors::Dtype::F32 => Dtype::F32,
            safetensors::Dtype::F64 => Dtype::F64,
            safetensors::Dtype::I64 => Dtype::I64,
            other => return Err(container(format!("tensor {name} has type {other:?}, which is not read"))),
        };
        Ok((name.to_owned(), Array::new(dtype, view.shape().to_vec(), view.data().to_vec())))
    };
    tensors.iter().map(array).collect()
}

/// A file's bytes, if they are not too many.
fn read(path: &Path) -> Result<Vec<u8>, ImportError> {
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(MOST_BYTES + 1).read_to_end(&mut bytes))
        .map_err(|source| ImportError::Read { path: path.to_owned(), source })?;
    if bytes.len() as u64 > MOST_BYTES { Err(ImportError::TooLarge(path.to_owned())) } else { Ok(bytes) }
}

/// Reads a file of labels.
///
/// # Errors
/// [`ImportError::Read`], also if it is not UTF-8.
pub fn read_labels(path: &Path) -> Result<String, ImportError> {
    fs::read_to_string(path).map_err(|source| ImportError::Read { path: path.to_owned(), source })
}

/// Writes a bundle to `out`, where nothing may be. It is checked as every bundle is when it is loaded, and appears at
/// once or not at all. The card's SHA-256 is set here. `others` are further files, by name.
///
/// # Errors
/// [`ImportError`].
pub fn write_bundle(
    mut card: Card,
    labels: &str,
    weights: &Weights,
    others: &[(&str, String)],
    out: &Path,
) -> Result<Card, ImportError> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| ImportError::Write { path, source }
    };
    if out.symlink_metadata().is_ok() {
        return Err(ImportError::Exists(out.to_owned()));
    }
    let bytes = serialise(weights)?;
    card.sha256 = hex::encode(sha2::Sha256::digest(&bytes));
    let text = toml::to_string(&card).expect("a card is a table of strings, numbers and lists");
    layout::parse(&text, labels, &bytes)?;

    let parent = out.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::create_dir_all(parent).map_err(failed(parent))?;
    let name = out.file_name().unwrap_or_default().to_string_lossy();
    let partial = parent.join(format!(".{name}.partial-{}", std::process::id()));
    let files = [(layout::CARD, text.as_bytes()), (layout::LABELS, labels.as_bytes()), (layout::WEIGHTS, &bytes[..])];
    let others = others.iter().map(|(name, text)| (*name, text.as_bytes()));
    let written = write_files(&partial, files.into_iter().chain(others)).map_err(failed(&partial)).and_then(|()| {
        // Renaming a directory onto one that is not empty fails, so a bundle that came meanwhile stays.
        fs::rename(&partial, out).map_err(failed(out))
    });
    if written.is_err() {
        fs::remove_dir_all(&partial).ok();
    }
    written.map(|()| card)
}

fn write_files<'a>(dir: &Path, files: impl Iterator<Item = (&'a str, &'a [u8])>) -> std::io::Result<()> {
    if dir.exists() {
        fs::remove_dir_all(dir)?;
    }
    fs::create_dir(dir)?;
    for (name, bytes) in files {
        let path = dir.join(name);
        fs::write(&path, bytes)?;
        File::open(&path)?.sync_all()?;
    }
    File::open(dir)?.sync_all()
}

/// A safetensors file of the weights, PyTorch's batch counters left out.
fn serialise(weights: &Weights) -> Result<Vec<u8>, ImportError> {
    let views: Vec<_> = weights
        .iter()
        .filter(|(name, _)| !layout::is_counter(name))
        .map(|(name, array)| (name, &array.shape, array.view()))
        .collect();
    let views = views
        .iter()
        .map(|(name, shape, (dtype, data))| Ok((*name, TensorView::new(*dtype, shape.to_vec(), data)?)))
        .collect::<Result<Vec<_>, safetensors::SafeTensorError>>()
        .map_err(LayoutError::Container)?;
    Ok(safetensors::serialize(views, None).map_err(LayoutError::Container)?)
}

#[cfg(test)]
mod tests;
