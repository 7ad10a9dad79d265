//! PNG row by row: each is narrowed as it comes, so that a picture is hardly ever in memory as a whole.

use std::io;

use fast_image_resize::{FilterType, PixelType, Resizer, images::Image};
use image::{DynamicImage, GrayAlphaImage, GrayImage, ImageBuffer, Luma, LumaA, Rgb, RgbImage, Rgba, RgbaImage};
use png::{BitDepth, ColorType, DecodingError, Reader, Transformations};

use super::{
    png_chunks::{self, WithoutExif},
    resize,
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
const STRIP: u32 = 16;

/// What the decoder takes for itself: its window, the rows before, what a file says beside its pixels.
const OWN: u64 = 1 << 20;

/// Most that a file may say beside its pixels.
const BESIDE: usize = 32 << 20;

/// The columns of a picture that are wanted, and how many are to be made of them.
#[derive(Debug, Clone, Copy)]
pub(super) struct Columns {
    pub(super) left: f64,
    pub(super) width: f64,
    pub(super) to: u32,
    pub(super) filter: FilterType,
    /// Whether pixels count by their alpha.
    pub(super) by_alpha: bool,
}

/// Rows of a picture, narrowed.
#[derive(Debug, PartialEq)]
pub(super) struct Rows {
    pub(super) image: DynamicImage,
    /// The first one's place in the picture.
    pub(super) top: u32,
}

/// A PNG whose header has been read.
pub(super) struct Png<'a> {
    reader: Reader<WithoutExif<'a>>,
    kind: PixelType,
    exif: Option<&'a [u8]>,
}

impl<'a> Png<'a> {
    pub(super) fn open(bytes: &'a [u8]) -> Result<Self, Error> {
        let mut decoder = png::Decoder::new_with_limits(WithoutExif::new(bytes), png::Limits { bytes: BESIDE });
        decoder.set_ignore_text_chunk(true);
        decoder.set_ignore_iccp_chunk(true);
        // Palettes become colours, fewer than eight bits become eight; sixteen stay.
        decoder.set_transformations(Transformations::EXPAND);
        let reader = decoder.read_info().map_err(|e| error(&e))?;
        let kind = match reader.output_color_type() {
            (ColorType::Grayscale, BitDepth::Sixteen) => PixelType::U16,
            (ColorType::GrayscaleAlpha, BitDepth::Sixteen) => PixelType::U16x2,
            (ColorType::Rgb, BitDepth::Sixteen) => PixelType::U16x3,
            (ColorType::Rgba, BitDepth::Sixteen) => PixelType::U16x4,
            (ColorType::Grayscale, _) => PixelType::U8,
            (ColorType::GrayscaleAlpha, _) => PixelType::U8x2,
            // Expanded, there are no palettes.
            (ColorType::Rgb | ColorType::Indexed, _) => PixelType::U8x3,
            (ColorType::Rgba, _) => PixelType::U8x4,
        };
        Ok(Self { reader, kind, exif: png_chunks::exif(bytes) })
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
        let row = u64::from(width) * self.kind.size() as u64;
        let narrow = u64::from(columns.to) * self.kind.size() as u64;
        let rows = u64::from(if self.is_interlaced() { height } else { STRIP });
        // The rows to narrow, the decoder's own, and the narrowed ones, which are copied once at the end.
        rows * row + 4 * row + OWN + 2 * narrow * u64::from(bottom - top + STRIP)
    }

    /// Whether rows come several times, finer each time, so that the first one is known only at the end.
    fn is_interlaced(&self) -> bool {
        self.reader.info().interlaced
    }

    /// Decodes the rows from `top` to before `bottom` and narrows them to `columns`. The others are decoded as well,
    /// since a file that is cut short is an error.
    pub(super) fn decode(mut self, columns: &Columns, top: u32, bottom: u32) -> Result<Rows, Error> {
        let (width, height) = self.size();
        let mut narrow = Narrow::new(self.kind, width, *columns);
        let wanted = top as usize..bottom as usize;
        if self.is_interlaced() {
            let length = width as usize * self.kind.size();
            let mut all = vec![0; length * height as usize];
            self.reader.next_frame(&mut all).map_err(|e| error(&e))?;
            for row in all.chunks_exact(length).take(wanted.end).skip(wanted.start) {
                narrow.place().copy_from_slice(row);
                narrow.filled()?;
            }
        } else {
            for y in 0.. {
                if self.reader.read_row(narrow.place()).map_err(|e| error(&e))?.is_none() {
                    break;
                }
                if wanted.contains(&y) {
                    narrow.filled()?;
                }
            }
        }
        Ok(Rows { image: narrow.finish()?, top })
    }
}

