//! Components in memory, at the size that is decoded.

use super::{
    Error,
    header::{Component, Frame, Parser, Scan},
    idct,
    simd::Simd,
};

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

/// One decoded component: a rectangle of it that holds the area that was asked for.
#[derive(Debug, Clone, PartialEq)]
pub struct Plane {
    /// Its samples, row by row.
    pub samples: Vec<u8>,
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
    samples: Vec<u8>,
    stride: usize,
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

    /// Writes the block of these coefficients, row by row and not yet dequantised. `dc_only`: the others are zeros.
    #[inline(always)]
    pub(super) fn put<S: Simd>(&mut self, simd: S, place: usize, coefficients: &[i16; 64], dc_only: bool) {
        let Self { side, quantisation: Some(quantisation), samples, stride, .. } = self else { return };
        if dc_only {
            idct::flat(coefficients[0], quantisation[0], *side as usize, &mut samples[place..], *stride);
            return;
        }
        match side {
            1 => idct::flat(coefficients[0], quantisation[0], 1, &mut samples[place..], *stride),
            2 => idct::two(coefficients, quantisation, &mut samples[place..], *stride),
            4 => idct::four(simd, coefficients, quantisation, &mut samples[place..], *stride),
            _ => idct::eight(simd, coefficients, quantisation, &mut samples[place..], *stride),
        }
    }

    /// The samples that are in the picture.
    fn finish(mut self, most: (u32, u32)) -> Plane {
        let (columns, rows) = (self.columns.times(self.side), self.rows.times(self.side));
        let (width, height) = (columns.to.min(self.size.0) - columns.from, rows.to.min(self.size.1) - rows.from);
        let wide = width as usize;
        if wide < self.stride {
            for row in 1..height as usize {
                self.samples.copy_within(row * self.stride..row * self.stride + wide, row * wide);
            }
        }
        self.samples.truncate(wide * height as usize);
        Plane {
            samples: self.samples,
            width,
            height,
            left: columns.from,
            top: rows.from,
            across: f64::from(self.component.across * self.side) / f64::from(8 * most.0),
            down: f64::from(self.component.down * self.side) / f64::from(8 * most.1),
        }
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
            target.samples = vec![128; samples(&target) as usize];
            target
        });
        Self { targets: targets.collect(), most: frame.most() }
    }

    /// Bytes that [`Self::new`] allocates.
    pub(super) fn bytes_needed(frame: &Frame, scale: Scale, area: Area) -> u64 {
        frame.components.iter().map(|c| samples(&target(frame, c, scale, area))).sum()
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

    pub(super) fn finish(self) -> Vec<Plane> {
        self.targets.into_iter().map(|target| target.finish(self.most)).collect()
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
        samples: Vec::new(),
        stride: (columns.len() * side) as usize,
    }
}

fn samples(target: &Target) -> u64 {
    target.stride as u64 * u64::from(target.rows.len() * target.side)
}
