//! Image names: how a name that a user gave becomes the one name under which an image is known.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use unicode_normalization::UnicodeNormalization;
use unicode_properties::{GeneralCategory, UnicodeGeneralCategory};

use super::order::{MAX_KEY_BYTES, SHORT, sort_key};

/// The longest component of an image name, in bytes of UTF-8: what most file systems take.
pub const MAX_COMPONENT_BYTES: usize = 255;

/// The longest image name, in bytes of UTF-8. It leaves half of an S3 key to a prefix or a label. A name's sort key
/// must fit DynamoDB, too, which one of 291 bytes always does, and a longer one unless it is full of numbers.
pub const MAX_NAME_BYTES: usize = 512;

/// A longer "extension" is taken as part of the stem: it is no extension, and keeping it could leave no room for the
/// stem.
const MAX_EXTENSION_BYTES: usize = 16;

/// How many hex digits of the content's SHA-256 are tried, in turn, when a name is taken by other bytes.
pub const HASH_LENGTHS: [usize; 3] = [8, 16, 64];

/// What folders leave free: room for the end of a stem, the longest hash and the longest extension, whatever they are
/// made of.
const ROOM: &str = "1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a";

/// Why a text is no image name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Nothing is left after invisible characters are taken away.
    #[error("the file has no name; give it one")]
    Empty,
    /// `.` or `..`
    #[error("{0:?} is a directory, not a file name; rename the file")]
    Dots(String),
    /// The folders leave no room for the file.
    #[error("the folders before {0:?} have names that are too long: at most 255 bytes each, and about 400 in all")]
    LongFolders(String),
    /// A name that is not in the stored form; see [`ImageName::from_str`].
    #[error(
        "{0:?} is not a stored image name; names are paths without '.', '..', '\\' and control characters, of at \
         most 512 bytes"
    )]
    NotCanonical(String),
}

/// The SHA-256 of an image's bytes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest(pub [u8; 32]);

impl Digest {
    /// The digest of `bytes`.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        use sha2::Digest as _;
        Self(sha2::Sha256::digest(bytes).into())
    }

    /// 64 lower-case hex digits.
    #[must_use]
    pub fn to_hex(&self) -> String {
        hex::encode(self.0)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_hex())
    }
}

/// The name of a stored image: a relative path of components between `/`, each in Unicode NFC, without control or
/// format characters (but for joiners between characters that they join), neither `.` nor `..`, and of 1 to
/// [`MAX_COMPONENT_BYTES`]; of at most [`MAX_NAME_BYTES`] in all.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ImageName(String);

impl ImageName {
    /// The name for an upload that its sender calls `raw`: its [`relative_path`], normalised. A file name that is too
    /// long is cut and gets the first hex digits of the content's `digest`, so that two long names stay apart.
    ///
    /// # Errors
    /// [`NameError::Empty`] or [`NameError::Dots`] if no usable name is left, [`NameError::LongFolders`] if there is no
    /// room for one.
    pub fn from_upload(raw: &str, digest: &Digest) -> Result<Self, NameError> {
        let (folders, base) = split_path(relative_path(raw));
        let base = normalised(base);
        match base.as_str() {
            "" => return Err(NameError::Empty),
            "." | ".." => return Err(NameError::Dots(base)),
            _ => {}
        }
        let folders = match folders.strip_suffix('/') {
            None => String::new(),
            Some(folders) => safe_folders(folders, &base)?,
        };
        let fits = base.len() <= MAX_COMPONENT_BYTES;
        let name = Self(folders + &base);
        Ok(if fits && name.fits() { name } else { name.with_hash(digest, HASH_LENGTHS[0]) })
    }

    /// `stem.<digits hex of digest>.ext` in the same folder, the stem cut where the whole would not fit.
    #[must_use]
    pub fn with_hash(&self, digest: &Digest, digits: usize) -> Self {
        let (folders, base) = split_path(&self.0);
        let (stem, extension) = split_extension(base);
        let tail = format!(".{}{extension}", &digest.to_hex()[..digits]);
        let mut end = stem.len().min(MAX_COMPONENT_BYTES - tail.len());
        loop {
            while !stem.is_char_boundary(end) {
                end -= 1;
            }
            // A cut may split what NFC had composed of several characters; a prefix of NFC text is NFC text all the
            // same.
            let name = Self(format!("{folders}{}{tail}", stem[..end].trim_end_matches(is_joiner)));
            if end == 0 || name.fits() {
                return name;
            }
            end -= 1;
        }
    }

