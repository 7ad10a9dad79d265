//! Points in pairs `x` and `-x`: polynomials are evaluated there by their even and odd halves, which the two share.

use super::simd::Simd;

/// Points `x` and `-x`: even and odd powers are shared between the two.
pub(super) struct Pairs<const N: usize> {
    x: [f32; N],
    /// Coefficients of the polynomial in `x^2` whose zeros are all pairs but this one; the last is 1.
    others: [[f32; N]; N],
    /// Of the one whose zeros are all pairs, without the last, which is 1.
    all: [f32; N],
    /// Product of the distances of each point to the others, 0 among them.
    distances: [f32; N],
}

impl<const N: usize> Pairs<N> {
    pub(super) const fn new(x: [f32; N]) -> Self {
        let mut pairs = Self { x, others: [[0.0; N]; N], all: [0.0; N], distances: [1.0; N] };
        let mut i = 0;
        // Each polynomial starts as 1 and is multiplied with `z - q^2` for each pair; `all` lets its leading 1 go in
        // the end.
        while i < N {
            pairs.others[i][0] = 1.0;
            let (mut j, mut degree) = (0, 0);
            while j < N {
                let square = x[j] * x[j];
                if j != i {
                    degree += 1;
                    let mut k = degree;
                    while k > 0 {
                        pairs.others[i][k] = pairs.others[i][k - 1] - square * pairs.others[i][k];
                        k -= 1;
                    }
                    pairs.others[i][0] *= -square;
                    pairs.distances[i] *= x[i] * x[i] - square;
                } else {
                    pairs.distances[i] *= 2.0 * square;
                }
                j += 1;
            }
            i += 1;
        }
        let (mut k, square) = (0, x[0] * x[0]);
        while k < N {
            let before = if k > 0 { pairs.others[0][k - 1] } else { 0.0 };
            pairs.all[k] = before - square * pairs.others[0][k];
            k += 1;
        }
        pairs
    }

    /// The point 0 from all data at even places, or infinity from all at odd ones.
    #[inline(always)]
    pub(super) fn end<S: Simd>(&self, s: S, first: S::Vector, rest: [S::Vector; N]) -> S::Vector {
        let mut sum = s.mul_add(s.splat(self.all[0]), first, rest[N - 1]);
        for k in 1..N {
            sum = s.mul_add(s.splat(self.all[k]), rest[k - 1], sum);
        }
        sum
    }

    /// The pairs, from the data at odd places, and at even ones behind the first.
    #[inline(always)]
    pub(super) fn input<S: Simd>(&self, s: S, odd: [S::Vector; N], even: [S::Vector; N], points: &mut [S::Vector]) {
        for i in 0..N {
            let (mut sum, mut difference) = (even[N - 1], odd[N - 1]);
            for k in 0..N - 1 {
                let factor = s.splat(self.others[i][k]);
                (sum, difference) = (s.mul_add(factor, even[k], sum), s.mul_add(factor, odd[k], difference));
            }
            points[2 * i] = s.mul_add(s.splat(self.x[i]), difference, sum);
            points[2 * i + 1] = s.neg_mul_add(s.splat(self.x[i]), difference, sum);
        }
    }

    /// The filter at 0 and at the pairs.
    #[inline(always)]
    pub(super) fn filter<S: Simd>(&self, s: S, [a, b, c]: [S::Vector; 3], points: &mut [S::Vector]) {
        // The product of the distances of 0 is that of minus the squares.
        points[0] = s.mul(a, s.splat(1.0 / self.all[0]));
        for i in 0..N {
            let (x, scale) = (self.x[i], 1.0 / self.distances[i]);
            let even = s.mul_add(c, s.splat(x * x * scale), s.mul(a, s.splat(scale)));
            let odd = s.mul(b, s.splat(x * scale));
            (points[2 * i + 1], points[2 * i + 2]) = (s.add(even, odd), s.sub(even, odd));
        }
    }

    /// Adds the products at the pairs to the outputs.
    #[inline(always)]
    pub(super) fn output<S: Simd>(&self, s: S, products: &[S::Vector], outputs: &mut [S::Vector]) {
        for i in 0..N {
            let (even, odd) =
                (s.add(products[2 * i], products[2 * i + 1]), s.sub(products[2 * i], products[2 * i + 1]));
            let mut power = 1.0;
            for k in 0..outputs.len() {
                outputs[k] = s.mul_add(s.splat(power), if k % 2 == 0 { even } else { odd }, outputs[k]);
                power *= self.x[i];
            }
        }
    }
}
