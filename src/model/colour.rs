//! From the components of a JPEG to red, green and blue.

use std::borrow::Cow;

use fast_image_resize::{
    PixelType, ResizeAlg, ResizeOptions, Resizer,
    images::{Image, ImageRef},
};

use super::{
    geometry::Region,
    jpeg::{Colour, Plane},
    resize,
};

/// Of a fraction, the bits of [`factor`].
const FRACTION: u32 = 16;

/// A factor of the inverse of ITU-R BT.601's matrix for full ranges, with the digits of JFIF 1.02; libjpeg-turbo has the
/// same bits of it.
const fn factor(value: f64) -> i32 {
    (value * (1 << FRACTION) as f64 + 0.5) as i32
}

#[inline]
fn colour(luma: u8, chroma: i32) -> u8 {
    let rounded = i32::from(luma) + ((chroma + (1 << (FRACTION - 1))) >> FRACTION);
    rounded.clamp(0, 255) as u8
}

#[inline]
fn red_of(luma: u8, red: u8) -> u8 {
    colour(luma, factor(1.402) * (i32::from(red) - 128))
}

#[inline]
fn green_of(luma: u8, blue: u8, red: u8) -> u8 {
    colour(luma, -factor(0.344_14) * (i32::from(blue) - 128) - factor(0.714_14) * (i32::from(red) - 128))
}

#[inline]
fn blue_of(luma: u8, blue: u8) -> u8 {
    colour(luma, factor(1.772) * (i32::from(blue) - 128))
}

/// RGB of luma and chroma.
#[inline]
fn rgb_of_ycc([luma, blue, red]: [u8; 3]) -> [u8; 3] {
    [red_of(luma, red), green_of(luma, blue, red), blue_of(luma, blue)]
}

/// Red, green and blue of luma and chroma, each of the luma's size. `None` if there are not three components.
pub(super) fn separated(planes: &[Plane]) -> Option<[Plane; 3]> {
    let [luma, blue, red] = planes else { return None };
    let (blue, red) = (enlarged(blue, luma)?, enlarged(red, luma)?);
    let samples = || luma.samples.iter();
    let of_colour = |samples: Vec<u8>| Plane { samples, ..*luma };
    Some([
        of_colour(samples().zip(&*red).map(|(luma, red)| red_of(*luma, *red)).collect()),
        of_colour(samples().zip(&*blue).zip(&*red).map(|((luma, b), r)| green_of(*luma, *b, *r)).collect()),
        of_colour(samples().zip(&*blue).map(|(luma, blue)| blue_of(*luma, *blue)).collect()),
    ])
}

/// The picture in RGB, pixel by pixel, of the first component's size. Inverted CMYK becomes each colour times black.
/// `None` if there are not as many components as `colour` has.
pub(super) fn packed(planes: &[Plane], colour: Colour) -> Option<Vec<u8>> {
    let first = planes.first()?;
    let others = planes[1..].iter().map(|plane| enlarged(plane, first)).collect::<Option<Vec<_>>>()?;
    let mut rgb = vec![0; 3 * first.samples.len()];
    let pixels = rgb.as_chunks_mut::<3>().0.iter_mut().zip(&first.samples);
    match (colour, &others[..]) {
        (Colour::YCbCr, [blue, red]) => {
            for ((pixel, luma), (blue, red)) in pixels.zip(blue.iter().zip(&**red)) {
                *pixel = rgb_of_ycc([*luma, *blue, *red]);
            }
        }
        (Colour::Rgb, [green, blue]) => {
            for ((pixel, red), (green, blue)) in pixels.zip(green.iter().zip(&**blue)) {
                *pixel = [*red, *green, *blue];
            }
        }
        (Colour::Cmyk | Colour::Ycck, [second, third, black]) => {
            for ((pixel, first), ((second, third), black)) in pixels.zip(second.iter().zip(&**third).zip(&**black)) {
                let inks = [*first, *second, *third];
                // Luma and chroma are of what the inks leave. See [`Colour::Ycck`].
                let inks = if colour == Colour::Ycck { rgb_of_ycc(inks).map(|v| 255 - v) } else { inks };
                *pixel = inks.map(|ink| (f32::from(ink) * f32::from(*black) / 255.0 + 0.5) as u8);
            }
        }
        _ => return None,
    }
    Some(rgb)
}

