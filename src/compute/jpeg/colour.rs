//! From the components of a JPEG to red, green and blue.

use std::{borrow::Cow, iter, ops::Range};

use super::{Colour, Instructions, Plane};
use crate::resize::{Fine, Sample};

/// Of a fraction, the bits of [`factor`].
const FRACTION: u32 = 16;

/// A factor of the inverse of ITU-R BT.601's matrix for full ranges, with the digits of JFIF 1.02; libjpeg-turbo has the
/// same bits of it.
const fn factor(value: f64) -> i32 {
    (value * (1 << FRACTION) as f64 + 0.5) as i32
}

/// `luma` and a weighted sum of chroma, which has [`FRACTION`] bits behind the point.
///
/// Chroma and the sum are whole numbers even where luma is finer: over most of a picture chroma is so even that all
/// pixels of a finer sample were rounded alike, which no mean of them makes good.
#[inline(always)]
fn colour<S: Sample>(luma: S, sum: i32) -> S {
    S::nearest(luma.raw() + ((sum + (1 << (FRACTION - 1))) >> FRACTION << S::FRACTION))
}

/// Chroma around zero.
#[inline(always)]
fn signed<S: Sample>(chroma: S) -> i32 {
    ((chroma.raw() + (1 << S::FRACTION >> 1)) >> S::FRACTION) - 128
}

#[inline(always)]
fn red_of<S: Sample>(luma: S, red: S) -> S {
    colour(luma, factor(1.402) * signed(red))
}

#[inline(always)]
fn green_of<S: Sample>(luma: S, blue: S, red: S) -> S {
    colour(luma, -factor(0.344_14) * signed(blue) - factor(0.714_14) * signed(red))
}

#[inline(always)]
fn blue_of<S: Sample>(luma: S, blue: S) -> S {
    colour(luma, factor(1.772) * signed(blue))
}

/// Some rows of grey alone, or of red, green and blue, each with as many samples as the first component has there.
/// Inverted CMYK becomes each colour times black. `None` if there are not as many components as `colour` has, one does
/// not cover the first, or the first has fewer rows.
pub fn channels<S: Enlarge>(
    planes: &[Plane<S>],
    colour: Colour,
    rows: Range<usize>,
    instructions: Instructions,
) -> Option<Vec<Cow<'_, [S]>>> {
    let (first, others) = planes.split_first()?;
    let width = first.width as usize;
    let samples = first.samples.get(rows.start * width..rows.end * width)?;
    if colour == Colour::Grey {
        return Some(vec![Cow::Borrowed(samples)]);
    }
    let others =
        others.iter().map(|plane| S::enlarged(plane, first, rows.clone())).collect::<Option<Vec<Cow<'_, [S]>>>>()?;
    if others.iter().any(|other| other.len() != samples.len()) {
        return None;
    }
    let colours = match (colour, &others[..]) {
        (Colour::Rgb, [_, _]) => return Some(iter::once(Cow::Borrowed(samples)).chain(others).collect()),
        (Colour::YCbCr, [blue, red]) => rgb(samples, blue, red, instructions),
        (Colour::Cmyk, [magenta, yellow, black]) => {
            [samples, magenta, yellow].map(|ink| ink.iter().zip(&**black).map(by_black).collect())
        }
        // Luma and chroma are of what the inks leave. See [`Colour::Ycck`].
        (Colour::Ycck, [blue, red, black]) => rgb(samples, blue, red, instructions).map(|colour| {
            colour.iter().map(inverse).zip(&**black).map(|(ink, black)| by_black((&ink, black))).collect()
        }),
        _ => return None,
    };
    Some(colours.map(Cow::Owned).into())
}

/// Red, green and blue of luma and chroma of one size.
fn rgb<S: Sample>(luma: &[S], blue: &[S], red: &[S], instructions: Instructions) -> [Vec<S>; 3] {
    let mut colours = [(); 3].map(|()| vec![S::default(); luma.len()]);
    #[cfg(target_arch = "x86_64")]
    if instructions == Instructions::Detected && std::arch::is_x86_feature_detected!("avx2") {
        #[target_feature(enable = "avx2")]
        fn with_avx2<S: Sample>(luma: &[S], blue: &[S], red: &[S], colours: &mut [Vec<S>; 3]) {
            write_rgb(luma, blue, red, colours);
        }
        // SAFETY: the processor has the instructions.
        unsafe { with_avx2(luma, blue, red, &mut colours) };
        return colours;
    }
    write_rgb(luma, blue, red, &mut colours);
    colours
}

