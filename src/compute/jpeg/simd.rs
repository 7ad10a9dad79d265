//! Eight numbers side by side, for the transforms: by AVX2 where the processor has it, in plain Rust elsewhere. Results
//! are the same.

use std::{
    array,
    ops::{Add, Mul, Sub},
};

#[cfg(target_arch = "x86_64")]
pub(super) use x86::Avx2;

use crate::resize::{Fine, Sample};

/// A token whose holder may use the vectors.
pub(super) trait Simd: Copy {
    /// Eight `i32`. What overflows, wraps.
    type Vector: Lanes;

    /// A row of coefficients, dequantised.
    fn row(self, coefficients: &[i16; 8], quantisation: &[i32; 8]) -> Self::Vector;
}

/// Arithmetic lane by lane.
pub(super) trait Lanes: Copy + Add<Output = Self> + Sub<Output = Self> + Mul<i32, Output = Self> {
    /// Times two to the power of `BITS`.
    fn shift_left<const BITS: i32>(self) -> Self;
    /// Divided by two to the power of `BITS`, rounded to the nearest.
    fn descale<const BITS: i32>(self) -> Self;
    /// Each divided by two to the power of `BITS`.
    // A loop, not `map`: functions that are compiled for any processor would have to be inlined first.
    #[inline(always)]
    fn descale_all<const BITS: i32, const N: usize>(mut values: [Self; N]) -> [Self; N] {
        for value in &mut values {
            *value = value.descale::<BITS>();
        }
        values
    }
    /// Rows become columns.
    fn transpose(rows: [Self; 8]) -> [Self; 8];
    /// Plus 128, within 0 and 255.
    fn bytes(self) -> [u8; 8];
    /// Sixteenths, likewise.
    fn fine(self) -> [Fine; 8];
}

/// A sample as a transform makes it.
pub(super) trait Level: Sample {
    /// Samples of values of the transform, which are around zero and have as many bits behind the point.
    fn of_lanes<V: Lanes>(values: V) -> [Self; 8];

    /// Likewise, one.
    #[inline(always)]
    fn of(value: i32) -> Self {
        Self::nearest(value.wrapping_add(128 << Self::FRACTION))
    }
}

impl Level for u8 {
    #[inline(always)]
    fn of_lanes<V: Lanes>(values: V) -> [Self; 8] {
        values.bytes()
    }
}

impl Level for Fine {
    #[inline(always)]
    fn of_lanes<V: Lanes>(values: V) -> [Self; 8] {
        values.fine()
    }
}

/// Any processor.
#[derive(Debug, Clone, Copy)]
pub(super) struct Portable;

/// Eight numbers in an array.
#[derive(Clone, Copy)]
pub(super) struct Array([i32; 8]);

impl Simd for Portable {
    type Vector = Array;

    #[inline(always)]
    fn row(self, coefficients: &[i16; 8], quantisation: &[i32; 8]) -> Array {
        Array(array::from_fn(|x| i32::from(coefficients[x]).wrapping_mul(quantisation[x])))
    }
}

impl Add for Array {
    type Output = Self;

    #[inline(always)]
    fn add(self, other: Self) -> Self {
        Self(array::from_fn(|i| self.0[i].wrapping_add(other.0[i])))
    }
}

impl Sub for Array {
    type Output = Self;

    #[inline(always)]
    fn sub(self, other: Self) -> Self {
        Self(array::from_fn(|i| self.0[i].wrapping_sub(other.0[i])))
    }
}

impl Mul<i32> for Array {
    type Output = Self;

    #[inline(always)]
    fn mul(self, by: i32) -> Self {
        Self(self.0.map(|v| v.wrapping_mul(by)))
    }
}

impl Lanes for Array {
    #[inline(always)]
    fn shift_left<const BITS: i32>(self) -> Self {
        Self(self.0.map(|v| v << BITS))
    }

    #[inline(always)]
    fn descale<const BITS: i32>(self) -> Self {
        Self(self.0.map(|v| v.wrapping_add(1 << (BITS - 1)) >> BITS))
    }

    #[inline(always)]
    fn transpose(rows: [Self; 8]) -> [Self; 8] {
        array::from_fn(|x| Self(array::from_fn(|y| rows[y].0[x])))
    }

    #[inline(always)]
    fn bytes(self) -> [u8; 8] {
        self.0.map(Level::of)
    }

