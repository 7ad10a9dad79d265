//! What a file is by its first bytes.

use std::fmt;

use serde::{Deserialize, Serialize};

/// How many bytes from a file's start [`sniff`] wants; it works with fewer where the file has no more.
pub const HEAD_BYTES: usize = 512;

/// An image format that is decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// Portable Network Graphics; of an animated one the default image.
    Png,
    /// JPEG, baseline or progressive.
    Jpeg,
    /// WebP, lossy or lossless; of an animated one the first frame.
    WebP,
    /// GIF, its first frame.
    Gif,
    /// Windows bitmap.
    Bmp,
}

impl Format {
    /// The media type for `Content-Type`.
    #[must_use]
    pub const fn media_type(self) -> &'static str {
        match self {
            Self::Png => "image/png",
            Self::Jpeg => "image/jpeg",
            Self::WebP => "image/webp",
            Self::Gif => "image/gif",
            Self::Bmp => "image/bmp",
        }
    }

    /// The usual file name extension, without the dot.
    #[must_use]
    pub const fn extension(self) -> &'static str {
        match self {
            Self::Png => "png",
            Self::Jpeg => "jpg",
            Self::WebP => "webp",
            Self::Gif => "gif",
            Self::Bmp => "bmp",
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Png => "PNG",
            Self::Jpeg => "JPEG",
            Self::WebP => "WebP",
            Self::Gif => "GIF",
            Self::Bmp => "BMP",
        })
    }
}

/// Why a file is no image that can be classified.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    /// No bytes at all.
    #[error("the file is empty")]
    Empty,
    /// A format that is known by name only.
    #[error("{0} is not supported; PNG, JPEG, WebP, GIF and BMP are")]
    Unsupported(&'static str),
    /// Text.
    #[error("the file is not an image (it looks like text); send PNG, JPEG, WebP, GIF or BMP")]
    Text,
    /// Anything else.
    #[error("the file is not an image; send PNG, JPEG, WebP, GIF or BMP")]
    Unknown,
}

