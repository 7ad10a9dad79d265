//! Samples of eight bits, and finer ones.

use std::fmt::Debug;

/// A sample of a picture, from black to white.
pub trait Sample: Copy + Default + Debug {
    /// What lies between the two directions of a resize.
    type Between: Sample<Between = Self::Between>;

    /// Bits behind the point.
    const FRACTION: u32;

    /// Without the point.
    fn raw(self) -> i32;

    /// The nearest sample to a number without its point, from black to white.
    fn nearest(raw: i32) -> Self;
}

/// As Pillow does, rows of eight bits are rounded to as many before columns are resized.
impl Sample for u8 {
    type Between = Self;

    const FRACTION: u32 = 0;

    #[inline(always)]
    fn raw(self) -> i32 {
        i32::from(self)
    }

    #[inline(always)]
    fn nearest(raw: i32) -> Self {
        raw.clamp(0, 255) as Self
    }
}

/// A sample with four bits behind the point: of a picture that was decoded at less than its size. One such stands for
/// many pixels, whose rounding levels out, so it must not be rounded as one pixel is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Fine(pub u16);

impl Sample for Fine {
    type Between = Self;

    const FRACTION: u32 = 4;

    #[inline(always)]
    fn raw(self) -> i32 {
        i32::from(self.0)
    }

    #[inline(always)]
    fn nearest(raw: i32) -> Self {
        Self(raw.clamp(0, 255 << Self::FRACTION) as u16)
    }
}
