//! How much each sample counts.

/// How much the samples around a place count, by their distance. Filters are as wide as what becomes one sample, so
/// that smaller pictures are smooth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Filter {
    /// Less in proportion to the distance: Pillow's `BILINEAR`, as torchvision's `antialias=True`.
    Triangle,
    /// A cubic that sharpens: Pillow's `BICUBIC`.
    CatmullRom,
}

impl Filter {
    /// The distance beyond which nothing counts.
    const fn support(self) -> f64 {
        match self {
            Self::Triangle => 1.0,
            Self::CatmullRom => 2.0,
        }
    }

    fn at(self, distance: f64) -> f64 {
        let x = distance.abs();
        match self {
            Self::Triangle => (1.0 - x).max(0.0),
            // Keys, "Cubic convolution interpolation for digital image processing" (1981), with a = -1/2.
            Self::CatmullRom if x < 1.0 => (1.5 * x - 2.5) * x * x + 1.0,
            Self::CatmullRom if x < 2.0 => ((-0.5 * x + 2.5) * x - 4.0) * x + 2.0,
            Self::CatmullRom => 0.0,
        }
    }
}

/// A part of a side that becomes some samples: it begins at `start` and is `length` long, in the samples there are.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Part {
    /// Where it begins.
    pub start: f64,
    /// How long it is.
    pub length: f64,
    /// Samples that are made of it.
    pub to: usize,
}

/// The first of `size` samples that counts for the one at `at`, and the weights from there on: in the order of sums and
/// products of Pillow's `precompute_coeffs`, since they decide how the last bit is rounded.
pub(super) fn by_distance(filter: Filter, part: Part, at: usize, size: usize) -> Option<(usize, Vec<f64>)> {
    let last = size.checked_sub(1)?;
    let scale = part.length / part.to as f64;
    let wide = scale.max(1.0);
    let support = filter.support() * wide;
    let centre = part.start + (at as f64 + 0.5) * scale;
    // Saturates at 0.
    let first = (centre - support + 0.5) as usize;
    let end = ((centre + support + 0.5) as usize).min(size);
    let mut weights: Vec<f64> = (first..end).map(|x| filter.at((x as f64 - centre + 0.5) * (1.0 / wide))).collect();
    let sum: f64 = weights.iter().sum();
    if sum == 0.0 {
        // Beyond the last sample, by rounding.
        return Some((first.min(last), vec![1.0]));
    }
    // Pillow multiplies by the inverse.
    weights.iter_mut().for_each(|weight| *weight *= 1.0 / sum);
    Some((first, weights))
}
