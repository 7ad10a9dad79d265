//! [`Simd`] by `std::arch` on x86-64: AVX2 with FMA, and AVX-512.

use std::arch::asm;
use std::arch::x86_64::*;

use super::simd::{Body, Simd};

/// Implements [`Simd`] for a token. All its safe methods are sound for one reason: the token's field is private, and
/// only `detect` makes one, after asking the processor.
macro_rules! implement {
    ($token:ident, $vector:ty, lanes $lanes:literal, rows $rows:literal wide $wide_rows:literal,
     $features:literal, ($($detected:tt),+),
     $load:ident $store:ident $splat:ident $add:ident $sub:ident $mul:ident $fma:ident $fnma:ident
     $max:ident, $within:ident $pin:ident) => {
        #[doc = concat!("Proof that this processor has `", $features, "`.")]
        #[derive(Clone, Copy)]
        pub(super) struct $token(());

        impl Simd for $token {
            type Vector = $vector;
            const LANES: usize = $lanes;
            const ROWS: usize = $rows;
            const WIDE_ROWS: usize = $wide_rows;

            fn detect() -> Option<Self> {
                ($(is_x86_feature_detected!($detected))&&+).then_some(Self(()))
            }

            #[inline(always)]
            unsafe fn launch<B: Body>(self, body: B) {
                #[target_feature(enable = $features)]
                unsafe fn enabled<B: Body>(simd: $token, body: B) {
                    // SAFETY: the caller's promise.
                    unsafe { body.run(simd) }
                }
                // SAFETY: the token proves the features; the rest is the caller's promise.
                unsafe { enabled(self, body) }
            }

            #[inline(always)]
            unsafe fn load(self, at: *const f32) -> $vector {
                // SAFETY: the token proves the features; `at` is the caller's promise.
                unsafe { $load(at) }
            }
            #[inline(always)]
            unsafe fn store(self, at: *mut f32, value: $vector) {
                // SAFETY: the token proves the features; `at` is the caller's promise.
                unsafe { $store(at, value) }
            }
            #[inline(always)]
            fn prefetch(self, at: *const f32) {
                // SAFETY: a prefetch never faults.
                unsafe { _mm_prefetch::<_MM_HINT_T1>(at.cast()) }
            }
            #[inline(always)]
            fn splat(self, x: f32) -> $vector {
                // SAFETY: the token proves the features.
                unsafe { $splat(x) }
            }
            #[inline(always)]
            fn add(self, a: $vector, b: $vector) -> $vector {
                // SAFETY: the token proves the features.
                unsafe { $add(a, b) }
            }
            #[inline(always)]
            fn sub(self, a: $vector, b: $vector) -> $vector {
                // SAFETY: the token proves the features.
                unsafe { $sub(a, b) }
            }
            #[inline(always)]
            fn mul(self, a: $vector, b: $vector) -> $vector {
                // SAFETY: the token proves the features.
                unsafe { $mul(a, b) }
            }
            #[inline(always)]
            fn mul_add(self, a: $vector, b: $vector, c: $vector) -> $vector {
                // SAFETY: the token proves the features.
                unsafe { $fma(a, b, c) }
            }
            #[inline(always)]
            fn neg_mul_add(self, a: $vector, b: $vector, c: $vector) -> $vector {
                // SAFETY: the token proves the features.
                unsafe { $fnma(a, b, c) }
            }
            #[inline(always)]
            fn max(self, a: $vector, b: $vector) -> $vector {
                // SAFETY: the token proves the features.
                unsafe { $max(a, b) }
            }
            #[inline(always)]
            fn within(self, a: $vector, most: $vector) -> $vector {
                // SAFETY: the token proves the features.
                unsafe { $within(a, most) }
            }
            #[inline(always)]
            fn pin(self, a: $vector) -> $vector {
                // SAFETY: the token proves the features.
                unsafe { $pin(a) }
            }
        }
    };
}

/// [`Simd::within`] by integers: floats that are not negative are in the order of their bits, negative ones are negative
/// integers. Some processors compare these in units that floats do not need.
#[target_feature(enable = "avx2")]
#[inline]
fn within_256(a: __m256, most: __m256) -> __m256 {
    let positive = _mm256_max_epi32(_mm256_castps_si256(a), _mm256_setzero_si256());
    _mm256_castsi256_ps(_mm256_min_epi32(positive, _mm256_castps_si256(most)))
}

/// The same.
#[target_feature(enable = "avx512f")]
#[inline]
fn within_512(a: __m512, most: __m512) -> __m512 {
    let positive = _mm512_max_epi32(_mm512_castps_si512(a), _mm512_setzero_si512());
    _mm512_castsi512_ps(_mm512_min_epi32(positive, _mm512_castps_si512(most)))
}

/// No instruction, but one that the compiler thinks reads and writes all memory.
#[target_feature(enable = "avx2")]
#[inline]
fn pin_256(mut a: __m256) -> __m256 {
    // SAFETY: there is no instruction.
    unsafe { asm!("/* {a} */", a = inout(ymm_reg) a, options(nostack, preserves_flags)) };
    a
}

/// The same.
#[target_feature(enable = "avx512f")]
#[inline]
fn pin_512(mut a: __m512) -> __m512 {
    // SAFETY: there is no instruction.
    unsafe { asm!("/* {a} */", a = inout(zmm_reg) a, options(nostack, preserves_flags)) };
    a
}

// 16 registers: 12 accumulators, two weights, one broadcast; of three weights the third is read from memory.
implement!(Avx2, __m256, lanes 8, rows 6 wide 4, "avx2,fma", ("avx2", "fma"),
    _mm256_loadu_ps _mm256_storeu_ps _mm256_set1_ps _mm256_add_ps _mm256_sub_ps _mm256_mul_ps
    _mm256_fmadd_ps _mm256_fnmadd_ps _mm256_max_ps, within_256 pin_256);

// 32 registers: 28 accumulators, two weights, one broadcast. 14 rows also divide ResNet's 56, 28, 14 and 7.
implement!(Avx512, __m512, lanes 16, rows 14 wide 9, "avx512f,avx2,fma", ("avx512f", "avx2", "fma"),
    _mm512_loadu_ps _mm512_storeu_ps _mm512_set1_ps _mm512_add_ps _mm512_sub_ps _mm512_mul_ps
    _mm512_fmadd_ps _mm512_fnmadd_ps _mm512_max_ps, within_512 pin_512);
