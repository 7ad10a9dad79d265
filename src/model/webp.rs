//! What the decoder of a WebP takes: a lossless picture may have tens of thousands of prefix codes, whatever its size,
//! and the decoder keeps a table for each.
//!
//! Names and numbers are those of the WebP Lossless Bitstream Specification (RFC 9649, section 3).

/// Bytes a pixel of a lossless picture beside what is returned: it is decoded with alpha, and copied.
const LOSSLESS: u64 = 5;

/// Bytes a pixel of the planes of a lossy picture.
const LOSSY: u64 = 2;

/// Bytes a pixel of its alpha, which is a lossless picture of its own, and a copy of that.
const ALPHA: u64 = 5;

/// Bytes of a code without its table.
const CODE: u64 = 56;

/// A code's table is indexed by so many bits at most.
const TABLE_BITS: usize = 10;

/// Symbols of the five codes of a group: green and lengths, red, blue, alpha, distances.
const ALPHABETS: [usize; 5] = [256 + 24, 256, 256, 256, 40];

/// The order in which the lengths of the code of lengths come.
const ORDER: [usize; 19] = [17, 18, 0, 1, 2, 3, 4, 5, 16, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15];

/// Bytes that decoding the first picture of `webp`, of `width` x `height` pixels, takes beside the pixels that it
/// returns. What is damaged counts as far as it can be read: so far the decoder comes.
pub(super) fn bytes_needed(webp: &[u8], width: u32, height: u32) -> u64 {
    let (a_pixel, codes) = match Picture::first(webp, (width, height)) {
        Some(Picture::Lossless(stream, size)) => (LOSSLESS, codes_of(stream, size)),
        Some(Picture::Lossy { alpha: Some((stream, size)) }) => (LOSSY + ALPHA, codes_of(stream, size)),
        Some(Picture::Lossy { alpha: None }) => (LOSSY, 0),
        None => (LOSSLESS, 0),
    };
    a_pixel * u64::from(width) * u64::from(height) + codes
}

/// Whether `webp` has fewer bytes than its head says.
pub(super) fn is_cut(webp: &[u8]) -> bool {
    let said = webp.get(4..8).and_then(<[u8]>::first_chunk).map(|length| u64::from(u32::from_le_bytes(*length)));
    said.is_none_or(|said| said + 8 > webp.len() as u64)
}