    /// The names to try for an image with this `digest`, in order: the name itself, then with 8, 16 and 64 hex digits.
    pub fn candidates(&self, digest: &Digest) -> impl Iterator<Item = Self> {
        std::iter::once(self.clone()).chain(HASH_LENGTHS.map(|n| self.with_hash(digest, n)))
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The last component.
    #[must_use]
    pub fn base(&self) -> &str {
        split_path(&self.0).1
    }

    /// The folders that it is in, the innermost first.
    pub fn folders(&self) -> impl Iterator<Item = &str> {
        self.0.rmatch_indices('/').map(|(at, _)| &self.0[..at])
    }

    /// Whether it is not too long as a whole.
    fn fits(&self) -> bool {
        self.0.len() <= SHORT || (self.0.len() <= MAX_NAME_BYTES && sort_key(&self.0).len() <= MAX_KEY_BYTES)
    }
}

/// What of a name that a user gave is kept: all of a relative path, such as `cats/1.png`. Of one that is absolute or
/// leads up, or that may mean another thing to another system (`\`, a drive, empty components and `.`), the base name
/// after the last `/` or `\`.
#[must_use]
pub fn relative_path(raw: &str) -> &str {
    let base = raw.rsplit(['/', '\\']).next().unwrap_or_default();
    let is_drive = raw.contains('/') && raw.as_bytes()[0].is_ascii_alphabetic() && raw.as_bytes().get(1) == Some(&b':');
    let mut folders =
        raw[..raw.len() - base.len()].strip_suffix('/').into_iter().flat_map(|folders| folders.split('/'));
    if raw.contains('\\') || is_drive || folders.any(is_special) { base } else { raw }
}

/// The folders of a path with their last `/`, and its base name.
fn split_path(path: &str) -> (&str, &str) {
    path.split_at(path.rfind('/').map_or(0, |at| at + 1))
}

/// The folders as they are stored, with a `/` at the end. None where one of them turns out to be special without what
/// is invisible.
fn safe_folders(folders: &str, base: &str) -> Result<String, NameError> {
    let folders: Vec<String> = folders.split('/').map(normalised).collect();
    if folders.iter().any(|folder| is_special(folder)) {
        return Ok(String::new());
    }
    let path = folders.join("/") + "/";
    if folders.iter().any(|folder| folder.len() > MAX_COMPONENT_BYTES) || !ImageName(format!("{path}{ROOM}")).fits() {
        return Err(NameError::LongFolders(base.to_owned()));
    }
    Ok(path)
}

fn is_special(component: &str) -> bool {
    matches!(component, "" | "." | "..")
}

/// The component without what is invisible, in Unicode NFC.
fn normalised(component: &str) -> String {
    // Composition can only join characters that stay, so one pass after the removal is a fixed point ...
    let mut text: String = component.chars().filter(|c| is_joiner(*c) || !is_invisible(*c)).nfc().collect();
    // ... but for joiners, whose neighbours may have become others: each pass takes some of them away, or is the last.
    while let Some(fewer) = without_stray_joiners(&text) {
        text = fewer;
    }
    text
}

/// The text without joiners that join nothing, in Unicode NFC; `None` if it has none.
fn without_stray_joiners(text: &str) -> Option<String> {
    if !text.contains(is_joiner) {
        return None;
    }
    let chars: Vec<char> = text.chars().collect();
    let joins = |at: Option<&char>| at.is_some_and(|c| is_joined(*c));
    let stays = |at: usize| !is_joiner(chars[at]) || (at > 0 && joins(chars.get(at - 1)) && joins(chars.get(at + 1)));
    let kept: Vec<char> = (0..chars.len()).filter(|at| stays(*at)).map(|at| chars[at]).collect();
    (kept.len() < chars.len()).then(|| kept.into_iter().nfc().collect())
}

/// The zero-width non-joiner and joiner: they are part of how Persian, Indic languages and emoji are written.
fn is_joiner(c: char) -> bool {
    matches!(c, '\u{200c}' | '\u{200d}')
}

/// Whether joiners may stand beside the character: letters without case, their signs, and emoji. In Latin, Greek and
/// Cyrillic, which have case, a joiner would only make two names that look the same.
fn is_joined(c: char) -> bool {
    use GeneralCategory::{MathSymbol, ModifierSymbol, NonspacingMark, OtherLetter, OtherSymbol, SpacingMark};
    let category = c.general_category();
    !c.is_ascii()
        && matches!(category, OtherLetter | NonspacingMark | SpacingMark | OtherSymbol | ModifierSymbol | MathSymbol)
}

/// Stem and extension; the extension has its dot, or is empty.
fn split_extension(base: &str) -> (&str, &str) {
    match base.rfind('.') {
        Some(dot) if dot > 0 && base.len() - dot <= MAX_EXTENSION_BYTES => base.split_at(dot),
        _ => (base, ""),
    }
}

/// Control (Cc) and format (Cf) characters, which a person cannot see and which can reorder what they do see.
fn is_invisible(c: char) -> bool {
    matches!(c.general_category(), GeneralCategory::Control | GeneralCategory::Format)
}

impl FromStr for ImageName {
    type Err = NameError;

    /// Takes a name that is already in the stored form, as it comes in an event or an address.
    fn from_str(name: &str) -> Result<Self, NameError> {
        match Self::from_upload(name, &Digest([0; 32])) {
            Ok(canonical) if canonical.0 == name => Ok(canonical),
            Ok(_) => Err(NameError::NotCanonical(name.to_owned())),
            Err(error) => Err(error),
        }
    }
}

impl TryFrom<String> for ImageName {
    type Error = NameError;

    fn try_from(name: String) -> Result<Self, NameError> {
        name.parse()
    }
}

impl From<ImageName> for String {
    fn from(name: ImageName) -> Self {
        name.0
    }
}

impl fmt::Display for ImageName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for ImageName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

#[cfg(test)]
#[path = "name_tests.rs"]
mod tests;
