//! Natural order of image names: `2_x` before `10_x`, `a` beside `A`. One function for table keys, pages and tools.

/// The text whose bytes sort as the natural order of `name`: runs of ASCII digits compare as numbers, the rest without regard to
/// case (Unicode lower case), and ties by the raw name, so that two names never share a key.
///
/// A run of digits becomes `0`, its count of significant digits as two hex digits, and these digits; after a `U+0001`, which no name
/// holds, the raw name follows. Test vectors are in `tests/vectors/natural_order.txt`. For a name of at most 255 bytes the key
/// has at most 895 bytes, below the 1024 of a DynamoDB sort key.
#[must_use]
pub fn sort_key(name: &str) -> String {
    let mut key = String::with_capacity(name.len() * 2 + 8);
    let mut rest = name;
    while let Some(first) = rest.chars().next() {
        if first.is_ascii_digit() {
            let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
            let run = rest[..end].trim_start_matches('0');
            let run = if run.is_empty() { "0" } else { run };
            key.push_str(&format!("0{:02x}{run}", run.len()));
            rest = &rest[end..];
        } else {
            key.extend(first.to_lowercase());
            rest = &rest[first.len_utf8()..];
        }
    }
    key.push('\u{1}');
    key.push_str(name);
    key
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
    fn longest_keys_fit() {
        for name in ["1".repeat(255), "1a".repeat(128)[..255].to_owned(), "1İ".repeat(85), "Ⱥ".repeat(127)] {
            assert!(sort_key(&name).len() <= 895, "{name}");
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
        fn keys_of_names_fit(name in "\\PC{1,255}|[0-9aİȺ]{1,255}") {
            let mut end = name.len().min(255);
            while !name.is_char_boundary(end) {
                end -= 1;
            }
            prop_assert!(sort_key(&name[..end]).len() <= 895);
        }

        #[test]
        fn keys_are_injective(a in "\\PC{0,20}", b in "\\PC{0,20}") {
            prop_assert_eq!(sort_key(&a) == sort_key(&b), a == b);
        }
    }
}
