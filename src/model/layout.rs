//! The form of a model bundle, and the check that a bundle has it. Compiled into the build script too, so that the
//! embedded bundle and one that is loaded later pass the same checks.
//!
//! A bundle is three files: `model.toml` (the [`Card`]), `labels.txt` (one label a line, in the order of the last
//! layer's rows) and `weights.safetensors` (the tensors of the card's architecture, each f32, f16 or bf16).

use safetensors::{Dtype, SafeTensors};
use serde::{Deserialize, Serialize};
use sha2::Digest as _;

use super::architecture::{Architecture, Network};

/// File name of the card.
pub const CARD: &str = "model.toml";
/// File name of the labels.
pub const LABELS: &str = "labels.txt";
/// File name of the weights.
pub const WEIGHTS: &str = "weights.safetensors";

/// The smallest input side that the networks, which shrink it 32 times, make sense of.
const MIN_INPUT: u32 = 32;
/// The largest input side; a batch of larger ones would not fit a small machine.
const MAX_INPUT: u32 = 1024;

/// The smallest standard deviation of a colour. A smaller one is a mistake, and leaves the network little but signs.
const MIN_STD: f32 = 1e-6;

/// Most pixels of a picture that goes to the network as it is: a network holds some hundred bytes for each.
pub const MAX_RAW_PIXELS: u64 = (MAX_INPUT * MAX_INPUT) as u64;

/// How a picture becomes the network's input.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Preprocess {
    /// Resized, cut to a square and normalised, as the card says.
    #[default]
    Square,
    /// As it is, whatever its size: values in 0..1, not normalised. The reference engine runs the network.
    Raw,
}

/// What a model is, and how its input is made: `model.toml`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Card {
    /// The model's name, as results tell it.
    pub name: String,
    /// The network whose weights these are; bundles from before there were several do not say.
    #[serde(default)]
    pub architecture: Architecture,
    /// How a picture becomes the input; bundles that do not say have a square.
    #[serde(default)]
    pub preprocess: Preprocess,
    /// Side of the square that the network sees, in pixels; it is cut from the centre.
    pub input: u32,
    /// The shorter side after the resize, in pixels; at least `input`.
    pub resize: u32,
    /// Mean of red, green and blue, on values in 0..1, that is subtracted.
    pub mean: [f32; 3],
    /// Standard deviation of red, green and blue by which the difference is divided.
    pub std: [f32; 3],
    /// SHA-256 of the weights file, 64 hex digits.
    pub sha256: String,
    /// Accuracy in per cent that was measured; `source` or the comment beside it says on what.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub top1: Option<f64>,
    /// Probability below which the most likely label is marked as uncertain, 0 to 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_confidence: Option<f32>,
    /// Where the weights come from.
    pub source: String,
    /// Under what licence they are, an SPDX expression.
    pub licence: String,
}

/// Why a bundle is refused; every message names the file, and in it the tensor, key or line.
#[derive(Debug, thiserror::Error)]
pub enum LayoutError {
    /// `model.toml` does not parse.
    #[error("{CARD}: {0}")]
    Card(toml::de::Error),
    /// A value in `model.toml` that cannot work.
    #[error("{CARD}: {key} {reason}")]
    CardValue {
        /// The key.
        key: &'static str,
        /// What is wrong, and what would be right.
        reason: String,
    },
    /// A line of `labels.txt` that is no label.
    #[error("{LABELS} line {line}: {reason}")]
    Label {
        /// The line, from 1.
        line: usize,
        /// What is wrong.
        reason: &'static str,
    },
    /// More or fewer labels than classes.
    #[error("{LABELS} has {labels} labels, but the last layer, {layer} in {WEIGHTS}, has {classes} rows")]
    LabelCount {
        /// The last layer's matrix.
        layer: String,
        /// Labels.
        labels: usize,
        /// Rows of the last layer.
        classes: usize,
    },
    /// Other weights than the card's.
    #[error(
        "{WEIGHTS} has SHA-256 {found}, but {CARD} says {expected}; one of the two files is damaged or not the \
         right one; pull, import or train the model again"
    )]
    Digest {
        /// The card's.
        expected: String,
        /// The file's.
        found: String,
    },
    /// Not a safetensors file.
    #[error("{WEIGHTS} is not a safetensors file: {0}")]
    Container(safetensors::SafeTensorError),
    /// A tensor that the architecture needs is not there.
    #[error("{WEIGHTS} has no tensor {name}, which {} has", architecture.title())]
    Missing {
        /// The tensor.
        name: String,
        /// The card's.
        architecture: Architecture,
    },
    /// A tensor that the architecture does not have.
    #[error("{WEIGHTS} has a tensor {name}, which {} does not have", architecture.title())]
    Unknown {
        /// The tensor.
        name: String,
        /// The card's.
        architecture: Architecture,
    },
    /// A tensor of another shape.
    #[error("{WEIGHTS}: tensor {name} has shape {found:?}, but {} has {expected:?}", architecture.title())]
    Shape {
        /// The tensor.
        name: String,
        /// The card's.
        architecture: Architecture,
        /// The architecture's shape.
        expected: Vec<usize>,
        /// The file's shape.
        found: Vec<usize>,
    },
    /// A tensor of a type that is not read.
    #[error("{WEIGHTS}: tensor {name} has type {found:?}; f32, f16 and bf16 are read")]
    Type {
        /// The tensor.
        name: String,
        /// Its type.
        found: Dtype,
    },
    /// A number with which every answer would be nonsense.
    #[error(
        "{WEIGHTS}: tensor {name} has {what}, so its answers would be nonsense; take weights that were saved whole"
    )]
    Number {
        /// The tensor.
        name: String,
        /// The number.
        what: &'static str,
    },
}

