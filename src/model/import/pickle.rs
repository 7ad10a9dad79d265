//! The part of Python's pickle format (protocols 2 to 4) that PyTorch's files of weights need, and nothing that could
//! run code.
//!
//! Values are small copies that point into one arena, so that no pickle can make a value that is deep or large to copy
//! or to drop.

use super::dtype::Dtype;

/// Most instructions of a pickle. A thousand tensors take some fifty thousand.
const MOST_STEPS: usize = 2_000_000;
/// Most values on the stack, in the memo and in all containers together.
const MOST_VALUES: usize = 4_000_000;

/// Most characters of a name in an error.
const MOST_SHOWN: usize = 64;

/// The types that are read, in words.
pub(super) const READ: &str = "f16, bf16, f32, f64 and i64";

/// Storages of other types, with the bytes of a number: they are there beside weights, in what an optimizer remembers.
const UNREAD: [(&str, usize); 7] = [
    ("BoolStorage", 1),
    ("ByteStorage", 1),
    ("CharStorage", 1),
    ("ShortStorage", 2),
    ("IntStorage", 4),
    ("ComplexFloatStorage", 8),
    ("ComplexDoubleStorage", 16),
];

/// Why a pickle is refused.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum PickleError {
    /// A call of something else than what rebuilds tensors.
    #[error(
        "it calls {0}, which no weights need and which could run any program; save model.state_dict() alone with \
         torch.save"
    )]
    Global(String),
    /// Numbers of a type that is not known.
    #[error("it has a {0}, whose numbers are of a type that is not read; {READ} are")]
    Storage(String),
    /// An instruction that weights do not need.
    #[error("it has the pickle instruction {0:#04x}, which no weights need")]
    Instruction(u8),
    /// More of something than weights need.
    #[error("it has more pickle instructions or values than weights need")]
    TooLarge,
    /// Cut short, or never a pickle.
    #[error("its pickle is damaged: {0}")]
    Damaged(&'static str),
}

/// A place in the arena.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Id(usize);

/// A value.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Value<'a> {
    None,
    Bool(bool),
    Int(i64),
    /// An integer of more than 64 bits, little-endian.
    Long(&'a [u8]),
    Float,
    Text(&'a str),
    Tuple(Id),
    List(Id),
    /// Keys and values in turn.
    Dict(Id),
    Global(Global),
    /// A tensor's numbers: a tuple of what names them.
    Storage(Id),
    /// The arguments of `_rebuild_tensor_v2`.
    Tensor(Id),
}

/// What may be called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Global {
    OrderedDict,
    RebuildTensor,
    RebuildParameter,
    Storage(Kind),
}

/// What numbers a storage has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Read(Dtype),
    /// They are skipped.
    Unread {
        /// Of the storage.
        name: &'static str,
        /// Bytes of a number.
        size: usize,
    },
}

impl Kind {
    /// The kind of PyTorch's storage of that name.
    fn named(name: &str) -> Option<Self> {
        Some(match name {
            "FloatStorage" => Self::Read(Dtype::F32),
            "HalfStorage" => Self::Read(Dtype::F16),
            "BFloat16Storage" => Self::Read(Dtype::BF16),
            "DoubleStorage" => Self::Read(Dtype::F64),
            "LongStorage" => Self::Read(Dtype::I64),
            _ => {
                let (name, size) = *UNREAD.iter().find(|(unread, _)| *unread == name)?;
                Self::Unread { name, size }
            }
        })
    }

    /// Bytes of a number.
    pub(super) const fn size(self) -> usize {
        match self {
            Self::Read(dtype) => dtype.size(),
            Self::Unread { size, .. } => size,
        }
    }
}

impl Global {
    fn named(module: &str, name: &str) -> Result<Self, PickleError> {
        Ok(match (module, name) {
            ("collections", "OrderedDict") => Self::OrderedDict,
            ("torch._utils", "_rebuild_tensor_v2") => Self::RebuildTensor,
            ("torch._utils", "_rebuild_parameter") => Self::RebuildParameter,
            _ => {
                if module == "torch"
                    && let Some(kind) = Kind::named(name)
                {
                    return Ok(Self::Storage(kind));
                }
                let full = format!("{}.{}", start(module), start(name)).escape_debug().to_string();
                let is_storage = module == "torch" && name.ends_with("Storage");
                return Err(if is_storage { PickleError::Storage(full) } else { PickleError::Global(full) });
            }
        })
    }
}

/// As much of a name as an error needs.
fn start(name: &str) -> String {
    let mut start: String = name.chars().take(MOST_SHOWN).collect();
    if start.len() < name.len() {
        start.push('…');
    }
    start
}

/// The containers' contents.
#[derive(Debug, Default)]
pub(super) struct Arena<'a> {
    items: Vec<Vec<Value<'a>>>,
    values: usize,
    /// The tuples of all storages.
    storages: Vec<Id>,
}

impl<'a> Arena<'a> {
    pub(super) fn get(&self, Id(at): Id) -> &[Value<'a>] {
        &self.items[at]
    }

