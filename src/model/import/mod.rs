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
    /// A safetensors file that is refused.
    #[error("{path} is a safetensors file that is refused: {reason}")]
    Safetensors {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A file of no known kind.
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
    /// The same of files that the user has named.
    #[error("they make no model bundle: {0}")]
    Named(String),
}

impl ImportError {
    /// The error in terms of the files that were given: they are not yet called as in a bundle.
    #[must_use]
    pub fn of_files(self, weights: &Path, labels: &Path) -> Self {
        let Self::Layout(error) = self else { return self };
        let named = |text: String, file: &str, given: &Path| text.replace(file, &given.display().to_string());
        Self::Named(named(named(error.to_string(), layout::WEIGHTS, weights), layout::LABELS, labels))
    }
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
    let is_safetensors = bytes.split_first_chunk::<8>().is_some_and(|(length, header)| {
        // A length, and a header that is JSON. The length of a file of another kind would be a huge one.
        header.starts_with(b"{") && u64::from_le_bytes(*length) <= MOST_BYTES
    });
    let refused = |reason: String| match path.to_owned() {
        path if is_safetensors => ImportError::Safetensors { path, reason },
        path => ImportError::Container { path, reason },
    };
    // A zip archive, or a pickle's PROTO instruction with its version.
    if bytes.starts_with(b"PK") || matches!(bytes[..], [0x80, 2..=5, ..]) {
        let weights = pth::read(&bytes).map_err(|source| ImportError::Pth { path: path.to_owned(), source });
        return weights.map(without_wrapper);
    }
    let tensors = SafeTensors::deserialize(&bytes).map_err(|e| refused(e.to_string()))?;
    let array = |(name, view): (&str, TensorView<'_>)| {
        let dtype = match view.dtype() {
            safetensors::Dtype::F16 => Dtype::F16,
            safetensors::Dtype::BF16 => Dtype::BF16,
            safetensors::Dtype::F32 => Dtype::F32,
            safetensors::Dtype::F64 => Dtype::F64,
            safetensors::Dtype::I64 => Dtype::I64,
            other => return Err(refused(format!("tensor {name} has type {other:?}, which is not read"))),
        };
        Ok((name.to_owned(), Array::new(dtype, view.shape().to_vec(), view.data().to_vec())))
    };
    tensors.iter().map(array).collect::<Result<_, _>>().map(without_wrapper)
}

/// The weights by the names of the network, if they were saved from within PyTorch's `DataParallel`.
fn without_wrapper(weights: Weights) -> Weights {
    const WRAPPER: &str = "module.";
    if weights.keys().all(|name| name.starts_with(WRAPPER)) {
        weights.into_iter().map(|(name, array)| (name[WRAPPER.len()..].to_owned(), array)).collect()
    } else {
        weights
    }
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
    let mut text = String::new();
    let read = File::open(path).and_then(|file| file.take(MOST_BYTES).read_to_string(&mut text));
    read.map(|_| text).map_err(|source| ImportError::Read { path: path.to_owned(), source })
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
    layout::parse(&text, labels, &bytes)?.check_numbers()?;

    let parent = out.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::create_dir_all(parent).map_err(failed(parent))?;
    let name = out.file_name().unwrap_or_default().to_string_lossy();
    remove_leftovers(parent, &format!(".{name}.partial-"));
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
    // Held until all is written: what nobody holds is a leftover. Where directories cannot be locked, leftovers stay.
    let held = File::open(dir)?;
    held.lock().ok();
    for (name, bytes) in files {
        let path = dir.join(name);
        fs::write(&path, bytes)?;
        File::open(&path)?.sync_all()?;
    }
    held.sync_all()
}

/// Removes unfinished bundles of processes that were killed. In vain is no harm: they are only in the way of the disk.
fn remove_leftovers(parent: &Path, prefix: &str) {
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        let is_meant = entry.file_name().to_string_lossy().starts_with(prefix);
        // The lock of a process ends with it, whatever it is called by and wherever it runs.
        if is_meant && File::open(entry.path()).is_ok_and(|dir| dir.try_lock().is_ok()) {
            fs::remove_dir_all(entry.path()).ok();
        }
    }
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
