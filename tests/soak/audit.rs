//! The end of a soak: every acknowledged image has one right row, one output and one set of tags, and nothing else is
//! there.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use imgcls::contract::{Digest, ImageName, result::output_key, tags};
use rusqlite::{Connection, OpenFlags};
use serde_json::Value;

use super::{
    ledger::{Expected, Ledger, Resets},
    pictures::Pictures,
};

/// What the data directory holds.
#[derive(Debug)]
pub(super) struct Contents {
    images: BTreeMap<String, Image>,
    rows: BTreeMap<String, Value>,
    outputs: BTreeMap<String, Value>,
    messages: u64,
    /// Ids of the image files.
    files: BTreeSet<String>,
}

#[derive(Debug)]
struct Image {
    digest: Digest,
    file: String,
    tags: BTreeMap<String, String>,
}

impl Contents {
    /// Reads the data directory `dir`.
    pub(super) fn read(dir: &Path) -> Self {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let db = Connection::open_with_flags(dir.join("imgcls.db"), flags).unwrap();
        db.busy_timeout(std::time::Duration::from_secs(10)).unwrap();
        let snapshot = db.unchecked_transaction().unwrap();
        let json = |text: &[u8]| serde_json::from_slice::<Value>(text).unwrap();
        let mut images = snapshot.prepare("SELECT name, digest, file, tags FROM images").unwrap();
        let images = images.query_map([], |row| {
            let tags = serde_json::from_str(&row.get::<_, String>(3)?).unwrap();
            Ok((row.get(0)?, Image { digest: Digest(row.get(1)?), file: row.get(2)?, tags }))
        });
        let mut rows = snapshot.prepare("SELECT image, body FROM results").unwrap();
        let rows = rows.query_map([], |row| Ok((row.get(0)?, json(row.get::<_, String>(1)?.as_bytes()))));
        let mut outputs = snapshot.prepare("SELECT key, body FROM outputs").unwrap();
        let outputs = outputs.query_map([], |row| Ok((row.get(0)?, json(&row.get::<_, Vec<u8>>(1)?))));
        let messages = snapshot.query_row("SELECT count(*) FROM messages", [], |row| row.get(0)).unwrap();
        Self {
            images: images.unwrap().map(Result::unwrap).collect(),
            rows: rows.unwrap().map(Result::unwrap).collect(),
            outputs: outputs.unwrap().map(Result::unwrap).collect(),
            messages,
            files: files(&dir.join("images")),
        }
    }

    /// How many images there are.
    pub(super) fn count(&self) -> usize {
        self.images.len()
    }

    /// What is wrong with what is there, each in a line.
    pub(super) fn wrong(&self, pictures: &Pictures, model: Option<&str>) -> Vec<String> {
        let mut wrong = Vec::new();
        if self.messages != 0 {
            wrong.push(format!("{} messages are left", self.messages));
        }
        let mut keys = BTreeSet::new();
        for (name, image) in &self.images {
            if !self.files.contains(&image.file) {
                wrong.push(format!("{name} has no file"));
            }
            let Some(row) = self.rows.get(name) else {
                wrong.push(format!("{name} has no row"));
                continue;
            };
            let key = row["label"].as_str().map(|label| output_key(&name.parse::<ImageName>().unwrap(), label));
            let output = key.as_ref().and_then(|key| self.outputs.get(key));
            wrong.extend(wrong_row(image, row, output, pictures, model).map(|what| format!("{name}: {what}: {row}")));
            keys.extend(key);
        }
        let strangers = self.rows.keys().filter(|name| !self.images.contains_key(*name));
        wrong.extend(strangers.map(|name| format!("there is a row for {name}, which is not stored")));
        let stray = self.outputs.keys().filter(|key| !keys.contains(*key));
        wrong.extend(stray.map(|key| format!("output {key} belongs to no row")));
        wrong
    }

    /// Files that belong to no image.
    pub(super) fn orphans(&self) -> Vec<&String> {
        let known: BTreeSet<&String> = self.images.values().map(|image| &image.file).collect();
        self.files.iter().filter(|file| !known.contains(*file)).collect()
    }

    /// What is not as the ledgers have it.
    pub(super) fn missing(&self, ledgers: &[Ledger], resets: &Resets, pictures: &Pictures) -> Vec<String> {
        let mut wrong = Vec::new();
        let mut known = BTreeSet::new();
        for ledger in ledgers {
            for name in ledger.names() {
                known.insert(name);
                let stored = self.images.get(name).map(|image| pictures.find(&image.digest));
                match (ledger.expected(resets, name), stored) {
                    (Expected::Stored(picture), Some(Some(stored))) if stored == picture => {}
                    (Expected::Stored(_), None) => wrong.push(format!("{name} was acknowledged and is not there")),
                    (Expected::Perhaps(_), None) => {}
                    (Expected::Perhaps(some), Some(Some(stored))) if some.contains(&stored) => {}
                    (expected, stored) => wrong.push(format!("{name} holds {stored:?} and not {expected:?}")),
                }
            }
        }
        let strangers = self.images.keys().filter(|name| !known.contains(name.as_str()));
        wrong.extend(strangers.map(|name| format!("{name} is there, and nobody has it")));
        wrong
    }
}

fn wrong_row(
    image: &Image,
    row: &Value,
    output: Option<&Value>,
    pictures: &Pictures,
    model: Option<&str>,
) -> Option<String> {
    let by = row["model"].as_str().unwrap_or_default();
    if model.is_some_and(|model| model != by) {
        return Some(format!("it is of another model than {model:?}"));
    }
    let label = pictures.find(&image.digest).map(|picture| pictures.label(picture, by));
    if label != Some(row["label"].as_str()) {
        return Some(format!("the label should be {label:?}"));
    }
    let tagged = image.tags.get("Classification");
    match row["label"].as_str() {
        None if row["error"].as_str().is_none_or(|why| why.starts_with("gave up")) => Some("it has no reason".into()),
        None if tagged.is_some() => Some("it failed and is tagged".into()),
        None => None,
        Some(label) if tagged.is_none_or(|tag| *tag != tags::value(label)) => Some(format!("it is tagged {tagged:?}")),
        Some(label) if output.is_none_or(|output| output["label"] != label || output["model"] != by) => {
            Some(format!("its output is {output:?}"))
        }
        Some(_) => None,
    }
}

/// What a server that has just started, to which nothing was sent yet, has left of uploads and thumbnails that were cut
/// off.
pub(super) fn leftovers(dir: &Path) -> Vec<PathBuf> {
    let entries = |dir: PathBuf| std::fs::read_dir(dir).into_iter().flatten().map(|entry| entry.unwrap().path());
    let is = |path: &PathBuf, kind: &str| path.extension().is_some_and(|extension| extension == kind);
    let (locks, spools): (Vec<_>, Vec<_>) = entries(dir.join("uploads")).partition(|path| is(path, "lock"));
    let mut left: Vec<PathBuf> = spools.iter().cloned().flat_map(entries).collect();
    // One is the server's own.
    left.extend(locks.into_iter().skip(1).chain(spools.into_iter().skip(1)));
    left.extend(entries(dir.join("thumbnails")).filter(|path| !is(path, "jpg")));
    left
}

fn files(images: &Path) -> BTreeSet<String> {
    let entries = |dir: &Path| std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap()).collect::<Vec<_>>();
    let shards = entries(images).into_iter();
    shards.flat_map(|shard| entries(&shard.path())).map(|file| file.file_name().into_string().unwrap()).collect()
}
