//! Resizing of pictures whose samples have eight or sixteen bits, as all have that are decoded here.

use fast_image_resize::{
    FilterType, IntoImageView, IntoImageViewMut, PixelType, ResizeAlg, ResizeOptions, Resizer, pixels,
};

/// Options for a filter that is as wide as what becomes one pixel.
pub(super) fn filtered(filter: FilterType) -> ResizeOptions {
    ResizeOptions::new().resize_alg(ResizeAlg::Convolution(filter))
}

/// Resizes a picture, or the part of it that `options` name, into one of the same kind of pixels. `None` if the kinds
/// differ, if samples are of another size, or if the part is not within the picture.
///
/// [`Resizer::resize`] does as much for samples of 32 bits. The compiler orders its code for those now one way and now
/// another; without it, two builds of the binary are the same.
pub(super) fn resize(
    resizer: &mut Resizer,
    from: &impl IntoImageView,
    to: &mut impl IntoImageViewMut,
    options: &ResizeOptions,
) -> Option<()> {
    macro_rules! resize {
        ($pixel:ty) => {
            resizer.resize_typed::<$pixel>(&from.image_view()?, &mut to.image_view_mut()?, options)
        };
    }
    match from.pixel_type()? {
        PixelType::U8 => resize!(pixels::U8),
        PixelType::U8x2 => resize!(pixels::U8x2),
        PixelType::U8x3 => resize!(pixels::U8x3),
        PixelType::U8x4 => resize!(pixels::U8x4),
        PixelType::U16 => resize!(pixels::U16),
        PixelType::U16x2 => resize!(pixels::U16x2),
        PixelType::U16x3 => resize!(pixels::U16x3),
        PixelType::U16x4 => resize!(pixels::U16x4),
        _ => return None,
    }
    .ok()
}

#[cfg(test)]
mod tests {
    use fast_image_resize::images::Image;

    use super::*;

    const KINDS: [PixelType; 8] = [
        PixelType::U8,
        PixelType::U8x2,
        PixelType::U8x3,
        PixelType::U8x4,
        PixelType::U16,
        PixelType::U16x2,
        PixelType::U16x3,
        PixelType::U16x4,
    ];

    fn picture(kind: PixelType) -> Image<'static> {
        let samples = (0..40 * 30 * kind.size()).map(|at| (at * 7919 % 251) as u8).collect();
        Image::from_vec_u8(40, 30, samples, kind).unwrap()
    }

    #[test]
    fn every_kind_of_pixel_is_resized_as_the_crate_does_it() {
        for kind in KINDS {
            for options in [filtered(FilterType::Bilinear), filtered(FilterType::CatmullRom).use_alpha(false)] {
                let options = options.crop(1.5, 2.0, 30.0, 20.5);
                let (mut found, mut want) = (Image::new(17, 9, kind), Image::new(17, 9, kind));
                resize(&mut Resizer::new(), &picture(kind), &mut found, &options).unwrap();
                Resizer::new().resize(&picture(kind), &mut want, &options).unwrap();
                assert_eq!(found.buffer(), want.buffer(), "{kind:?}");
                assert!(found.buffer().iter().any(|v| *v > 0));
            }
        }
    }

    #[test]
    fn what_cannot_be_resized_is_none() {
        let options = filtered(FilterType::Bilinear);
        let mut to = Image::new(5, 5, PixelType::U8);
        assert_eq!(resize(&mut Resizer::new(), &picture(PixelType::U16), &mut to, &options), None);
        assert_eq!(
            resize(&mut Resizer::new(), &picture(PixelType::U8), &mut to, &options.crop(30.0, 0.0, 20.0, 5.0)),
            None
        );
        let floats = Image::new(40, 30, PixelType::F32);
        assert_eq!(resize(&mut Resizer::new(), &floats, &mut Image::new(5, 5, PixelType::F32), &options), None);
    }
}