/// The samples of `plane` where those of `first` are. In full pictures what is half as wide or high is interpolated to
/// the bit as libjpeg does; in smaller ones that would smooth over many pixels, and the nearest one is taken.
fn enlarged<'a>(plane: &'a Plane, first: &Plane) -> Option<Cow<'a, [u8]>> {
    if (plane.width, plane.height) == (first.width, first.height) {
        return Some(Cow::Borrowed(&plane.samples));
    }
    let is_full = first.across >= 1.0;
    match (first.across / plane.across, first.down / plane.down) {
        // Of so few samples libjpeg interpolates none.
        (2.0, _) if plane.width <= 2 => nearest(plane, first),
        (2.0, 2.0) if is_full => interpolated(plane, first, Doubled::Both),
        (2.0, 1.0) if is_full => interpolated(plane, first, Doubled::Across),
        (1.0, 2.0) if is_full => interpolated(plane, first, Doubled::Down),
        _ => nearest(plane, first),
    }
    .map(Cow::Owned)
}

fn nearest(plane: &Plane, first: &Plane) -> Option<Vec<u8>> {
    let along = |start: u32, length: u32, factor: f64| (f64::from(start) / factor, f64::from(length) / factor);
    let (left, width) = along(first.left, first.width, first.across);
    let (top, height) = along(first.top, first.height, first.down);
    let Region { left, top, width, height } = Region { left, top, width, height }.within(plane);
    let options = ResizeOptions::new().resize_alg(ResizeAlg::Nearest).crop(left, top, width, height);
    let image = ImageRef::new(plane.width, plane.height, &plane.samples, PixelType::U8).ok()?;
    let mut enlarged = Image::new(first.width, first.height, PixelType::U8);
    resize::resize(&mut Resizer::new(), &image, &mut enlarged, &options)?;
    Some(enlarged.into_vec())
}

/// The directions in which a component has half of the picture's samples.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Doubled {
    Across,
    Down,
    Both,
}

/// A component with twice the samples: each is three quarters of its own and one of its neighbour on that side, and
/// halves are rounded up and down in turns (`jdsample.c` of libjpeg-turbo, fancy upsampling).
fn interpolated(plane: &Plane, first: &Plane, doubled: Doubled) -> Option<Vec<u8>> {
    let (width, height) = (plane.width as usize, plane.height as usize);
    let is_down = doubled != Doubled::Across;
    let across = if doubled == Doubled::Down { 1 } else { 2 };
    let from = (first.left as usize).checked_sub(across * plane.left as usize)?;
    let row = |y: usize| plane.samples.get(y * width..(y + 1) * width);
    let mut out = Vec::with_capacity(first.samples.len());
    // Sums of two rows, with the neighbours that there are none of beside the first and last.
    let mut sums = vec![0; width + 2];
    let mut line = vec![0; across * width];
    for y in first.top as usize..(first.top + first.height) as usize {
        let own = if is_down { y / 2 } else { y }.checked_sub(plane.top as usize)?;
        let other = if y % 2 == 0 { own.saturating_sub(1) } else { (own + 1).min(height - 1) };
        let rows = row(own)?.iter().zip(row(other)?);
        for (sum, (own, other)) in sums[1..].iter_mut().zip(rows) {
            *sum = if is_down { 3 * u16::from(*own) + u16::from(*other) } else { u16::from(*own) };
        }
        (sums[0], sums[width + 1]) = (sums[1], sums[width]);
        match doubled {
            Doubled::Across => widen::<2>(&sums, &mut line, [1, 2]),
            Doubled::Both => widen::<4>(&sums, &mut line, [8, 7]),
            Doubled::Down => {
                let half = if y % 2 == 0 { 1 } else { 2 };
                line.iter_mut().zip(&sums[1..]).for_each(|(to, sum)| *to = ((sum + half) >> 2) as u8);
            }
        }
        out.extend_from_slice(line.get(from..from + first.width as usize)?);
    }
    Some(out)
}

/// Two of each sum but the outer ones, which are neighbours only; `halves` is added before `BITS` are cut off.
fn widen<const BITS: u32>(sums: &[u16], line: &mut [u8], halves: [u16; 2]) {
    for (to, near) in line.as_chunks_mut::<2>().0.iter_mut().zip(sums.windows(3)) {
        let own = 3 * near[1];
        *to = [((own + near[0] + halves[0]) >> BITS) as u8, ((own + near[2] + halves[1]) >> BITS) as u8];
    }
}

#[cfg(test)]
mod tests {
    use crate::model::{
        Limits,
        decode::{self, View},
    };

    /// Plain red in luma, chroma and black, as libjpeg writes it.
    static YCCK: &[u8] = include_bytes!("../../tests/fixtures/ycck.jpg");

    #[test]
    fn luma_and_chroma_beside_black_are_of_what_the_inks_leave() {
        let decoded = decode::decode(YCCK, &Limits::default(), View::all).unwrap();
        let picture = decoded.pixels.into_picture().unwrap().into_rgb8();
        assert_eq!(picture.dimensions(), (64, 64));
        for pixel in picture.pixels() {
            // What Pillow makes of it.
            assert!(pixel.0.iter().zip([221, 30, 20]).all(|(found, want)| found.abs_diff(want) <= 1), "{pixel:?}");
        }
    }
}