/// What makes rows narrower, some at a time.
struct Narrow {
    columns: Columns,
    strip: Image<'static>,
    /// Rows in the strip.
    rows: u32,
    done: Vec<u8>,
    resizer: Resizer,
}

impl Narrow {
    fn new(kind: PixelType, width: u32, columns: Columns) -> Self {
        Self { columns, strip: Image::new(width, STRIP, kind), rows: 0, done: Vec::new(), resizer: Resizer::new() }
    }

    /// Where the next row belongs, as the file has it.
    fn place(&mut self) -> &mut [u8] {
        let length = self.strip.width() as usize * self.strip.pixel_type().size();
        let start = self.rows as usize * length;
        &mut self.strip.buffer_mut()[start..start + length]
    }

    /// Takes note that a row is in its place.
    fn filled(&mut self) -> Result<(), Error> {
        if self.is_wide() {
            // The file has the higher byte first.
            for value in self.place().as_chunks_mut().0 {
                *value = u16::from_be_bytes(*value).to_ne_bytes();
            }
        }
        self.rows += 1;
        if self.rows == STRIP { self.narrow() } else { Ok(()) }
    }

    /// Narrows the rows of the strip.
    fn narrow(&mut self) -> Result<(), Error> {
        let Columns { left, width, to, filter, by_alpha } = self.columns;
        let rows = std::mem::take(&mut self.rows);
        let mut narrow = Image::new(to, rows, self.strip.pixel_type());
        let options = resize::filtered(filter).use_alpha(by_alpha).crop(left, 0.0, width, f64::from(rows));
        let narrowed = resize::resize(&mut self.resizer, &self.strip, &mut narrow, &options);
        narrowed.ok_or_else(|| damaged("its rows cannot be resized"))?;
        self.done.extend_from_slice(narrow.buffer());
        Ok(())
    }

    fn is_wide(&self) -> bool {
        let kind = self.strip.pixel_type();
        matches!(kind, PixelType::U16 | PixelType::U16x2 | PixelType::U16x3 | PixelType::U16x4)
    }

    /// All rows.
    fn finish(mut self) -> Result<DynamicImage, Error> {
        if self.rows > 0 {
            self.narrow()?;
        }
        let (width, kind) = (self.columns.to, self.strip.pixel_type());
        picture(width, kind, self.done).ok_or_else(|| damaged("its rows cannot be put together"))
    }
}

/// The picture with these pixels, row by row.
fn picture(width: u32, kind: PixelType, bytes: Vec<u8>) -> Option<DynamicImage> {
    let height = u32::try_from(bytes.len() / (width as usize * kind.size())).ok()?;
    let wide = || bytes.as_chunks().0.iter().map(|value| u16::from_ne_bytes(*value)).collect();
    Some(match kind {
        PixelType::U8 => GrayImage::from_raw(width, height, bytes)?.into(),
        PixelType::U8x2 => GrayAlphaImage::from_raw(width, height, bytes)?.into(),
        PixelType::U8x3 => RgbImage::from_raw(width, height, bytes)?.into(),
        PixelType::U8x4 => RgbaImage::from_raw(width, height, bytes)?.into(),
        PixelType::U16 => ImageBuffer::<Luma<u16>, _>::from_raw(width, height, wide())?.into(),
        PixelType::U16x2 => ImageBuffer::<LumaA<u16>, _>::from_raw(width, height, wide())?.into(),
        PixelType::U16x3 => ImageBuffer::<Rgb<u16>, _>::from_raw(width, height, wide())?.into(),
        PixelType::U16x4 => ImageBuffer::<Rgba<u16>, _>::from_raw(width, height, wide())?.into(),
        _ => return None,
    })
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
