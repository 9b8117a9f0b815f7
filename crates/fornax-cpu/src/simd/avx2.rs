//! Vectors of 8 in the registers of AVX2, with its fused multiply-add and conversions of half floats.

use std::arch::x86_64::*;

use half::{bf16, f16};

use super::{Kernel, Simd};

/// Stands for AVX2, FMA and F16C.
#[derive(Clone, Copy)]
pub(crate) struct Avx2(());

impl Avx2 {
    /// # Safety
    /// The processor has these instructions.
    #[inline(always)]
    pub(crate) unsafe fn new() -> Self {
        Self(())
    }
}

/// Intrinsics, in a method of a type that stands for their instructions.
macro_rules! present {
    ($e:expr) => {
        // SAFETY: a value of the type exists only where the processor has the instructions; pointers are the caller's.
        unsafe { $e }
    };
}

/// All bits set in the lanes below `count`.
#[inline(always)]
fn first(count: usize) -> __m256i {
    present!(_mm256_cmpgt_epi32(_mm256_set1_epi32(count as i32), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7)))
}

/// Adding it to a small number leaves the nearest whole number in the lowest bits.
const WHOLE: f32 = 12_582_912.0;

impl Simd for Avx2 {
    type V = __m256;
    const LANES: usize = 8;
    const TILE_ROWS: usize = 6;

    #[inline(always)]
    fn call<K: Kernel>(self, kernel: K) -> K::Output {
        present!(super::run_avx2(kernel))
    }

    #[inline(always)]
    fn splat(self, x: f32) -> __m256 {
        present!(_mm256_set1_ps(x))
    }

    #[inline(always)]
    unsafe fn load(self, from: *const f32) -> __m256 {
        present!(_mm256_loadu_ps(from))
    }

    #[inline(always)]
    unsafe fn load_first(self, from: *const f32, count: usize) -> __m256 {
        present!(_mm256_maskload_ps(from, first(count)))
    }

    #[inline(always)]
    unsafe fn load_f16(self, from: *const f16) -> __m256 {
        present!(_mm256_cvtph_ps(_mm_loadu_si128(from.cast())))
    }

    #[inline(always)]
    unsafe fn load_bf16(self, from: *const bf16) -> __m256 {
        present!({
            let bits = _mm256_cvtepu16_epi32(_mm_loadu_si128(from.cast()));
            _mm256_castsi256_ps(_mm256_slli_epi32::<16>(bits))
        })
    }

    #[inline(always)]
    unsafe fn load_i8(self, from: *const i8) -> __m256 {
        present!(_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(from.cast()))))
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32, v: __m256) {
        present!(_mm256_storeu_ps(to, v))
    }

    #[inline(always)]
    unsafe fn store_first(self, to: *mut f32, v: __m256, count: usize) {
        present!(_mm256_maskstore_ps(to, first(count), v))
    }

    #[inline(always)]
    unsafe fn store_f16(self, to: *mut f16, v: __m256) {
        present!(_mm_storeu_si128(to.cast(), _mm256_cvtps_ph::<{ _MM_FROUND_TO_NEAREST_INT }>(v)))
    }

    #[inline(always)]
    unsafe fn store_bf16(self, to: *mut bf16, v: __m256) {
        present!({
            let bits = _mm256_castps_si256(v);
            let odd = _mm256_and_si256(_mm256_srli_epi32::<16>(bits), _mm256_set1_epi32(1));
            let rounded = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
            // Rounding must not turn what is not a number into an infinity.
            let quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x40_0000));
            let unordered = _mm256_castps_si256(_mm256_cmp_ps::<_CMP_UNORD_Q>(v, v));
            let bits = _mm256_srli_epi32::<16>(_mm256_blendv_epi8(rounded, quiet, unordered));
            let packed = _mm_packus_epi32(_mm256_castsi256_si128(bits), _mm256_extracti128_si256::<1>(bits));
            _mm_storeu_si128(to.cast(), packed)
        })
    }

    #[inline(always)]
    fn add(self, a: __m256, b: __m256) -> __m256 {
        present!(_mm256_add_ps(a, b))
    }

    #[inline(always)]
    fn sub(self, a: __m256, b: __m256) -> __m256 {
        present!(_mm256_sub_ps(a, b))
    }

    #[inline(always)]
    fn mul(self, a: __m256, b: __m256) -> __m256 {
        present!(_mm256_mul_ps(a, b))
    }

    #[inline(always)]
    fn div(self, a: __m256, b: __m256) -> __m256 {
        present!(_mm256_div_ps(a, b))
    }

    #[inline(always)]
    fn min(self, a: __m256, b: __m256) -> __m256 {
        present!(_mm256_min_ps(a, b))
    }

    #[inline(always)]
    fn max(self, a: __m256, b: __m256) -> __m256 {
        present!(_mm256_max_ps(a, b))
    }

    #[inline(always)]
    fn fma(self, a: __m256, b: __m256, c: __m256) -> __m256 {
        present!(_mm256_fmadd_ps(a, b, c))
    }

    #[inline(always)]
    fn neg_fma(self, a: __m256, b: __m256, c: __m256) -> __m256 {
        present!(_mm256_fnmadd_ps(a, b, c))
    }

    #[inline(always)]
    fn abs(self, a: __m256) -> __m256 {
        present!(_mm256_andnot_ps(_mm256_set1_ps(-0.0), a))
    }

    #[inline(always)]
    fn round(self, a: __m256) -> __m256 {
        present!(_mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a))
    }

    #[inline(always)]
    fn scale(self, a: __m256, n: __m256) -> __m256 {
        present!({
            // In two steps, since 2¹²⁸ is not a number of its own.
            let whole = _mm256_sub_epi32(
                _mm256_castps_si256(_mm256_add_ps(n, _mm256_set1_ps(WHOLE))),
                _mm256_castps_si256(_mm256_set1_ps(WHOLE)),
            );
            let half = _mm256_srai_epi32::<1>(whole);
            let rest = _mm256_sub_epi32(whole, half);
            let one = _mm256_set1_epi32(127);
            let half = _mm256_castsi256_ps(_mm256_slli_epi32::<23>(_mm256_add_epi32(half, one)));
            let rest = _mm256_castsi256_ps(_mm256_slli_epi32::<23>(_mm256_add_epi32(rest, one)));
            _mm256_mul_ps(_mm256_mul_ps(a, half), rest)
        })
    }

    #[inline(always)]
    fn if_less(self, a: __m256, b: __m256, yes: __m256, no: __m256) -> __m256 {
        present!(_mm256_blendv_ps(no, yes, _mm256_cmp_ps::<_CMP_LT_OQ>(a, b)))
    }

    #[inline(always)]
    fn any_greater(self, a: __m256, b: __m256) -> bool {
        present!(_mm256_movemask_ps(_mm256_cmp_ps::<_CMP_GT_OQ>(a, b)) != 0)
    }

    #[inline(always)]
    fn in_lanes(self, from: usize, to: usize, a: __m256, other: __m256) -> __m256 {
        present!({
            let inside = _mm256_andnot_si256(first(from), first(to));
            _mm256_blendv_ps(other, a, _mm256_castsi256_ps(inside))
        })
    }

    #[inline(always)]
    fn prefetch(self, at: *const u8) {
        present!(_mm_prefetch::<_MM_HINT_T0>(at.cast()))
    }

    #[inline(always)]
    fn prefetch_write(self, at: *const u8) {
        present!(_mm_prefetch::<_MM_HINT_ET0>(at.cast()))
    }
}