    #[inline(always)]
    fn fine(self) -> [Fine; 8] {
        self.0.map(Level::of)
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::{
        arch::x86_64::*,
        ops::{Add, Mul, Sub},
    };

    use super::{Fine, Lanes, Sample as _, Simd};

    /// Proof that this processor has AVX2 and the bit operations that came with it.
    #[derive(Debug, Clone, Copy)]
    pub(in crate::jpeg) struct Avx2(());

    impl Avx2 {
        /// The token, if this processor has the instructions: `avx2,bmi1,bmi2,lzcnt`.
        pub(in crate::jpeg) fn detect() -> Option<Self> {
            let has = is_x86_feature_detected!("avx2")
                && is_x86_feature_detected!("bmi1")
                && is_x86_feature_detected!("bmi2")
                && is_x86_feature_detected!("lzcnt");
            has.then_some(Self(()))
        }
    }

    /// A register. One exists only where [`Avx2`] did, so all that is done with it is sound.
    #[derive(Clone, Copy)]
    pub(in crate::jpeg) struct Register(__m256i);

    impl Simd for Avx2 {
        type Vector = Register;

        #[inline(always)]
        fn row(self, coefficients: &[i16; 8], quantisation: &[i32; 8]) -> Register {
            // SAFETY: the token proves the features; both arrays are as long as is read.
            unsafe {
                let coefficients = _mm256_cvtepi16_epi32(_mm_loadu_si128(coefficients.as_ptr().cast()));
                Register(_mm256_mullo_epi32(coefficients, _mm256_loadu_si256(quantisation.as_ptr().cast())))
            }
        }
    }

    impl Add for Register {
        type Output = Self;

        #[inline(always)]
        fn add(self, other: Self) -> Self {
            // SAFETY: a register proves the features.
            Self(unsafe { _mm256_add_epi32(self.0, other.0) })
        }
    }

    impl Sub for Register {
        type Output = Self;

        #[inline(always)]
        fn sub(self, other: Self) -> Self {
            // SAFETY: a register proves the features.
            Self(unsafe { _mm256_sub_epi32(self.0, other.0) })
        }
    }

    impl Mul<i32> for Register {
        type Output = Self;

        #[inline(always)]
        fn mul(self, by: i32) -> Self {
            // SAFETY: a register proves the features.
            Self(unsafe { _mm256_mullo_epi32(self.0, _mm256_set1_epi32(by)) })
        }
    }

    impl Lanes for Register {
        #[inline(always)]
        fn shift_left<const BITS: i32>(self) -> Self {
            // SAFETY: a register proves the features.
            Self(unsafe { _mm256_slli_epi32::<BITS>(self.0) })
        }

        #[inline(always)]
        fn descale<const BITS: i32>(self) -> Self {
            // SAFETY: a register proves the features.
            Self(unsafe { _mm256_srai_epi32::<BITS>(_mm256_add_epi32(self.0, _mm256_set1_epi32(1 << (BITS - 1)))) })
        }

        #[inline(always)]
        fn transpose(rows: [Self; 8]) -> [Self; 8] {
            let [Self(a), Self(b), Self(c), Self(d), Self(e), Self(f), Self(g), Self(h)] = rows;
            // SAFETY: a register proves the features.
            unsafe {
                // Pairs, then fours within each half, then the halves.
                let (ab0, ab1) = (_mm256_unpacklo_epi32(a, b), _mm256_unpackhi_epi32(a, b));
                let (cd0, cd1) = (_mm256_unpacklo_epi32(c, d), _mm256_unpackhi_epi32(c, d));
                let (ef0, ef1) = (_mm256_unpacklo_epi32(e, f), _mm256_unpackhi_epi32(e, f));
                let (gh0, gh1) = (_mm256_unpacklo_epi32(g, h), _mm256_unpackhi_epi32(g, h));
                let (u0, u1) = (_mm256_unpacklo_epi64(ab0, cd0), _mm256_unpackhi_epi64(ab0, cd0));
                let (u2, u3) = (_mm256_unpacklo_epi64(ab1, cd1), _mm256_unpackhi_epi64(ab1, cd1));
                let (l0, l1) = (_mm256_unpacklo_epi64(ef0, gh0), _mm256_unpackhi_epi64(ef0, gh0));
                let (l2, l3) = (_mm256_unpacklo_epi64(ef1, gh1), _mm256_unpackhi_epi64(ef1, gh1));
                [
                    Self(_mm256_permute2x128_si256::<0x20>(u0, l0)),
                    Self(_mm256_permute2x128_si256::<0x20>(u1, l1)),
                    Self(_mm256_permute2x128_si256::<0x20>(u2, l2)),
                    Self(_mm256_permute2x128_si256::<0x20>(u3, l3)),
                    Self(_mm256_permute2x128_si256::<0x31>(u0, l0)),
                    Self(_mm256_permute2x128_si256::<0x31>(u1, l1)),
                    Self(_mm256_permute2x128_si256::<0x31>(u2, l2)),
                    Self(_mm256_permute2x128_si256::<0x31>(u3, l3)),
                ]
            }
        }

        #[inline(always)]
        fn bytes(self) -> [u8; 8] {
            let mut samples = [0; 8];
            // SAFETY: a register proves the features; the array is as long as is written.
            unsafe {
                // Values that no picture has wrap as they do in the portable way.
                let shifted = _mm256_add_epi32(self.0, _mm256_set1_epi32(128));
                let (low, high) = (_mm256_castsi256_si128(shifted), _mm256_extracti128_si256::<1>(shifted));
                let words = _mm_packs_epi32(low, high);
                _mm_storel_epi64(samples.as_mut_ptr().cast(), _mm_packus_epi16(words, words));
            }
            samples
        }

        #[inline(always)]
        fn fine(self) -> [Fine; 8] {
            let mut samples = [0; 8];
            // SAFETY: a register proves the features; the array is as long as is written.
            unsafe {
                let shifted = _mm256_add_epi32(self.0, _mm256_set1_epi32(128 << Fine::FRACTION));
                let (low, high) = (_mm256_castsi256_si128(shifted), _mm256_extracti128_si256::<1>(shifted));
                let words = _mm_min_epu16(_mm_packus_epi32(low, high), _mm_set1_epi16(255 << Fine::FRACTION));
                _mm_storeu_si128(samples.as_mut_ptr().cast(), words);
            }
            samples.map(Fine)
        }
    }
}