/// [`rgb()`] with the instructions of whatever it is compiled into.
#[inline(always)]
fn write_rgb<S: Sample>(luma: &[S], blue: &[S], red: &[S], [reds, greens, blues]: &mut [Vec<S>; 3]) {
    for ((to, luma), red) in reds.iter_mut().zip(luma).zip(red) {
        *to = red_of(*luma, *red);
    }
    for (((to, luma), blue), red) in greens.iter_mut().zip(luma).zip(blue).zip(red) {
        *to = green_of(*luma, *blue, *red);
    }
    for ((to, luma), blue) in blues.iter_mut().zip(luma).zip(blue) {
        *to = blue_of(*luma, *blue);
    }
}

fn inverse<S: Sample>(sample: &S) -> S {
    S::nearest((255 << S::FRACTION) - sample.raw())
}

fn by_black<S: Sample>((ink, black): (&S, &S)) -> S {
    let white = 255 << S::FRACTION;
    S::nearest((ink.raw() * black.raw() + white / 2) / white)
}

/// Samples of which components may have fewer than the first.
pub trait Enlarge: Sample {
    /// The samples of `plane` where those of some rows of `first` are; `None` if it does not cover them.
    fn enlarged<'a>(plane: &'a Plane<Self>, first: &Plane<Self>, rows: Range<usize>) -> Option<Cow<'a, [Self]>>;
}

/// Of full pictures: what is half as wide or high is interpolated, to the bit as libjpeg does.
impl Enlarge for u8 {
    fn enlarged<'a>(plane: &'a Plane<Self>, first: &Plane<Self>, rows: Range<usize>) -> Option<Cow<'a, [Self]>> {
        match (first.across / plane.across, first.down / plane.down) {
            // Of so few samples libjpeg interpolates none.
            (2.0, _) if plane.left + plane.width <= 2 => nearest(plane, first, rows),
            (2.0, 2.0) => interpolated(plane, first, rows, Doubled::Both).map(Cow::Owned),
            (2.0, 1.0) => interpolated(plane, first, rows, Doubled::Across).map(Cow::Owned),
            (1.0, 2.0) => interpolated(plane, first, rows, Doubled::Down).map(Cow::Owned),
            _ => nearest(plane, first, rows),
        }
    }
}

/// Of smaller ones: the nearest, since others would smooth over many pixels.
impl Enlarge for Fine {
    fn enlarged<'a>(plane: &'a Plane<Self>, first: &Plane<Self>, rows: Range<usize>) -> Option<Cow<'a, [Self]>> {
        nearest(plane, first, rows)
    }
}

fn nearest<'a, S: Sample>(plane: &'a Plane<S>, first: &Plane<S>, rows: Range<usize>) -> Option<Cow<'a, [S]>> {
    let width = plane.width as usize;
    if (plane.width, plane.height) == (first.width, first.height) {
        return plane.samples.get(rows.start * width..rows.end * width).map(Cow::Borrowed);
    }
    /// The places of samples along a side, in the samples of another component.
    fn places(from: u32, count: u32, factor: f64, start: u32, most: u32) -> impl Iterator<Item = usize> + Clone {
        let place = move |at: u32| (f64::from(at) + 0.5) * factor - f64::from(start);
        // Saturates at 0.
        (from..from + count).map(move |at| (place(at) as usize).min(most.saturating_sub(1) as usize))
    }
    let columns: Vec<usize> =
        places(first.left, first.width, plane.across / first.across, plane.left, plane.width).collect();
    let all_rows = places(first.top, first.height, plane.down / first.down, plane.top, plane.height);
    let mut enlarged = Vec::with_capacity(rows.len() * columns.len());
    for y in all_rows.skip(rows.start).take(rows.len()) {
        let row = plane.samples.get(y * width..(y + 1) * width)?;
        enlarged.extend(columns.iter().map_while(|x| row.get(*x)));
    }
    Some(Cow::Owned(enlarged))
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
fn interpolated(plane: &Plane<u8>, first: &Plane<u8>, rows: Range<usize>, doubled: Doubled) -> Option<Vec<u8>> {
    let (width, height) = (plane.width as usize, plane.height as usize);
    let is_down = doubled != Doubled::Across;
    let across = if doubled == Doubled::Down { 1 } else { 2 };
    let from = (first.left as usize).checked_sub(across * plane.left as usize)?;
    let row = |y: usize| plane.samples.get(y * width..(y + 1) * width);
    let mut out = Vec::with_capacity(rows.len() * first.width as usize);
    // Sums of two rows, with the neighbours that there are none of beside the first and last.
    let mut sums = vec![0; width + 2];
    let mut line = vec![0; across * width];
    for y in rows.map(|y| first.top as usize + y) {
        let own = if is_down { y / 2 } else { y }.checked_sub(plane.top as usize)?;
        let other = if y % 2 == 0 { own.saturating_sub(1) } else { (own + 1).min(height - 1) };
        let pairs = row(own)?.iter().zip(row(other)?);
        for (sum, (own, other)) in sums[1..].iter_mut().zip(pairs) {
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
