//! PyTorch's files of weights (`torch.save` of a state dict), in both of its formats: the zip archive since 1.6, and
//! the row of pickles before.
//!
//! A zip archive has the pickle `ROOT/data.pkl` and each storage as `ROOT/data/KEY`, not compressed. The older format
//! is a magic number, a version, facts of the system, the state dict and the list of the storages' keys, each a pickle,
//! and then the storages, each with its length.

use std::{
    collections::{HashMap, HashSet},
    io::{Cursor, Read, Seek},
};

use zip::{CompressionMethod, ZipArchive, read::ZipFile};

use super::{
    Array, Weights,
    dtype::Dtype,
    pickle::{self, Arena, Global, Id, Kind, PickleError, READ, Value},
};

/// What the older format begins with, as a pickled integer.
const MAGIC: [u8; 10] = [0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19];
/// The older format's only version.
const VERSION: Value<'_> = Value::Int(1001);

/// Most bytes of the pickle in an archive.
const MOST_PICKLE: u64 = 16 << 20;
/// Most files of an archive.
const MOST_FILES: usize = 20_000;
/// Most bytes of all storages together, and of all tensors made of them: a few times what the largest known network
/// has.
const MOST_BYTES: usize = 1 << 30;

/// How often the numbers of a storage may be in tensors, on average.
const MOST_COPIES: usize = 4;

/// Names under which training programs save the state dict beside other things.
const NESTED: [&str; 3] = ["state_dict", "model_state_dict", "model"];

