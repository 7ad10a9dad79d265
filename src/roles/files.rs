//! The image files that paths on the command line stand for.

use std::{
    borrow::Cow,
    fs::{self, File},
    io::{self, Read},
    path::{Path, PathBuf},
    sync::OnceLock,
};

use crate::{contract::order, model::sniff};

/// Files in a directory that count as images; what is named on the command line always does. The last five are named
/// so that a folder of them gets a reason and not silence.
const EXTENSIONS: [&str; 14] =
    ["png", "apng", "jpg", "jpeg", "jpe", "jfif", "webp", "gif", "bmp", "heic", "heif", "avif", "tif", "tiff"];

/// Most lines of what is passed over.
const MOST_TOLD: usize = 20;

/// A path and where its bytes are.
#[derive(Debug)]
pub(super) struct Item {
    path: PathBuf,
    source: Source,
    /// What was read of it, if it can be read only once.
    kept: OnceLock<Vec<u8>>,
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

    /// Whether it is a file, or may be one.
    pub(super) fn is_file(&self) -> bool {
        matches!(self.source, Source::File)
    }

    /// Whether it is standard input.
    pub(super) fn is_stdin(&self) -> bool {
        matches!(self.source, Source::Stdin)
    }

    /// Its bytes, one more than the limit at most. They are the same each time, those of a pipe as well.
    pub(super) fn read(&self, max_bytes: u64) -> Result<Cow<'_, [u8]>, String> {
        if let Some(bytes) = self.kept.get() {
            return Ok(Cow::Borrowed(bytes));
        }
        let mut bytes = Vec::new();
        let most = max_bytes.saturating_add(1);
        let result = match &self.source {
            Source::Nothing(why) => return Err(why.clone()),
            Source::Stdin => io::stdin().lock().take(most).read_to_end(&mut bytes).map(|_| false),
            Source::File => File::open(&self.path).and_then(|file| {
                let can_be_read_again = file.metadata()?.is_file();
                file.take(most).read_to_end(&mut bytes)?;
                Ok(can_be_read_again)
            }),
        };
        if result.map_err(|e| format!("cannot read the file: {e}"))? {
            return Ok(Cow::Owned(bytes));
        }
        Ok(Cow::Borrowed(self.kept.get_or_init(|| bytes)))
    }

    const fn new(path: PathBuf, source: Source) -> Self {
        Self { path, source, kept: OnceLock::new() }
    }
}

/// What the paths stand for.
pub(super) fn find(paths: &[PathBuf]) -> Found {
    let mut found = Found::default();
    for path in paths {
        if path.as_os_str() == "-" {
            let again = found.items.iter().any(Item::is_stdin);
            let source =
                if again { Source::Nothing("standard input can be read only once".to_owned()) } else { Source::Stdin };
            found.items.push(Item::new(path.clone(), source));
        } else if path.is_dir() {
            let before = found.items.len();
            found.walk(path);
            if found.items.len() == before {
                found.nothing(path, "no images in the directory".to_owned());
            }
        } else {
            found.items.push(Item::new(path.clone(), Source::File));
        }
    }
    found
}

/// Says on standard error what is passed over.
pub(super) fn tell(passed_over: &[String]) {
    for text in passed_over.iter().take(MOST_TOLD) {
        eprintln!("passed over: {text}");
    }
    if let Some(more @ 1..) = passed_over.len().checked_sub(MOST_TOLD) {
        eprintln!("passed over: {more} more");
    }
}

/// The items that paths stand for.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// In the order of the paths, those of a directory in natural order.
    pub(super) items: Vec<Item>,
    /// What else is in directories and may be meant as a picture, in words.
    pub(super) passed_over: Vec<String>,
}

