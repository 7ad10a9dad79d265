//! From decoded pixels to grey, or to red, green and blue, at the size that is wanted.

use std::{
    ops::Range,
    panic::{AssertUnwindSafe, catch_unwind},
};

use image::DynamicImage;

use super::{
    decode::{Pixels, Stored},
    geometry::Region,
    jpeg::{self, Colour, Components, Enlarge, Instructions, Plane},
    packed::{Backdrop, Packed},
    png::Narrowed,
    resize::{self, Filter, Part, Resize, Rows, STRIP, Sample, Smaller, Weights},
};

/// The part of a picture that is wanted, and at which size.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted {
    /// In pixels as stored.
    pub(super) region: Region,
    pub(super) width: usize,
    pub(super) height: usize,
    pub(super) filter: Filter,
    pub(super) backdrop: Backdrop,
}

impl Wanted {
    fn columns(&self) -> Part {
        Part { start: self.region.left, length: self.region.width, to: self.width }
    }

    fn rows(&self) -> Part {
        Part { start: self.region.top, length: self.region.height, to: self.height }
    }
}

/// One channel, or three, each row by row as stored: of `width` times `height` samples. `None` if the pixels are not
/// what they should be.
pub(super) fn shrink(stored: &Stored, pixels: Pixels, wanted: &Wanted) -> Option<Vec<Vec<u8>>> {
    let shrunk = move || match pixels {
        Pixels::Packed(image) => packed(image, wanted),
        Pixels::Components(Components::Full(planes), colour) => full(planes, colour, wanted),
        Pixels::Components(Components::Smaller(planes), colour) => smaller(stored, planes, colour, wanted),
        Pixels::Narrowed(rows) => narrowed(&rows, wanted),
    };
    // As in decoders, a panic would be a bug, and is that file's error.
    catch_unwind(AssertUnwindSafe(shrunk)).ok().flatten()
}

fn packed(image: DynamicImage, wanted: &Wanted) -> Option<Vec<Vec<u8>>> {
    // All formats that come so have eight bits.
    let image = match image {
        DynamicImage::ImageLuma8(_)
        | DynamicImage::ImageLumaA8(_)
        | DynamicImage::ImageRgb8(_)
        | DynamicImage::ImageRgba8(_) => image,
        other => other.into_rgba8().into(),
    };
    let (width, height) = (image.width() as usize, image.height() as usize);
    let columns = Weights::new(wanted.filter, wanted.columns(), width)?;
    let rows = Weights::new(wanted.filter, wanted.rows(), height)?;
    let samples = usize::from(image.color().channel_count());
    let packed = Packed { bytes: image.as_bytes(), width, samples, backdrop: wanted.backdrop };
    Some(packed.channels().map(|channel| resize::resize(&channel, &columns, &rows)).collect())
}

/// Luma and chroma become colours before the resize, not after it, though that would be less work: networks tell smooth
/// areas by how they were rounded, and the colours are what others round.
fn full(planes: Vec<Plane<u8>>, colour: Colour, wanted: &Wanted) -> Option<Vec<Vec<u8>>> {
    let first = planes.first()?;
    let within = Wanted { region: wanted.region.within(first), ..*wanted };
    let columns = Weights::new(wanted.filter, within.columns(), first.width as usize)?;
    let rows = Weights::new(wanted.filter, within.rows(), first.height as usize)?;
    of_colours(&planes, colour, &columns, &rows)
}

fn smaller(stored: &Stored, planes: Vec<Plane<resize::Fine>>, colour: Colour, wanted: &Wanted) -> Option<Vec<Vec<u8>>> {
    let first = planes.first()?;
    let within = Wanted { region: wanted.region.within(first), ..*wanted };
    let weights = |part: Part, within: Part, factor: f64, pixels: u32, first: u32, count: u32| {
        let (pixels, first, count) = (pixels as usize, first as usize, count as usize);
        // A component that the others surpass may have fewer samples than one for eight pixels.
        match [1, 2, 4].into_iter().find(|per_block| *per_block as f64 == 8.0 * factor) {
            Some(per_block) => Weights::of_smaller(wanted.filter, part, Smaller { per_block, pixels, first, count }),
            None => Weights::new(wanted.filter, within, count),
        }
    };
    let Plane { left, top, width, height, across, down, .. } = *first;
    let columns = weights(wanted.columns(), within.columns(), across, stored.width, left, width)?;
    let rows = weights(wanted.rows(), within.rows(), down, stored.height, top, height)?;
    of_colours(&planes, colour, &columns, &rows)
}

/// Colours are made strip by strip: at once they would take several times as much memory as the components.
fn of_colours<S: Enlarge>(
    planes: &[Plane<S>],
    colour: Colour,
    columns: &Weights<S>,
    rows: &Weights<S::Between>,
) -> Option<Vec<Vec<u8>>> {
    let length = planes.first()?.width as usize;
    let mut resized: Vec<Resize<'_, S>> = Vec::new();
    let read = rows.reads();
    for top in read.clone().step_by(STRIP) {
        let strip = top..read.end.min(top + STRIP);
        let channels = jpeg::channels(planes, colour, strip.clone(), Instructions::Detected)?;
        resized.resize_with(channels.len(), || Resize::new(columns, rows));
        for (resize, samples) in resized.iter_mut().zip(&channels) {
            resize.take(&Lines { samples, length }, 0..strip.len(), top);
        }
    }
    Some(resized.into_iter().map(Resize::finish).collect())
}

fn narrowed(pixels: &Narrowed, wanted: &Wanted) -> Option<Vec<Vec<u8>>> {
    let Narrowed { channels, width, top, height } = pixels;
    let mut rows = wanted.rows();
    rows.start -= *top as f64;
    let weights = Weights::new(wanted.filter, rows, *height)?;
    let resized = |columns: &Vec<u8>| {
        let mut small = vec![0; width * wanted.height];
        // Columns lie in memory as rows do, and become such.
        resize::pass(&Lines { samples: columns, length: *height }, 0..*width, &weights, &mut small, *width);
        small
    };
    Some(channels.iter().map(resized).collect())
}

/// Samples of one channel, line by line.
struct Lines<'a, S> {
    samples: &'a [S],
    length: usize,
}

impl<S: Sample> Rows<S> for Lines<'_, S> {
    #[inline(always)]
    fn row(&self, y: usize, columns: Range<usize>) -> impl Iterator<Item = S> {
        self.samples[y * self.length..][columns].iter().copied()
    }
}