/// Why a file is refused.
#[derive(Debug, thiserror::Error)]
pub enum PthError {
    /// The pickle.
    #[error(transparent)]
    Pickle(#[from] PickleError),
    /// The archive.
    #[error("its zip archive is damaged")]
    Zip(#[from] zip::result::ZipError),
    /// A file of the archive.
    #[error("its zip archive cannot be read")]
    Read(#[from] std::io::Error),
    /// A file that a few bytes could make any number of.
    #[error("its entry {0} is compressed, as PyTorch writes none; save it anew with torch.save")]
    Compressed(String),
    /// It unpacks to more than weights need.
    #[error("it unpacks to more than {} MB, which no weights need", MOST_BYTES >> 20)]
    TooLarge,
    /// It describes more than weights need.
    #[error("its data.pkl is larger than {} MB, which no weights need", MOST_PICKLE >> 20)]
    LargePickle,
    /// It has more files than weights need.
    #[error("it has more than {MOST_FILES} files, which no weights need")]
    Files,
    /// Something else than weights.
    #[error("{0}")]
    Content(String),
}

/// Reads the tensors of a state dict.
///
/// # Errors
/// [`PthError`]. Nothing in the file is run, and memory stays within a few times the file's size.
pub(super) fn read(bytes: &[u8]) -> Result<Weights, PthError> {
    if bytes.starts_with(b"PK") { read_archive(bytes) } else { read_pickles(bytes) }
}

fn read_archive(bytes: &[u8]) -> Result<Weights, PthError> {
    let mut archive = ZipArchive::new(Cursor::new(bytes))?;
    if archive.len() > MOST_FILES {
        return Err(PthError::Files);
    }
    let root = root(&mut archive)?;
    let mut file = entry(&mut archive, &root, "data.pkl")?;
    if file.size() > MOST_PICKLE {
        return Err(PthError::LargePickle);
    }
    let mut pickled = Vec::new();
    file.by_ref().take(MOST_PICKLE).read_to_end(&mut pickled)?;
    drop(file);

    let mut arena = Arena::default();
    let (value, _) = pickle::read(&pickled, &mut arena)?;
    let tensors = tensors(&arena, value)?;
    let mut storages = HashMap::new();
    let (mut budget, mut left) = (MOST_BYTES, bytes.len());
    for storage in tensors.iter().map(|(_, tensor)| &tensor.storage) {
        if storages.contains_key(storage.key) {
            continue;
        }
        let size = storage.size(&mut budget)?;
        let file = entry(&mut archive, &root, &format!("data/{}", storage.key))?;
        if file.size() != size as u64 {
            return content(format!("storage {} has {} bytes instead of {size}", storage.key, file.size()));
        }
        // Several names may be of the same bytes.
        let Some(rest) = left.checked_sub(size) else {
            return content("its storages have more bytes than the file; save it anew with torch.save");
        };
        left = rest;
        let mut bytes = Vec::new();
        // Reading to the end checks the archive's CRC.
        file.take(size as u64 + 1).read_to_end(&mut bytes)?;
        storages.insert(storage.key, bytes);
    }
    gather(&tensors, MOST_BYTES - budget, |storage| storages.get(storage.key).map(Vec::as_slice))
}

/// A file in the archive's directory `root`, of as many bytes as the archive has for it.
fn entry<'a, R: Read + Seek>(
    archive: &'a mut ZipArchive<R>,
    root: &str,
    name: &str,
) -> Result<ZipFile<'a, R>, PthError> {
    let file = archive.by_name(&format!("{root}{name}"))?;
    if file.compression() == CompressionMethod::Stored { Ok(file) } else { Err(PthError::Compressed(name.to_owned())) }
}

/// The directory of the archive that is the state dict, with its slash.
fn root<R: Read + Seek>(archive: &mut ZipArchive<R>) -> Result<String, PthError> {
    let names = archive.file_names().filter_map(Result::ok);
    let roots = names.filter_map(|name| Some(name.strip_suffix("data.pkl")?.to_owned()));
    let roots: Vec<String> = roots.filter(|root| root.ends_with('/')).take(2).collect();
    let root = match <[String; 1]>::try_from(roots) {
        Ok([root]) => root,
        Err(roots) => match &roots[..] {
            [root, other] => {
                return content(format!("it has two state dicts, {root}data.pkl and {other}data.pkl; save one alone"));
            }
            _ => return content("it has no data.pkl, so it is not a file of PyTorch"),
        },
    };
    if archive.index_for_name(&format!("{root}byteorder")).is_some() {
        let mut order = String::new();
        entry(archive, &root, "byteorder")?.take(16).read_to_string(&mut order)?;
        if order.trim() != "little" {
            return big_endian();
        }
    }
    Ok(root)
}

fn big_endian<T>() -> Result<T, PthError> {
    content("its numbers are big-endian, which is not read; save it on a little-endian machine")
}

fn read_pickles(bytes: &[u8]) -> Result<Weights, PthError> {
    let mut arena = Arena::default();
    let (magic, rest) = pickle::read(bytes, &mut arena)?;
    let (version, rest) = pickle::read(rest, &mut arena)?;
    if magic != Value::Long(&MAGIC) || version != VERSION {
        return content("it is a pickle, but not a file of PyTorch");
    }
    let (facts, rest) = pickle::read(rest, &mut arena)?;
    let is_big = |pair: &[Value<'_>]| matches!(pair, [Value::Text("little_endian"), Value::Bool(false)]);
    if matches!(facts, Value::Dict(facts) if arena.get(facts).chunks_exact(2).any(is_big)) {
        return big_endian();
    }
    let (value, rest) = pickle::read(rest, &mut arena)?;
    let (keys, mut rest) = pickle::read(rest, &mut arena)?;
    let tensors = tensors(&arena, value)?;
    // Those of tensors that are not wanted, such as an optimizer's, are in the way of the others, and skipped.
    let named = arena.storages().filter_map(Storage::read);
    let by_key: HashMap<&str, Storage<'_>> = named.map(|storage| (storage.key, storage)).collect();
    let wanted: HashSet<&str> = tensors.iter().map(|(_, tensor)| tensor.storage.key).collect();
    let Value::List(keys) = keys else { return content("it has no list of storages") };
    let mut storages = HashMap::new();
    let (mut budget, mut stored) = (MOST_BYTES, 0);
    for key in arena.get(keys) {
        let Value::Text(key) = key else { return content("the key of a storage is no text") };
        let Some(storage) = by_key.get(key) else {
            return content(format!("storage {key:?} belongs to no tensor"));
        };
        let size = storage.size(&mut budget)?;
        let cut = || PthError::Content(format!("it is cut short in storage {key:?}"));
        let (length, behind) = rest.split_first_chunk::<8>().ok_or_else(cut)?;
        if u64::from_le_bytes(*length) != storage.length as u64 {
            return content(format!("storage {key:?} has another length than its tensors say"));
        }
        let (bytes, behind) = behind.split_at_checked(size).ok_or_else(cut)?;
        if wanted.contains(key) {
            stored += size;
            storages.insert(*key, bytes);
        }
        rest = behind;
    }
    gather(&tensors, stored, |storage| storages.get(storage.key).copied())
}

/// A tensor's numbers in the file.
#[derive(Debug)]
struct Storage<'a> {
    kind: Kind,
    key: &'a str,
    /// In numbers.
    length: usize,
}

impl<'a> Storage<'a> {
    /// Reads `("storage", type, key, location, length, …)`.
    fn read(description: &[Value<'a>]) -> Option<Self> {
        let [
            Value::Text("storage"),
            Value::Global(Global::Storage(kind)),
            Value::Text(key),
            Value::Text(_),
            Value::Int(length),
            ..,
        ] = description
        else {
            return None;
        };
        Some(Self { kind: *kind, key, length: usize::try_from(*length).ok()? })
    }

    /// Bytes, taken from the budget.
    fn size(&self, budget: &mut usize) -> Result<usize, PthError> {
        let size = self.length.checked_mul(self.kind.size()).filter(|size| size <= budget).ok_or(PthError::TooLarge)?;
        *budget -= size;
        Ok(size)
    }
}

/// Which numbers of a storage a tensor is.
#[derive(Debug)]
struct Strided<'a> {
    storage: Storage<'a>,
    dtype: Dtype,
    offset: usize,
    shape: Vec<usize>,
    strides: Vec<usize>,
}

/// The tensors of a state dict, or of one inside.
fn tensors<'a>(arena: &Arena<'a>, value: Value<'a>) -> Result<Vec<(&'a str, Strided<'a>)>, PthError> {
    let Value::Dict(mut dict) = value else {
        return content("it is not a state dict but something else; save model.state_dict() alone with torch.save");
    };
    let inside = |dict: Id| {
        arena.get(dict).chunks_exact(2).find_map(|pair| match pair {
            [Value::Text(key), Value::Dict(inside)] if NESTED.contains(key) => Some(*inside),
            _ => None,
        })
    };
    if let Some(nested) = inside(dict) {
        dict = nested;
    }
    let tensor = |pair: &[Value<'a>]| match pair {
        [Value::Text(name), Value::Tensor(id)] => strided(arena, name, *id).map(|tensor| (*name, tensor)),
        [Value::Text(name), _] => content(format!("{name:?} is no tensor; save the state dict alone")),
        _ => content("a tensor's name is no text"),
    };
    arena.get(dict).chunks_exact(2).map(tensor).collect()
}