/// A bundle's parts, checked.
#[derive(Debug)]
pub struct Parts<'a> {
    /// The card.
    pub card: Card,
    /// The labels, one for each row of the last layer.
    pub labels: Vec<String>,
    /// The weights; besides the architecture's tensors it may hold PyTorch's batch counters.
    pub tensors: SafeTensors<'a>,
}

/// Takes a bundle apart and checks everything but the weights' SHA-256.
///
/// # Errors
/// [`LayoutError`].
pub fn parse<'a>(card: &str, labels: &str, weights: &'a [u8]) -> Result<Parts<'a>, LayoutError> {
    let card = parse_card(card)?;
    let labels = parse_labels(labels)?;
    let tensors = SafeTensors::deserialize(weights).map_err(LayoutError::Container)?;
    check_tensors(&tensors, card.architecture, labels.len())?;
    Ok(Parts { card, labels, tensors })
}

/// Checks that the weights are those that the card means.
///
/// # Errors
/// [`LayoutError::Digest`], or [`LayoutError::Card`] if there is no telling.
pub fn check_digest(card: &str, weights: &[u8]) -> Result<(), LayoutError> {
    let expected = parse_card(card)?.sha256.to_ascii_lowercase();
    let found = hex::encode(sha2::Sha256::digest(weights));
    if expected == found { Ok(()) } else { Err(LayoutError::Digest { expected, found }) }
}

impl Parts<'_> {
    /// Checks that the weights are numbers with which the network can compute. It reads all of them.
    ///
    /// # Errors
    /// [`LayoutError::Number`], which names the tensor.
    pub fn check_numbers(&self) -> Result<(), LayoutError> {
        let epsilon = self.card.architecture.network(self.labels.len()).epsilon as f32;
        for (name, view) in self.tensors.iter().filter(|(name, _)| !is_counter(name)) {
            let refuse = |what| Err(LayoutError::Number { name: name.to_owned(), what });
            if has_no_number(view.dtype(), view.data()) {
                return refuse("an infinity or what is not a number");
            }
            if name.ends_with(".running_var") && least(view.dtype(), view.data()) + epsilon <= 0.0 {
                return refuse("a variance below 0");
            }
        }
        Ok(())
    }
}

/// Whether one of the numbers is infinite or none: all bits of its exponent are set. Without an early end, so that the
/// loop is done in vectors: a start waits for it.
fn has_no_number(dtype: Dtype, data: &[u8]) -> bool {
    let halves = |mask: u16| {
        let is_none = |bytes: &[u8; 2]| u16::from_le_bytes(*bytes) & mask == mask;
        data.as_chunks().0.iter().fold(false, |found, bytes| found | is_none(bytes))
    };
    match dtype {
        Dtype::F16 => halves(0x7c00),
        Dtype::BF16 => halves(0x7f80),
        _ => {
            let is_none = |bytes: &[u8; 4]| u32::from_le_bytes(*bytes) & 0x7f80_0000 == 0x7f80_0000;
            data.as_chunks().0.iter().fold(false, |found, bytes| found | is_none(bytes))
        }
    }
}

/// The least of the numbers.
fn least(dtype: Dtype, data: &[u8]) -> f32 {
    let halves = |widen: fn(u16) -> f32| {
        data.as_chunks().0.iter().map(|bytes| widen(u16::from_le_bytes(*bytes))).fold(f32::INFINITY, f32::min)
    };
    match dtype {
        Dtype::F16 => halves(widened),
        Dtype::BF16 => halves(|bits| f32::from_bits(u32::from(bits) << 16)),
        _ => data.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).fold(f32::INFINITY, f32::min),
    }
}

/// The value of a finite f16. The build script, which compiles this too, has no crate for it.
fn widened(bits: u16) -> f32 {
    let (exponent, fraction) = (i32::from(bits >> 10 & 0x1f), f32::from(bits & 0x3ff) / 1024.0);
    let size = if exponent == 0 { fraction * 2f32.powi(-14) } else { (1.0 + fraction) * 2f32.powi(exponent - 15) };
    if bits >> 15 == 1 { -size } else { size }
}

