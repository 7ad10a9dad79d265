//! Natural order of image names: `2_x` before `10_x`, `a` beside `A`. One function for table keys, pages and tools.

/// The longest sort key that DynamoDB takes, in bytes. A name of [`SHORT`] bytes or less has none that is
/// longer.
pub const MAX_KEY_BYTES: usize = 1024;

/// Names of so many bytes have a key that fits, whatever they are made of: at worst digits and letters take turns, and
/// two bytes become five.
pub(super) const SHORT: usize = 291;

/// The text whose bytes sort as the natural order of `name`: its [`fold`], and after a `U+0001`, which no name holds,
/// the raw name, so that ties are told apart by it and two names never share a key. Test vectors are in
/// `tests/vectors/natural_order.txt`.
#[must_use]
pub fn sort_key(name: &str) -> String {
    let mut key = fold(name);
    key.reserve(name.len() + 1);
    key.push('\u{1}');
    key.push_str(name);
    key
}

/// What of a name counts first in natural order: runs of ASCII digits compare as numbers, the rest without regard to
/// case (Unicode lower case). A run of digits becomes `0`, its count of significant digits as two hex digits, and these
/// digits.
#[must_use]
pub fn fold(name: &str) -> String {
    let mut key = String::with_capacity(name.len() * 2 + 8);
    let mut rest = name;
    while let Some(first) = rest.chars().next() {
        if first.is_ascii_digit() {
            let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
            let run = rest[..end].trim_start_matches('0');
            let run = if run.is_empty() { "0" } else { run };
            push_number(&mut key, run.len(), run);
            rest = &rest[end..];
        } else {
            key.extend(first.to_lowercase());
            rest = &rest[first.len_utf8()..];
        }
    }
    key
}

/// Appends what keys have for a number of `length` digits that begins with `digits`.
fn push_number(key: &mut String, length: usize, digits: &str) {
    key.push_str(&format!("0{length:02x}{digits}"));
}

/// Numbers of more digits than this are found by their whole alone; see [`prefixes`].
const MAX_SEARCHED_DIGITS: usize = 12;

/// What the keys of names begin with that begin with `text`, in the sense of natural order: without regard to case, and
/// numbers by their value. In order, and none is the beginning of another. There are several only where `text` ends
/// with a digit, for then a longer number may begin with it: one for each length.
#[must_use]
pub fn prefixes(text: &str) -> Vec<String> {
    let start = text.trim_end_matches(|c: char| c.is_ascii_digit());
    let digits = text[start.len()..].trim_start_matches('0');
    if digits.is_empty() {
        return vec![fold(text)];
    }
    let start = fold(start);
    let lengths = digits.len()..=digits.len().max(MAX_SEARCHED_DIGITS);
    lengths
        .map(|length| {
            let mut prefix = start.clone();
            push_number(&mut prefix, length, digits);
            prefix
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::cmp::Ordering;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn published_vectors_are_in_order() {
        let names: Vec<&str> =
            include_str!("../../tests/vectors/natural_order.txt").lines().filter(|l| !l.starts_with("# ")).collect();
        assert!(names.len() > 20);
        for pair in names.windows(2) {
            assert!(sort_key(pair[0]) < sort_key(pair[1]), "{:?} must come before {:?}", pair[0], pair[1]);
        }
    }

    #[test]
    fn keys_of_short_names_fit() {
        for name in ["1".repeat(291), "1a".repeat(146)[..291].to_owned(), "1İ".repeat(97), "Ⱥ".repeat(145)] {
            assert!(sort_key(&name).len() <= MAX_KEY_BYTES, "{name}");
        }
    }

    #[test]
    fn names_are_found_by_their_beginning() {
        let finds = |text: &str, name: &str| prefixes(text).iter().any(|prefix| fold(name).starts_with(prefix));
        for (text, name) in [
            ("IMG_", "img_1.png"),
            ("img_1", "IMG_1.png"),
            ("img_1", "img_10.png"),
            ("img_01", "img_19"),
            ("7", "7"),
            ("x", "x"),
            ("É", "é.png"),
            ("a0", "a000.png"),
            ("99999999999999999999", "99999999999999999999"),
        ] {
            assert!(finds(text, name), "{text} {name}");
        }
        for (text, name) in [("img_1", "img_21"), ("img_10", "img_1"), ("a0", "a1"), ("b", "ab"), ("1a", "11a")] {
            assert!(!finds(text, name), "{text} {name}");
        }
    }

    /// The order told a second way: token by token, to compare with the key.
    fn slow_cmp(a: &str, b: &str) -> Ordering {
        fn tokens(s: &str) -> Vec<(String, Option<u128>)> {
            let mut out: Vec<(String, Option<u128>)> = Vec::new();
            let mut chars = s.chars().peekable();
            while let Some(c) = chars.next() {
                if let Some(mut n) = c.to_digit(10).map(u128::from) {
                    while let Some(d) = chars.peek().and_then(|c| c.to_digit(10)) {
                        n = n * 10 + u128::from(d);
                        chars.next();
                    }
                    out.push(("0".into(), Some(n)));
                } else {
                    out.extend(c.to_lowercase().map(|c| (c.to_string(), None)));
                }
            }
            out
        }
        tokens(a).cmp(&tokens(b)).then_with(|| a.cmp(b))
    }

    proptest! {
        #[test]
        fn keys_sort_as_told(a in "[0-9a-cA-C._é ]{0,12}", b in "[0-9a-cA-C._é ]{0,12}") {
            prop_assert_eq!(sort_key(&a).cmp(&sort_key(&b)), slow_cmp(&a, &b));
        }

        #[test]
        fn keys_of_any_short_name_fit(name in "\\PC{1,291}|[0-9aİȺ]{1,291}") {
            let mut end = name.len().min(SHORT);
            while !name.is_char_boundary(end) {
                end -= 1;
            }
            prop_assert!(sort_key(&name[..end]).len() <= MAX_KEY_BYTES);
        }

        /// Without leading zeros, what begins with a text is found by it; and what is found lies in the order of the
        /// prefixes.
        #[test]
        fn beginnings_are_found_in_order(
            text in "[1-9a-cÉ/]{1,8}",
            names in proptest::collection::vec("[1-9a-cÉ/]{0,6}", 1..6),
        ) {
            let mut keys: Vec<String> = names.iter().map(|rest| sort_key(&format!("{text}{rest}"))).collect();
            keys.sort();
            let prefixes = prefixes(&text);
            let places: Vec<_> = keys.iter().map(|key| prefixes.iter().position(|p| key.starts_with(p))).collect();
            prop_assert!(places.iter().all(Option::is_some) && places.is_sorted(), "{:?}", places);
            prop_assert!(prefixes.is_sorted());
        }

        #[test]
        fn keys_are_injective(a in "\\PC{0,20}", b in "\\PC{0,20}") {
            prop_assert_eq!(sort_key(&a) == sort_key(&b), a == b);
        }
    }
}