/// Reads `_rebuild_tensor_v2(storage, offset, shape, strides, …)`, the tensor `name`.
fn strided<'a>(arena: &Arena<'a>, name: &str, arguments: Id) -> Result<Strided<'a>, PthError> {
    let odd = || PthError::Content(format!("tensor {name:?} is not described as PyTorch does it"));
    let [Value::Storage(storage), Value::Int(offset), Value::Tuple(shape), Value::Tuple(strides), ..] =
        arena.get(arguments)
    else {
        return Err(odd());
    };
    let storage = Storage::read(arena.get(*storage)).ok_or_else(odd)?;
    let dtype = match storage.kind {
        Kind::Read(dtype) => dtype,
        Kind::Unread { name: kind, .. } => {
            return content(format!(
                "tensor {name:?} has a torch.{kind}, whose numbers are of a type that is not read; {READ} are"
            ));
        }
    };
    let numbers = |id: Id| -> Option<Vec<usize>> {
        let number =
            |value: &Value<'_>| if let Value::Int(number) = value { usize::try_from(*number).ok() } else { None };
        arena.get(id).iter().map(number).collect()
    };
    let (shape, strides) = (numbers(*shape).ok_or_else(odd)?, numbers(*strides).ok_or_else(odd)?);
    if shape.len() != strides.len() || shape.len() > 8 {
        return Err(odd());
    }
    let offset = usize::try_from(*offset).map_err(|_| odd())?;
    Ok(Strided { storage, dtype, offset, shape, strides })
}

/// Copies the numbers of all tensors into row-major order. Together they may have a few times the storages' bytes, as
/// some networks have the same matrix in two places.
fn gather<'s>(
    tensors: &[(&str, Strided<'_>)],
    stored: usize,
    storage: impl Fn(&Storage<'_>) -> Option<&'s [u8]>,
) -> Result<Weights, PthError> {
    let mut budget = stored.saturating_mul(MOST_COPIES).min(MOST_BYTES);
    let mut out = Weights::new();
    for (name, tensor) in tensors {
        let Some(bytes) = storage(&tensor.storage) else {
            return content(format!("the numbers of tensor {name:?} are missing"));
        };
        let size = tensor.dtype.size();
        let numbers = tensor.shape.iter().try_fold(1usize, |product, side| product.checked_mul(*side));
        // What `expand` makes: a few bytes would become any number of them.
        if numbers.is_none_or(|numbers| numbers > tensor.storage.length) {
            return content(format!("tensor {name:?} reaches beyond its storage, or repeats its numbers"));
        }
        let Some(left) = numbers.and_then(|n| n.checked_mul(size)).and_then(|bytes| budget.checked_sub(bytes)) else {
            return Err(PthError::TooLarge);
        };
        budget = left;
        let Some(data) = tensor.copy(bytes, size) else {
            return content(format!("tensor {name:?} reaches beyond its storage"));
        };
        let array = Array::new(tensor.dtype, tensor.shape.clone(), data);
        if out.insert((*name).to_owned(), array).is_some() {
            return content(format!("tensor {name:?} is there twice"));
        }
    }
    Ok(out)
}

impl Strided<'_> {
    /// The tensor's numbers in row-major order, or `None` if they reach beyond the storage.
    fn copy(&self, storage: &[u8], size: usize) -> Option<Vec<u8>> {
        let numbers: usize = self.shape.iter().product();
        let mut out = Vec::with_capacity(numbers * size);
        let mut index = vec![0usize; self.shape.len()];
        for _ in 0..numbers {
            let mut at = self.offset;
            for (index, stride) in index.iter().zip(&self.strides) {
                at = at.checked_add(index.checked_mul(*stride)?)?;
            }
            let from = at.checked_mul(size)?;
            out.extend_from_slice(storage.get(from..from.checked_add(size)?)?);
            for (place, side) in index.iter_mut().zip(&self.shape).rev() {
                *place += 1;
                if *place < *side {
                    break;
                }
                *place = 0;
            }
        }
        Some(out)
    }
}

fn content<T>(reason: impl Into<String>) -> Result<T, PthError> {
    Err(PthError::Content(reason.into()))
}
