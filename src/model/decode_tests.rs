//! Tests of decoding.

use image::{ColorType, GrayAlphaImage, ImageFormat, RgbImage, RgbaImage};
use proptest::prelude::*;

use super::*;
use crate::model::{orientation::tests::exif, png_chunks::tests::chunk};

fn measure(bytes: &[u8], limits: &Limits) -> Result<Header, DecodeError> {
    super::measure(bytes, limits, View::all)
}

fn decode(bytes: &[u8], limits: &Limits) -> Result<Decoded, DecodeError> {
    super::decode(bytes, limits, View::all)
}

const FORMATS: [(Format, ImageFormat); 5] = [
    (Format::Png, ImageFormat::Png),
    (Format::Jpeg, ImageFormat::Jpeg),
    (Format::WebP, ImageFormat::WebP),
    (Format::Gif, ImageFormat::Gif),
    (Format::Bmp, ImageFormat::Bmp),
];

/// A picture with detail, so that no format stores it in a few bytes.
fn picture() -> DynamicImage {
    RgbImage::from_fn(40, 30, |x, y| image::Rgb([(x * 37 + y * y * 5) as u8, (y * 91 + x * x) as u8, (x * y) as u8]))
        .into()
}

fn encode(image: &DynamicImage, format: ImageFormat) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    image.write_to(&mut bytes, format).unwrap();
    bytes.into_inner()
}

fn fixtures() -> Vec<(String, Vec<u8>)> {
    let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/images");
    let files = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    files.map(|p| (p.file_name().unwrap().to_string_lossy().into_owned(), std::fs::read(&p).unwrap())).collect()
}

#[test]
fn headers_are_read_and_limited() {
    for (format, encoding) in FORMATS {
        let bytes = encode(&picture(), encoding);
        let limits = Limits::default();
        let header = measure(&bytes, &limits).unwrap();
        assert_eq!((header.format, header.width, header.height, header.pixels), (format, 40, 30, 1200));
        // Blocks of 8 x 8 pixels make 40 x 32 of 40 x 30; the encoder does not subsample. A PNG is read in strips.
        let own = match format {
            Format::Png => 1 << 20,
            Format::WebP => webp::bytes_needed(&bytes, 40, 30) - 5 * 1200,
            _ => 0,
        };
        let memory = header.memory - own;
        assert!((3 * 1200..=12 * 1200).contains(&memory), "{format}: {memory}");
        let found = bytes.len() as u64;
        assert!(measure(&bytes, &Limits { max_bytes: found, max_side: 40, max_pixels: 1200 }).is_ok());
        for (limits, expected) in [
            (Limits { max_bytes: found - 1, ..limits }, DecodeError::TooManyBytes { found, limit: found - 1 }),
            (Limits { max_side: 39, ..limits }, DecodeError::TooLong { width: 40, height: 30, limit: 39 }),
            (Limits { max_pixels: 1199, ..limits }, DecodeError::TooManyPixels { width: 40, height: 30, limit: 1199 }),
        ] {
            assert!(expected.is_over_limit());
            assert_eq!(measure(&bytes, &limits), Err(expected.clone()), "{format}");
            assert_eq!(decode(&bytes, &limits).unwrap_err(), expected, "{format}");
        }
    }
}

#[test]
fn every_colour_type_of_png_decodes() {
    for colour in [
        ColorType::L8,
        ColorType::La8,
        ColorType::Rgb8,
        ColorType::Rgba8,
        ColorType::L16,
        ColorType::La16,
        ColorType::Rgb16,
        ColorType::Rgba16,
    ] {
        let mut image = DynamicImage::new(40, 30, colour);
        image.copy_from_color_space(&picture(), Default::default()).unwrap();
        let decoded = decode(&encode(&image, ImageFormat::Png), &Limits::default()).unwrap();
        // Without alpha, and with the higher eight of sixteen bits.
        let higher = |samples: &[u16]| samples.iter().map(|sample| (sample >> 8) as u8).collect::<Vec<u8>>();
        let image = match &image {
            DynamicImage::ImageLuma16(image) => GrayImage::from_raw(40, 30, higher(image)).unwrap().into(),
            DynamicImage::ImageLumaA16(image) => GrayAlphaImage::from_raw(40, 30, higher(image)).unwrap().into(),
            DynamicImage::ImageRgb16(image) => RgbImage::from_raw(40, 30, higher(image)).unwrap().into(),
            DynamicImage::ImageRgba16(image) => RgbaImage::from_raw(40, 30, higher(image)).unwrap().into(),
            _ => image,
        };
        let want = if colour.has_color() { image.into_rgb8().into() } else { DynamicImage::from(image.into_luma8()) };
        assert!(decoded.pixels.into_picture().unwrap() == want, "{colour:?}");
    }
}

