//! Names in addresses.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

/// All but what RFC 3986 calls unreserved.
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

/// Returns `text` as a part of a URL: of its path or of its query.
#[must_use]
pub fn escape(text: &str) -> String {
    utf8_percent_encode(text, ESCAPED).to_string()
}

/// Returns `name` as the end of a URL's path, its `/` as they are.
#[must_use]
pub fn escape_path(name: &str) -> String {
    name.split('/').map(escape).collect::<Vec<_>>().join("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_unreserved_characters_stay() {
        assert_eq!(escape("a-b_c.d~0"), "a-b_c.d~0");
        assert_eq!(escape("a b/ü?&%"), "a%20b%2F%C3%BC%3F%26%25");
        assert_eq!(escape_path("a b/ü?/c"), "a%20b/%C3%BC%3F/c");
    }
}
