//! The name of a file in a multipart request, and how it is shown to its sender.

use axum::http::header;
use unicode_normalization::UnicodeNormalization as _;

use super::error::Error;
use crate::contract::{ImageName, name::relative_path};

/// A longer file name is refused.
const MAX_NAME_BYTES: usize = 4096;

/// A longer file name is shown by its beginning.
const MAX_ECHO_BYTES: usize = 1024;

/// So many bytes of JSON the names in one answer may have ...
const ECHO_BUDGET: usize = 4 << 20;

/// ... and when they are used up, this is shown of a name.
const SHORT_ECHO_BYTES: usize = 64;

/// The file name of a part.
#[derive(Debug, Clone)]
pub(crate) enum Name {
    /// The part is no file.
    None,
    Usable(String),
    Unusable {
        /// As much of the name as is shown.
        beginning: String,
        error: Error,
    },
}

/// The part's file name: `filename*` (RFC 5987, which some libraries send for names beyond ASCII), else `filename`.
pub(crate) fn file_name(field: &multer::Field<'_>) -> Name {
    field.headers().get(header::CONTENT_DISPOSITION).map_or(Name::None, |header| name_in(header.as_bytes()))
}

fn name_in(disposition: &[u8]) -> Name {
    let text = String::from_utf8_lossy(disposition);
    if let Some(encoded) = extended(&text) {
        return match percent_encoding::percent_decode_str(encoded).decode_utf8() {
            Ok(name) => usable(&name),
            Err(_) => not_utf8(encoded),
        };
    }
    match plain(&text) {
        None => Name::None,
        // A name may have this character; what is no text has it instead of its bytes.
        Some(name) if name.contains('\u{fffd}') && std::str::from_utf8(disposition).is_err() => not_utf8(&name),
        Some(name) => usable(&name),
    }
}

/// The value of `filename`, in quotes or not, with what senders escape as it was: `\"` is a quote to most libraries,
/// and `%22`, `%0D` and `%0A` are what browsers write for a quote and the ends of lines. They escape nothing else.
fn plain(disposition: &str) -> Option<String> {
    let mut rest = disposition;
    loop {
        let (name, value) = rest.split_once('=')?;
        let name = name.rsplit(';').next().unwrap_or(name).trim();
        let value = value.trim_start();
        let (value, after) = match value.strip_prefix('"') {
            Some(quoted) => {
                let mut quotes = quoted.match_indices('"').map(|(at, _)| at);
                let end = quotes.find(|at| !quoted[..*at].ends_with('\\')).unwrap_or(quoted.len());
                (&quoted[..end], quoted.get(end + 1..).unwrap_or_default())
            }
            None => value.split_at(value.find([';', ' ']).unwrap_or(value.len())),
        };
        if name.eq_ignore_ascii_case("filename") {
            let name = value.replace("\\\"", "\"");
            return Some(name.replace("%22", "\"").replace("%0D", "\r").replace("%0A", "\n"));
        }
        rest = after;
    }
}

/// The value of `filename*`, still percent-encoded, if it is UTF-8 by its own account.
fn extended(disposition: &str) -> Option<&str> {
    const KEY: &str = "filename*=";
    let starts = |at: &usize| {
        disposition.as_bytes()[*at..].get(..KEY.len()).is_some_and(|k| k.eq_ignore_ascii_case(KEY.as_bytes()))
    };
    let start = (0..disposition.len()).find(starts)?;
    let value = disposition[start + KEY.len()..].split("; ").next()?.trim().trim_matches('"');
    let (charset, encoded) = value.split_once("''")?;
    charset.eq_ignore_ascii_case("utf-8").then_some(encoded)
}

/// The name, if it is not absurdly long.
pub(crate) fn usable(name: &str) -> Name {
    if name.len() <= MAX_NAME_BYTES {
        return Name::Usable(name.to_owned());
    }
    let message = format!("the file's name is longer than {MAX_NAME_BYTES} bytes; rename the file");
    Name::Unusable { beginning: cut(name, MAX_ECHO_BYTES), error: Error::bad_request(message) }
}

fn not_utf8(name: &str) -> Name {
    let error = Error::bad_request("the file's name is not valid UTF-8; rename the file");
    Name::Unusable { beginning: cut(name, MAX_ECHO_BYTES), error }
}

