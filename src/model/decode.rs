//! From the bytes of an image file to its pixels, within limits.

use std::{
    io::{Cursor, ErrorKind},
    panic::{AssertUnwindSafe, catch_unwind},
};

use image::{
    DynamicImage, GrayImage, ImageDecoder, ImageError, RgbImage,
    codecs::{bmp::BmpDecoder, gif::GifDecoder, webp::WebPDecoder},
    metadata::Orientation,
};
use serde::{Deserialize, Serialize};

use super::{
    decode_error::DecodeError,
    format::{self, Format},
    gif,
    jpeg::{self, Area, Colour, Components, Instructions, Jpeg, Scale},
    orientation,
    packed::Backdrop,
    png::{self, Columns, Narrowed, Png},
    resize::{Filter, Part, STRIP},
    webp,
};

/// Limits for one image, checked before anything is allocated for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// Largest file in bytes.
    pub max_bytes: u64,
    /// Longest side in pixels.
    pub max_side: u32,
    /// Most pixels.
    pub max_pixels: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { max_bytes: 32 << 20, max_side: 16_384, max_pixels: 64_000_000 }
    }
}

/// What a file's header tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// The format.
    pub format: Format,
    /// Width in pixels, as stored: before the orientation in the EXIF data is applied.
    pub width: u32,
    /// Height in pixels, as stored.
    pub height: u32,
    /// `width * height`.
    pub pixels: u64,
    /// Bytes that decoding takes beside the file's.
    pub memory: u64,
}

/// An image before its pixels are decoded.
#[derive(Debug, Clone, Copy)]
pub(super) struct Stored {
    /// Width in pixels, as stored.
    pub(super) width: u32,
    /// Height in pixels, as stored.
    pub(super) height: u32,
    /// How it is to be turned for display.
    pub(super) orientation: Orientation,
}

/// What is wanted of an image. Formats that cannot leave the rest out decode all of it.
#[derive(Debug, Clone, Copy)]
pub(super) struct View {
    /// The size of its pixels.
    pub(super) scale: Scale,
    /// The part of it.
    pub(super) area: Area,
    /// What rows may be narrowed to as they come.
    pub(super) columns: Columns,
}

impl View {
    /// All pixels.
    pub(super) fn all(stored: &Stored) -> Self {
        let Stored { width, height, .. } = *stored;
        let part = Part { start: 0.0, length: f64::from(width), to: width as usize };
        let columns = Columns { part, filter: Filter::Triangle, backdrop: Backdrop::Itself };
        Self { scale: Scale::Full, area: Area::all((width, height)), columns }
    }
}

/// Pixels as the format stores them.
#[derive(Debug, PartialEq)]
pub(super) enum Pixels {
    /// All of an image, pixel by pixel.
    Packed(DynamicImage),
    /// At least the wanted part of a JPEG.
    Components(Components, Colour),
    /// The wanted rows of a PNG, narrowed to the wanted columns.
    Narrowed(Narrowed),
}

impl Pixels {
    /// Whether they are of a picture that was decoded at less than its size.
    pub(super) const fn are_smaller(&self) -> bool {
        matches!(self, Self::Components(Components::Smaller(_), _))
    }

    /// The pixels one by one, of images that were decoded in full: of JPEG and PNG in RGB or grey, of others as they
    /// are stored.
    pub(super) fn into_picture(self) -> Option<DynamicImage> {
        match self {
            Self::Packed(image) => Some(image),
            Self::Components(Components::Smaller(_), _) => None,
            Self::Components(Components::Full(planes), colour) => {
                let (width, height) = (planes.first()?.width, planes.first()?.height);
                let channels = jpeg::channels(&planes, colour, 0..height as usize, Instructions::Detected)?;
                picture(width, height, &channels.iter().map(|samples| &samples[..]).collect::<Vec<_>>(), |at| at)
            }
            Self::Narrowed(Narrowed { channels, width, height, .. }) => {
                let channels: Vec<&[u8]> = channels.iter().map(|channel| &channel[..]).collect();
                let place = |at: usize| at % width * height + at / width;
                picture(u32::try_from(width).ok()?, u32::try_from(height).ok()?, &channels, place)
            }
        }
    }
}

