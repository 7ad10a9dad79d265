//! The image files that paths on the command line stand for.

use std::{
    fs::{self, File},
    io::{self, Read},
    path::{Path, PathBuf},
};

use crate::contract::order;

/// Files in a directory that count as images; what is named on the command line always does. The last five are named
/// so that a folder of them gets a reason and not silence.
const EXTENSIONS: [&str; 14] =
    ["png", "apng", "jpg", "jpeg", "jpe", "jfif", "webp", "gif", "bmp", "heic", "heif", "avif", "tif", "tiff"];

/// A path and where its bytes are.
#[derive(Debug)]
pub(super) struct Item {
    path: PathBuf,
    source: Source,
}

#[derive(Debug)]
enum Source {
    File,
    Stdin,
    /// A path that leads to no image.
    Nothing(String),
}

impl Item {
    /// Where it is, as it was named.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether it is standard input.
    pub(super) fn is_stdin(&self) -> bool {
        matches!(self.source, Source::Stdin)
    }

    /// Its bytes, one more than the limit at most.
    pub(super) fn read(&self, max_bytes: u64) -> Result<Vec<u8>, String> {
        let mut bytes = Vec::new();
        let most = max_bytes.saturating_add(1);
        let result = match &self.source {
            Source::Nothing(why) => return Err(why.clone()),
            Source::Stdin => io::stdin().lock().take(most).read_to_end(&mut bytes),
            Source::File => File::open(&self.path).and_then(|file| file.take(most).read_to_end(&mut bytes)),
        };
        result.map_err(|e| format!("cannot read the file: {e}"))?;
        Ok(bytes)
    }
}

/// The items that the paths stand for, in the order given, those of a directory in natural order.
pub(super) fn find(paths: &[PathBuf]) -> Vec<Item> {
    let mut items: Vec<Item> = Vec::new();
    for path in paths {
        if path.as_os_str() == "-" {
            let again = items.iter().any(|item| matches!(item.source, Source::Stdin));
            let source =
                if again { Source::Nothing("standard input can be read only once".to_owned()) } else { Source::Stdin };
            items.push(Item { path: path.clone(), source });
        } else if path.is_dir() {
            let before = items.len();
            walk(path, &mut items);
            if items.len() == before {
                items.push(Item {
                    path: path.clone(),
                    source: Source::Nothing("no images in the directory".to_owned()),
                });
            }
        } else {
            items.push(Item { path: path.clone(), source: Source::File });
        }
    }
    items
}

/// Adds the image files below a directory. Links to directories are not followed, as they may lead round in circles.
fn walk(dir: &Path, items: &mut Vec<Item>) {
    let entries = match fs::read_dir(dir).and_then(Iterator::collect::<io::Result<Vec<_>>>) {
        Ok(entries) => entries,
        Err(e) => {
            items.push(Item {
                path: dir.to_owned(),
                source: Source::Nothing(format!("cannot read the directory: {e}")),
            });
            return;
        }
    };
    let mut paths: Vec<(String, PathBuf, bool)> = entries
        .into_iter()
        .map(|entry| {
            let is_dir = entry.file_type().is_ok_and(|kind| kind.is_dir());
            (order::sort_key(&entry.file_name().to_string_lossy()), entry.path(), is_dir)
        })
        .collect();
    paths.sort();
    for (_, path, is_dir) in paths {
        if is_dir {
            walk(&path, items);
        } else if is_image_name(&path) && path.is_file() {
            items.push(Item { path, source: Source::File });
        }
    }
}

/// Whether a file's name is that of an image.
pub(super) fn is_image_name(path: &Path) -> bool {
    let hidden = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'));
    let extension = path.extension().map(|e| e.to_string_lossy().to_ascii_lowercase());
    !hidden && extension.is_some_and(|e| EXTENSIONS.contains(&e.as_str()))
}
