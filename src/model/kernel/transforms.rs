//! One-dimensional minimal filtering algorithms for three taps; two-dimensional ones nest them (Winograd, "Arithmetic Complexity
//! of Computations", 1980; Lavin & Gray, "Fast Algorithms for Convolutional Neural Networks", 2015).
//!
//! F(m, r) computes `m` outputs of an `r`-tap filter with `m + r - 1` multiplications: the data and the filter are polynomials, evaluated at as many
//! points, multiplied there, and interpolated. Here the points are 0, 1, -1, then 2 and -2, and infinity.
//!
//! A stride of two is split by parity (Yepez & Ko, "Stride 2 1-D, 2-D, and 3-D Winograd for Convolutional Neural Networks", 2020): outer taps
//! meet odd inputs only, a two-tap convolution of stride one, which is F(m, 2); the middle tap meets even inputs only and is a plain product.

use super::simd::Simd;

/// A one-dimensional algorithm: `POINTS` values of the data meet `FILTER` values of the filter and give `OUTPUTS` outputs.
pub(super) trait Transform<const POINTS: usize, const FILTER: usize, const OUTPUTS: usize> {
    /// Distance between the inputs of neighbouring outputs.
    const STRIDE: usize;

    /// Where the data of each point is read, relative to the input that the middle tap of the first output meets.
    fn position(index: usize) -> isize;

    /// The value of the filter that a point is multiplied with.
    fn filter_of(point: usize) -> usize;

    /// Data to points.
    fn input<S: Simd>(simd: S, data: [S::Vector; POINTS]) -> [S::Vector; POINTS];

    /// Taps to points.
    fn filter<S: Simd>(simd: S, taps: [S::Vector; 3]) -> [S::Vector; FILTER];

    /// Products to outputs.
    fn output<S: Simd>(simd: S, products: [S::Vector; POINTS]) -> [S::Vector; OUTPUTS];
}

/// F(2, 3): 16 multiplications for 36 in two dimensions.
pub(super) struct F2;

impl Transform<4, 4, 2> for F2 {
    const STRIDE: usize = 1;

    #[inline(always)]
    fn position(index: usize) -> isize {
        index as isize - 1
    }
    #[inline(always)]
    fn filter_of(point: usize) -> usize {
        point
    }
    #[inline(always)]
    fn input<S: Simd>(s: S, [d0, d1, d2, d3]: [S::Vector; 4]) -> [S::Vector; 4] {
        [s.sub(d0, d2), s.add(d1, d2), s.sub(d2, d1), s.sub(d1, d3)]
    }
    #[inline(always)]
    fn filter<S: Simd>(s: S, [a, b, c]: [S::Vector; 3]) -> [S::Vector; 4] {
        let half = s.splat(0.5);
        let (even, odd) = (s.mul(s.add(a, c), half), s.mul(b, half));
        [a, s.add(even, odd), s.sub(even, odd), c]
    }
    #[inline(always)]
    fn output<S: Simd>(s: S, [m0, m1, m2, m3]: [S::Vector; 4]) -> [S::Vector; 2] {
        [s.add(m0, s.add(m1, m2)), s.sub(s.sub(m1, m2), m3)]
    }
}

/// F(4, 3): 36 multiplications for 144 in two dimensions.
pub(super) struct F4;

impl Transform<6, 6, 4> for F4 {
    const STRIDE: usize = 1;

    #[inline(always)]
    fn position(index: usize) -> isize {
        index as isize - 1
    }
    #[inline(always)]
    fn filter_of(point: usize) -> usize {
        point
    }
    #[inline(always)]
    fn input<S: Simd>(s: S, [d0, d1, d2, d3, d4, d5]: [S::Vector; 6]) -> [S::Vector; 6] {
        let (two, four, five) = (s.splat(2.0), s.splat(4.0), s.splat(5.0));
        let (even1, odd1) = (s.neg_mul_add(four, d2, d4), s.neg_mul_add(four, d1, d3));
        let (even2, odd2) = (s.sub(d4, d2), s.sub(d3, d1));
        [
            s.mul_add(four, d0, s.neg_mul_add(five, d2, d4)),
            s.add(even1, odd1),
            s.sub(even1, odd1),
            s.mul_add(two, odd2, even2),
            s.neg_mul_add(two, odd2, even2),
            s.mul_add(four, d1, s.neg_mul_add(five, d3, d5)),
        ]
    }
    #[inline(always)]
    fn filter<S: Simd>(s: S, [a, b, c]: [S::Vector; 3]) -> [S::Vector; 6] {
        let (sixth, twelfth, twenty_fourth) = (s.splat(1.0 / 6.0), s.splat(1.0 / 12.0), s.splat(1.0 / 24.0));
        let (even1, odd1) = (s.mul(s.add(a, c), s.splat(-1.0 / 6.0)), s.mul(b, sixth));
        let (even2, odd2) = (s.mul_add(c, sixth, s.mul(a, twenty_fourth)), s.mul(b, twelfth));
        [s.mul(a, s.splat(0.25)), s.sub(even1, odd1), s.add(even1, odd1), s.add(even2, odd2), s.sub(even2, odd2), c]
    }
    #[inline(always)]
    fn output<S: Simd>(s: S, [m0, m1, m2, m3, m4, m5]: [S::Vector; 6]) -> [S::Vector; 4] {
        let (two, four, eight) = (s.splat(2.0), s.splat(4.0), s.splat(8.0));
        let (even1, odd1) = (s.add(m1, m2), s.sub(m1, m2));
        let (even2, odd2) = (s.add(m3, m4), s.sub(m3, m4));
        [
            s.add(m0, s.add(even1, even2)),
            s.mul_add(two, odd2, odd1),
            s.mul_add(four, even2, even1),
            s.add(s.mul_add(eight, odd2, odd1), m5),
        ]
    }
}