/// A header alone that claims 50,000 x 50,000 pixels.
#[test]
fn huge_headers_are_refused_before_anything_is_allocated() {
    let mut png = encode(&picture(), ImageFormat::Png);
    png[16..20].copy_from_slice(&50_000u32.to_be_bytes());
    png[20..24].copy_from_slice(&50_000u32.to_be_bytes());
    let crc = crc32(&png[12..29]);
    png[29..33].copy_from_slice(&crc.to_be_bytes());
    let mut bmp = encode(&picture(), ImageFormat::Bmp);
    bmp[18..22].copy_from_slice(&50_000u32.to_le_bytes());
    bmp[22..26].copy_from_slice(&50_000u32.to_le_bytes());
    let mut gif = encode(&picture(), ImageFormat::Gif);
    gif[6..10].copy_from_slice(&[0x50, 0xc3, 0x50, 0xc3]);
    let mut jpeg = encode(&picture(), ImageFormat::Jpeg);
    let frame = jpeg.windows(2).position(|pair| pair == [0xff, 0xc0]).unwrap();
    jpeg[frame + 5..frame + 9].copy_from_slice(&[0xc3, 0x50, 0xc3, 0x50]);
    for bytes in [png, bmp, gif, jpeg] {
        let expected = DecodeError::TooLong { width: 50_000, height: 50_000, limit: 16_384 };
        assert_eq!(measure(&bytes, &Limits::default()), Err(expected.clone()));
        assert_eq!(decode(&bytes, &Limits::default()).unwrap_err(), expected);
    }
    // A small canvas with a huge frame on it.
    let mut gif = encode(&picture(), ImageFormat::Gif);
    let descriptor = gif.windows(5).rposition(|w| w == [0x2c, 0, 0, 0, 0]).unwrap();
    gif[descriptor + 5..descriptor + 9].copy_from_slice(&[0xff, 0xff, 0xff, 0xff]);
    assert!(decode(&gif, &Limits::default()).is_err());
}

fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0u32, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg()))
    })
}

#[test]
fn a_frame_larger_than_its_screen_makes_the_picture_larger() {
    let mut file = encode(&picture(), ImageFormat::Gif);
    let header = measure(&file, &Limits::default()).unwrap();
    assert_eq!(header.memory, 5 * header.pixels);
    // The size of the screen, behind the signature.
    file[6] += 1;
    let wider = measure(&file, &Limits::default()).unwrap();
    assert_eq!(wider.memory, 9 * wider.pixels);
    let whole = |mut file: Vec<u8>, screen: [u8; 4]| {
        file[6..10].copy_from_slice(&screen);
        let header = measure(&file, &Limits::default()).unwrap();
        (header, decode(&file, &Limits::default()).unwrap().pixels.into_picture().unwrap())
    };
    let (_, picture) = whole(file.clone(), [40, 0, 30, 0]);
    for screen in [[10, 0, 10, 0], [0; 4], [39, 0, 30, 0]] {
        let (found, pixels) = whole(file.clone(), screen);
        assert_eq!((found.width, found.height), (40, 30), "{screen:?}");
        assert_eq!(found.memory, header.memory + file.len() as u64, "{screen:?}");
        assert_eq!(pixels, picture, "{screen:?}");
    }
    // As much of the screen as there is stays, and the frame is where it says.
    let frame = file.windows(5).position(|w| w == [0x2c, 0, 0, 0, 0]).unwrap();
    file[frame + 1..frame + 5].copy_from_slice(&[3, 0, 2, 0]);
    let (found, pixels) = whole(file, [50, 0, 10, 0]);
    assert_eq!((found.width, found.height), (50, 32));
    assert_eq!(pixels.crop_imm(3, 2, 40, 30), picture);
}

