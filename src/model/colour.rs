//! From the components of a JPEG to red, green and blue.

use fast_image_resize::{
    FilterType, PixelType, ResizeAlg, ResizeOptions, Resizer,
    images::{Image, ImageRef},
};

use super::{
    geometry::Region,
    jpeg::{Colour, Plane},
};

/// RGB, 0 to 255, of luma and chroma: the inverse of ITU-R BT.601's matrix for full ranges, as JFIF 1.02 has it.
#[inline]
pub(super) fn rgb_of_ycc([luma, blue, red]: [u8; 3]) -> [f32; 3] {
    let (y, cb, cr) = (f32::from(luma), f32::from(blue) - 128.0, f32::from(red) - 128.0);
    [y + 1.402 * cr, y - 0.344_136_3 * cb - 0.714_136_3 * cr, y + 1.772 * cb].map(|v| v.clamp(0.0, 255.0))
}

/// Inverted cyan, magenta and yellow of luma and chroma beside black. See [`Colour::Ycck`].
fn inks_of_ycc(luma_and_chroma: [u8; 3]) -> [f32; 3] {
    rgb_of_ycc(luma_and_chroma).map(|v| 255.0 - v)
}

/// The picture in RGB, pixel by pixel, of the first component's size. Inverted CMYK becomes each colour times black.
/// `None` if there are not as many components as `colour` has.
pub(super) fn packed(planes: &[Plane], colour: Colour) -> Option<Vec<u8>> {
    let first = planes.first()?;
    let others = planes[1..].iter().map(|plane| enlarged(plane, first)).collect::<Option<Vec<_>>>()?;
    let rounded = |rgb: [f32; 3]| rgb.map(|v| (v + 0.5) as u8);
    let mut rgb = vec![0; 3 * first.samples.len()];
    let pixels = rgb.as_chunks_mut::<3>().0.iter_mut().zip(&first.samples);
    match (colour, &others[..]) {
        (Colour::YCbCr, [blue, red]) => {
            for ((pixel, luma), (blue, red)) in pixels.zip(blue.iter().zip(red)) {
                *pixel = rounded(rgb_of_ycc([*luma, *blue, *red]));
            }
        }
        (Colour::Rgb, [green, blue]) => {
            for ((pixel, red), (green, blue)) in pixels.zip(green.iter().zip(blue)) {
                *pixel = [*red, *green, *blue];
            }
        }
        (Colour::Cmyk | Colour::Ycck, [second, third, black]) => {
            for ((pixel, first), ((second, third), black)) in pixels.zip(second.iter().zip(third).zip(black)) {
                let inks = [*first, *second, *third];
                let inks = if colour == Colour::Ycck { inks_of_ycc(inks) } else { inks.map(f32::from) };
                *pixel = rounded(inks.map(|ink| ink * f32::from(*black) / 255.0));
            }
        }
        _ => return None,
    }
    Some(rgb)
}

/// The samples of `plane` where those of `first` are. Between samples it interpolates linearly, as libjpeg does.
fn enlarged(plane: &Plane, first: &Plane) -> Option<Vec<u8>> {
    if (plane.width, plane.height) == (first.width, first.height) {
        return Some(plane.samples.clone());
    }
    let along = |start: u32, length: u32, factor: f64| (f64::from(start) / factor, f64::from(length) / factor);
    let (left, width) = along(first.left, first.width, first.across);
    let (top, height) = along(first.top, first.height, first.down);
    let Region { left, top, width, height } = Region { left, top, width, height }.within(plane);
    let options =
        ResizeOptions::new().resize_alg(ResizeAlg::Convolution(FilterType::Bilinear)).crop(left, top, width, height);
    let image = ImageRef::new(plane.width, plane.height, &plane.samples, PixelType::U8).ok()?;
    let mut enlarged = Image::new(first.width, first.height, PixelType::U8);
    Resizer::new().resize(&image, &mut enlarged, &options).ok()?;
    Some(enlarged.into_vec())
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