/// The picture of one channel or three. `place` is where a pixel's samples are in them.
pub(super) fn picture(
    width: u32,
    height: u32,
    channels: &[&[u8]],
    place: impl Fn(usize) -> usize,
) -> Option<DynamicImage> {
    let pixels = (0..width as usize * height as usize).map(place);
    let samples = pixels.flat_map(|at| channels.iter().map(move |channel| channel[at])).collect();
    Some(match channels.len() {
        1 => GrayImage::from_raw(width, height, samples)?.into(),
        _ => RgbImage::from_raw(width, height, samples)?.into(),
    })
}

/// A decoded image.
#[derive(Debug)]
pub(super) struct Decoded {
    pub(super) format: Format,
    pub(super) stored: Stored,
    pub(super) pixels: Pixels,
}

/// Reads the header alone and enforces `limits`.
pub(super) fn measure(bytes: &[u8], limits: &Limits, view: impl Fn(&Stored) -> View) -> Result<Header, DecodeError> {
    guarded(bytes, limits, |format| Open::new(format, bytes, limits)?.header(view))
}

/// Decodes at least the `view` of the image, of its first frame if there are several. Colours are as they are in the
/// file: profiles are not applied.
pub(super) fn decode(bytes: &[u8], limits: &Limits, view: impl Fn(&Stored) -> View) -> Result<Decoded, DecodeError> {
    guarded(bytes, limits, |format| Open::new(format, bytes, limits)?.decode(view))
}

/// Runs `f` with the file's format. A panic in a decoder would be its bug, and is that file's error.
fn guarded<T>(
    bytes: &[u8],
    limits: &Limits,
    f: impl FnOnce(Format) -> Result<T, DecodeError>,
) -> Result<T, DecodeError> {
    let found = bytes.len() as u64;
    if found > limits.max_bytes {
        return Err(DecodeError::TooManyBytes { found, limit: limits.max_bytes });
    }
    let format = format::sniff(&bytes[..bytes.len().min(format::HEAD_BYTES)])?;
    catch_unwind(AssertUnwindSafe(|| f(format)))
        .unwrap_or_else(|_| Err(DecodeError::Damaged { format, reason: "the decoder gave up on it".to_owned() }))
}

type Bytes<'a> = Cursor<&'a [u8]>;

/// A file within the limits whose header has been read.
struct Open<'a> {
    format: Format,
    bytes: &'a [u8],
    stored: Stored,
    decoder: Decoder<'a>,
}

