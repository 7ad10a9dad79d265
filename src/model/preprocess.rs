//! From an image file to the network's input: torchvision's `Resize(antialias=True)`, `CenterCrop`, `ToTensor`, `Normalize`.
//!
//! As `PIL.Image.convert("RGB")` does before them, alpha is dropped and grey repeated. Other than torchvision by itself, the orientation
//! in the EXIF data is honoured, so that the network sees what people see.

use std::fmt;

use fast_image_resize::{FilterType, IntoImageView, PixelType, ResizeAlg, ResizeOptions, Resizer, images::Image};

use super::{
    bundle::Card,
    decode::{self, DecodeError, Decoded, Header, Limits},
    geometry::{Region, Turn},
};

/// The network's input for one image: `[side, side, 3]`, normalised.
#[derive(Debug, Clone, PartialEq)]
pub struct Input(pub Vec<f32>);

/// Makes a model's inputs.
#[derive(Clone)]
pub struct Preprocessor {
    side: u32,
    resize: u32,
    mean: [f32; 3],
    std: [f32; 3],
    /// `(value / 255 - mean) / std` by channel and value.
    table: [[f32; 256]; 3],
}

impl fmt::Debug for Preprocessor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Preprocessor").field("side", &self.side).field("resize", &self.resize).finish_non_exhaustive()
    }
}

impl Preprocessor {
    /// For the model of `card`.
    #[must_use]
    pub fn new(card: &Card) -> Self {
        let Card { mean, std, .. } = *card;
        let table = std::array::from_fn(|c| std::array::from_fn(|v| (v as f32 / 255.0 - mean[c]) / std[c]));
        Self { side: card.input, resize: card.resize, mean, std, table }
    }

    /// Values in an [`Input`].
    #[must_use]
    pub fn input_len(&self) -> usize {
        self.side as usize * self.side as usize * 3
    }

    /// Reads a file's header alone and enforces `limits`.
    ///
    /// # Errors
    /// [`DecodeError`].
    pub fn measure(&self, bytes: &[u8], limits: &Limits) -> Result<Header, DecodeError> {
        decode::measure(bytes, limits)
    }

    /// Decodes a file and makes the network's input of it.
    ///
    /// # Errors
    /// [`DecodeError`]. Limits are enforced before pixels are allocated, and a file that is cut short is an error.
    pub fn prepare(&self, bytes: &[u8], limits: &Limits) -> Result<Input, DecodeError> {
        let decoded = decode::decode(bytes, limits)?;
        self.shrink(&decoded).ok_or_else(|| DecodeError::Damaged {
            format: decoded.format,
            reason: "its pixels cannot be resized".to_owned(),
        })
    }

    /// Resizes the part that the network sees, straight from the pixels as stored, then turns and normalises the small square.
    fn shrink(&self, Decoded { image, orientation, .. }: &Decoded) -> Option<Input> {
        let turn = Turn::from(*orientation);
        let (width, height) = turn.size(image.width(), image.height());
        let region = turn.undo(Region::of_centre(width, height, self.resize, self.side), width, height);
        let options = ResizeOptions::new()
            .resize_alg(ResizeAlg::Convolution(FilterType::Bilinear))
            .use_alpha(false)
            .crop(region.left, region.top, region.width, region.height);
        let kind = image.pixel_type()?;
        let mut square = Image::new(self.side, self.side, kind);
        Resizer::new().resize(image, &mut square, &options).ok()?;

        let bytes = square.buffer();
        let narrow = |c: usize, at: usize| self.table[c][usize::from(bytes[at])];
        let wide = |c: usize, at: usize| {
            let value = u16::from_ne_bytes([bytes[2 * at], bytes[2 * at + 1]]);
            (f32::from(value) / 65_535.0 - self.mean[c]) / self.std[c]
        };
        let side = self.side as usize;
        Some(match kind {
            PixelType::U8 => turned::<1>(turn, side, narrow),
            PixelType::U8x2 => turned::<2>(turn, side, narrow),
            PixelType::U8x3 => turned::<3>(turn, side, narrow),
            PixelType::U8x4 => turned::<4>(turn, side, narrow),
            PixelType::U16 => turned::<1>(turn, side, wide),
            PixelType::U16x2 => turned::<2>(turn, side, wide),
            PixelType::U16x3 => turned::<3>(turn, side, wide),
            PixelType::U16x4 => turned::<4>(turn, side, wide),
            _ => return None,
        })
    }
}