/// `name`, or its first `bytes` bytes with a mark that more followed.
fn cut(name: &str, bytes: usize) -> String {
    if name.len() <= bytes {
        return name.to_owned();
    }
    let end = (0..=bytes).rev().find(|end| name.is_char_boundary(*end)).unwrap_or(0);
    format!("{}…", &name[..end])
}

/// Names as they are shown in one answer, all of which together are bounded.
#[derive(Debug, Default)]
pub(crate) struct Echo {
    used: usize,
}

impl Echo {
    /// `name`, cut where it is absurdly long or where names before it were.
    pub(crate) fn of(&mut self, name: &str) -> String {
        let shown = cut(name, if self.used < ECHO_BUDGET { MAX_ECHO_BYTES } else { SHORT_ECHO_BYTES });
        self.used += shown.bytes().map(|b| if b.is_ascii_control() { 6 } else { 1 }).sum::<usize>();
        shown
    }
}

/// Whether the stored name is another than what of the sender's is kept, composed characters aside.
pub(crate) fn is_renamed(file: &str, image: &ImageName) -> bool {
    !relative_path(file).nfc().eq(image.as_str().chars())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notices_a_renamed_file() {
        let renamed = |file, image: &str| is_renamed(file, &image.parse().unwrap());
        assert!(!renamed("a.png", "a.png"));
        assert!(!renamed("dir/a.png", "dir/a.png"));
        assert!(renamed("dir/a.png", "a.png"));
        assert!(!renamed("/dir/a.png", "a.png"));
        assert!(!renamed(r"C:\x.png", "x.png"));
        assert!(!renamed("e\u{301}.png", "\u{e9}.png"));
        assert!(renamed("a.png", "a.12345678.png"));
    }

    #[test]
    fn long_names_are_refused_by_their_beginning() {
        let longest = "n".repeat(MAX_NAME_BYTES);
        assert!(matches!(usable(&longest), Name::Usable(name) if name == longest));
        let Name::Unusable { beginning, error } = usable(&"é".repeat(MAX_NAME_BYTES)) else { panic!("it is taken") };
        assert!(beginning.len() <= MAX_ECHO_BYTES + 3 && beginning.starts_with("éé") && beginning.ends_with('…'));
        assert!(error.message().contains("longer than 4096 bytes"), "{error}");
    }

    #[test]
    fn names_in_one_answer_are_bounded() {
        let mut echo = Echo::default();
        assert_eq!(echo.of("a.png"), "a.png");
        let bytes: usize =
            (0..20_000).map(|_| serde_json::to_string(&echo.of(&"\u{1}".repeat(4096))).unwrap().len()).sum();
        assert!(bytes < 16 << 20, "{bytes}");
        assert_eq!(echo.of("short.png"), "short.png");
    }

    #[test]
    fn reads_plain_names() {
        for (disposition, name) in [
            (r#"form-data; name="f"; filename="a b.png""#, Some("a b.png")),
            (r#"form-data; Name=f; FileName=a.png"#, Some("a.png")),
            (r#"form-data; filename="C:\x.png"; name="f""#, Some(r"C:\x.png")),
            (r#"form-data; name="f;filename=x"; FILENAME = "a\"b.png""#, Some("a\"b.png")),
            (r#"form-data; filename="a%22b%0D%0A%20%2522.png""#, Some("a\"b\r\n%20%2522.png")),
            (r#"form-data; name=f x; filename="""#, Some("")),
            (r#"form-data; filename="a.png"#, Some("a.png")),
            (r#"form-data; name="filename""#, None),
            ("form-data", None),
        ] {
            assert_eq!(plain(disposition).as_deref(), name, "{disposition}");
        }
        assert!(matches!(name_in(b"form-data; filename=\"\xff\""), Name::Unusable { .. }));
        assert!(matches!(name_in("form-data; filename=\"\u{fffd}\"".as_bytes()), Name::Usable(_)));
        assert!(matches!(name_in(b"form-data; name=\"\xff\"; filename=a"), Name::Usable(_)));
    }

    #[test]
    fn reads_extended_names() {
        for (disposition, name) in [
            (r#"form-data; name="f"; filename="a"; filename*=utf-8''%C3%A9.png"#, Some("%C3%A9.png")),
            (r#"form-data; FileName*=UTF-8''a; name="f""#, Some("a")),
            (r#"form-data; filename*=latin1''a"#, None),
            (r#"form-data; filename="é""#, None),
        ] {
            assert_eq!(extended(disposition), name, "{disposition}");
        }
    }
}