enum Decoder<'a> {
    Jpeg(Box<Jpeg<'a>>),
    Png(Box<Png<'a>>),
    Other(Box<dyn ImageDecoder + 'a>),
}

impl<'a> Open<'a> {
    fn new(format: Format, bytes: &'a [u8], limits: &Limits) -> Result<Self, DecodeError> {
        let open = match format {
            Format::Jpeg => Self::jpeg(bytes),
            Format::Png => Self::png(bytes),
            _ => Self::other(format, bytes, limits),
        }?;
        let Stored { width, height, .. } = open.stored;
        let pixels = u64::from(width) * u64::from(height);
        if pixels == 0 {
            return Err(DecodeError::Damaged { format, reason: format!("it is {width} x {height} pixels") });
        } else if width.max(height) > limits.max_side {
            return Err(DecodeError::TooLong { width, height, limit: limits.max_side });
        } else if pixels > limits.max_pixels {
            return Err(DecodeError::TooManyPixels { width, height, limit: limits.max_pixels });
        }
        Ok(open)
    }

    fn jpeg(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        let jpeg = Jpeg::open(bytes).map_err(jpeg_error)?;
        let (width, height) = jpeg.size();
        let orientation = jpeg.exif().map_or(Orientation::NoTransforms, orientation::of_exif);
        let stored = Stored { width, height, orientation };
        Ok(Self { format: Format::Jpeg, bytes, stored, decoder: Decoder::Jpeg(Box::new(jpeg)) })
    }

    fn png(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        let png = Png::open(bytes).map_err(png_error)?;
        let (width, height) = png.size();
        let orientation = png.exif().map_or(Orientation::NoTransforms, orientation::of_exif);
        let stored = Stored { width, height, orientation };
        Ok(Self { format: Format::Png, bytes, stored, decoder: Decoder::Png(Box::new(png)) })
    }

    fn other(format: Format, bytes: &'a [u8], limits: &Limits) -> Result<Self, DecodeError> {
        let mut inner_limits = image::Limits::no_limits();
        // The widest pixel has four channels, and a decoder may hold it twice.
        inner_limits.max_alloc = Some(limits.max_pixels.saturating_mul(8));
        let cursor: Bytes<'a> = Cursor::new(bytes);
        let open = || -> Result<Box<dyn ImageDecoder + 'a>, ImageError> {
            Ok(match format {
                Format::WebP => Box::new(WebPDecoder::new(cursor)?),
                Format::Gif => Box::new(GifDecoder::new(Cursor::new(gif::on_its_screen(bytes)))?),
                Format::Bmp => Box::new(BmpDecoder::new(cursor)?),
                Format::Jpeg | Format::Png => unreachable!("JPEG and PNG have decoders of their own"),
            })
        };
        let mut decoder = open().map_err(|e| image_error(format, bytes, &e))?;
        let (width, height) = decoder.dimensions();
        if format == Format::Gif {
            // The first frame, which may be held by itself, is no larger than the picture.
            inner_limits.max_alloc = Some(u64::from(width) * u64::from(height) * 4);
        }
        if width.max(height) <= limits.max_side {
            inner_limits.max_image_width = Some(limits.max_side);
            inner_limits.max_image_height = Some(limits.max_side);
            decoder.set_limits(inner_limits).map_err(|e| image_error(format, bytes, &e))?;
        }
        // Metadata that cannot be read are no reason to refuse the pixels.
        let exif = decoder.exif_metadata().ok().flatten();
        let orientation = exif.map_or(Orientation::NoTransforms, |exif| orientation::of_exif(&exif));
        Ok(Self { format, bytes, stored: Stored { width, height, orientation }, decoder: Decoder::Other(decoder) })
    }

    fn header(&self, view: impl Fn(&Stored) -> View) -> Result<Header, DecodeError> {
        let Stored { width, height, .. } = self.stored;
        let pixels = u64::from(width) * u64::from(height);
        let memory = match &self.decoder {
            Decoder::Jpeg(jpeg) => {
                let View { scale, area, columns } = view(&self.stored);
                jpeg.bytes_needed(scale, area) + colours_needed(jpeg.colour(), scale, area, columns.part.to)
            }
            Decoder::Png(png) => {
                let View { area, columns, .. } = view(&self.stored);
                png.bytes_needed(&columns, area.top, area.bottom.min(height))
            }
            Decoder::Other(decoder) => {
                // Beside the pixels that are returned, these decoders make some of their own: of four channels, or
                // colours' numbers.
                let own = match self.format {
                    Format::WebP => webp::bytes_needed(self.bytes, width, height),
                    Format::Gif => gif::bytes_needed(self.bytes, width, height),
                    _ => 0,
                };
                decoder.total_bytes().saturating_add(own)
            }
        };
        Ok(Header { format: self.format, width, height, pixels, memory })
    }

    fn decode(self, view: impl Fn(&Stored) -> View) -> Result<Decoded, DecodeError> {
        let Self { format, bytes, stored, decoder } = self;
        let pixels = match decoder {
            Decoder::Jpeg(jpeg) => {
                let (View { scale, area, .. }, colour) = (view(&stored), jpeg.colour());
                Pixels::Components(jpeg.decode(scale, area, Instructions::Detected).map_err(jpeg_error)?, colour)
            }
            Decoder::Png(png) => {
                let View { area, columns, .. } = view(&stored);
                let rows = png.decode(&columns, area.top, area.bottom.min(stored.height));
                Pixels::Narrowed(rows.map_err(png_error)?)
            }
            Decoder::Other(decoder) => {
                Pixels::Packed(DynamicImage::from_decoder(decoder).map_err(|e| image_error(format, bytes, &e))?)
            }
        };
        Ok(Decoded { format, stored, pixels })
    }
}

/// Bytes that it takes, beside a JPEG's components, to make a picture of `width` columns of them.
fn colours_needed(colour: Colour, scale: Scale, area: Area, width: usize) -> u64 {
    // What may be enlarged first, and the colours that are made of it.
    let (strips, channels) = match colour {
        Colour::Grey => (0, 1),
        Colour::Rgb | Colour::YCbCr => (5, 3),
        Colour::Cmyk => (6, 3),
        Colour::Ycck => (7, 3),
    };
    let side = |from: u32, to: u32| u64::from((to - from).div_ceil(scale.divisor()));
    let (across, down) = (side(area.left, area.right), side(area.top, area.bottom));
    let samples = strips * across * down.min(STRIP as u64) + channels * width as u64 * down;
    samples * scale.sample_bytes()
}

fn jpeg_error(error: jpeg::Error) -> DecodeError {
    let format = Format::Jpeg;
    match error {
        jpeg::Error::Truncated => DecodeError::Truncated(format),
        jpeg::Error::Damaged(reason) => DecodeError::Damaged { format, reason: reason.to_owned() },
        jpeg::Error::Unsupported(reason) => DecodeError::Unsupported { format, reason: reason.to_owned() },
    }
}

fn png_error(error: png::Error) -> DecodeError {
    let format = Format::Png;
    match error {
        png::Error::Truncated => DecodeError::Truncated(format),
        png::Error::TooMuchMemory => DecodeError::TooMuchMemory(format),
        png::Error::Damaged(reason) => DecodeError::Damaged { format, reason },
    }
}

fn image_error(format: Format, bytes: &[u8], error: &ImageError) -> DecodeError {
    match error {
        ImageError::Limits(_) => DecodeError::TooMuchMemory(format),
        ImageError::Unsupported(e) => DecodeError::Unsupported { format, reason: e.to_string() },
        e if is_early_end(e) || is_cut(format, bytes) => DecodeError::Truncated(format),
        e => {
            // The format is told already.
            let own = std::error::Error::source(e).map(ToString::to_string);
            DecodeError::Damaged { format, reason: png::in_a_sentence(&own.unwrap_or_else(|| e.to_string())) }
        }
    }
}

/// Whether a file of which its decoder makes no sense lacks its end, which decoders may take for damage.
fn is_cut(format: Format, bytes: &[u8]) -> bool {
    match format {
        Format::WebP => webp::is_cut(bytes),
        Format::Gif => gif::is_cut(bytes),
        Format::Jpeg | Format::Png | Format::Bmp => false,
    }
}

/// Whether the error, or one that caused it, is that the bytes ended.
fn is_early_end(error: &ImageError) -> bool {
    // The image crate does not count the error that it wraps among the causes.
    if let ImageError::IoError(e) = error {
        return e.kind() == ErrorKind::UnexpectedEof;
    }
    let causes = std::iter::successors(std::error::Error::source(error), |e| e.source());
    causes.filter_map(|e| e.downcast_ref::<std::io::Error>()).any(|e| e.kind() == ErrorKind::UnexpectedEof)
}

#[cfg(test)]
#[path = "decode_tests.rs"]
mod tests;
