//! Inverse cosine transforms of a block to 8 x 8, 4 x 4, 2 x 2 or one sample, in integers, as the Independent JPEG
//! Group's library rounds them: after Loeffler, Ligtenberg and Moschytz, with 13 bits for constants and two more
//! between the passes. The smaller ones are transforms of as many points as they make, of the lowest frequencies: what
//! a smaller picture cannot show drops out. Samples with bits behind the point keep as many of the last sum.

use super::simd::{Lanes, Level, Simd};
use crate::resize::{Fine, Sample as _};

const CONSTANT_BITS: i32 = 13;
const PASS_BITS: i32 = 2;
/// Of a product of two eights.
const SCALE_BITS: i32 = 3;
/// What is cut off in the end.
const LAST_BITS: i32 = CONSTANT_BITS + PASS_BITS + SCALE_BITS;

/// The block's rows, dequantised.
#[inline(always)]
fn rows<S: Simd>(simd: S, coefficients: &[i16; 64], quantisation: &[i32; 64]) -> [S::Vector; 8] {
    let (coefficients, quantisation) = (coefficients.as_chunks::<8>().0, quantisation.as_chunks::<8>().0);
    let row = |y: usize| simd.row(&coefficients[y], &quantisation[y]);
    [row(0), row(1), row(2), row(3), row(4), row(5), row(6), row(7)]
}

/// A block of one value. In the full picture all of its pixels are rounded alike, which no mean of them makes good, so
/// the one value is rounded to whole numbers whatever samples may have behind the point.
#[inline(always)]
pub(super) fn flat<P: Level>(dc: i16, quantisation: i32, side: usize, out: &mut [P], stride: usize) {
    let whole: u8 = descaled(i32::from(dc).wrapping_mul(quantisation));
    let value = P::nearest(i32::from(whole) << P::FRACTION);
    match side {
        1 => out[0] = value,
        2 => (0..2).for_each(|y| out[y * stride..][..2].fill(value)),
        4 => (0..4).for_each(|y| out[y * stride..][..4].fill(value)),
        _ => (0..8).for_each(|y| out[y * stride..][..8].fill(value)),
    }
}

/// The sample for eight times a value.
#[inline(always)]
fn descaled<P: Level>(value: i32) -> P {
    let finer = value.wrapping_mul(1 << P::FRACTION);
    P::of(finer.wrapping_add(1 << (SCALE_BITS - 1)) >> SCALE_BITS)
}

/// The rows of the second pass, rounded.
#[inline(always)]
fn rounded<P: Level, V: Lanes, const N: usize>(rows: [V; N]) -> [V; N] {
    // A number of bits must be a constant, which cannot be of a type.
    if P::FRACTION == Fine::FRACTION {
        Lanes::descale_all::<{ LAST_BITS - Fine::FRACTION as i32 }, N>(rows)
    } else {
        Lanes::descale_all::<LAST_BITS, N>(rows)
    }
}

/// Eight samples of eight coefficients, times 8 and two to the power of [`CONSTANT_BITS`].
#[inline(always)]
fn eight_points<V: Lanes>(c: [V; 8]) -> [V; 8] {
    let z = (c[2] + c[6]) * 4433;
    let (even2, even3) = (z - c[6] * 15_137, z + c[2] * 6270);
    let even0 = (c[0] + c[4]).shift_left::<CONSTANT_BITS>();
    let even1 = (c[0] - c[4]).shift_left::<CONSTANT_BITS>();
    let (e0, e3, e1, e2) = (even0 + even3, even0 - even3, even1 + even2, even1 - even2);

    let (z1, z2, z3, z4) = (c[7] + c[1], c[5] + c[3], c[7] + c[3], c[5] + c[1]);
    let z5 = (z3 + z4) * 9633;
    let (z1, z2) = (z1 * -7373, z2 * -20_995);
    let (z3, z4) = (z5 - z3 * 16_069, z5 - z4 * 3196);
    let o0 = c[7] * 2446 + z1 + z3;
    let o1 = c[5] * 16_819 + z2 + z4;
    let o2 = c[3] * 25_172 + z2 + z3;
    let o3 = c[1] * 12_299 + z1 + z4;
    [e0 + o3, e1 + o2, e2 + o1, e3 + o0, e3 - o0, e2 - o1, e1 - o2, e0 - o3]
}