impl Found {
    /// Adds the image files below a directory. Those that are hidden by a dot are not ours. Links to directories are
    /// not followed, as they may lead round in circles.
    fn walk(&mut self, dir: &Path) {
        let entries = match fs::read_dir(dir).and_then(Iterator::collect::<io::Result<Vec<_>>>) {
            Ok(entries) => entries,
            Err(e) => return self.nothing(dir, format!("cannot read the directory: {e}")),
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
            if is_dir && !is_hidden(&path) {
                self.walk(&path);
            } else if is_image_file(&path) {
                self.items.push(Item::new(path, Source::File));
            } else if let Some(why) = why_not(&path, is_dir) {
                self.passed_over.push(format!("{}: {why}", path.display()));
            }
        }
    }

    fn nothing(&mut self, path: &Path, why: String) {
        self.items.push(Item::new(path.to_owned(), Source::Nothing(why)));
    }
}

/// Why something that may be meant as a picture, or have some in it, is passed over. Hidden files and those whose names
/// are plainly of something else are not meant.
pub(super) fn why_not(path: &Path, is_dir: bool) -> Option<&'static str> {
    match path.metadata() {
        _ if is_dir => Some("a folder whose name begins with a dot"),
        _ if is_hidden(path) => None,
        Err(_) => Some("a link that leads nowhere"),
        Ok(kind) if kind.is_dir() => Some("a link to a folder, which is not followed"),
        Ok(kind) if !kind.is_file() => is_image_name(path).then_some("no file"),
        Ok(_) if begins_as_image(path) => Some("a picture without the extension of one, such as .jpg"),
        Ok(_) => None,
    }
}

/// Whether a file's first bytes are those of an image.
fn begins_as_image(path: &Path) -> bool {
    let mut head = Vec::new();
    let read = File::open(path).and_then(|file| file.take(64).read_to_end(&mut head));
    read.is_ok() && sniff(&head).is_ok()
}

fn is_hidden(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'))
}

/// Whether it is a file, or a link to one, with the name of an image.
pub(super) fn is_image_file(path: &Path) -> bool {
    is_image_name(path) && path.is_file()
}

fn is_image_name(path: &Path) -> bool {
    let extension = path.extension().map(|e| e.to_string_lossy().to_ascii_lowercase());
    !is_hidden(path) && extension.is_some_and(|e| EXTENSIONS.contains(&e.as_str()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn what_may_be_meant_as_a_picture_is_told_and_the_rest_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        for folder in ["deep", ".git", "deep/.cache"] {
            fs::create_dir(at(folder)).unwrap();
        }
        for file in ["1.png", "deep/2.jpg", ".git/3.png", "deep/.cache/4.png", ".5.png", "notes.txt", "README"] {
            fs::write(at(file), "text").unwrap();
        }
        for file in ["IMG_0001", "deep/cat.jpg_large", ".thumb"] {
            fs::write(at(file), b"\xff\xd8\xff\xe0 and so on").unwrap();
        }
        symlink("1.png", at("link.png")).unwrap();
        symlink("nowhere", at("lost.png")).unwrap();
        symlink("nowhere", at(".#lock")).unwrap();
        symlink("deep", at("deeper")).unwrap();

        let Found { items, mut passed_over } = find(&[dir.path().to_owned()]);
        let names: Vec<&Path> = items.iter().map(|item| item.path().strip_prefix(dir.path()).unwrap()).collect();
        assert_eq!(names, ["1.png", "deep/2.jpg", "link.png"].map(Path::new));
        passed_over.sort();
        let start = format!("{}/", dir.path().display());
        let told: Vec<&str> = passed_over.iter().map(|text| text.strip_prefix(&start).unwrap()).collect();
        let want = [
            ".git: a folder whose name begins with a dot",
            "IMG_0001: a picture without the extension of one, such as .jpg",
            "deep/.cache: a folder whose name begins with a dot",
            "deep/cat.jpg_large: a picture without the extension of one, such as .jpg",
            "deeper: a link to a folder, which is not followed",
            "lost.png: a link that leads nowhere",
        ];
        assert_eq!(told, want);
    }
}