/// A picture that is decoded, with what is lossless of it: where its transforms begin, and its size.
enum Picture<'a> {
    Lossless(&'a [u8], (u32, u32)),
    Lossy { alpha: Option<(&'a [u8], (u32, u32))> },
}

impl<'a> Picture<'a> {
    /// The one that the decoder takes: of an animation what its first frame begins with, else the first lossless one,
    /// else the lossy one with the first alpha.
    fn first(webp: &'a [u8], canvas: (u32, u32)) -> Option<Self> {
        let mut chunks = chunks(webp.get(12..)?);
        let (tag, body) = chunks.next()?;
        if tag != b"VP8X" {
            return Self::of([(tag, body)].into_iter(), canvas);
        }
        if body.first()? & 2 == 0 {
            return Self::of(chunks, canvas);
        }
        let (_, frame) = chunks.find(|(tag, _)| *tag == b"ANMF")?;
        let side =
            |at: usize| Some(u32::from_le_bytes([*frame.get(at)?, *frame.get(at + 1)?, *frame.get(at + 2)?, 0]) + 1);
        Self::of(self::chunks(frame.get(16..)?), (side(6)?, side(9)?))
    }

    fn of(chunks: impl Iterator<Item = (&'a [u8], &'a [u8])> + Clone, size: (u32, u32)) -> Option<Self> {
        let find = |wanted: &[u8]| chunks.clone().find(|(tag, _)| *tag == wanted).map(|(_, body)| body);
        if let Some(body) = find(b"VP8L") {
            // Behind a signature the size, and flags.
            let bits = u32::from_le_bytes(*body.get(1..)?.first_chunk()?);
            return Some(Self::Lossless(&body[5..], ((bits & 0x3fff) + 1, (bits >> 14 & 0x3fff) + 1)));
        }
        // The first byte of alpha tells how it is stored: as it is, or as a lossless picture without its head.
        let alpha = find(b"ALPH").and_then(<[u8]>::split_first);
        Some(Self::Lossy { alpha: alpha.map(|(method, rest)| (if method & 3 == 1 { rest } else { &[] }, size)) })
    }
}

/// Names and bodies of chunks, one behind the other.
fn chunks(mut rest: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> + Clone {
    std::iter::from_fn(move || {
        let (head, behind) = rest.split_first_chunk::<8>()?;
        let length = u32::from_le_bytes([head[4], head[5], head[6], head[7]]) as usize;
        // They begin at even places.
        rest = behind.get(length.saturating_add(length % 2)..).unwrap_or_default();
        Some((&head[..4], &behind[..length.min(behind.len())]))
    })
}

/// Bytes of the codes of a lossless picture whose transforms begin here.
fn codes_of(stream: &[u8], size: (u32, u32)) -> u64 {
    let mut reader = Reader { bits: Bits { bytes: stream, at: 0 }, most: 0 };
    // It ends early in a file that does.
    reader.picture(size);
    reader.most
}

/// Bits, the lowest of each byte first.
struct Bits<'a> {
    bytes: &'a [u8],
    /// Of the next bit.
    at: usize,
}

impl Bits<'_> {
    fn bit(&mut self) -> Option<usize> {
        let byte = *self.bytes.get(self.at / 8)?;
        let bit = byte >> (self.at % 8) & 1;
        self.at += 1;
        Some(usize::from(bit))
    }

    fn number(&mut self, bits: usize) -> Option<usize> {
        (0..bits).try_fold(0, |number, place| Some(number | self.bit()? << place))
    }
}

/// A prefix code: how many codes there are of each length, and their symbols in order.
struct Code {
    counts: [usize; 16],
    symbols: Vec<u16>,
}

impl Code {
    fn new(lengths: &[u8]) -> Self {
        let mut counts = [0; 16];
        lengths.iter().for_each(|length| counts[usize::from(*length)] += 1);
        counts[0] = 0;
        let mut symbols: Vec<u16> = (0..lengths.len() as u16).filter(|at| lengths[usize::from(*at)] > 0).collect();
        symbols.sort_by_key(|symbol| lengths[usize::from(*symbol)]);
        Self { counts, symbols }
    }

    /// Bytes that the decoder's table takes.
    fn bytes(&self) -> u64 {
        let longest = self.counts.iter().rposition(|count| *count > 0).unwrap_or(0);
        let beyond: usize = self.counts[1 + TABLE_BITS.min(longest)..].iter().sum();
        let table = if self.symbols.len() > 1 { 4 << longest.min(TABLE_BITS) } else { 0 };
        CODE + table + 64 * beyond as u64
    }

    /// The next symbol. A code of one symbol has no bits.
    fn symbol(&self, bits: &mut Bits<'_>) -> Option<usize> {
        if let [only] = self.symbols[..] {
            return Some(usize::from(only));
        }
        let (mut code, mut first, mut before) = (0, 0, 0);
        for count in &self.counts[1..] {
            code |= bits.bit()?;
            if code < first + count {
                return self.symbols.get(before + code - first).map(|symbol| usize::from(*symbol));
            }
            before += count;
            first = (first + count) << 1;
            code <<= 1;
        }
        None
    }
}

/// Reads what comes before the pixels of a picture.
struct Reader<'a> {
    bits: Bits<'a>,
    /// Most bytes of codes at a time.
    most: u64,
}