/// The pixels of a square as they are displayed. `value` is that of a channel, stored at a place.
fn turned<const CHANNELS: usize>(turn: Turn, side: usize, value: impl Fn(usize, usize) -> f32) -> Input {
    let mut input = vec![0.0; side * side * 3];
    for (y, row) in input.chunks_exact_mut(side * 3).enumerate() {
        for (x, pixel) in row.chunks_exact_mut(3).enumerate() {
            let stored = turn.stored_index(x, y, side) * CHANNELS;
            for (c, to) in pixel.iter_mut().enumerate() {
                // One or two channels are grey, and grey with alpha.
                *to = value(c, if CHANNELS < 3 { stored } else { stored + c });
            }
        }
    }
    Input(input)
}

#[cfg(test)]
pub(crate) mod tests {
    use std::{collections::BTreeMap, path::Path};

    use safetensors::SafeTensors;

    use super::*;

    static EXPECTED: &[u8] = include_bytes!("../../tests/fixtures/expected.safetensors");

    /// What torchvision and PyTorch make of the images in `tests/fixtures`; `make.py` there tells how it is made.
    pub(crate) fn expected() -> SafeTensors<'static> {
        SafeTensors::deserialize(EXPECTED).unwrap()
    }

    fn preprocessor(resize: u32, side: u32) -> Preprocessor {
        Preprocessor::new(&Card { resize, input: side, ..crate::model::Bundle::embedded().unwrap().card })
    }

    impl Preprocessor {
        /// The input for the pixels of a square.
        pub(crate) fn normalise(&self, rgb: &[u8]) -> Input {
            Input(rgb.iter().enumerate().map(|(i, v)| self.table[i % 3][usize::from(*v)]).collect())
        }

        /// The mean absolute difference from a square in RGB, in steps of 1/255.
        fn difference(&self, input: &Input, rgb: &[u8]) -> f64 {
            assert_eq!(input.0.len(), rgb.len());
            let values =
                input.0.iter().enumerate().map(|(i, v)| f64::from((v * self.std[i % 3] + self.mean[i % 3]) * 255.0));
            values.zip(rgb).map(|(found, want)| (found - f64::from(*want)).abs()).sum::<f64>() / rgb.len() as f64
        }
    }

    /// Compares every expectation with what is made of the file, and returns the differences by expectation.
    fn differences(expected: &SafeTensors<'_>, images: &Path) -> BTreeMap<String, f64> {
        let mut out = BTreeMap::new();
        for (key, want) in expected.iter().filter(|(key, _)| key.contains('/')) {
            let [resize, side, name] = key.splitn(3, '/').collect::<Vec<_>>().try_into().unwrap();
            let preprocessor = preprocessor(resize.parse().unwrap(), side.parse().unwrap());
            let bytes = std::fs::read(images.join(name)).unwrap();
            let input = preprocessor.prepare(&bytes, &Limits::default()).unwrap_or_else(|e| panic!("{name}: {e}"));
            out.insert(key.to_owned(), preprocessor.difference(&input, want.data()));
        }
        out
    }

    #[test]
    fn inputs_are_those_of_torchvision() {
        let images = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/images");
        let differences = differences(&expected(), &images);
        assert!(differences.len() > 80);
        for (key, difference) in differences {
            // Of lossless formats only the resize differs, which rounds its weights to fewer bits than Pillow's; decoders of lossy formats
            // round each in its way, and Pillow's for WebP blackens what is wholly transparent.
            let lossy = [".jpg", "lossy.webp", "alpha.webp"].iter().any(|end| key.ends_with(end));
            let limit = if lossy { 1.0 } else { 0.3 };
            assert!(difference < limit, "{key}: {difference} / 255 mean absolute error");
        }
    }

    #[test]
    fn photos_are_as_torchvision_has_them() {
        let (Some(expected), Some(photos)) =
            (std::env::var_os("TORCHVISION_EXPECTED"), std::env::var_os("TORCHVISION_PHOTOS"))
        else {
            return;
        };
        let bytes = std::fs::read(expected).unwrap();
        for (key, difference) in differences(&SafeTensors::deserialize(&bytes).unwrap(), Path::new(&photos)) {
            println!("{difference:.4} / 255  {key}");
            assert!(difference < 1.0, "{key}: {difference} / 255 mean absolute error");
        }
    }
}
