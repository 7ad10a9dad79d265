//! PNG row by row: each is narrowed as it comes, so that a picture is hardly ever in memory as a whole.

use std::{io, ops::Range};

use png::{DecodingError, Reader, Transformations};

use super::{
    packed::{self, Backdrop, Packed},
    png_chunks::{self, WithoutExif},
    resize::{self, Filter, LANES, Part, Weights},
};

/// Why there is no picture.
#[derive(Debug)]
pub(super) enum Error {
    /// The end is missing.
    Truncated,
    /// It says more beside its pixels than it may.
    TooMuchMemory,
    /// It makes no sense, for this reason.
    Damaged(String),
}

/// Rows that are narrowed together.
const STRIP: usize = LANES;

/// What the decoder takes for itself: its window, the rows before, what a file says beside its pixels.
const OWN: u64 = 1 << 20;

/// Most that a file may say beside its pixels.
const BESIDE: usize = 32 << 20;

/// The columns of a picture that are wanted, and how many are to be made of them.
#[derive(Debug, Clone, Copy)]
pub(super) struct Columns {
    pub(super) part: Part,
    pub(super) filter: Filter,
    pub(super) backdrop: Backdrop,
}

/// Rows of a picture, narrowed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Narrowed {
    /// Grey, or red, green and blue: each column by column.
    pub(super) channels: Vec<Vec<u8>>,
    /// Columns.
    pub(super) width: usize,
    /// The first row's place in the picture.
    pub(super) top: usize,
    /// Rows.
    pub(super) height: usize,
}

/// A PNG whose header has been read.
pub(super) struct Png<'a> {
    reader: Reader<WithoutExif<'a>>,
    /// Samples of a pixel.
    samples: usize,
    exif: Option<&'a [u8]>,
}

impl<'a> Png<'a> {
    pub(super) fn open(bytes: &'a [u8]) -> Result<Self, Error> {
        let mut decoder = png::Decoder::new_with_limits(WithoutExif::new(bytes), png::Limits { bytes: BESIDE });
        decoder.set_ignore_text_chunk(true);
        decoder.set_ignore_iccp_chunk(true);
        // Palettes become colours, fewer than eight bits become eight, and of sixteen the higher eight stay.
        decoder.set_transformations(Transformations::normalize_to_color8());
        let reader = decoder.read_info().map_err(|e| error(&e))?;
        let samples = reader.output_color_type().0.samples();
        Ok(Self { reader, samples, exif: png_chunks::exif(bytes) })
    }

    /// Width and height.
    pub(super) fn size(&self) -> (u32, u32) {
        self.reader.info().size()
    }

    /// The EXIF data.
    pub(super) const fn exif(&self) -> Option<&'a [u8]> {
        self.exif
    }

    /// Bytes that [`Self::decode`] takes.
    pub(super) fn bytes_needed(&self, columns: &Columns, top: u32, bottom: u32) -> u64 {
        let (width, height) = self.size();
        let row = u64::from(width) * self.samples as u64;
        let narrow = (columns.part.to * packed::channels(self.samples)) as u64;
        let rows = STRIP as u64 + if self.is_interlaced() { u64::from(height) } else { 0 };
        // The rows to narrow, those of a channel side by side, the decoder's own, and the narrowed ones.
        rows * row + LANES as u64 * u64::from(width) + 4 * row + OWN + narrow * u64::from(bottom - top)
    }

    /// Whether rows come several times, finer each time, so that the first one is known only at the end.
    fn is_interlaced(&self) -> bool {
        self.reader.info().interlaced
    }

    /// Decodes the rows from `top` to before `bottom` and narrows them to `columns`. The others are decoded as well,
    /// since a file that is cut short is an error.
    pub(super) fn decode(mut self, columns: &Columns, top: u32, bottom: u32) -> Result<Narrowed, Error> {
        let (width, height) = (self.size().0 as usize, self.size().1 as usize);
        let wanted = top as usize..bottom as usize;
        let length = width * self.samples;
        let mut narrow = Narrow::new(columns, width, self.samples, wanted.clone())?;
        if self.is_interlaced() {
            let mut all = vec![0; length * height];
            self.reader.next_frame(&mut all).map_err(|e| error(&e))?;
            for row in all.chunks_exact(length).take(wanted.end).skip(wanted.start) {
                narrow.place().copy_from_slice(row);
                narrow.filled();
            }
        } else {
            for y in 0.. {
                if self.reader.read_row(narrow.place()).map_err(|e| error(&e))?.is_none() {
                    break;
                }
                if wanted.contains(&y) {
                    narrow.filled();
                }
            }
        }
        Ok(narrow.finish())
    }
}