impl Reader<'_> {
    fn picture(&mut self, (mut width, height): (u32, u32)) -> Option<()> {
        let mut seen = [false; 4];
        while self.bits.bit()? == 1 {
            let transform = self.bits.number(2)?;
            // Each comes once, or the picture is damaged.
            if std::mem::replace(&mut seen[transform], true) {
                return None;
            }
            match transform {
                // Predictors and colours: a small picture with a pixel for each block.
                0 | 1 => {
                    let block = self.block()?;
                    self.pixels(width.div_ceil(block), height.div_ceil(block))?;
                }
                2 => {}
                _ => {
                    let colours = self.bits.number(8)? as u32 + 1;
                    self.pixels(colours, 1)?;
                    let packed = match colours {
                        1 | 2 => 8,
                        3 | 4 => 4,
                        5..=16 => 2,
                        _ => 1,
                    };
                    width = width.div_ceil(packed);
                }
            }
        }
        let cache = self.cache()?;
        let mut groups = 1;
        if self.bits.bit()? == 1 {
            let block = self.block()?;
            groups = self.pixels(width.div_ceil(block), height.div_ceil(block))? + 1;
        }
        let mut bytes = 0;
        for _ in 0..groups {
            for code in self.group(cache)? {
                bytes += code.bytes();
                self.most = self.most.max(bytes);
            }
        }
        Some(())
    }

    /// The side of the blocks of a small picture.
    fn block(&mut self) -> Option<u32> {
        Some(4 << self.bits.number(3)?)
    }

    /// Colours in the cache.
    fn cache(&mut self) -> Option<usize> {
        if self.bits.bit()? == 0 {
            return Some(0);
        }
        Some(1 << Some(self.bits.number(4)?).filter(|bits| (1..=11).contains(bits))?)
    }

    fn group(&mut self, cache: usize) -> Option<[Code; 5]> {
        let [green, red, blue, alpha, distance] = ALPHABETS;
        Some([self.code(green + cache)?, self.code(red)?, self.code(blue)?, self.code(alpha)?, self.code(distance)?])
    }

    fn code(&mut self, alphabet: usize) -> Option<Code> {
        let lengths = if self.bits.bit()? == 1 { self.one_or_two(alphabet)? } else { self.lengths(alphabet)? };
        Some(Code::new(&lengths))
    }

    /// Lengths of a code of one or two symbols.
    fn one_or_two(&mut self, alphabet: usize) -> Option<Vec<u8>> {
        let mut lengths = vec![0; alphabet];
        let is_two = self.bits.bit()? == 1;
        let width = if self.bits.bit()? == 1 { 8 } else { 1 };
        *lengths.get_mut(self.bits.number(width)?)? = 1;
        if is_two {
            *lengths.get_mut(self.bits.number(8)?)? = 1;
        }
        Some(lengths)
    }

    /// Lengths of any code, which have a code of their own.
    fn lengths(&mut self, alphabet: usize) -> Option<Vec<u8>> {
        let mut own = [0; 19];
        let count = 4 + self.bits.number(4)?;
        for place in &ORDER[..count] {
            own[*place] = self.bits.number(3)? as u8;
        }
        let own = Code::new(&own);
        let mut left = alphabet;
        if self.bits.bit()? == 1 {
            let width = 2 + 2 * self.bits.number(3)?;
            left = 2 + self.bits.number(width)?;
        }
        let mut lengths = vec![0; alphabet];
        let (mut at, mut last) = (0, 8);
        while at < alphabet && left > 0 {
            left -= 1;
            let (length, times) = match own.symbol(&mut self.bits)? {
                16 => (last, 3 + self.bits.number(2)?),
                17 => (0, 3 + self.bits.number(3)?),
                18 => (0, 11 + self.bits.number(7)?),
                length => (length as u8, 1),
            };
            if length > 0 {
                last = length;
            }
            lengths.get_mut(at..at + times)?.fill(length);
            at += times;
        }
        Some(lengths)
    }

    /// Reads all pixels of a small picture, and returns the largest number that red and green make: copies of earlier
    /// pixels bring no larger one.
    fn pixels(&mut self, width: u32, height: u32) -> Option<usize> {
        let cache = self.cache()?;
        let [green, red, blue, alpha, distance] = self.group(cache)?;
        let (mut left, mut most) = (width as usize * height as usize, 0);
        while left > 0 {
            let symbol = green.symbol(&mut self.bits)?;
            let count = match symbol {
                ..256 => {
                    most = most.max(red.symbol(&mut self.bits)? << 8 | symbol);
                    blue.symbol(&mut self.bits)?;
                    alpha.symbol(&mut self.bits)?;
                    1
                }
                256..280 => {
                    let length = self.extra(symbol - 256)?;
                    let symbol = distance.symbol(&mut self.bits)?;
                    self.extra(symbol)?;
                    length
                }
                // From the cache.
                _ => 1,
            };
            left = left.checked_sub(count)?;
        }
        Some(most)
    }

    /// A length or distance by its symbol and the bits behind it.
    fn extra(&mut self, symbol: usize) -> Option<usize> {
        if symbol < 4 {
            return Some(symbol + 1);
        }
        let bits = (symbol - 2) / 2;
        let least = (2 + symbol % 2) << bits;
        Some(least + self.bits.number(bits)? + 1)
    }
}

#[cfg(test)]
#[path = "webp_tests.rs"]
mod tests;
