//! Components in memory, at the size that is decoded.

use super::{
    Error,
    header::{Component, Frame, Parser, Scan},
    idct,
    simd::{Level, Simd},
};
use crate::resize::Fine;

/// The size of the decoded picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scale {
    /// As stored.
    Full,
    /// Half the width and height.
    Half,
    /// A quarter of them.
    Quarter,
    /// An eighth of them.
    Eighth,
}

impl Scale {
    /// The smallest that leaves a side of `length` at least `needed` pixels.
    pub fn leaving(needed: u32, length: u32) -> Self {
        let fits = |by: u32| u64::from(needed) * u64::from(by) <= u64::from(length);
        if fits(8) {
            Self::Eighth
        } else if fits(4) {
            Self::Quarter
        } else if fits(2) {
            Self::Half
        } else {
            Self::Full
        }
    }

    /// Pixels of the picture for one of the decoded, along a side.
    pub const fn divisor(self) -> u32 {
        8 / self.pixels()
    }

    /// Bytes of a sample: smaller pictures have finer ones.
    pub const fn sample_bytes(self) -> u64 {
        match self {
            Self::Full => size_of::<u8>() as u64,
            Self::Half | Self::Quarter | Self::Eighth => size_of::<Fine>() as u64,
        }
    }

    /// Pixels along the side of a block.
    const fn pixels(self) -> u32 {
        match self {
            Self::Full => 8,
            Self::Half => 4,
            Self::Quarter => 2,
            Self::Eighth => 1,
        }
    }
}

/// A rectangle of the picture as stored, in its pixels: from `left` to before `right`, from `top` to before `bottom`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Area {
    /// The first column.
    pub left: u32,
    /// The first row.
    pub top: u32,
    /// The column after the last.
    pub right: u32,
    /// The row after the last.
    pub bottom: u32,
}

impl Area {
    /// All of a picture.
    pub const fn all((width, height): (u32, u32)) -> Self {
        Self { left: 0, top: 0, right: width, bottom: height }
    }

    /// How many pixels it has.
    pub fn pixels(self) -> u64 {
        u64::from(self.right - self.left) * u64::from(self.bottom - self.top)
    }
}

/// The decoded components.
#[derive(Debug, Clone, PartialEq)]
pub enum Components {
    /// At full size: the same samples as libjpeg-turbo's.
    Full(Vec<Plane<u8>>),
    /// At less.
    Smaller(Vec<Plane<Fine>>),
}

/// One decoded component: a rectangle of it that holds the area that was asked for.
#[derive(Debug, Clone, PartialEq)]
pub struct Plane<S> {
    /// Its samples, row by row.
    pub samples: Vec<S>,
    /// Samples in a row.
    pub width: u32,
    /// Rows.
    pub height: u32,
    /// Where the rectangle begins, in samples of the component.
    pub left: u32,
    /// Likewise.
    pub top: u32,
    /// Samples of the component per pixel of the picture as stored, across.
    pub across: f64,
    /// Likewise, down.
    pub down: f64,
}

/// Half open.
#[derive(Debug, Clone, Copy)]
pub(super) struct Span {
    pub(super) from: u32,
    pub(super) to: u32,
}

impl Span {
    pub(super) const fn len(self) -> u32 {
        self.to - self.from
    }

    pub(super) fn holds(self, at: u32) -> bool {
        (self.from..self.to).contains(&at)
    }

    fn times(self, n: u32) -> Self {
        Self { from: self.from * n, to: self.to * n }
    }

    /// The units of `pixels` that hold a part of a side.
    fn covering(from: u32, to: u32, pixels: u32) -> Self {
        Self { from: from / pixels, to: to.div_ceil(pixels) }
    }
}

/// A component while it is decoded.
#[derive(Debug)]
pub(super) struct Target {
    component: Component,
    /// Samples along the side of a block: 1, 2, 4 or 8.
    pub(super) side: u32,
    /// The quantisation table, from the component's first scan on.
    pub(super) quantisation: Option<Box<[i32; 64]>>,
    /// Blocks that are wanted.
    pub(super) columns: Span,
    pub(super) rows: Span,
    /// The component's samples across and down in all.
    size: (u32, u32),
    samples: Samples,
    stride: usize,
}

#[derive(Debug)]
enum Samples {
    Full(Vec<u8>),
    Smaller(Vec<Fine>),
}

impl Target {
    /// Where the block's samples begin, if it is wanted.
    #[inline(always)]
    pub(super) fn place(&self, x: u32, y: u32) -> Option<usize> {
        if !self.columns.holds(x) || !self.rows.holds(y) {
            return None;
        }
        let (x, y) = ((x - self.columns.from) as usize, (y - self.rows.from) as usize);
        Some((y * self.stride + x) * self.side as usize)
    }

    /// Writes the block of these coefficients, row by row and not yet dequantised. `is_flat`: all but the first
    /// are known to be zeros, those that are not needed for the block's side among them.
    #[inline(always)]
    pub(super) fn put<S: Simd>(&mut self, simd: S, place: usize, coefficients: &[i16; 64], is_flat: bool) {
        let Self { side, quantisation: Some(quantisation), samples, stride, .. } = self else { return };
        match samples {
            Samples::Full(samples) => {
                transform(simd, *side, coefficients, quantisation, is_flat, &mut samples[place..], *stride);
            }
            Samples::Smaller(samples) => {
                transform(simd, *side, coefficients, quantisation, is_flat, &mut samples[place..], *stride);
            }
        }
    }