    /// What describes each storage that was named, also where nobody needs it.
    pub(super) fn storages(&self) -> impl Iterator<Item = &[Value<'a>]> {
        self.storages.iter().map(|id| self.get(*id))
    }

    fn add(&mut self, values: Vec<Value<'a>>) -> Result<Id, PickleError> {
        self.count(values.len() + 1)?;
        self.items.push(values);
        Ok(Id(self.items.len() - 1))
    }

    fn extend(&mut self, Id(at): Id, values: &[Value<'a>]) -> Result<(), PickleError> {
        self.count(values.len())?;
        self.items[at].extend_from_slice(values);
        Ok(())
    }

    fn count(&mut self, more: usize) -> Result<(), PickleError> {
        self.values += more;
        if self.values > MOST_VALUES { Err(PickleError::TooLarge) } else { Ok(()) }
    }
}

/// Reads one pickle from the front of `bytes`: its value, and the bytes behind it.
///
/// # Errors
/// [`PickleError`].
pub(super) fn read<'a>(bytes: &'a [u8], arena: &mut Arena<'a>) -> Result<(Value<'a>, &'a [u8]), PickleError> {
    let mut machine = Machine { rest: bytes, arena, stack: Vec::new(), marks: Vec::new(), memo: Vec::new() };
    for _ in 0..MOST_STEPS {
        if let Some(value) = machine.step()? {
            return Ok((value, machine.rest));
        }
    }
    Err(PickleError::TooLarge)
}

struct Machine<'a, 'b> {
    rest: &'a [u8],
    arena: &'b mut Arena<'a>,
    stack: Vec<Value<'a>>,
    /// Where the groups that are being collected begin on the stack.
    marks: Vec<usize>,
    memo: Vec<Option<Value<'a>>>,
}

