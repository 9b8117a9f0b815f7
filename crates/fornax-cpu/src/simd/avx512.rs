//! Vectors of 16 in the registers of AVX-512.

use std::arch::x86_64::*;

use half::{bf16, f16};

use super::{Kernel, Simd};

/// Stands for AVX-512 F, BW, DQ, VL and all of AVX2's level.
#[derive(Clone, Copy)]
pub(crate) struct Avx512(());

impl Avx512 {
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

#[inline(always)]
fn first(count: usize) -> __mmask16 {
    ((1u32 << count) - 1) as __mmask16
}

impl Simd for Avx512 {
    type V = __m512;
    const LANES: usize = 16;
    const TILE_ROWS: usize = 12;

    #[inline(always)]
    fn call<K: Kernel>(self, kernel: K) -> K::Output {
        present!(super::run_avx512(kernel))
    }

    #[inline(always)]
    fn splat(self, x: f32) -> __m512 {
        present!(_mm512_set1_ps(x))
    }

    #[inline(always)]
    unsafe fn load(self, from: *const f32) -> __m512 {
        present!(_mm512_loadu_ps(from))
    }

    #[inline(always)]
    unsafe fn load_first(self, from: *const f32, count: usize) -> __m512 {
        present!(_mm512_maskz_loadu_ps(first(count), from))
    }

    #[inline(always)]
    unsafe fn load_f16(self, from: *const f16) -> __m512 {
        present!(_mm512_cvtph_ps(_mm256_loadu_si256(from.cast())))
    }

    #[inline(always)]
    unsafe fn load_bf16(self, from: *const bf16) -> __m512 {
        present!({
            let bits = _mm512_cvtepu16_epi32(_mm256_loadu_si256(from.cast()));
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(bits))
        })
    }

    #[inline(always)]
    unsafe fn load_i8(self, from: *const i8) -> __m512 {
        present!(_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(from.cast()))))
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32, v: __m512) {
        present!(_mm512_storeu_ps(to, v))
    }

    #[inline(always)]
    unsafe fn store_first(self, to: *mut f32, v: __m512, count: usize) {
        present!(_mm512_mask_storeu_ps(to, first(count), v))
    }

    #[inline(always)]
    unsafe fn store_f16(self, to: *mut f16, v: __m512) {
        present!(_mm256_storeu_si256(to.cast(), _mm512_cvtps_ph::<{ _MM_FROUND_TO_NEAREST_INT }>(v)))
    }

    #[inline(always)]
    unsafe fn store_bf16(self, to: *mut bf16, v: __m512) {
        present!({
            let bits = _mm512_castps_si512(v);
            let odd = _mm512_and_si512(_mm512_srli_epi32::<16>(bits), _mm512_set1_epi32(1));
            let rounded = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
            // Rounding must not turn what is not a number into an infinity.
            let quiet = _mm512_or_si512(bits, _mm512_set1_epi32(0x40_0000));
            let bits = _mm512_mask_mov_epi32(rounded, _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(v, v), quiet);
            _mm256_storeu_si256(to.cast(), _mm512_cvtepi32_epi16(_mm512_srli_epi32::<16>(bits)))
        })
    }

    #[inline(always)]
    fn add(self, a: __m512, b: __m512) -> __m512 {
        present!(_mm512_add_ps(a, b))
    }

    #[inline(always)]
    fn sub(self, a: __m512, b: __m512) -> __m512 {
        present!(_mm512_sub_ps(a, b))
    }

    #[inline(always)]
    fn mul(self, a: __m512, b: __m512) -> __m512 {
        present!(_mm512_mul_ps(a, b))
    }

    #[inline(always)]
    fn div(self, a: __m512, b: __m512) -> __m512 {
        present!(_mm512_div_ps(a, b))
    }

    #[inline(always)]
    fn min(self, a: __m512, b: __m512) -> __m512 {
        present!(_mm512_min_ps(a, b))
    }

    #[inline(always)]
    fn max(self, a: __m512, b: __m512) -> __m512 {
        present!(_mm512_max_ps(a, b))
    }

    #[inline(always)]
    fn fma(self, a: __m512, b: __m512, c: __m512) -> __m512 {
        present!(_mm512_fmadd_ps(a, b, c))
    }

    #[inline(always)]
    fn neg_fma(self, a: __m512, b: __m512, c: __m512) -> __m512 {
        present!(_mm512_fnmadd_ps(a, b, c))
    }

    #[inline(always)]
    fn abs(self, a: __m512) -> __m512 {
        present!(_mm512_abs_ps(a))
    }

    #[inline(always)]
    fn round(self, a: __m512) -> __m512 {
        present!(_mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a))
    }

    #[inline(always)]
    fn scale(self, a: __m512, n: __m512) -> __m512 {
        present!(_mm512_scalef_ps(a, n))
    }

    #[inline(always)]
    fn if_less(self, a: __m512, b: __m512, yes: __m512, no: __m512) -> __m512 {
        present!(_mm512_mask_mov_ps(no, _mm512_cmp_ps_mask::<_CMP_LT_OQ>(a, b), yes))
    }

    #[inline(always)]
    fn any_greater(self, a: __m512, b: __m512) -> bool {
        present!(_mm512_cmp_ps_mask::<_CMP_GT_OQ>(a, b) != 0)
    }

    #[inline(always)]
    fn in_lanes(self, from: usize, to: usize, a: __m512, other: __m512) -> __m512 {
        present!(_mm512_mask_mov_ps(other, first(to) & !first(from), a))
    }

    #[inline(always)]
    fn largest(self, v: __m512) -> f32 {
        present!(_mm512_reduce_max_ps(v))
    }

    #[inline(always)]
    fn sum(self, v: __m512) -> f32 {
        present!(_mm512_reduce_add_ps(v))
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
