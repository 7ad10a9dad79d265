//! How a picture is to be turned for display, by the EXIF data in its file.

use image::metadata::Orientation;

/// The tag of the orientation, in the first directory.
const ORIENTATION: u16 = 0x112;

/// Types of values: 16 bits, as the standard has it, and 32 bits, as some programs write it.
const SHORT: u16 = 3;
const LONG: u16 = 4;

/// Bytes of an entry: tag, type, count, value.
const ENTRY: usize = 12;

/// The orientation in EXIF data, with or without the name that JPEG has before them. Data that tell none, or make no
/// sense, leave a picture as it is stored.
pub(super) fn of_exif(exif: &[u8]) -> Orientation {
    let data = exif.strip_prefix(b"Exif\0\0").unwrap_or(exif);
    find(data).unwrap_or(Orientation::NoTransforms)
}

fn find(data: &[u8]) -> Option<Orientation> {
    let is_little = match data.first_chunk()? {
        b"II*\0" => true,
        b"MM\0*" => false,
        _ => return None,
    };
    let short = |at: usize| {
        let bytes = *data.get(at..)?.first_chunk()?;
        Some(if is_little { u16::from_le_bytes(bytes) } else { u16::from_be_bytes(bytes) })
    };
    let long = |at: usize| {
        let bytes = *data.get(at..)?.first_chunk()?;
        Some(if is_little { u32::from_le_bytes(bytes) } else { u32::from_be_bytes(bytes) })
    };
    let directory = long(4)? as usize;
    let entries = usize::from(short(directory)?);
    for entry in (0..entries).map(|n| directory + 2 + n * ENTRY) {
        if short(entry)? != ORIENTATION || long(entry + 4)? != 1 {
            continue;
        }
        let value = match short(entry + 2)? {
            SHORT => u32::from(short(entry + 8)?),
            LONG => long(entry + 8)?,
            _ => continue,
        };
        return Orientation::from_exif(u8::try_from(value).ok()?);
    }
    None
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// EXIF data with an orientation of this type, behind an entry of another tag.
    pub(crate) fn exif(is_little: bool, kind: u16, value: u32) -> Vec<u8> {
        let short = |value: u16| if is_little { value.to_le_bytes() } else { value.to_be_bytes() };
        let long = |value: u32| if is_little { value.to_le_bytes() } else { value.to_be_bytes() };
        let value = if kind == SHORT { [short(value as u16), [0; 2]].concat() } else { long(value).to_vec() };
        let head = if is_little { b"II*\0" } else { b"MM\0*" };
        let entry = |tag, kind, value: &[u8]| [&short(tag)[..], &short(kind), &long(1), value].concat();
        let entries = [entry(0x100, LONG, &long(8)), entry(ORIENTATION, kind, &value)].concat();
        [&head[..], &long(8), &short(2), &entries, &[0; 4]].concat()
    }

    #[test]
    fn orientations_have_16_or_32_bits_in_either_order() {
        for is_little in [true, false] {
            for kind in [SHORT, LONG] {
                for value in 1..=8 {
                    let data = exif(is_little, kind, value);
                    assert_eq!(of_exif(&data).to_exif(), value as u8, "{is_little}, {kind}");
                    assert_eq!(of_exif(&[b"Exif\0\0", &data[..]].concat()), of_exif(&data));
                }
                for none in [0, 9, 256 + 6, u32::MAX].into_iter().filter(|n| kind == LONG || *n < 10) {
                    assert_eq!(of_exif(&exif(is_little, kind, none)), Orientation::NoTransforms, "{none}");
                }
            }
            // Bytes are no type for it.
            assert_eq!(of_exif(&exif(is_little, 1, 6)), Orientation::NoTransforms);
        }
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_panic(start in 0usize..3, bytes: Vec<u8>) {
            of_exif(&[[&b"II*\0"[..], b"MM\0*", b""][start], &bytes].concat());
        }
    }
}
