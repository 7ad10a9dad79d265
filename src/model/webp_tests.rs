//! Tests of what a WebP's decoder is said to take.

use super::*;

/// Writes bits, the lowest of each byte first.
#[derive(Default)]
struct Writer(Vec<u8>, usize);

impl Writer {
    fn number(&mut self, value: usize, bits: usize) {
        for place in 0..bits {
            if self.1.is_multiple_of(8) {
                self.0.push(0);
            }
            *self.0.last_mut().unwrap() |= ((value >> place & 1) as u8) << (self.1 % 8);
            self.1 += 1;
        }
    }

    /// A code of one symbol.
    fn one(&mut self, symbol: usize) {
        self.number(0b101, 3);
        self.number(symbol, 8);
    }

    /// A code of all symbols that its alphabet has, 256 of them, with eight bits each.
    fn all(&mut self) {
        // The lengths are 8 all along: a code of one symbol, the last but seven in the order.
        self.number(0, 1);
        self.number(12 - 4, 4);
        for place in &ORDER[..12] {
            self.number(usize::from(*place == 8), 3);
        }
        self.number(0, 1);
    }
}

/// A picture of one pixel, as a chunk, that says to have 65,536 groups of codes, and has some.
fn bomb(groups: usize) -> Vec<u8> {
    let mut stream = Writer::default();
    // No transform, no cache, groups by blocks of four pixels; that small picture has no cache.
    stream.number(0b1_00, 3);
    stream.number(0, 4);
    for symbol in [255, 255, 0, 0, 0] {
        stream.one(symbol);
    }
    for _ in 0..groups {
        stream.one(0);
        (0..3).for_each(|_| stream.all());
        stream.one(0);
    }
    chunk(b"VP8L", &[&[0x2f, 0, 0, 0, 0][..], &stream.0].concat())
}

fn chunk(tag: &[u8; 4], body: &[u8]) -> Vec<u8> {
    let padding = vec![0; body.len() % 2];
    [&tag[..], &(body.len() as u32).to_le_bytes(), body, &padding].concat()
}

fn file(chunks: &[Vec<u8>]) -> Vec<u8> {
    let chunks = chunks.concat();
    [b"RIFF", &(chunks.len() as u32 + 4).to_le_bytes()[..], b"WEBP", &chunks].concat()
}

#[test]
fn codes_count_by_their_tables() {
    let a_group = 5 * CODE + 3 * (4 << 8);
    let counted = bytes_needed(&file(&[bomb(1000)]), 1, 1);
    let expected = 1000 * a_group..1001 * a_group + 100;
    assert!(expected.contains(&counted), "{counted} for {a_group} each");
    // Whatever stands around it, and whatever size the canvas has.
    let (still, animated) = (chunk(b"VP8X", &[0; 10]), chunk(b"VP8X", &[2, 0, 0, 0, 9, 0, 0, 9, 0, 0]));
    let frame = |picture: &[u8]| chunk(b"ANMF", &[&[0; 16][..], picture].concat());
    let lossy = chunk(b"VP8 ", &[0; 8]);
    for chunks in [
        [still.clone(), frame(&lossy), bomb(1000)],
        [still, lossy.clone(), bomb(1000)],
        [animated.clone(), lossy.clone(), frame(&bomb(1000))],
        [animated, frame(&bomb(1000)), frame(&lossy)],
    ] {
        let counted = bytes_needed(&file(&chunks), 10, 10) - 500;
        assert!(expected.contains(&counted), "{counted} for {a_group} each");
    }
    assert_eq!(bytes_needed(b"RIFF", 10, 10), 500);
}

#[test]
fn what_encoders_write_is_read_to_the_pixels() {
    let fixture = |name: &str| {
        let path = format!("{}/tests/fixtures/images/{name}.webp", env!("CARGO_MANIFEST_DIR"));
        std::fs::read(path).unwrap()
    };
    for name in ["lossless", "animated", "alpha"] {
        let file = fixture(name);
        let at = file.windows(4).position(|four| four == b"VP8L").unwrap() + 8;
        let bits = u32::from_le_bytes(file[at + 1..at + 5].try_into().unwrap());
        let size = ((bits & 0x3fff) + 1, (bits >> 14 & 0x3fff) + 1);
        let mut reader = Reader { bits: Bits { bytes: &file[at + 5..], at: 0 }, most: 0 };
        assert_eq!(reader.picture(size), Some(()), "{name}");
        let pixels = u64::from(size.0) * u64::from(size.1);
        let counted = bytes_needed(&file, size.0, size.1);
        assert!((5 * pixels + 5 * CODE..9 * pixels + 200_000).contains(&counted), "{name}: {counted} bytes");
    }
    assert_eq!(bytes_needed(&fixture("lossy"), 10, 10), 200);
}

#[test]
fn a_transform_that_comes_again_ends_it() {
    let mut stream = Writer::default();
    for _ in 0..100_000 {
        // Predictors, of blocks of four pixels; one colour for all.
        stream.number(0b001, 3);
        stream.number(0, 4);
        for symbol in [0, 0, 0, 0, 0] {
            stream.one(symbol);
        }
    }
    let mut reader = Reader { bits: Bits { bytes: &stream.0, at: 0 }, most: 0 };
    assert_eq!(reader.picture((16_000, 4000)), None);
    assert!(reader.bits.at < 1000, "{} bits", reader.bits.at);
}

proptest::proptest! {
    #[test]
    fn no_bytes_take_it_apart(bytes: Vec<u8>, width in 1u32..2000, height in 1u32..2000) {
        let file = [&b"RIFF....WEBPVP8L\xff\xff\xff\x00"[..], &bytes].concat();
        assert!(bytes_needed(&file, width, height) >= 5 * u64::from(width) * u64::from(height));
    }
}
