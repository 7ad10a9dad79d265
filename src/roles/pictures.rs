//! Pictures sorted into folders by their class, and the features that a network sees in them.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use anyhow::{Context as _, Result, bail};
use sha2::{Digest as _, Sha256};

use super::files::{self, Item};
use crate::{
    contract::order,
    model::{Classifier, Detail, Input, Limits, layout},
};

/// Pictures of one call of the network: enough for its kernels, few enough for a steady progress.
const BATCH: usize = 8;

/// Files with their classes.
#[derive(Debug)]
pub(super) struct Pictures {
    /// Names of the classes, in natural order.
    pub(super) classes: Vec<String>,
    /// Number of files of each class.
    pub(super) counts: Vec<usize>,
    /// What is passed over, in words.
    pub(super) passed_over: Vec<String>,
    items: Vec<(usize, Item)>,
}

/// A picture that was seen.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Seen {
    pub(super) path: PathBuf,
    pub(super) class: usize,
    /// Of the network's input.
    sha256: [u8; 32],
    pub(super) features: Vec<f32>,
}

/// All pictures that were seen, and what was left out, in words.
#[derive(Debug, Default)]
pub(super) struct Sight {
    pub(super) seen: Vec<Seen>,
    pub(super) left_out: Vec<String>,
}

impl Pictures {
    /// The image files below each sub-folder of `folder`, whose names are the classes.
    ///
    /// # Errors
    /// If the folder cannot be read, or has fewer than two sub-folders, or one whose name cannot be a label.
    pub(super) fn find(folder: &Path) -> Result<Self> {
        let read = || format!("cannot read {}", folder.display());
        let mut classes = Vec::new();
        let (mut passed_over, mut loose) = (Vec::new(), 0);
        for entry in std::fs::read_dir(folder).with_context(read)? {
            let path = entry.with_context(read)?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if !path.is_dir() {
                if files::is_image_file(&path) {
                    loose += 1;
                } else if let Some(why) = files::why_not(&path, false) {
                    passed_over.push(format!("{}: {why}", path.display()));
                }
            } else if name.starts_with('.') {
                passed_over.push(format!("the folder {name:?}, since its name begins with a dot"));
            } else {
                if name.trim() != name || !name.chars().all(layout::is_plain) || name.contains('\u{fffd}') {
                    bail!("the folder name {name:?} cannot be a label; rename it");
                }
                classes.push((name, path));
            }
        }
        if classes.len() < 2 {
            bail!("{} has {} sub-folders; it needs one for each class, two at least", folder.display(), classes.len());
        }
        classes.sort_by_key(|(name, _)| order::sort_key(name));
        passed_over.sort();
        if loose > 0 {
            passed_over.push(format!("{loose} pictures directly in {}, which have no class", folder.display()));
        }
        let mut pictures = Self { classes: Vec::new(), counts: Vec::new(), passed_over, items: Vec::new() };
        for (class, (name, path)) in classes.into_iter().enumerate() {
            let found = files::find(&[path]);
            pictures.classes.push(name);
            pictures.counts.push(found.items.iter().filter(|item| item.is_file()).count());
            pictures.passed_over.extend(found.passed_over);
            pictures.items.extend(found.items.into_iter().map(|item| (class, item)));
        }
        Ok(pictures)
    }

    /// Number of files.
    pub(super) fn len(&self) -> usize {
        self.items.len()
    }

    /// Shows all pictures to the network, on `threads` threads. `progress` gets how many are done.
    ///
    /// # Errors
    /// If the network fails; pictures that cannot be read are left out.
    pub(super) fn show(
        &self,
        classifier: &Classifier,
        limits: &Limits,
        threads: usize,
        progress: impl Fn(u64) + Sync,
    ) -> Result<Sight> {
        let next = AtomicUsize::new(0);
        let done = Mutex::new(HashMap::new());
        let work = || -> Result<()> {
            loop {
                let at = next.fetch_add(1, Ordering::Relaxed);
                let Some(batch) = self.items.chunks(BATCH).nth(at) else { return Ok(()) };
                let sight = show_batch(batch, classifier, limits)?;
                done.lock().unwrap_or_else(PoisonError::into_inner).insert(at, sight);
                progress(batch.len() as u64);
            }
        };
        thread::scope(|scope| {
            let threads: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
            threads.into_iter().try_for_each(|thread| match thread.join() {
                Ok(ended) => ended,
                Err(_) => bail!("a thread panicked"),
            })
        })?;
        let mut done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
        let mut all = Sight::default();
        for at in 0..self.items.len().div_ceil(BATCH) {
            let Sight { seen, left_out } = done.remove(&at).unwrap_or_default();
            all.seen.extend(seen);
            all.left_out.extend(left_out);
        }
        all.leave_out_copies(&self.classes);
        Ok(all)
    }
}

