//! How many images there are of each kind: by the counters, or among what matches a filter by the index.

use std::{cmp::Reverse, ops::ControlFlow};

use rusqlite::Connection;

use super::{
    blocks::Code,
    folders::{self, Counting},
    matcher::Matcher,
};
use crate::backend::{Counts, Filter, LabelCount, Result, StateCounts};

/// Counts what matches.
pub(super) fn read(db: &Connection, filter: &Filter) -> Result<Counts> {
    let parent = filter.folder.as_ref();
    if filter.is_empty() {
        let (states, labels) = all(db)?;
        return Ok(Counts { states, labels, folders: folders::read(db, parent)?, exact: true });
    }
    let is_narrowed = filter.text.is_some() || filter.label.is_some() || filter.state.is_some();
    let mut counting = is_narrowed.then(|| Counting::new(parent));
    let (states, labels) = matching(db, filter, counting.as_mut())?;
    let folders = counting.map_or_else(|| folders::read(db, parent), Counting::finish)?;
    Ok(Counts { states, labels, folders, exact: true })
}

/// A counter that is kept.
pub(super) fn counter(db: &Connection, name: &str) -> Result<u64> {
    let mut find = db.prepare_cached("SELECT value FROM counters WHERE name = ?1")?;
    Ok(find.query_row([name], |row| row.get(0))?)
}

fn all(db: &Connection) -> Result<(StateCounts, Vec<LabelCount>)> {
    let failed = counter(db, "failed")?;
    let states = StateCounts {
        labelled: counter(db, "results")?.saturating_sub(failed),
        uncertain: Some(counter(db, "uncertain")?),
        failed,
        waiting: Some(counter(db, "waiting")?),
    };
    let mut select =
        db.prepare_cached("SELECT label, images FROM labels WHERE images > 0 ORDER BY images DESC, label LIMIT ?1")?;
    let labels = select
        .query_map([Counts::MAX_COUNTED as i64], |row| Ok(LabelCount { label: row.get(0)?, images: row.get(1)? }))?;
    Ok((states, labels.collect::<Result<_, _>>()?))
}

fn matching(
    db: &Connection,
    filter: &Filter,
    mut folders: Option<&mut Counting>,
) -> Result<(StateCounts, Vec<LabelCount>)> {
    let mut matcher = Matcher::new(db, filter)?;
    let (mut uncertain, mut waiting, mut states) = (0, 0, StateCounts::default());
    let mut labels = Labels::new(db)?;
    matcher.range(db)?.scan(db, true, |_, view| {
        for line in matcher.mark(view)?.filter(|line| matcher.is_marked(*line)) {
            let code = view.code(line);
            let (is_label, is_state) = (matcher.is_label(code), matcher.is_state(code));
            if is_label {
                states.labelled += u64::from(code.label().is_some());
                states.failed += u64::from(code == Code::FAILED);
                uncertain += u64::from(code.is_uncertain());
                waiting += u64::from(code == Code::WAITING);
            }
            if is_state && let Some(label) = code.label() {
                labels.add(label);
            }
            if let Some(folders) = folders.as_mut().filter(|_| is_label && is_state) {
                folders.add(matcher.name_bytes(line, view))?;
            }
        }
        Ok(ControlFlow::Continue(()))
    })?;
    (states.uncertain, states.waiting) = (Some(uncertain), Some(waiting));
    Ok((states, labels.named(db)?))
}

/// Images by the id of their label. Ids are few and have no gaps.
struct Labels(Vec<u64>);

impl Labels {
    fn new(db: &Connection) -> Result<Self> {
        let mut last = db.prepare_cached("SELECT coalesce(max(id), 0) FROM labels")?;
        Ok(Self(vec![0; last.query_row([], |row| row.get::<_, usize>(0))? + 1]))
    }

    fn add(&mut self, id: u32) {
        if let Some(images) = self.0.get_mut(id as usize) {
            *images += 1;
        }
    }

    /// The most frequent ones by their names.
    fn named(self, db: &Connection) -> Result<Vec<LabelCount>> {
        let mut labels: Vec<(usize, u64)> = self.0.into_iter().enumerate().filter(|(_, images)| *images > 0).collect();
        labels.sort_unstable_by_key(|(id, images)| (Reverse(*images), *id));
        labels.truncate(Counts::MAX_COUNTED);
        let mut find = db.prepare_cached("SELECT label FROM labels WHERE id = ?1")?;
        let named = labels.into_iter().map(|(id, images)| {
            let label = find.query_row([id], |row| row.get(0))?;
            Ok(LabelCount { label, images })
        });
        named.collect()
    }
}