/// What makes rows narrower, some at a time.
struct Narrow {
    weights: Weights<u8>,
    backdrop: Backdrop,
    /// Pixels in a row, and samples in a pixel.
    width: usize,
    samples: usize,
    strip: Vec<u8>,
    /// Rows in the strip.
    rows: usize,
    /// Rows that were narrowed.
    done: usize,
    to: Narrowed,
}

impl Narrow {
    fn new(columns: &Columns, width: usize, samples: usize, wanted: Range<usize>) -> Result<Self, Error> {
        let Columns { part, filter, backdrop } = *columns;
        let weights = Weights::new(filter, part, width).ok_or_else(|| damaged("it has no columns"))?;
        let channels = vec![vec![0; part.to * wanted.len()]; packed::channels(samples)];
        let to = Narrowed { channels, width: part.to, top: wanted.start, height: wanted.len() };
        let strip = vec![0; STRIP * width * samples];
        Ok(Self { weights, backdrop, width, samples, strip, rows: 0, done: 0, to })
    }

    /// Where the next row belongs, as the file has it.
    fn place(&mut self) -> &mut [u8] {
        let length = self.width * self.samples;
        &mut self.strip[self.rows * length..][..length]
    }

    /// Takes note that a row is in its place.
    fn filled(&mut self) {
        self.rows += 1;
        if self.rows == STRIP {
            self.narrow();
        }
    }

    /// Narrows the rows of the strip.
    fn narrow(&mut self) {
        let Self { width, samples, backdrop, .. } = *self;
        let strip = Packed { bytes: &self.strip, width, samples, backdrop };
        for (channel, narrowed) in strip.channels().zip(&mut self.to.channels) {
            resize::pass(&channel, 0..self.rows, &self.weights, &mut narrowed[self.done..], self.to.height);
        }
        self.done += std::mem::take(&mut self.rows);
    }

    /// All rows.
    fn finish(mut self) -> Narrowed {
        self.narrow();
        self.to
    }
}

fn damaged(reason: &str) -> Error {
    Error::Damaged(reason.to_owned())
}

fn error(error: &DecodingError) -> Error {
    match error {
        DecodingError::LimitsExceeded => Error::TooMuchMemory,
        DecodingError::IoError(e) if e.kind() == io::ErrorKind::UnexpectedEof => Error::Truncated,
        e => damaged(&reason(e)),
    }
}

/// The decoder's words, but where they are names of its own structures.
fn reason(error: &DecodingError) -> String {
    let text = error.to_string();
    if text.starts_with("CRC error") {
        "a checksum is wrong".to_owned()
    } else if text.starts_with("Corrupt deflate stream") {
        "its compressed pixels make no sense".to_owned()
    } else if text.contains('{') {
        "one of its chunks is in a wrong place or of a wrong length".to_owned()
    } else {
        in_a_sentence(&text)
    }
}

/// A sentence of a decoder's as a part of one of ours.
pub(super) fn in_a_sentence(text: &str) -> String {
    let text = text.trim_end_matches('.');
    // Abbreviations keep their capitals.
    match text.as_bytes() {
        [first, second, ..] if first.is_ascii_uppercase() && !second.is_ascii_uppercase() => {
            format!("{}{}", first.to_ascii_lowercase() as char, &text[1..])
        }
        _ => text.to_owned(),
    }
}
