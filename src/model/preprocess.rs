//! From an image file to the network's input: torchvision's `Resize(antialias=True)`, `CenterCrop`, `ToTensor`,
//! `Normalize`.
//!
//! As `PIL.Image.convert("RGB")` does before them, alpha is dropped and grey repeated. Other than torchvision by
//! itself, the orientation in the EXIF data is honoured, so that the network sees what people see.

use std::{array, fmt};

use super::{
    bundle::Card,
    decode::{self, Decoded, Header, Limits, Stored, View},
    decode_error::DecodeError,
    geometry::{Region, Turn},
    jpeg::Scale,
    layout::{MAX_RAW_PIXELS, Preprocess},
    packed::Backdrop,
    png::Columns,
    resize::{Filter, Part},
    shrink::{self, Wanted},
};

/// How much of a picture's detail is decoded for the network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Detail {
    /// Enough for the resize: large JPEGs are decoded at a smaller size, which takes a fraction of the time. Most values
    /// are those of the whole picture, the others differ by a step of 1/255 or a few.
    Enough,
    /// All.
    Full,
}

/// Full detail that takes more memory to decode is left alone: half of what a worker has for all of its images, and
/// enough for 50 megapixels in the usual shapes.
const MOST_FOR_DETAIL: u64 = 64 << 20;

/// The network's input for one image.
#[derive(Debug, Clone, PartialEq)]
pub struct Input {
    /// `[height, width, 3]`, normalised if the model wants it so.
    pub values: Vec<f32>,
    /// Pixels in a row.
    pub width: usize,
    /// Whether the file has more detail that may be decoded, which could change the values.
    pub has_more: bool,
}

impl Input {
    /// A square of zeros.
    #[must_use]
    pub fn black(side: usize) -> Self {
        Self { values: vec![0.0; side * side * 3], width: side, has_more: false }
    }
}

/// Makes a model's inputs.
#[derive(Clone)]
pub struct Preprocessor {
    preprocess: Preprocess,
    side: u32,
    resize: u32,
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
        let Card { preprocess, mean, std, .. } = *card;
        let table = std::array::from_fn(|c| std::array::from_fn(|v| (v as f32 / 255.0 - mean[c]) / std[c]));
        Self { preprocess, side: card.input, resize: card.resize, table }
    }

    /// Most values in an [`Input`].
    #[must_use]
    pub fn input_len(&self) -> usize {
        match self.preprocess {
            Preprocess::Square => self.side as usize * self.side as usize * 3,
            Preprocess::Raw => MAX_RAW_PIXELS as usize * 3,
        }
    }

    /// The limits, and the network's own.
    fn limits(&self, limits: &Limits) -> Limits {
        match self.preprocess {
            Preprocess::Square => *limits,
            Preprocess::Raw => Limits { max_pixels: limits.max_pixels.min(MAX_RAW_PIXELS), ..*limits },
        }
    }

    /// Reads a file's header alone and enforces `limits`.
    ///
    /// # Errors
    /// [`DecodeError`].
    pub fn measure(&self, bytes: &[u8], limits: &Limits, detail: Detail) -> Result<Header, DecodeError> {
        let header = decode::measure(bytes, &self.limits(limits), |stored| self.view(stored, detail))?;
        // Colours of a whole picture are made at once, from what is enlarged, and then put together.
        let together = if self.preprocess == Preprocess::Raw { 5 * header.pixels } else { 0 };
        Ok(Header { memory: header.memory + together, ..header })
    }

    /// Decodes what the network sees of a file, and makes its input of it.
    ///
    /// # Errors
    /// [`DecodeError`]. Limits are enforced before pixels are allocated, and a file that is cut short is an error.
    pub fn prepare(&self, bytes: &[u8], limits: &Limits, detail: Detail) -> Result<Input, DecodeError> {
        let decoded = decode::decode(bytes, &self.limits(limits), |stored| self.view(stored, detail))?;
        let has_more = decoded.pixels.are_smaller()
            && self.measure(bytes, limits, Detail::Full).is_ok_and(|full| full.memory <= MOST_FOR_DETAIL);
        let input = match self.preprocess {
            Preprocess::Square => self.input(decoded),
            Preprocess::Raw => raw(decoded),
        };
        Ok(Input { has_more, ..input? })
    }

    /// Resizes the region straight from the pixels as stored, then turns and normalises the small square.
    fn input(&self, Decoded { format, stored, pixels }: Decoded) -> Result<Input, DecodeError> {
        let side = self.side as usize;
        let region = self.region(&stored);
        let wanted = Wanted { region, width: side, height: side, filter: Filter::Triangle, backdrop: Backdrop::Itself };
        let channels = shrink::shrink(&stored, pixels, &wanted);
        let damaged = || DecodeError::Damaged { format, reason: "its pixels cannot be resized".to_owned() };
        let channels = channels.ok_or_else(damaged)?;
        let channel = |c: usize| channels.get(c).or(channels.first()).ok_or_else(damaged);
        let values = self.turned(Turn::from(stored.orientation), [channel(0)?, channel(1)?, channel(2)?]);
        Ok(Input { values, width: side, has_more: false })
    }

    /// The part of the picture as stored that the network sees.
    fn region(&self, stored: &Stored) -> Region {
        let turn = Turn::from(stored.orientation);
        let (width, height) = turn.size(stored.width, stored.height);
        turn.undo(Region::of_centre(width, height, self.resize, self.side), width, height)
    }

    /// What must be decoded. Enough is no smaller than twice what the resize makes, so that its filter still decides
    /// how the picture is smoothed.
    fn view(&self, stored: &Stored, detail: Detail) -> View {
        if self.preprocess == Preprocess::Raw {
            return View::all(stored);
        }
        let scale = match detail {
            Detail::Enough => Scale::leaving(self.resize.saturating_mul(2), stored.width.min(stored.height)),
            Detail::Full => Scale::Full,
        };
        let region = self.region(stored);
        let part = Part { start: region.left, length: region.width, to: self.side as usize };
        let columns = Columns { part, filter: Filter::Triangle, backdrop: Backdrop::Itself };
        View { scale, area: region.reach(self.side, scale), columns }
    }

    /// The pixels of a square as they are displayed, of channels as they are stored.
    fn turned(&self, turn: Turn, channels: [&Vec<u8>; 3]) -> Vec<f32> {
        let side = self.side as usize;
        let mut input = vec![0.0; side * side * 3];
        for (y, row) in input.chunks_exact_mut(side * 3).enumerate() {
            for (x, to) in row.as_chunks_mut().0.iter_mut().enumerate() {
                let at = turn.stored_index(x, y, side);
                *to = array::from_fn::<_, 3, _>(|c| self.table[c][usize::from(channels[c][at])]);
            }
        }
        input
    }
}