impl<'a> Machine<'a, '_> {
    /// Runs an instruction. Returns the pickle's value if it was the last.
    fn step(&mut self) -> Result<Option<Value<'a>>, PickleError> {
        let code = self.byte()?;
        match code {
            // PROTO, FRAME: nothing that matters here.
            0x80 => _ = self.byte()?,
            0x95 => _ = self.take(8)?,
            b'.' => return self.pop().map(Some),
            b'(' => self.marks.push(self.stack.len()),
            b'0' => _ = self.pop()?,
            b'N' => self.stack.push(Value::None),
            0x88 => self.stack.push(Value::Bool(true)),
            0x89 => self.stack.push(Value::Bool(false)),
            b'K' | b'M' | b'J' | 0x8a | b'G' => self.number(code)?,
            b'X' | 0x8c => self.text(code)?,
            b'c' | 0x93 => self.global(code)?,
            b')' | b't' | 0x85 | 0x86 | 0x87 => self.tuple(code)?,
            b']' | b'}' => self.container(code)?,
            b'a' | b'e' | b's' | b'u' => self.append(code)?,
            b'q' | b'r' | 0x94 | b'h' | b'j' => self.memo(code)?,
            b'Q' => self.storage()?,
            b'R' => self.call()?,
            b'b' => self.attributes()?,
            _ => return Err(PickleError::Instruction(code)),
        }
        if self.stack.len() > MOST_VALUES || self.marks.len() > MOST_VALUES {
            return Err(PickleError::TooLarge);
        }
        Ok(None)
    }

    fn storage(&mut self) -> Result<(), PickleError> {
        let Value::Tuple(id) = self.pop()? else { return damaged("a storage is not described by a tuple") };
        self.arena.count(1)?;
        self.arena.storages.push(id);
        self.stack.push(Value::Storage(id));
        Ok(())
    }

    /// BUILD sets attributes, such as the versions of a state dict: not ours to read.
    fn attributes(&mut self) -> Result<(), PickleError> {
        self.pop()?;
        let Some(Value::Dict(_)) = self.stack.last() else { return damaged("attributes of what has none") };
        Ok(())
    }

    fn number(&mut self, code: u8) -> Result<(), PickleError> {
        let value = match code {
            b'K' => Value::Int(self.byte()?.into()),
            b'M' => Value::Int(u16::from_le_bytes(self.array()?).into()),
            b'J' => Value::Int(i32::from_le_bytes(self.array()?).into()),
            b'G' => {
                self.take(8)?;
                Value::Float
            }
            _ => {
                let length = self.byte()?;
                let bytes = self.take(length.into())?;
                if bytes.len() > 8 {
                    Value::Long(bytes)
                } else {
                    let negative = bytes.last().is_some_and(|byte| *byte >= 0x80);
                    let mut wide = [if negative { 0xff } else { 0 }; 8];
                    wide[..bytes.len()].copy_from_slice(bytes);
                    Value::Int(i64::from_le_bytes(wide))
                }
            }
        };
        self.stack.push(value);
        Ok(())
    }

    fn text(&mut self, code: u8) -> Result<(), PickleError> {
        let length = if code == b'X' { u32::from_le_bytes(self.array()?) as usize } else { self.byte()?.into() };
        let text = utf8(self.take(length)?)?;
        self.stack.push(Value::Text(text));
        Ok(())
    }

    fn global(&mut self, code: u8) -> Result<(), PickleError> {
        let (module, name) = if code == b'c' {
            (self.line()?, self.line()?)
        } else {
            let (name, module) = (self.pop()?, self.pop()?);
            let (Value::Text(module), Value::Text(name)) = (module, name) else {
                return damaged("a name that is no text");
            };
            (module, name)
        };
        self.stack.push(Value::Global(Global::named(module, name)?));
        Ok(())
    }

    fn tuple(&mut self, code: u8) -> Result<(), PickleError> {
        let values = match code {
            b')' => Vec::new(),
            b't' => self.group()?,
            _ => {
                let length = usize::from(code - 0x84);
                let Some(from) = self.stack.len().checked_sub(length) else { return damaged("a tuple of nothing") };
                self.stack.split_off(from)
            }
        };
        let id = self.arena.add(values)?;
        self.stack.push(Value::Tuple(id));
        Ok(())
    }

    fn container(&mut self, code: u8) -> Result<(), PickleError> {
        let id = self.arena.add(Vec::new())?;
        self.stack.push(if code == b']' { Value::List(id) } else { Value::Dict(id) });
        Ok(())
    }

    fn append(&mut self, code: u8) -> Result<(), PickleError> {
        let values = match code {
            b'a' => vec![self.pop()?],
            b's' => {
                let (value, key) = (self.pop()?, self.pop()?);
                vec![key, value]
            }
            _ => self.group()?,
        };
        match (code, self.stack.last()) {
            (b'a' | b'e', Some(&Value::List(id))) => self.arena.extend(id, &values),
            (b's' | b'u', Some(&Value::Dict(id))) if values.len().is_multiple_of(2) => self.arena.extend(id, &values),
            _ => damaged("values are put where there is no container"),
        }
    }

    fn memo(&mut self, code: u8) -> Result<(), PickleError> {
        let at = match code {
            b'q' | b'h' => self.byte()?.into(),
            b'r' | b'j' => u32::from_le_bytes(self.array()?) as usize,
            _ => self.memo.len(),
        };
        if matches!(code, b'h' | b'j') {
            let Some(Some(value)) = self.memo.get(at) else { return damaged("it reads what it has not kept") };
            self.stack.push(*value);
            return Ok(());
        }
        if at > MOST_VALUES {
            return Err(PickleError::TooLarge);
        }
        let Some(value) = self.stack.last() else { return damaged("it keeps what it has not made") };
        if self.memo.len() <= at {
            self.memo.resize(at + 1, None);
        }
        self.memo[at] = Some(*value);
        Ok(())
    }

    fn call(&mut self) -> Result<(), PickleError> {
        let (arguments, function) = (self.pop()?, self.pop()?);
        let (Value::Tuple(id), Value::Global(function)) = (arguments, function) else {
            return damaged("a call of what is no function");
        };
        let result = match (function, self.arena.get(id)) {
            (Global::RebuildTensor, _) => Value::Tensor(id),
            (Global::RebuildParameter, [tensor @ Value::Tensor(_), ..]) => *tensor,
            (Global::OrderedDict, []) => Value::Dict(self.arena.add(Vec::new())?),
            _ => return damaged("a call with arguments that no weights need"),
        };
        self.stack.push(result);
        Ok(())
    }

    /// What is on the stack since the last mark.
    fn group(&mut self) -> Result<Vec<Value<'a>>, PickleError> {
        match self.marks.pop() {
            Some(from) if from <= self.stack.len() => Ok(self.stack.split_off(from)),
            _ => damaged("a group that was not begun"),
        }
    }

    fn pop(&mut self) -> Result<Value<'a>, PickleError> {
        self.stack.pop().ok_or(PickleError::Damaged("it takes what it has not made"))
    }

    fn byte(&mut self) -> Result<u8, PickleError> {
        Ok(self.array::<1>()?[0])
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], PickleError> {
        let (array, rest) = self.rest.split_first_chunk().ok_or(CUT)?;
        self.rest = rest;
        Ok(*array)
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], PickleError> {
        let (taken, rest) = self.rest.split_at_checked(length).ok_or(CUT)?;
        self.rest = rest;
        Ok(taken)
    }

    fn line(&mut self) -> Result<&'a str, PickleError> {
        let end = self.rest.iter().position(|byte| *byte == b'\n').ok_or(CUT)?;
        let line = self.take(end)?;
        self.take(1)?;
        utf8(line)
    }
}

const CUT: PickleError = PickleError::Damaged("it is cut short");

fn damaged<T>(reason: &'static str) -> Result<T, PickleError> {
    Err(PickleError::Damaged(reason))
}

fn utf8(bytes: &[u8]) -> Result<&str, PickleError> {
    std::str::from_utf8(bytes).map_err(|_| PickleError::Damaged("text that is not UTF-8"))
}

#[cfg(test)]
#[path = "pickle_tests.rs"]
mod tests;