/// Without second looks: features of less detail differ by less than those of two photos of one thing do.
fn show_batch(items: &[(usize, Item)], classifier: &Classifier, limits: &Limits) -> Result<Sight> {
    let mut sight = Sight::default();
    let mut inputs: Vec<Input> = Vec::new();
    for (class, item) in items {
        let path = item.path().to_owned();
        let read = item.read(limits.max_bytes).and_then(|bytes| {
            let input = classifier.preprocessor().prepare(&bytes, limits, Detail::Enough).map_err(|e| e.to_string())?;
            let seen: Vec<u8> = input.values.iter().flat_map(|value| value.to_le_bytes()).collect();
            Ok((Sha256::digest(seen).into(), input))
        });
        match read {
            Ok((sha256, input)) => {
                inputs.push(input);
                sight.seen.push(Seen { path, class: *class, sha256, features: Vec::new() });
            }
            Err(reason) => sight.left_out.push(format!("{}: {reason}", path.display())),
        }
    }
    let outputs = classifier.outputs(&inputs)?;
    if inputs.is_empty() {
        return Ok(sight);
    }
    let each = outputs.features.len() / inputs.len();
    for (seen, features) in sight.seen.iter_mut().zip(outputs.features.chunks_exact(each)) {
        seen.features = features.to_vec();
    }
    Ok(sight)
}

impl Sight {
    /// Keeps one of several files that are the same to the network, whatever their format, or none if they are in
    /// several classes: which one is right, nobody knows, and cross-validation would test with what it has fitted to.
    fn leave_out_copies(&mut self, classes: &[String]) {
        let mut by_hash: HashMap<[u8; 32], Vec<usize>> = HashMap::new();
        for (at, seen) in self.seen.iter().enumerate() {
            by_hash.entry(seen.sha256).or_default().push(at);
        }
        let mut keep = vec![true; self.seen.len()];
        for (at, seen) in self.seen.iter().enumerate() {
            let copies = &by_hash[&seen.sha256];
            let first = &self.seen[copies[0]];
            if let Some(&other) = copies.iter().find(|&&other| self.seen[other].class != seen.class) {
                let other = &self.seen[other];
                keep[at] = false;
                let text = format!(
                    "{}: the same picture is in {:?}: {}",
                    seen.path.display(),
                    classes[other.class],
                    other.path.display()
                );
                self.left_out.push(text);
            } else if copies[0] != at {
                keep[at] = false;
                self.left_out.push(format!("{}: a copy of {}", seen.path.display(), first.path.display()));
            }
        }
        let mut keep = keep.into_iter();
        self.seen.retain(|_| keep.next().unwrap_or(true));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Bundle, Engine, Parallel};

    fn seen(path: &str, class: usize, hash: u8) -> Seen {
        Seen { path: path.into(), class, sha256: [hash; 32], features: Vec::new() }
    }

    #[test]
    fn copies_are_left_out_and_contradictions_with_all_their_files() {
        let all = vec![seen("a/1", 0, 1), seen("a/2", 0, 1), seen("b/3", 1, 2), seen("a/4", 0, 2), seen("b/5", 1, 3)];
        let mut sight = Sight { seen: all, left_out: Vec::new() };
        sight.leave_out_copies(&["a".to_owned(), "b".to_owned()]);
        let left: Vec<&str> = sight.seen.iter().map(|seen| seen.path.to_str().unwrap()).collect();
        assert_eq!(left, ["a/1", "b/5"]);
        assert_eq!(
            sight.left_out,
            ["a/2: a copy of a/1", "b/3: the same picture is in \"a\": a/4", "a/4: the same picture is in \"b\": b/3",]
        );
    }

    #[test]
    fn one_picture_in_two_formats_is_a_copy() {
        let dir = tempfile::tempdir().unwrap();
        let pixel = |x: u32, y: u32| image::Rgb([(x * 5) as u8, (y * 5) as u8, 90]);
        let picture = image::RgbImage::from_fn(48, 48, pixel);
        for (name, format) in [("a/1.png", image::ImageFormat::Png), ("b/1.webp", image::ImageFormat::WebP)] {
            let path = dir.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            picture.save_with_format(path, format).unwrap();
        }
        std::fs::create_dir(dir.path().join(".hidden")).unwrap();
        std::fs::write(dir.path().join("loose.jpg"), "").unwrap();
        std::fs::copy(dir.path().join("a/1.png"), dir.path().join("scan")).unwrap();
        std::os::unix::fs::symlink("nowhere", dir.path().join("c")).unwrap();
        std::os::unix::fs::symlink("nowhere", dir.path().join("b/2.png")).unwrap();
        let pictures = Pictures::find(dir.path()).unwrap();
        assert_eq!(pictures.counts, [1, 1]);
        let start = format!("{}/", dir.path().display());
        let told: Vec<&str> =
            pictures.passed_over.iter().map(|text| text.strip_prefix(&start).unwrap_or(text)).collect();
        let loose = format!("1 pictures directly in {}, which have no class", dir.path().display());
        let want = [
            "c: a link that leads nowhere",
            "scan: a picture without the extension of one, such as .jpg",
            "the folder \".hidden\", since its name begins with a dot",
            &loose,
            "b/2.png: a link that leads nowhere",
        ];
        assert_eq!(told, want);

        let parallel = Parallel { calls: 1, threads: 1 };
        let classifier = Classifier::new(Bundle::embedded().unwrap(), Engine::default(), parallel).unwrap();
        let sight = pictures.show(&classifier, &Limits::default(), 1, |_| ()).unwrap();
        assert!(sight.seen.is_empty(), "{:?}", sight.left_out);
        assert!(sight.left_out.iter().all(|text| text.contains("the same picture is in")), "{:?}", sight.left_out);
    }
}