/// The picture as it is displayed, values in 0..1.
fn raw(decoded: Decoded) -> Result<Input, DecodeError> {
    let (format, orientation) = (decoded.format, decoded.stored.orientation);
    let damaged = || DecodeError::Damaged { format, reason: "its colours cannot be put together".to_owned() };
    let mut picture = decoded.pixels.into_picture().ok_or_else(damaged)?;
    picture.apply_orientation(orientation);
    let picture = picture.into_rgb8();
    let values = picture.as_raw().iter().map(|value| f32::from(*value) / 255.0).collect();
    Ok(Input { values, width: picture.width() as usize, has_more: false })
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
            let values = rgb.iter().enumerate().map(|(i, v)| self.table[i % 3][usize::from(*v)]).collect();
            Input { values, width: self.side as usize, has_more: false }
        }

        /// A value at a place of an input, in steps of 1/255.
        fn steps(&self, at: usize, value: f32) -> f64 {
            let table = self.table[at % 3];
            f64::from((value - table[0]) / (table[255] - table[0]) * 255.0)
        }

        /// The mean absolute difference from a square in RGB, in steps of 1/255.
        fn difference(&self, input: &Input, rgb: &[u8]) -> f64 {
            assert_eq!(input.values.len(), rgb.len());
            let values = input.values.iter().enumerate().map(|(i, v)| self.steps(i, *v));
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
            let input = preprocessor
                .prepare(&bytes, &Limits::default(), Detail::Enough)
                .unwrap_or_else(|e| panic!("{name}: {e}"));
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
            // Decoders of lossy formats round each in its way, and Pillow's for WebP blackens what is wholly
            // transparent.
            let lossy = [".jpg", "lossy.webp", "alpha.webp"].iter().any(|end| key.ends_with(end));
            let limit = if lossy { 1.0 } else { 1e-4 };
            assert!(difference < limit, "{key}: {difference} / 255 mean absolute error");
        }
    }

    /// The mean absolute difference between an input made in the usual way and one of all pixels in full, in steps of
    /// 1/255.
    fn difference_to_full(preprocessor: &Preprocessor, bytes: &[u8]) -> f64 {
        let limits = Limits::default();
        let all = preprocessor.input(decode::decode(bytes, &limits, View::all).unwrap()).unwrap();
        let [usual, full] =
            [Detail::Enough, Detail::Full].map(|detail| preprocessor.prepare(bytes, &limits, detail).unwrap());
        assert_eq!((&full, full.has_more), (&all, false));
        let differences = full.values.iter().zip(&usual.values).enumerate();
        let sum: f64 =
            differences.map(|(i, (a, b))| (preprocessor.steps(i, *a) - preprocessor.steps(i, *b)).abs()).sum();
        sum / full.values.len() as f64
    }

    #[test]
    fn inputs_of_smaller_pictures_are_near_those_of_all_pixels() {
        let images = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/images");
        let names =
            ["baseline-420.jpg", "baseline-444.jpg", "baseline-422.jpg", "progressive.jpg", "grey.jpg", "cmyk.jpg"];
        for (name, bytes) in names.map(|name| (name, std::fs::read(images.join(name)).unwrap())) {
            for (resize, side) in [(64, 64), (50, 40), (45, 45), (25, 20), (22, 22), (12, 12), (5, 5)] {
                let difference = difference_to_full(&preprocessor(resize, side), &bytes);
                assert!(difference < 4.0, "{name}, {resize}, {side}: {difference} / 255 mean absolute error");
            }
        }
    }

    /// Of a picture that is decoded in full, what lies outside of the view makes no difference at all.
    #[test]
    fn only_the_view_counts() {
        let images = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/images");
        for name in ["baseline-420.jpg", "baseline-422.jpg", "progressive.jpg", "restarts.jpg"] {
            let bytes = std::fs::read(images.join(name)).unwrap();
            for (resize, side) in [(200, 8), (128, 64), (151, 150)] {
                assert_eq!(difference_to_full(&preprocessor(resize, side), &bytes), 0.0, "{name}, {resize}, {side}");
            }
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
