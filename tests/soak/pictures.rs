//! The pictures that are uploaded, and what `imgcls classify` says of each with either model.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
};

use imgcls::contract::Digest;

use crate::support::{imgcls, picture};

/// How many pictures there are; names are many more.
const PICTURES: u32 = 48;

/// Of two labels that are closer than this either may come first, since sums depend on what else is in the batch.
const CLEAR: f64 = 0.02;

/// A model bundle's name and what it says.
#[derive(Debug)]
pub(super) struct Model {
    /// Its directory; `None` for the embedded one.
    pub(super) dir: Option<PathBuf>,
    pub(super) name: String,
    /// For each picture the label, or `None` where it cannot be classified.
    labels: Vec<Option<String>>,
}

/// What there is to upload.
#[derive(Debug)]
pub(super) struct Pictures {
    bytes: Vec<Vec<u8>>,
    by_digest: HashMap<Digest, usize>,
    pub(super) models: [Model; 2],
}

impl Pictures {
    /// Draws the pictures, makes a second model below `dir`, and asks either for all labels.
    pub(super) fn new(dir: &Path) -> Self {
        let mut bytes: Vec<Vec<u8>> = (0..PICTURES).map(picture).collect();
        // Some have the first bytes of an image and then nothing that decodes.
        bytes.extend((0..4_u8).map(|n| [&picture(1000 + u32::from(n))[..60], &[0x5a + n; 40]].concat()));
        let other = other_bundle(dir);
        let told = [None, Some(other)].map(|model| (classify(dir, &bytes, model.as_deref()), model));
        let clear: Vec<usize> = (0..bytes.len()).filter(|n| told.iter().all(|(told, _)| is_clear(&told[*n]))).collect();
        assert!(clear.len() > bytes.len() / 2, "the models are unsure of most pictures");
        let bytes: Vec<_> = clear.iter().map(|n| bytes[*n].clone()).collect();
        let models = told.map(|(told, dir)| Model {
            dir,
            name: told[0]["model"].as_str().unwrap().to_owned(),
            labels: clear.iter().map(|n| told[*n]["label"].as_str().map(str::to_owned)).collect(),
        });
        assert_ne!(models[0].name, models[1].name);
        let by_digest: HashMap<_, _> = bytes.iter().enumerate().map(|(n, bytes)| (Digest::of(bytes), n)).collect();
        assert_eq!(by_digest.len(), bytes.len(), "pictures must differ, or nobody can say which of them is stored");
        Self { bytes, by_digest, models }
    }

    pub(super) fn count(&self) -> usize {
        self.bytes.len()
    }

    pub(super) fn bytes(&self, picture: usize) -> &[u8] {
        &self.bytes[picture]
    }

    /// The picture with this digest.
    pub(super) fn find(&self, digest: &Digest) -> Option<usize> {
        self.by_digest.get(digest).copied()
    }

    /// What the model of this name says of a picture.
    pub(super) fn label(&self, picture: usize, model: &str) -> Option<&str> {
        let model = self.models.iter().find(|m| m.name == model).unwrap_or_else(|| panic!("a model {model:?}"));
        model.labels[picture].as_deref()
    }
}

fn is_clear(told: &serde_json::Value) -> bool {
    let confidence = |n: usize| told["top"][n]["confidence"].as_f64().unwrap_or_default();
    told["error"].is_string() || confidence(0) - confidence(1) > CLEAR
}

/// The embedded bundle with its labels in another order, under another name.
fn other_bundle(dir: &Path) -> PathBuf {
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/model");
    let to = dir.join("other-model");
    std::fs::create_dir_all(&to).unwrap();
    std::fs::copy(from.join("weights.safetensors"), to.join("weights.safetensors")).unwrap();
    let labels = std::fs::read_to_string(from.join("labels.txt")).unwrap();
    let mut labels: Vec<&str> = labels.lines().collect();
    labels.rotate_left(3);
    std::fs::write(to.join("labels.txt"), labels.join("\n") + "\n").unwrap();
    let card = std::fs::read_to_string(from.join("model.toml")).unwrap();
    let mut card: toml::Table = card.parse().unwrap();
    card.insert("name".to_owned(), "rotated".into());
    std::fs::write(to.join("model.toml"), card.to_string()).unwrap();
    to
}

/// The lines that `imgcls classify --json` prints, one a picture.
fn classify(dir: &Path, bytes: &[Vec<u8>], model: Option<&Path>) -> Vec<serde_json::Value> {
    let files: Vec<PathBuf> = (0..bytes.len()).map(|n| dir.join(format!("{n}.png"))).collect();
    for (file, bytes) in files.iter().zip(bytes) {
        std::fs::write(file, bytes).unwrap();
    }
    let mut command = imgcls();
    command.args(["classify", "--json"]).args(&files);
    if let Some(model) = model {
        command.arg("--model").arg(model);
    }
    // It fails, because some of the pictures cannot be decoded.
    let output = command.output().unwrap();
    let lines = String::from_utf8(output.stdout).unwrap();
    let mut by_path: HashMap<String, serde_json::Value> = lines
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap())
        .map(|told| (told["image"].as_str().unwrap().to_owned(), told))
        .collect();
    files.iter().map(|file| by_path.remove(file.to_str().unwrap()).unwrap()).collect()
}
