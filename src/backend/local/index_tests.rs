//! The index against a map, and a migration against what was there.

use std::{collections::BTreeMap, ops::ControlFlow};

use proptest::prelude::*;
use rusqlite::Connection;

use super::{
    blocks::{Code, Entry, Range},
    index,
    matcher::Matcher,
    schema,
};
use crate::{
    backend::Filter,
    contract::{ImageName, Outcome, order::sort_key},
    model::Score,
};

fn database() -> (tempfile::TempDir, Connection) {
    let dir = tempfile::tempdir().unwrap();
    let db = schema::open_writer(&dir.path().join("db")).unwrap();
    (dir, db)
}

/// Everything in the index, by key; and the sizes of its blocks.
fn contents(db: &Connection) -> (BTreeMap<String, Entry>, Vec<usize>) {
    let (mut all, mut sizes) = (BTreeMap::new(), Vec::new());
    let mut matcher = Matcher::new(db, &Filter::default()).unwrap();
    let mut last = String::new();
    let whole = Range::default().scan(db, true, |first, view| {
        sizes.push(view.len());
        for line in matcher.mark(view)? {
            let key = sort_key(matcher.name(line, view)?);
            assert!(key > last, "{key} after {last}");
            assert!(line > 0 || key == first);
            last.clone_from(&key);
            all.insert(key, view.entry(line));
        }
        Ok(ControlFlow::Continue(()))
    });
    assert!(whole.unwrap());
    (all, sizes)
}

fn counter(db: &Connection, name: &str) -> i64 {
    db.query_row("SELECT value FROM counters WHERE name = ?1", [name], |row| row.get(0)).unwrap()
}

fn outcome(kind: u8) -> Outcome {
    match kind {
        0 => Outcome::Failed { error: "no".into() },
        kind => {
            let confidence = f32::from(kind) / 8.0;
            Outcome::labelled(vec![Score { label: format!("label {}", kind % 3), confidence }])
                .unwrap()
                .doubted_below(0.5)
        }
    }
}

/// Names of a few lengths, so that blocks split often; the order of writes is the seed's.
fn name(n: u32) -> ImageName {
    let folder = ["", "a/", "B/c/", "b/"][n as usize % 4];
    format!("{folder}{}{n}.png", "x".repeat(n as usize % 7 * 30)).parse().unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn the_index_has_what_a_map_has(writes in proptest::collection::vec((0u32..700, 0u8..12), 1..900)) {
        let (_dir, db) = database();
        let db = db.unchecked_transaction().unwrap();
        let mut map = BTreeMap::new();
        for (write, (n, kind)) in writes.into_iter().enumerate() {
            let (image, number) = (name(n), write as i64);
            let entry = match kind {
                0..8 => Some(index::entry_of_row(&db, number, &outcome(kind)).unwrap()),
                8 => Some(Entry::waiting(number)),
                _ => None,
            };
            index::set(&db, &image, entry).unwrap();
            let key = sort_key(image.as_str());
            match entry {
                Some(entry) => map.insert(key, entry),
                None => map.remove(&key),
            };
        }
        let (found, sizes) = contents(&db);
        prop_assert!(sizes.iter().all(|lines| *lines > 0));
        let count = |of: fn(Code) -> bool| map.values().filter(|entry| of(entry.code)).count() as i64;
        prop_assert_eq!(counter(&db, "waiting"), count(|code| code == Code::WAITING));
        prop_assert_eq!(counter(&db, "uncertain"), count(Code::is_uncertain));
        let mut labels = BTreeMap::new();
        for label in map.values().filter_map(|entry| entry.code.label()) {
            *labels.entry(label).or_insert(0) += 1;
        }
        let mut select = db.prepare("SELECT id, images FROM labels WHERE images > 0").unwrap();
        let rows = select.query_map([], |row| Ok((row.get::<_, u32>(0)?, row.get::<_, i32>(1)?))).unwrap();
        prop_assert_eq!(rows.collect::<Result<BTreeMap<_, _>, _>>().unwrap(), labels);
        prop_assert_eq!(found, map);
    }
}

/// Blocks are full when names come in order, and also where they come between others; else they are half full at least.
#[test]
fn names_in_order_fill_the_blocks() {
    for (ascends, most) in [(true, 12), (false, 24)] {
        let (_dir, db) = database();
        let db = db.unchecked_transaction().unwrap();
        for n in ["a", "z"] {
            index::set(&db, &n.parse().unwrap(), Some(Entry::waiting(0))).unwrap();
        }
        for n in 0..3000 {
            let n = if ascends { n } else { 2999 - n };
            index::set(&db, &format!("m{n}.png").parse().unwrap(), Some(Entry::waiting(n))).unwrap();
        }
        let (found, sizes) = contents(&db);
        assert_eq!(found.len(), 3002);
        assert!(sizes.len() <= most, "{sizes:?}");
    }
}

#[test]
fn an_older_file_gets_its_index() {
    for version in [1, 2] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("db");
        schema::make_old(&path, version);
        for _ in 0..2 {
            let db = schema::open_writer(&path).unwrap();
            let (found, _) = contents(&db);
            let names: Vec<&str> = found.keys().map(|key| key.split_once('\u{1}').unwrap().1).collect();
            assert_eq!(names, ["a/1.png", "a/b/2.png", "bad.png", "w.png"]);
            let states: Vec<_> = found.values().map(|e| (e.code.label().is_some(), e.code.is_uncertain())).collect();
            assert_eq!(states, [(true, false), (true, true), (false, false), (false, false)]);
            assert_eq!((counter(&db, "waiting"), counter(&db, "uncertain"), counter(&db, "results")), (1, 1, 3));
            let mut select = db.prepare("SELECT folder, images FROM folders ORDER BY sort_key").unwrap();
            let folders = select.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
            let folders: Vec<(String, i64)> = folders.collect::<Result<_, _>>().unwrap();
            assert_eq!(folders, [("a".to_owned(), 2), ("a/b".to_owned(), 1)]);
            assert_eq!(counter(&db, "time"), 7);
        }
    }
}