/// The format of the file that begins with `head`; the file's name does not count.
///
/// # Errors
/// [`FormatError`], which tells what the file is instead.
pub fn sniff(head: &[u8]) -> Result<Format, FormatError> {
    match head {
        [] => Err(FormatError::Empty),
        [0x89, b'P', b'N', b'G', b'\r', b'\n', 0x1a, b'\n', ..] => Ok(Format::Png),
        [0xff, 0xd8, 0xff, ..] => Ok(Format::Jpeg),
        [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => Ok(Format::WebP),
        [b'G', b'I', b'F', b'8', b'7' | b'9', b'a', ..] => Ok(Format::Gif),
        [b'B', b'M', ..] if is_bmp(head) => Ok(Format::Bmp),
        _ => Err(other(head)),
    }
}

/// "BM" begins many a text, so the size of the second header has to be one of those in use.
fn is_bmp(head: &[u8]) -> bool {
    match head.get(14..18) {
        Some(size) => matches!(size, [12 | 16 | 40 | 52 | 56 | 64 | 108 | 124, 0, 0, 0]),
        None => !is_text(head),
    }
}

fn other(head: &[u8]) -> FormatError {
    use FormatError::{Text, Unknown, Unsupported};

    const MAGIC: [(&[u8], &str); 22] = [
        (b"II*\0", "TIFF"),
        (b"MM\0*", "TIFF"),
        (b"II+\0", "TIFF"),
        (b"MM\0+", "TIFF"),
        (b"%PDF-", "PDF"),
        (b"8BPS", "PSD"),
        (b"\0\0\x01\0", "ICO"),
        (b"\0\0\x02\0", "CUR"),
        (b"\xff\x0a", "JPEG XL"),
        (b"\0\0\0\x0cJXL ", "JPEG XL"),
        (b"\0\0\0\x0cjP  ", "JPEG 2000"),
        (b"\xff\x4f\xff\x51", "JPEG 2000"),
        (b"PK\x03\x04", "ZIP"),
        (b"PK\x05\x06", "ZIP"),
        (b"\x1f\x8b", "gzip"),
        (b"Rar!\x1a\x07", "RAR"),
        (b"7z\xbc\xaf\x27\x1c", "7-Zip"),
        (b"qoif", "QOI"),
        (b"DDS ", "DDS"),
        (b"\x76\x2f\x31\x01", "OpenEXR"),
        (b"#?RADIANCE", "Radiance HDR"),
        (b"\x1aE\xdf\xa3", "Matroska or WebM video"),
    ];

    if let Some((_, name)) = MAGIC.iter().find(|(magic, _)| head.starts_with(magic)) {
        return Unsupported(name);
    }
    if let Some(brand) = head.get(4..12).and_then(|b| b.strip_prefix(b"ftyp")) {
        return Unsupported(match brand {
            b"avif" | b"avis" => "AVIF",
            b"heic" | b"heix" | b"hevc" | b"hevx" | b"heim" | b"heis" => "HEIC",
            b"mif1" | b"msf1" => "HEIF",
            b"crx " => "Canon CR3",
            _ => "MP4 or QuickTime video",
        });
    }
    match head {
        [b'R', b'I', b'F', b'F', _, _, _, _, b'A', b'V', b'I', b' ', ..] => return Unsupported("AVI video"),
        [b'P', b'1'..=b'7', b' ' | b'\t' | b'\r' | b'\n', ..] => return Unsupported("PNM"),
        _ => {}
    }
    if !is_text(head) {
        return Unknown;
    }
    let text = String::from_utf8_lossy(head).to_ascii_lowercase();
    let text = text.trim_start_matches('\u{feff}').trim_start();
    if text.starts_with("<svg") || ((text.starts_with("<?xml") || text.starts_with("<!--")) && text.contains("<svg")) {
        Unsupported("SVG")
    } else if text.starts_with("<!doctype html") || text.starts_with("<html") {
        Unsupported("HTML")
    } else {
        Text
    }
}

/// UTF-8, perhaps cut within a character, without control characters that no text has.
fn is_text(head: &[u8]) -> bool {
    let text = match std::str::from_utf8(head) {
        Ok(text) => text,
        Err(e) if e.error_len().is_none() => std::str::from_utf8(&head[..e.valid_up_to()]).unwrap_or_default(),
        Err(_) => return false,
    };
    !text.is_empty()
        && !text.contains(|c: char| c.is_control() && !matches!(c, '\t' | '\n' | '\r' | '\u{c}' | '\u{1b}'))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn knows_formats_by_their_first_bytes() {
        for (head, format) in [
            (&b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"[..], Format::Png),
            (b"\xff\xd8\xff\xe0\0\x10JFIF", Format::Jpeg),
            (b"RIFF\x12\x34\0\0WEBPVP8 ", Format::WebP),
            (b"GIF87a", Format::Gif),
            (b"GIF89a\x01\0", Format::Gif),
            (b"BM\x46\0\0\0\0\0\0\0\x36\0\0\0\x28\0\0\0", Format::Bmp),
        ] {
            assert_eq!(sniff(head), Ok(format));
        }
    }

    #[test]
    fn says_what_a_file_is_instead() {
        for (head, text) in [
            (&b""[..], "the file is empty"),
            (b"\0\0\0\x18ftypheic", "HEIC is not supported; PNG, JPEG, WebP, GIF and BMP are"),
            (b"\0\0\0\x1cftypavif", "AVIF is not supported; PNG, JPEG, WebP, GIF and BMP are"),
            (b"\0\0\0\x20ftypisom", "MP4 or QuickTime video is not supported; PNG, JPEG, WebP, GIF and BMP are"),
            (b"II*\0\x08", "TIFF is not supported; PNG, JPEG, WebP, GIF and BMP are"),
            (b"%PDF-1.7", "PDF is not supported; PNG, JPEG, WebP, GIF and BMP are"),
            (b"<?xml version=\"1.0\"?>\n<svg ", "SVG is not supported; PNG, JPEG, WebP, GIF and BMP are"),
            (b"\xef\xbb\xbf <!DOCTYPE HTML><p>", "HTML is not supported; PNG, JPEG, WebP, GIF and BMP are"),
            (
                b"BMW, Audi and others",
                "the file is not an image (it looks like text); send PNG, JPEG, WebP, GIF or BMP",
            ),
            (b"\x89PN", "the file is not an image; send PNG, JPEG, WebP, GIF or BMP"),
            (b"\x7fELF\x02\x01\x01\0", "the file is not an image; send PNG, JPEG, WebP, GIF or BMP"),
        ] {
            assert_eq!(sniff(head).unwrap_err().to_string(), text);
        }
    }

    proptest! {
        #[test]
        fn no_bytes_panic(head: Vec<u8>) {
            prop_assert!(sniff(&head).is_ok() || !head.starts_with(b"GIF89a"));
        }

        #[test]
        fn text_is_text(text in "[a-zäß字 \n]{1,200}", cut in 1usize..400) {
            let end = cut.min(text.len());
            prop_assert!(matches!(sniff(&text.as_bytes()[..end]), Err(FormatError::Text | FormatError::Unknown)));
            prop_assert_eq!(sniff(text.as_bytes()), Err(FormatError::Text));
        }
    }
}