    /// The component with those of its samples that are in the picture.
    fn finish<S: Copy>(&self, mut samples: Vec<S>, most: (u32, u32)) -> Plane<S> {
        let (columns, rows) = (self.columns.times(self.side), self.rows.times(self.side));
        let (width, height) = (columns.to.min(self.size.0) - columns.from, rows.to.min(self.size.1) - rows.from);
        let wide = width as usize;
        if wide < self.stride {
            for row in 1..height as usize {
                samples.copy_within(row * self.stride..row * self.stride + wide, row * wide);
            }
        }
        samples.truncate(wide * height as usize);
        Plane {
            samples,
            width,
            height,
            left: columns.from,
            top: rows.from,
            across: f64::from(self.component.across * self.side) / f64::from(8 * most.0),
            down: f64::from(self.component.down * self.side) / f64::from(8 * most.1),
        }
    }
}

/// Writes one block.
#[inline(always)]
fn transform<S: Simd, P: Level>(
    simd: S,
    side: u32,
    coefficients: &[i16; 64],
    quantisation: &[i32; 64],
    is_flat: bool,
    out: &mut [P],
    stride: usize,
) {
    match side {
        _ if is_flat => idct::flat(coefficients[0], quantisation[0], side as usize, out, stride),
        1 => idct::one(coefficients[0], quantisation[0], out),
        2 => idct::two(coefficients, quantisation, out, stride),
        4 => idct::four(simd, coefficients, quantisation, out, stride),
        _ => idct::eight(simd, coefficients, quantisation, out, stride),
    }
}

/// All components while they are decoded.
#[derive(Debug)]
pub(super) struct Planes {
    pub(super) targets: Vec<Target>,
    most: (u32, u32),
}

impl Planes {
    pub(super) fn new(frame: &Frame, scale: Scale, area: Area) -> Self {
        let targets = frame.components.iter().map(|c| target(frame, c, scale, area)).map(|mut target| {
            // Grey, should no scan come.
            let samples = samples(&target) as usize;
            target.samples = match scale {
                Scale::Full => Samples::Full(vec![Level::of(0); samples]),
                Scale::Half | Scale::Quarter | Scale::Eighth => Samples::Smaller(vec![Level::of(0); samples]),
            };
            target
        });
        Self { targets: targets.collect(), most: frame.most() }
    }

    /// Bytes that [`Self::new`] allocates.
    pub(super) fn bytes_needed(frame: &Frame, scale: Scale, area: Area) -> u64 {
        frame.components.iter().map(|c| scale.sample_bytes() * samples(&target(frame, c, scale, area))).sum()
    }

    /// Takes the quantisation tables of components that have their first scan.
    pub(super) fn quantise(&mut self, parser: &Parser<'_>, scan: &Scan) -> Result<(), Error> {
        for part in &scan.parts {
            let target = &mut self.targets[part.component];
            if target.quantisation.is_none() {
                target.quantisation = Some(Box::new(parser.quantisation(&target.component)?.map(i32::from)));
            }
        }
        Ok(())
    }

    pub(super) fn finish(self) -> Components {
        let (mut full, mut smaller) = (Vec::new(), Vec::new());
        for mut target in self.targets {
            match std::mem::replace(&mut target.samples, Samples::Full(Vec::new())) {
                Samples::Full(samples) => full.push(target.finish(samples, self.most)),
                Samples::Smaller(samples) => smaller.push(target.finish(samples, self.most)),
            }
        }
        // All components are of one scale.
        if smaller.is_empty() { Components::Full(full) } else { Components::Smaller(smaller) }
    }
}

/// Samples along a block's side of `component`. Chroma that is stored at half the size or less keeps more of what it
/// has, as far as its samples are then no finer than luma's: so it need not be enlarged.
pub(super) fn side(frame: &Frame, component: &Component, scale: Scale) -> u32 {
    let (across, down) = frame.most();
    let fits = |most: u32, own: u32, side: u32| (most * scale.pixels()).is_multiple_of(own * side * 2);
    let mut side = scale.pixels();
    while side < 8 && fits(across, component.across, side) && fits(down, component.down, side) {
        side *= 2;
    }
    side
}

/// The layout, without memory for samples.
pub(super) fn target(frame: &Frame, component: &Component, scale: Scale, area: Area) -> Target {
    let side = side(frame, component, scale);
    let (across, down) = frame.most();
    let columns = Span::covering(area.left, area.right.min(frame.width), 8 * across).times(component.across);
    let rows = Span::covering(area.top, area.bottom.min(frame.height), 8 * down).times(component.down);
    let size = |length: u32, own: u32, most: u32| (length * own * side).div_ceil(8 * most);
    Target {
        component: *component,
        side,
        quantisation: None,
        columns,
        rows,
        size: (size(frame.width, component.across, across), size(frame.height, component.down, down)),
        samples: Samples::Full(Vec::new()),
        stride: (columns.len() * side) as usize,
    }
}

fn samples(target: &Target) -> u64 {
    target.stride as u64 * u64::from(target.rows.len() * target.side)
}
