//! Small pictures of images, for pages.

use image::{DynamicImage, codecs::jpeg::JpegEncoder};

use super::{
    decode::{self, Decoded, Header, Limits, Stored, View},
    decode_error::DecodeError,
    format::Format,
    geometry::Region,
    jpeg::{Area, Scale},
    packed::Backdrop,
    png::Columns,
    resize::{Filter, Part},
    shrink::{self, Wanted},
};

/// Quality of thumbnails, of 100.
const QUALITY: u8 = 80;

/// Images that take more memory than this have none.
const MOST_MEMORY: u64 = 256 << 20;

/// Bytes that [`thumbnail`] takes beside the file's.
///
/// # Errors
/// [`DecodeError`] of the image in `bytes`, also if a thumbnail of it would take too much.
pub fn memory(bytes: &[u8], limits: &Limits, side: u32) -> Result<u64, DecodeError> {
    let Header { format, width, height, memory, .. } = decode::measure(bytes, limits, |stored| view(stored, side))?;
    // The resize narrows rows first, of one channel at a time; those of JPEGs are counted already.
    let narrow = u64::from(size((width, height), side).0) * u64::from(height);
    let needed = memory + if format == Format::Jpeg { 0 } else { narrow };
    if needed > MOST_MEMORY {
        return Err(DecodeError::TooMuchForThumbnail { format, needed, limit: MOST_MEMORY });
    }
    Ok(needed)
}

/// A JPEG of at most `side` pixels across and down, turned for display; what is transparent becomes white. Small images
/// stay as they are.
///
/// # Errors
/// [`DecodeError`] of the image in `bytes`.
pub fn thumbnail(bytes: &[u8], limits: &Limits, side: u32) -> Result<Vec<u8>, DecodeError> {
    memory(bytes, limits, side)?;
    let decoded = decode::decode(bytes, limits, |stored| view(stored, side))?;
    let (format, orientation) = (decoded.format, decoded.stored.orientation);
    let damaged = |reason: &str| DecodeError::Damaged { format, reason: reason.to_owned() };
    let mut small = shrunk(decoded, side).ok_or_else(|| damaged("its pixels cannot be resized"))?;
    small.apply_orientation(orientation);
    let mut file = Vec::new();
    let encoder = JpegEncoder::new_with_quality(&mut file, QUALITY);
    encoder_result(small.write_with_encoder(encoder), format)?;
    Ok(file)
}

/// What is wanted of the image: a JPEG no smaller than twice the thumbnail, so that the resize decides how it is
/// smoothed.
fn view(stored: &Stored, side: u32) -> View {
    let (width, height) = (stored.width, stored.height);
    let to = size((width, height), side).0;
    let part = Part { start: 0.0, length: f64::from(width), to: to as usize };
    let columns = Columns { part, filter: Filter::CatmullRom, backdrop: Backdrop::White };
    let scale = Scale::leaving(side.saturating_mul(2), width.max(height));
    View { scale, area: Area::all((width, height)), columns }
}

fn encoder_result(result: image::ImageResult<()>, format: Format) -> Result<(), DecodeError> {
    result.map_err(|e| DecodeError::Damaged { format, reason: format!("no thumbnail can be made of it: {e}") })
}

/// The picture with its longer side at most `side`, opaque.
fn shrunk(Decoded { stored, pixels, .. }: Decoded, side: u32) -> Option<DynamicImage> {
    let (width, height) = size((stored.width, stored.height), side);
    let region = Region { left: 0.0, top: 0.0, width: stored.width.into(), height: stored.height.into() };
    let (filter, backdrop) = (Filter::CatmullRom, Backdrop::White);
    let wanted = Wanted { region, width: width as usize, height: height as usize, filter, backdrop };
    let channels = shrink::shrink(&stored, pixels, &wanted)?;
    decode::picture(width, height, &channels.iter().map(|channel| &channel[..]).collect::<Vec<_>>(), |at| at)
}

/// Width and height of the small picture, as stored.
fn size((width, height): (u32, u32), side: u32) -> (u32, u32) {
    let long = width.max(height);
    let scaled = |length: u32| {
        let scaled = u64::from(length) * u64::from(side.min(long)) / u64::from(long);
        u32::try_from(scaled).unwrap_or(u32::MAX).max(1)
    };
    (scaled(width), scaled(height))
}

#[cfg(test)]
mod tests {
    use image::{ImageFormat, RgbImage, Rgba, RgbaImage};

    use super::*;