/// Stride two by parity, the odd phase by F(2, 2): 25 multiplications for 36 in two dimensions.
pub(super) struct Strided2;

impl Transform<5, 4, 2> for Strided2 {
    const STRIDE: usize = 2;

    #[inline(always)]
    fn position(index: usize) -> isize {
        [-1, 1, 3, 0, 2][index]
    }
    #[inline(always)]
    fn filter_of(point: usize) -> usize {
        point.min(3)
    }
    #[inline(always)]
    fn input<S: Simd>(s: S, [d0, d1, d2, e0, e1]: [S::Vector; 5]) -> [S::Vector; 5] {
        [s.sub(d0, d1), d1, s.sub(d2, d1), e0, e1]
    }
    #[inline(always)]
    fn filter<S: Simd>(s: S, [a, b, c]: [S::Vector; 3]) -> [S::Vector; 4] {
        [a, s.add(a, c), c, b]
    }
    #[inline(always)]
    fn output<S: Simd>(s: S, [m0, m1, m2, e0, e1]: [S::Vector; 5]) -> [S::Vector; 2] {
        [s.add(s.add(m0, m1), e0), s.add(s.add(m1, m2), e1)]
    }
}

/// Stride two by parity, the odd phase by F(4, 2): 81 multiplications for 144 in two dimensions.
pub(super) struct Strided4;

impl Transform<9, 6, 4> for Strided4 {
    const STRIDE: usize = 2;

    #[inline(always)]
    fn position(index: usize) -> isize {
        [-1, 1, 3, 5, 7, 0, 2, 4, 6][index]
    }
    #[inline(always)]
    fn filter_of(point: usize) -> usize {
        point.min(5)
    }
    #[inline(always)]
    fn input<S: Simd>(s: S, [d0, d1, d2, d3, d4, e0, e1, e2, e3]: [S::Vector; 9]) -> [S::Vector; 9] {
        let (two, three) = (s.splat(2.0), s.splat(3.0));
        let odd = s.sub(d3, d1);
        [
            s.mul_add(two, s.sub(d0, d2), odd),
            s.neg_mul_add(two, d1, s.sub(d3, d2)),
            s.mul_add(two, d1, s.neg_mul_add(three, d2, d3)),
            odd,
            s.neg_mul_add(two, odd, s.sub(d4, d2)),
            e0,
            e1,
            e2,
            e3,
        ]
    }
    #[inline(always)]
    fn filter<S: Simd>(s: S, [a, b, c]: [S::Vector; 3]) -> [S::Vector; 6] {
        let (third, sixth) = (s.splat(1.0 / 3.0), s.splat(1.0 / 6.0));
        [
            s.mul(a, s.splat(0.5)),
            s.mul(s.add(a, c), s.splat(-0.5)),
            s.mul(s.sub(c, a), sixth),
            s.mul_add(c, third, s.mul(a, sixth)),
            c,
            b,
        ]
    }
    #[inline(always)]
    fn output<S: Simd>(s: S, [m0, m1, m2, m3, m4, e0, e1, e2, e3]: [S::Vector; 9]) -> [S::Vector; 4] {
        let (two, four, eight) = (s.splat(2.0), s.splat(4.0), s.splat(8.0));
        let (even, odd) = (s.add(m1, m2), s.sub(m1, m2));
        [
            s.add(s.add(m0, e0), s.add(even, m3)),
            s.add(s.mul_add(two, m3, odd), e1),
            s.add(s.mul_add(four, m3, even), e2),
            s.add(s.mul_add(eight, m3, odd), s.add(m4, e3)),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::super::simd::Portable;
    use super::*;

    /// Compares an algorithm with the convolution it stands for, in one dimension.
    fn check<T: Transform<P, F, M>, const P: usize, const F: usize, const M: usize>() {
        let x = |i: isize| ((i + 3) as f32 * 0.7).sin();
        let taps = [0.3, -0.8, 0.55];
        let v = |x: f32| [x; 4];
        let data = T::input(Portable, std::array::from_fn(|i| v(x(T::position(i)))));
        let filter = T::filter(Portable, taps.map(v));
        let products = std::array::from_fn(|i| v(data[i][0] * filter[T::filter_of(i)][0]));
        let outputs = T::output(Portable, products);
        for (o, output) in outputs.iter().enumerate() {
            let middle = (o * T::STRIDE) as isize;
            let expected: f32 = (0..3).map(|t| taps[t] * x(middle + t as isize - 1)).sum();
            assert!((output[0] - expected).abs() < 1e-5, "output {o}: {} instead of {expected}", output[0]);
        }
    }

    #[test]
    fn each_algorithm_is_the_convolution() {
        check::<F2, 4, 4, 2>();
        check::<F4, 6, 6, 4>();
        check::<Strided2, 5, 4, 2>();
        check::<Strided4, 9, 6, 4>();
    }
}
