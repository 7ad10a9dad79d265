//! The blocks of the index as they are read: columns of numbers first, and then the names.

use std::{fmt::Display, ops::ControlFlow};

use rusqlite::{Connection, types::Value};

use super::row::corrupt;
use crate::backend::Result;

/// Bytes of a line besides its name: its number, its confidence and its code.
pub(super) const COLUMNS: usize = 8 + 4 + 4;

/// The confidence by which failures come last.
pub(super) const FAILED: f32 = 2.0;

/// What the index has of an image besides its name.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Entry {
    /// The row's id, which grows with each write; for an image that waits, its sequencer.
    pub(super) number: i64,
    /// The label's probability, or [`FAILED`].
    pub(super) confidence: f32,
    pub(super) code: Code,
}

/// What is known of an image: that it waits, that it failed, or the number of its label and whether that is uncertain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Code(pub(super) u32);

impl Code {
    pub(super) const WAITING: Self = Self(0);
    pub(super) const FAILED: Self = Self(1);
    const UNCERTAIN: u32 = 1 << 31;

    /// Of the label with this id, from 1.
    pub(super) fn labelled(id: u32, uncertain: bool) -> Self {
        Self((id + 1) | if uncertain { Self::UNCERTAIN } else { 0 })
    }

    /// The label's id.
    pub(super) fn label(self) -> Option<u32> {
        (self.0 & !Self::UNCERTAIN).checked_sub(1).filter(|id| *id > 0)
    }

    pub(super) fn is_uncertain(self) -> bool {
        self.0 & Self::UNCERTAIN != 0
    }
}

impl Entry {
    /// Of an image without a row.
    pub(super) fn waiting(sequencer: i64) -> Self {
        Self { number: sequencer, confidence: 0.0, code: Code::WAITING }
    }
}

/// The columns of a block as it is stored: the number of lines, their numbers, confidences and codes, and their names
/// with a line feed after each. Integers and floats are little-endian.
#[derive(Debug, Clone, Copy)]
pub(super) struct View<'a> {
    numbers: &'a [[u8; 8]],
    confidences: &'a [[u8; 4]],
    codes: &'a [[u8; 4]],
    pub(super) names: &'a [u8],
}

impl<'a> View<'a> {
    pub(super) fn new(block: &'a [u8]) -> Result<Self> {
        let parts = || {
            let (count, rest) = block.split_first_chunk::<2>()?;
            let count = usize::from(u16::from_le_bytes(*count));
            let (numbers, rest) = rest.split_at_checked(8 * count)?;
            let (confidences, rest) = rest.split_at_checked(4 * count)?;
            let (codes, names) = rest.split_at_checked(4 * count)?;
            Some(Self {
                numbers: numbers.as_chunks().0,
                confidences: confidences.as_chunks().0,
                codes: codes.as_chunks().0,
                names,
            })
        };
        parts().ok_or_else(|| corrupt("blocks"))
    }

    pub(super) fn len(&self) -> usize {
        self.codes.len()
    }

    pub(super) fn code(&self, line: usize) -> Code {
        Code(u32::from_le_bytes(self.codes[line]))
    }

    pub(super) fn entry(&self, line: usize) -> Entry {
        Entry {
            number: i64::from_le_bytes(self.numbers[line]),
            confidence: f32::from_le_bytes(self.confidences[line]),
            code: self.code(line),
        }
    }
}

/// A name in a block.
pub(super) fn text(name: &[u8]) -> Result<&str> {
    std::str::from_utf8(name).map_err(|e| corrupt("blocks").because(e))
}

/// Blocks whose first key is in a range.
#[derive(Debug, Clone, Default)]
pub(super) struct Range {
    /// From this key on,
    pub(super) from: String,
    /// up to this one, which is not among them.
    pub(super) to: Option<String>,
}

impl Range {
    /// Those in another range, too.
    pub(super) fn within(self, other: &Self) -> Self {
        let to = match (self.to, &other.to) {
            (Some(a), Some(b)) => Some(a.min(b.clone())),
            (a, b) => a.or_else(|| b.clone()),
        };
        Self { from: self.from.max(other.from.clone()), to }
    }

    /// The next key after `key` that there could be.
    pub(super) fn after(key: &str) -> String {
        format!("{key}\0")
    }

    /// Hands out the blocks with their first keys until `each` breaks off. True if it did not.
    pub(super) fn scan(
        &self,
        db: &Connection,
        forward: bool,
        mut each: impl FnMut(&str, &View<'_>) -> Result<ControlFlow<()>>,
    ) -> Result<bool> {
        let mut select = db.prepare_cached(if forward {
            "SELECT first, entries FROM blocks WHERE first >= ?1 AND first < ?2 ORDER BY first"
        } else {
            "SELECT first, entries FROM blocks WHERE first >= ?1 AND first < ?2 ORDER BY first DESC"
        })?;
        // To SQLite a blob is greater than any text.
        let to = self.to.clone().map_or(Value::Blob(Vec::new()), Value::Text);
        let mut blocks = select.query((&self.from, to))?;
        while let Some(block) = blocks.next()? {
            let malformed = |e: &dyn Display| corrupt("blocks").because(e);
            let first = block.get_ref(0)?.as_str().map_err(|e| malformed(&e))?;
            let view = View::new(block.get_ref(1)?.as_blob().map_err(|e| malformed(&e))?)?;
            if each(first, &view)?.is_break() {
                return Ok(false);
            }
        }
        Ok(true)
    }
}
