//! From the components of a JPEG to red, green and blue.

use std::borrow::Cow;

use fast_image_resize::{
    FilterType, PixelType, ResizeAlg, ResizeOptions, Resizer,
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

/// The samples of `plane` where those of `first` are. In full pictures it interpolates linearly between samples, as
/// libjpeg does; in smaller ones that would smooth over many pixels, and the nearest one is taken.
fn enlarged<'a>(plane: &'a Plane, first: &Plane) -> Option<Cow<'a, [u8]>> {
    if (plane.width, plane.height) == (first.width, first.height) {
        return Some(Cow::Borrowed(&plane.samples));
    }
    let along = |start: u32, length: u32, factor: f64| (f64::from(start) / factor, f64::from(length) / factor);
    let (left, width) = along(first.left, first.width, first.across);
    let (top, height) = along(first.top, first.height, first.down);
    let Region { left, top, width, height } = Region { left, top, width, height }.within(plane);
    let is_full = first.across >= 1.0;
    let nearest = || ResizeOptions::new().resize_alg(ResizeAlg::Nearest);
    let options =
        if is_full { resize::filtered(FilterType::Bilinear) } else { nearest() }.crop(left, top, width, height);
    let image = ImageRef::new(plane.width, plane.height, &plane.samples, PixelType::U8).ok()?;
    let mut enlarged = Image::new(first.width, first.height, PixelType::U8);
    resize::resize(&mut Resizer::new(), &image, &mut enlarged, &options)?;
    Some(Cow::Owned(enlarged.into_vec()))
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
