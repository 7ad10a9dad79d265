//! Which lines of the index match a filter.

use memchr::{memchr_iter, memmem::Finder};
use rusqlite::{Connection, OptionalExtension};

use super::blocks::{Code, Range, View, text};
use crate::{
    backend::{Filter, Result, State},
    contract::order::fold,
};

/// A filter as the index understands it, and what it made of the block at hand.
#[derive(Debug)]
pub(super) struct Matcher {
    text: Option<Text>,
    /// The label's id; 0, which no label has, for one that was never seen.
    label: Option<u32>,
    state: Option<State>,
    /// With a `/` at its end.
    folder: Option<String>,
    /// Where the names of the block end.
    ends: Vec<usize>,
    /// Whether text and folder hold.
    marks: Vec<bool>,
    lower: Vec<u8>,
}

/// A text that is in the name or is the label, without regard to case.
#[derive(Debug)]
struct Text {
    finder: Finder<'static>,
    /// Whether the text is ASCII, which is looked for byte by byte: faster by far.
    is_ascii: bool,
    labels: Vec<u32>,
}

impl Text {
    fn new(db: &Connection, text: &str) -> Result<Self> {
        let lower = lower(text);
        let mut find = db.prepare_cached("SELECT id, label FROM labels")?;
        let labels = find.query_map([], |row| Ok((row.get(0)?, row.get::<_, String>(1)?)))?;
        let labels = labels.collect::<Result<Vec<_>, _>>()?.into_iter();
        let labels = labels.filter(|(_, label)| self::lower(label) == lower).map(|(id, _)| id).collect();
        Ok(Self { finder: Finder::new(lower.as_bytes()).into_owned(), is_ascii: lower.is_ascii(), labels })
    }

    /// Marks the lines of these names that hold it. `lower` is room for their lower case.
    fn mark(&self, names: &[u8], ends: &[usize], lower: &mut Vec<u8>, marks: &mut [bool]) -> Result<()> {
        lower.clear();
        if self.is_ascii {
            lower.extend(names);
            lower.make_ascii_lowercase();
            self.find(lower, ends, marks);
        } else if !names.is_ascii() {
            // Lines do not keep their lengths.
            lower.extend(self::lower(text(names)?).bytes());
            self.find(lower, &memchr_iter(b'\n', lower).collect::<Vec<_>>(), marks);
        }
        Ok(())
    }

    /// Marks the lines, which end at `ends`, that hold it.
    fn find(&self, lines: &[u8], ends: &[usize], marks: &mut [bool]) {
        let (mut line, mut from) = (0, 0);
        while let Some(at) = lines.get(from..).and_then(|rest| self.finder.find(rest)) {
            let hit = from + at;
            line += ends[line..].iter().take_while(|end| **end < hit).count();
            let Some(end) = ends.get(line) else { break };
            marks[line] = hit + self.finder.needle().len() <= *end;
            from = end + 1;
            line += 1;
        }
    }
}

/// Character by character, so that a part of a text becomes a part of the whole's.
fn lower(text: &str) -> String {
    text.chars().flat_map(char::to_lowercase).collect()
}

impl Matcher {
    pub(super) fn new(db: &Connection, filter: &Filter) -> Result<Self> {
        let label = match &filter.label {
            None => None,
            Some(label) => {
                let mut find = db.prepare_cached("SELECT id FROM labels WHERE label = ?1")?;
                Some(find.query_row([label], |row| row.get(0)).optional()?.unwrap_or(0))
            }
        };
        Ok(Self {
            text: filter.text.as_deref().map(|text| Text::new(db, text)).transpose()?,
            label,
            state: filter.state,
            folder: filter.folder.as_ref().map(|folder| format!("{folder}/")),
            ends: Vec::new(),
            marks: Vec::new(),
            lower: Vec::new(),
        })
    }

    /// The blocks that the folder's names are in.
    pub(super) fn range(&self, db: &Connection) -> Result<Range> {
        let Some(folder) = &self.folder else { return Ok(Range::default()) };
        let from = fold(folder);
        // What begins with the folder comes before what begins with the character after `/`, its last one.
        let to = format!("{}0", &from[..from.len() - 1]);
        let mut find = db.prepare_cached("SELECT coalesce(max(first), '') FROM blocks WHERE first <= ?1")?;
        Ok(Range { from: find.query_row([from], |row| row.get(0))?, to: Some(to) })
    }

    /// Looks at a block: finds the names of its lines, and for which of them text and folder hold. Returns its lines.
    pub(super) fn mark(&mut self, view: &View<'_>) -> Result<std::ops::Range<usize>> {
        let Self { ends, marks, lower, .. } = self;
        ends.clear();
        ends.extend(memchr_iter(b'\n', view.names));
        marks.clear();
        marks.resize(view.len(), self.text.is_none());
        if let Some(text) = &self.text {
            text.mark(view.names, ends, lower, marks)?;
            let labels = &text.labels;
            if !labels.is_empty() {
                for (line, mark) in marks.iter_mut().enumerate() {
                    *mark |= view.code(line).label().is_some_and(|label| labels.contains(&label));
                }
            }
        }
        if let Some(folder) = &self.folder {
            for line in 0..self.marks.len() {
                self.marks[line] = self.marks[line] && self.name_bytes(line, view).starts_with(folder.as_bytes());
            }
        }
        Ok(0..view.len())
    }

    /// Whether the whole filter holds for a line of the block that was marked.
    pub(super) fn holds(&self, line: usize, view: &View<'_>) -> bool {
        self.marks[line] && {
            let code = view.code(line);
            self.is_label(code) && self.is_state(code)
        }
    }

    /// Whether text and folder hold for a line of the block that was marked.
    pub(super) fn is_marked(&self, line: usize) -> bool {
        self.marks[line]
    }

    pub(super) fn is_label(&self, code: Code) -> bool {
        self.label.is_none_or(|label| code.label() == Some(label))
    }

    pub(super) fn is_state(&self, code: Code) -> bool {
        match self.state {
            None => code != Code::WAITING,
            Some(State::Labelled) => code.label().is_some(),
            Some(State::Uncertain) => code.is_uncertain(),
            Some(State::Failed) => code == Code::FAILED,
            Some(State::Waiting) => code == Code::WAITING,
        }
    }

    /// The name of a line of the block that was marked.
    pub(super) fn name<'a>(&self, line: usize, view: &View<'a>) -> Result<&'a str> {
        text(self.name_bytes(line, view))
    }

    /// The bytes of that name.
    pub(super) fn name_bytes<'a>(&self, line: usize, view: &View<'a>) -> &'a [u8] {
        let start = line.checked_sub(1).map_or(0, |before| self.ends[before] + 1);
        &view.names[start..self.ends[line]]
    }
}