/// The block in full.
#[inline(always)]
pub(super) fn eight<S: Simd, P: Level>(
    simd: S,
    coefficients: &[i16; 64],
    quantisation: &[i32; 64],
    out: &mut [P],
    stride: usize,
) {
    let down = eight_points(rows(simd, coefficients, quantisation));
    let between = Lanes::transpose(Lanes::descale_all::<{ CONSTANT_BITS - PASS_BITS }, 8>(down));
    let across = rounded::<P, _, 8>(eight_points(between));
    for (y, row) in Lanes::transpose(across).iter().enumerate() {
        out[y * stride..][..8].copy_from_slice(&P::of_lanes(*row));
    }
}

/// Four samples of four coefficients, times 8 and two to the power of [`CONSTANT_BITS`].
#[inline(always)]
fn four_points<V: Lanes>(c: [V; 4]) -> [V; 4] {
    let e0 = (c[0] + c[2]).shift_left::<CONSTANT_BITS>();
    let e1 = (c[0] - c[2]).shift_left::<CONSTANT_BITS>();
    let z = (c[1] + c[3]) * 4433;
    let (o0, o1) = (z + c[1] * 6270, z - c[3] * 15_137);
    [e0 + o0, e1 + o1, e1 - o1, e0 - o0]
}

/// The block at half its size.
#[inline(always)]
pub(super) fn four<S: Simd, P: Level>(
    simd: S,
    coefficients: &[i16; 64],
    quantisation: &[i32; 64],
    out: &mut [P],
    stride: usize,
) {
    let (coefficients, quantisation) = (coefficients.as_chunks::<8>().0, quantisation.as_chunks::<8>().0);
    let row = |y: usize| simd.row(&coefficients[y], &quantisation[y]);
    let down = four_points([row(0), row(1), row(2), row(3)]);
    let [a, b, c, d] = Lanes::descale_all::<{ CONSTANT_BITS - PASS_BITS }, 4>(down);
    // Half of the lanes, and what they become, is of no use.
    let [e, f, g, h, ..] = Lanes::transpose([a, b, c, d, a, b, c, d]);
    let [a, b, c, d] = rounded::<P, _, 4>(four_points([e, f, g, h]));
    for (y, row) in Lanes::transpose([a, b, c, d, a, b, c, d]).iter().enumerate().take(4) {
        out[y * stride..][..4].copy_from_slice(&P::of_lanes(*row)[..4]);
    }
}

/// The block at an eighth of its size: its mean.
#[inline(always)]
pub(super) fn one<P: Level>(dc: i16, quantisation: i32, out: &mut [P]) {
    out[0] = descaled(i32::from(dc).wrapping_mul(quantisation));
}

/// The block at a quarter of its size.
#[inline(always)]
pub(super) fn two<P: Level>(coefficients: &[i16; 64], quantisation: &[i32; 64], out: &mut [P], stride: usize) {
    let at = |place: usize| i32::from(coefficients[place]).wrapping_mul(quantisation[place]);
    let (mean, across, down, both) = (at(0), at(1), at(8), at(9));
    let (top, bottom) = (mean.wrapping_add(down), mean.wrapping_sub(down));
    for (y, (even, odd)) in
        [(top, across.wrapping_add(both)), (bottom, across.wrapping_sub(both))].into_iter().enumerate()
    {
        out[y * stride..][..2].copy_from_slice(&[descaled(even.wrapping_add(odd)), descaled(even.wrapping_sub(odd))]);
    }
}
