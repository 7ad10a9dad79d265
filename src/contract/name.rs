//! Image names: how a name that a user gave becomes the one name under which an image is known.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use unicode_normalization::UnicodeNormalization;
use unicode_properties::{GeneralCategory, UnicodeGeneralCategory};

/// The longest image name, in bytes of UTF-8.
pub const MAX_NAME_BYTES: usize = 255;

/// A longer "extension" is taken as part of the stem: it is no extension, and keeping it could leave no room for the stem.
const MAX_EXTENSION_BYTES: usize = 16;

/// How many hex digits of the content's SHA-256 are tried, in turn, when a name is taken by other bytes.
pub const HASH_LENGTHS: [usize; 3] = [8, 16, 64];

/// Why a text is no image name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Nothing is left after directories and invisible characters are taken away.
    #[error("the file has no name; give it one")]
    Empty,
    /// `.` or `..`
    #[error("{0:?} is a directory, not a file name; rename the file")]
    Dots(String),
    /// A name that is not in the stored form; see [`ImageName::from_str`].
    #[error(
        "{0:?} is not a stored image name; names have no '/', '\\' or control characters and are at most 255 bytes"
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

/// The name of a stored image: no directory, Unicode NFC, no control or format characters, 1 to 255 bytes.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ImageName(String);

impl ImageName {
    /// The name for an upload that its sender calls `raw`: the base name after the last `/` or `\`, normalised. A name that
    /// is too long is cut and gets the first hex digits of the content's `digest`, so that two long names stay apart.
    ///
    /// # Errors
    /// [`NameError::Empty`] or [`NameError::Dots`] if no usable name is left.
    pub fn from_upload(raw: &str, digest: &Digest) -> Result<Self, NameError> {
        let base = raw.rsplit(['/', '\\']).next().unwrap_or_default();
        // Composition can only join characters that stay, so one pass after the removal is a fixed point.
        let name: String = base.chars().filter(|c| !is_invisible(*c)).nfc().collect();
        match name.as_str() {
            "" => Err(NameError::Empty),
            "." | ".." => Err(NameError::Dots(name)),
            _ if name.len() > MAX_NAME_BYTES => Ok(Self(name).with_hash(digest, HASH_LENGTHS[0])),
            _ => Ok(Self(name)),
        }
    }

    /// `stem.<digits hex of digest>.ext`, the stem cut where the whole would not fit.
    #[must_use]
    pub fn with_hash(&self, digest: &Digest, digits: usize) -> Self {
        let (stem, extension) = self.split();
        let tail = format!(".{}{extension}", &digest.to_hex()[..digits]);
        let mut end = stem.len().min(MAX_NAME_BYTES - tail.len());
        while !stem.is_char_boundary(end) {
            end -= 1;
        }
        // A cut may split what NFC had composed of several characters; a prefix of NFC text is NFC text all the same.
        Self(format!("{}{tail}", &stem[..end]))
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

    /// Stem and extension; the extension has its dot, or is empty.
    fn split(&self) -> (&str, &str) {
        match self.0.rfind('.') {
            Some(dot) if dot > 0 && self.0.len() - dot <= MAX_EXTENSION_BYTES => self.0.split_at(dot),
            _ => (&self.0, ""),
        }
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
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn named(raw: &str) -> Result<String, NameError> {
        ImageName::from_upload(raw, &Digest::of(b"x")).map(String::from)
    }

    #[test]
    fn takes_the_base_name() {
        for (raw, name) in [
            ("a b.png", "a b.png"),
            ("../../etc/passwd", "passwd"),
            (r"C:\photos\x.jpg", "x.jpg"),
            ("a/b\\c.png", "c.png"),
            ("100%+1.png", "100%+1.png"),
            ("e\u{301}.png", "\u{e9}.png"),
            ("a\u{202e}gnp.exe", "agnp.exe"),
            ("x\0\n.png", "x.png"),
            (".hidden", ".hidden"),
            ("🦀.png", "🦀.png"),
        ] {
            assert_eq!(named(raw).as_deref(), Ok(name), "{raw:?}");
        }
    }

    #[test]
    fn refuses_what_is_no_name() {
        assert_eq!(named(""), Err(NameError::Empty));
        assert_eq!(named("dir/"), Err(NameError::Empty));
        assert_eq!(named("\u{200b}\u{feff}"), Err(NameError::Empty));
        assert_eq!(named(".."), Err(NameError::Dots("..".into())));
        assert_eq!(named("a/."), Err(NameError::Dots(".".into())));
        assert!("a/b".parse::<ImageName>().is_err());
        assert!("e\u{301}".parse::<ImageName>().is_err());
    }

    #[test]
    fn cuts_long_names_and_keeps_the_extension() {
        let hash = &Digest::of(b"x").to_hex()[..8];
        let name = named(&format!("{}.png", "é".repeat(200))).unwrap();
        assert!(name.len() <= MAX_NAME_BYTES && name.ends_with(&format!("é.{hash}.png")), "{name}");
        let name = named(&"a".repeat(300)).unwrap();
        assert_eq!(name, format!("{}.{hash}", "a".repeat(246)));
    }

    #[test]
    fn candidates_add_more_and_more_of_the_hash() {
        let digest = Digest::of(b"x");
        let name: ImageName = "cat.png".parse().unwrap();
        let candidates: Vec<String> = name.candidates(&digest).map(String::from).collect();
        let hex = digest.to_hex();
        assert_eq!(
            candidates,
            [
                "cat.png".to_owned(),
                format!("cat.{}.png", &hex[..8]),
                format!("cat.{}.png", &hex[..16]),
                format!("cat.{hex}.png")
            ]
        );
    }

    proptest! {
        /// Whatever a browser or a bucket calls a file, its name leads nowhere else and hides nothing.
        #[test]
        fn no_name_leads_elsewhere(
            parts in proptest::collection::vec(
                "\\PC{0,8}|[./\\\\]{0,4}|[\u{0}-\u{1f}\u{202e}\u{200b}\u{feff}]{0,3}", 0..6,
            ),
        ) {
            let raw = parts.concat();
            for name in [ImageName::from_upload(&raw, &Digest::of(b"x")), raw.parse()].into_iter().flatten() {
                let text = name.as_str();
                prop_assert!(!text.is_empty() && text.len() <= MAX_NAME_BYTES);
                prop_assert!(text.split('/').all(|part| !matches!(part, "" | "." | "..")), "{text:?}");
                prop_assert!(!text.contains('\\') && !text.chars().any(is_invisible), "{text:?}");
            }
        }

        #[test]
        fn every_name_is_canonical(raw in "\\PC{0,300}|.{0,40}", bytes: [u8; 4]) {
            if let Ok(name) = ImageName::from_upload(&raw, &Digest::of(&bytes)) {
                for candidate in name.candidates(&Digest::of(&bytes)) {
                    prop_assert!(candidate.as_str().len() <= MAX_NAME_BYTES);
                    prop_assert_eq!(candidate.as_str().parse::<ImageName>(), Ok(candidate.clone()));
                }
            }
        }
    }
}
