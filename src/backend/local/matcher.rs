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

/// A text that is in the name or is the label, without regard to ASCII case.
#[derive(Debug)]
struct Text {
    finder: Finder<'static>,
    labels: Vec<u32>,
}

impl Text {
    fn new(db: &Connection, text: &str) -> Result<Self> {
        let mut find = db.prepare_cached("SELECT id FROM labels WHERE label = ?1 COLLATE NOCASE")?;
        let labels = find.query_map([text], |row| row.get(0))?.collect::<Result<_, _>>()?;
        Ok(Self { finder: Finder::new(text.to_ascii_lowercase().as_bytes()).into_owned(), labels })
    }
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
        if let Some(Text { finder, labels }) = &self.text {
            lower.clear();
            lower.extend(view.names);
            lower.make_ascii_lowercase();
            let (mut line, mut from) = (0, 0);
            while let Some(at) = lower.get(from..).and_then(|rest| finder.find(rest)) {
                let hit = from + at;
                line += ends[line..].iter().take_while(|end| **end < hit).count();
                let Some(end) = ends.get(line) else { break };
                marks[line] = hit + finder.needle().len() <= *end;
                from = end + 1;
                line += 1;
            }
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

    fn name_bytes<'a>(&self, line: usize, view: &View<'a>) -> &'a [u8] {
        let start = line.checked_sub(1).map_or(0, |before| self.ends[before] + 1);
        &view.names[start..self.ends[line]]
    }
}