#[test]
fn files_that_are_cut_short_are_errors() {
    for (name, bytes) in fixtures() {
        let image = decode(&bytes, &Limits::default()).unwrap_or_else(|e| panic!("{name}: {e}")).pixels;
        for tenths in 1..10 {
            let cut = &bytes[..bytes.len() * tenths / 10];
            match decode(cut, &Limits::default()) {
                Ok(found) => {
                    // The first frame of an animation may be whole all the same.
                    assert!(name.starts_with("animated"), "{name} at {tenths}/10");
                    assert_eq!(found.pixels, image, "{name} at {tenths}/10");
                }
                Err(error) => assert!(matches!(error, DecodeError::Truncated(_)), "{name} at {tenths}/10: {error}"),
            }
        }
    }
}

#[test]
fn a_png_that_is_cut_short_is_told_so() {
    let png = encode(&picture(), ImageFormat::Png);
    for end in [20, png.len() / 2, png.len() - 20] {
        let error = decode(&png[..end], &Limits::default()).unwrap_err();
        assert_eq!(error, DecodeError::Truncated(Format::Png), "{end} of {}", png.len());
    }
}

/// A PNG with a chunk before the first of this kind.
fn with_chunk(png: &[u8], before: &[u8; 4], kind: &[u8; 4], data: &[u8]) -> Vec<u8> {
    let at = png.windows(4).position(|four| four == before).unwrap() - 4;
    let mut chunk = chunk(kind, data);
    let end = chunk.len() - 4;
    let checksum = crc32(&chunk[4..end]).to_be_bytes();
    chunk[end..].copy_from_slice(&checksum);
    [&png[..at], &chunk, &png[at..]].concat()
}

#[test]
fn orientations_of_png_count_before_and_behind_the_pixels() {
    let png = encode(&picture(), ImageFormat::Png);
    let exif = exif(false, 3, 6);
    for before in [b"IDAT", b"IEND"] {
        let decoded = decode(&with_chunk(&png, before, b"eXIf", &exif), &Limits::default()).unwrap();
        assert_eq!(decoded.stored.orientation, Orientation::Rotate90);
        assert_eq!(decoded.pixels.into_picture(), Some(picture()));
    }
}

#[test]
fn orientations_of_32_bits_count_in_every_format_that_has_them() {
    let exif = exif(true, 4, 8);
    let mut jpeg = encode(&picture(), ImageFormat::Jpeg);
    let length = (exif.len() as u16 + 8).to_be_bytes();
    jpeg.splice(2..2, [&[0xff, 0xe1], &length[..], b"Exif\0\0", &exif].concat());
    let png = with_chunk(&encode(&picture(), ImageFormat::Png), b"IDAT", b"eXIf", &exif);
    // The head says that there is EXIF data, and the size of the canvas less one.
    let plain = encode(&picture(), ImageFormat::WebP);
    let webp_chunk = |kind: &[u8], data: &[u8]| [kind, &(data.len() as u32).to_le_bytes(), data].concat();
    let head = webp_chunk(b"VP8X", &[8, 0, 0, 0, 39, 0, 0, 29, 0, 0]);
    let body = [b"WEBP", &head[..], &plain[12..], &webp_chunk(b"EXIF", &exif)].concat();
    let webp = webp_chunk(b"RIFF", &body);
    for file in [jpeg, png, webp] {
        let decoded = decode(&file, &Limits::default()).unwrap();
        assert_eq!(decoded.stored.orientation, Orientation::Rotate270, "{}", decoded.format);
    }
}