/// Whether a name may have the character: no control character, and none that turns the order of those around it,
/// with which one name looks like another.
#[must_use]
pub fn is_plain(character: char) -> bool {
    !character.is_control() && !matches!(character, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Why a model cannot have the name, if it cannot.
#[must_use]
pub fn refused_name(name: &str) -> Option<&'static str> {
    if name.trim().is_empty() {
        Some("is empty")
    } else if !name.chars().all(is_plain) {
        Some("has characters that control the terminal or turn the order of others")
    } else {
        None
    }
}

/// Whether the tensor is one of PyTorch's batch counters, which no inference needs.
#[must_use]
pub fn is_counter(name: &str) -> bool {
    name.ends_with(".num_batches_tracked")
}

/// Reads a card and checks its values.
///
/// # Errors
/// [`LayoutError::Card`] and [`LayoutError::CardValue`].
pub fn parse_card(text: &str) -> Result<Card, LayoutError> {
    let card: Card = toml::from_str(text).map_err(LayoutError::Card)?;
    let refuse = |key, reason: &str| Err(LayoutError::CardValue { key, reason: reason.to_owned() });
    if let Some(reason) = refused_name(&card.name) {
        return refuse("name", reason);
    }
    if !(MIN_INPUT..=MAX_INPUT).contains(&card.input) {
        return refuse("input", &format!("is {}; it must be {MIN_INPUT} to {MAX_INPUT} pixels", card.input));
    }
    if !(card.input..=4 * MAX_INPUT).contains(&card.resize) {
        let reason = format!("is {}; it must be at least input and at most {} pixels", card.resize, 4 * MAX_INPUT);
        return refuse("resize", &reason);
    }
    if !card.mean.iter().all(|v| v.is_finite()) {
        return refuse("mean", "must be three finite numbers");
    }
    if !card.std.iter().all(|v| v.is_finite() && *v >= MIN_STD) {
        return refuse("std", &format!("must be three numbers of {MIN_STD} or more"));
    }
    if card.preprocess == Preprocess::Raw && (card.mean, card.std) != ([0.0; 3], [1.0; 3]) {
        return refuse("preprocess", "is raw, which normalises nothing; mean must be [0, 0, 0] and std [1, 1, 1]");
    }
    if card.min_confidence.is_some_and(|least| !(0.0..=1.0).contains(&least)) {
        return refuse("min_confidence", "must be 0 to 1");
    }
    if card.sha256.len() != 64 || !card.sha256.bytes().all(|b| b.is_ascii_hexdigit()) {
        return refuse("sha256", "must be 64 hexadecimal digits");
    }
    Ok(card)
}

fn parse_labels(text: &str) -> Result<Vec<String>, LayoutError> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let labels = text.lines().enumerate().map(|(at, line)| {
        let label = line.trim();
        let refuse = |reason| Err(LayoutError::Label { line: at + 1, reason });
        match label {
            "" => refuse("is empty; every line is a label"),
            _ if label.contains(char::is_control) => refuse("has control characters"),
            _ if !label.chars().all(is_plain) => refuse("has characters that turn the order of others"),
            _ => Ok(label.to_owned()),
        }
    });
    labels.collect()
}

fn check_tensors(tensors: &SafeTensors<'_>, architecture: Architecture, labels: usize) -> Result<(), LayoutError> {
    let network = architecture.network(labels);
    let expected = network.tensors();
    for (name, shape) in &expected {
        check_tensor(tensors, architecture, &network, name, shape)?;
    }
    let known = |name: &str| is_counter(name) || expected.iter().any(|(known, _)| known == name);
    match tensors.names().into_iter().find(|name| !known(name)) {
        Some(name) => Err(LayoutError::Unknown { name: name.to_owned(), architecture }),
        None => Ok(()),
    }
}

fn check_tensor(
    tensors: &SafeTensors<'_>,
    architecture: Architecture,
    network: &Network,
    name: &str,
    shape: &[usize],
) -> Result<(), LayoutError> {
    let name = name.to_owned();
    let Ok(tensor) = tensors.tensor(&name) else { return Err(LayoutError::Missing { name, architecture }) };
    if !matches!(tensor.dtype(), Dtype::F32 | Dtype::F16 | Dtype::BF16) {
        return Err(LayoutError::Type { name, found: tensor.dtype() });
    }
    match tensor.shape() {
        found if found == shape => Ok(()),
        // The label file is the likelier culprit, so it is named.
        &[classes, width] if name == network.last.weight() && width == shape[1] => {
            Err(LayoutError::LabelCount { layer: name, labels: network.classes(), classes })
        }
        found => Err(LayoutError::Shape { name, architecture, expected: shape.to_vec(), found: found.to_vec() }),
    }
}

#[cfg(test)]
#[path = "layout_tests.rs"]
mod tests;