    fn encoded(image: &DynamicImage, format: ImageFormat) -> Vec<u8> {
        let mut bytes = std::io::Cursor::new(Vec::new());
        image.write_to(&mut bytes, format).unwrap();
        bytes.into_inner()
    }

    /// The thumbnail's pixels.
    fn small(bytes: &[u8], side: u32) -> RgbImage {
        let file = thumbnail(bytes, &Limits::default(), side).unwrap();
        image::load_from_memory_with_format(&file, ImageFormat::Jpeg).unwrap().into_rgb8()
    }

    fn is_near(found: Rgb, want: Rgb) -> bool {
        found.iter().zip(want).all(|(a, b)| a.abs_diff(b) < 12)
    }
    type Rgb = [u8; 3];

    /// Left half red, right half blue.
    fn halves(width: u32, height: u32) -> DynamicImage {
        RgbImage::from_fn(width, height, |x, _| image::Rgb(if x < width / 2 { [200, 30, 30] } else { [30, 30, 200] }))
            .into()
    }

    #[test]
    fn thumbnails_keep_the_proportions_and_are_not_enlarged() {
        for format in [ImageFormat::Png, ImageFormat::Jpeg, ImageFormat::WebP, ImageFormat::Bmp] {
            for (width, height, side, size) in
                [(600, 400, 128, (128, 85)), (90, 900, 64, (6, 64)), (40, 30, 128, (40, 30)), (2000, 3, 64, (64, 1))]
            {
                let found = small(&encoded(&halves(width, height), format), side);
                assert_eq!(found.dimensions(), size, "{format:?} of {width} x {height}");
                if size.1 > 20 && size.0 > 20 {
                    assert!(is_near(found.get_pixel(4, 10).0, [200, 30, 30]), "{format:?}");
                    assert!(is_near(found.get_pixel(size.0 - 5, 10).0, [30, 30, 200]), "{format:?}");
                }
            }
        }
    }

    #[test]
    fn what_is_transparent_becomes_white() {
        let image = RgbaImage::from_pixel(300, 200, Rgba([10, 10, 10, 0]));
        assert!(is_near(small(&encoded(&image.into(), ImageFormat::Png), 64).get_pixel(30, 20).0, [255; 3]));
    }

    #[test]
    fn pictures_are_turned_for_display() {
        let mut file = encoded(&halves(600, 400), ImageFormat::Jpeg);
        // EXIF: little-endian, one entry, orientation 6: the first column is on top.
        let exif = [&b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0"[..]].concat();
        let length = (exif.len() as u16 + 2).to_be_bytes();
        file.splice(2..2, [&[0xff, 0xe1], &length[..], &exif].concat());
        let found = small(&file, 128);
        assert_eq!(found.dimensions(), (85, 128));
        assert!(is_near(found.get_pixel(40, 5).0, [200, 30, 30]));
        assert!(is_near(found.get_pixel(40, 120).0, [30, 30, 200]));
    }

    /// A sample of an eighth of the picture stands for eight pixels, of which the last has one.
    #[test]
    fn edges_within_a_sample_stretch_nothing() {
        // An eighth of 520 x 9 is 65 x 2 samples: of the second row an eighth is the picture's, black.
        let bands = RgbImage::from_fn(520, 9, |_, y| image::Rgb(if y < 8 { [255; 3] } else { [0; 3] }));
        let mut bytes = Vec::new();
        JpegEncoder::new_with_quality(&mut bytes, 100).encode_image(&bands).unwrap();
        let found = small(&bytes, 32);
        assert_eq!(found.dimensions(), (32, 1));
        // Eight rows of nine are white.
        let grey = found.get_pixel(16, 0).0[0];
        assert!(grey > 215, "{grey}");
    }

    #[test]
    fn what_takes_too_much_memory_is_told_with_the_limit_of_thumbnails() {
        let mut gif = encoded(&halves(60, 40), ImageFormat::Gif);
        // The size of the screen, behind the signature: 8000 x 8000.
        gif[6..10].copy_from_slice(&[0x40, 0x1f, 0x40, 0x1f]);
        let error = thumbnail(&gif, &Limits::default(), 64).unwrap_err();
        assert!(error.is_over_limit());
        assert_eq!(error.to_string(), "a thumbnail of this GIF takes 550 MiB to make; the limit is 256 MiB");
    }

    #[test]
    fn a_file_that_is_no_image_has_none() {
        assert!(thumbnail(b"text", &Limits::default(), 64).is_err());
    }
}
