//! Pixels whose samples lie side by side, as most formats have them.

use std::ops::Range;

use super::resize::Rows;

/// What is seen where a picture is transparent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Backdrop {
    /// The colours that are stored there, as if it were not.
    Itself,
    White,
}

/// Grey, grey and alpha, RGB, or RGB and alpha, row by row.
#[derive(Debug, Clone, Copy)]
pub(super) struct Packed<'a> {
    pub(super) bytes: &'a [u8],
    /// Pixels in a row.
    pub(super) width: usize,
    /// Samples of a pixel, from one to four.
    pub(super) samples: usize,
    pub(super) backdrop: Backdrop,
}

/// How many channels are left of so many samples without alpha.
pub(super) const fn channels(samples: usize) -> usize {
    if samples < 3 { 1 } else { 3 }
}

impl<'a> Packed<'a> {
    /// Grey, or red, green and blue.
    pub(super) fn channels(self) -> impl Iterator<Item = Channel<'a>> {
        (0..channels(self.samples)).map(move |channel| Channel { picture: self, channel })
    }
}

/// One of the channels.
#[derive(Debug, Clone, Copy)]
pub(super) struct Channel<'a> {
    picture: Packed<'a>,
    channel: usize,
}

impl Rows<u8> for Channel<'_> {
    #[inline(always)]
    fn row(&self, y: usize, columns: Range<usize>) -> impl Iterator<Item = u8> {
        let Packed { bytes, width, samples, backdrop } = self.picture;
        let row = &bytes[(y * width + columns.start) * samples..(y * width + columns.end) * samples];
        let is_on_white = backdrop == Backdrop::White && matches!(samples, 2 | 4);
        row.chunks_exact(samples).map(move |pixel| {
            if is_on_white { on_white(pixel[self.channel], pixel[samples - 1]) } else { pixel[self.channel] }
        })
    }
}

#[inline(always)]
fn on_white(value: u8, alpha: u8) -> u8 {
    let [value, alpha] = [value, alpha].map(u16::from);
    // At most 255 * 255, rounded.
    ((value * alpha + 255 * (255 - alpha) + 127) / 255) as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    fn first_row(bytes: &[u8], samples: usize, backdrop: Backdrop) -> Vec<Vec<u8>> {
        let width = bytes.len() / samples / 2;
        let packed = Packed { bytes, width, samples, backdrop };
        packed.channels().map(|channel| channel.row(1, 1..width).collect()).collect()
    }

    #[test]
    fn channels_are_grey_or_colours() {
        let bytes: Vec<u8> = (0..24).collect();
        assert_eq!(first_row(&bytes, 1, Backdrop::White), [(13..24).collect::<Vec<u8>>()]);
        assert_eq!(first_row(&bytes, 2, Backdrop::Itself), [[14, 16, 18, 20, 22]]);
        assert_eq!(first_row(&bytes, 3, Backdrop::White), [[15, 18, 21], [16, 19, 22], [17, 20, 23]]);
        assert_eq!(first_row(&bytes, 4, Backdrop::Itself), [[16, 20], [17, 21], [18, 22]]);
    }

    #[test]
    fn what_is_transparent_is_white_if_wanted() {
        let row = [0, 0, 0, 0, 10, 20, 30, 0, 10, 20, 30, 255, 10, 20, 30, 127];
        let bytes = [row, row].concat();
        assert_eq!(first_row(&bytes, 4, Backdrop::White), [[255, 10, 133], [255, 20, 138], [255, 30, 143]]);
    }
}
