//! A part of stored bytes, as players and downloads that were interrupted ask for it.

use std::ops::RangeInclusive;

use axum::http::{HeaderMap, header};
use headers::{ETag, HeaderMapExt as _, IfRange};
use http_range_header::{RangeUnsatisfiableError, parse_range_header};

/// How much of some bytes is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Part {
    All,
    /// From the first to the last byte, both included.
    Of(RangeInclusive<u64>),
    /// None that there is.
    Outside,
}

/// What `headers` ask for of the `length` bytes that `etag` names. A range that cannot be read, several of them that
/// there are, and one of bytes that are others by now are as if there were none, as RFC 9110 has it.
pub(crate) fn wanted(headers: &HeaderMap, etag: Option<&ETag>, length: u64) -> Part {
    let Some(range) = headers.get(header::RANGE) else { return Part::All };
    let is_other = |known: IfRange| known.is_modified(etag, None);
    if headers.contains_key(header::IF_RANGE) && headers.typed_get().is_none_or(is_other) {
        return Part::All;
    }
    let Some(Ok(ranges)) = range.to_str().ok().map(parse_range_header) else { return Part::All };
    match ranges.validate(length).as_deref() {
        Ok([range]) => Part::Of(range.clone()),
        Err(RangeUnsatisfiableError::Unsatisfiable) => Part::Outside,
        _ => Part::All,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_range_is_a_part() {
        let etag: ETag = "\"a\"".parse().unwrap();
        let ask = |range: &str, known: Option<&str>| {
            let mut headers = HeaderMap::from_iter([(header::RANGE, range.parse().unwrap())]);
            headers.extend(known.map(|known| (header::IF_RANGE, known.parse().unwrap())));
            wanted(&headers, Some(&etag), 100)
        };
        assert_eq!(wanted(&HeaderMap::new(), Some(&etag), 100), Part::All);
        for (range, part) in [
            ("bytes=0-0", Part::Of(0..=0)),
            ("bytes=10-", Part::Of(10..=99)),
            ("bytes=-10", Part::Of(90..=99)),
            ("bytes=-1000", Part::Of(0..=99)),
            ("bytes=90-1000", Part::Of(90..=99)),
            ("bytes=100-", Part::Outside),
            ("bytes=-0", Part::Outside),
            ("bytes=0-1,5-6", Part::All),
            ("bytes=0-1,500-600", Part::Of(0..=1)),
            ("bytes=5-1", Part::All),
            ("bytes=x", Part::All),
            ("lines=0-1", Part::All),
        ] {
            assert_eq!(ask(range, None), part, "{range}");
        }
        assert_eq!(ask("bytes=0-1", Some("\"a\"")), Part::Of(0..=1));
        for other in ["\"b\"", "W/\"a\"", "Wed, 21 Oct 2015 07:28:00 GMT", "?"] {
            assert_eq!(ask("bytes=0-1", Some(other)), Part::All, "{other}");
        }
    }
}