#[test]
fn metadata_are_no_reason_to_refuse_pixels() {
    let png = encode(&picture(), ImageFormat::Png);
    let exif = [exif(true, 3, 3), vec![0; 20 << 20]].concat();
    let decoded = decode(&with_chunk(&png, b"IDAT", b"eXIf", &exif), &Limits::default()).unwrap();
    assert_eq!(decoded.stored.orientation, Orientation::Rotate180);
    assert_eq!(decoded.pixels.into_picture(), Some(picture()));
}

#[test]
fn damage_is_told_in_words() {
    let png = encode(&picture(), ImageFormat::Png);
    let pixels = png.windows(4).position(|four| four == b"IDAT").unwrap();
    let mut wrong_checksum = png.clone();
    wrong_checksum[29] ^= 1;
    let mut wrong_pixels = png.clone();
    wrong_pixels[pixels + 4] ^= 0x0f;
    let twice = with_chunk(&png, b"IDAT", b"IHDR", &png[16..29]);
    let lossless = std::fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/images/lossless.webp")).unwrap();
    let mut wrong_webp = lossless;
    let pixels = wrong_webp.windows(4).position(|four| four == b"VP8L").unwrap() + 13;
    wrong_webp[pixels..pixels + 400].fill(0xff);
    for (file, format, says) in [
        (wrong_checksum, "PNG", "a checksum is wrong"),
        (wrong_pixels, "PNG", "its compressed pixels make no sense"),
        (twice, "PNG", "one of its chunks is in a wrong place or of a wrong length"),
        (wrong_webp, "WebP", ""),
    ] {
        let error = decode(&file, &Limits::default()).unwrap_err().to_string();
        assert!(error.starts_with(&format!("the {format} is damaged: {says}")), "{error}");
        assert!(!error.contains("Format error") && !error.contains('{'), "{error}");
    }
    assert_eq!(png::in_a_sentence("Corrupt bitstream."), "corrupt bitstream");
    assert_eq!(png::in_a_sentence("LZW failed"), "LZW failed");
}

#[test]
fn a_jpeg_without_its_end_is_cut_short() {
    let jpeg = encode(&picture(), ImageFormat::Jpeg);
    for gone in 1..40 {
        let cut = &jpeg[..jpeg.len() - gone];
        assert_eq!(decode(cut, &Limits::default()).unwrap_err(), DecodeError::Truncated(Format::Jpeg), "{gone}");
    }
    let mut longer = jpeg;
    longer.extend_from_slice(b"trailing bytes do no harm");
    assert!(decode(&longer, &Limits::default()).is_ok());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn no_bytes_panic(which in 0usize..5, bytes: Vec<u8>) {
        let start: &[u8] =
            [&b"\x89PNG\r\n\x1a\n"[..], b"\xff\xd8\xff", b"RIFF\0\0\0\0WEBPVP8 ", b"GIF89a", b"BM"][which];
        let limits = Limits { max_pixels: 1 << 20, ..Limits::default() };
        drop(decode(&[start, &bytes].concat(), &limits));
        drop(decode(&bytes, &limits));
    }

    #[test]
    fn no_damage_panics(
        file: prop::sample::Index,
        at: prop::sample::Index,
        values in prop::collection::vec(any::<u8>(), 1..9),
    ) {
        let files = fixtures();
        let mut bytes = file.get(&files).1.clone();
        for value in values {
            let at = at.index(bytes.len()).wrapping_add(usize::from(value) * 31) % bytes.len();
            bytes[at] ^= value;
        }
        drop(decode(&bytes, &Limits { max_pixels: 1 << 20, ..Limits::default() }));
    }
}

/// Plain red in luma, chroma and black, as libjpeg writes it.
static YCCK: &[u8] = include_bytes!("../../tests/fixtures/ycck.jpg");

#[test]
fn luma_and_chroma_beside_black_are_of_what_the_inks_leave() {
    let decoded = decode(YCCK, &Limits::default()).unwrap();
    let picture = decoded.pixels.into_picture().unwrap().into_rgb8();
    assert_eq!(picture.dimensions(), (64, 64));
    for pixel in picture.pixels() {
        // What Pillow makes of it.
        assert!(pixel.0.iter().zip([221, 30, 20]).all(|(found, want)| found.abs_diff(want) <= 1), "{pixel:?}");
    }
}
