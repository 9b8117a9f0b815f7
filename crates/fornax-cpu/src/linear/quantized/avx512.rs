//! The vectors of AVX-512 with VNNI.

use std::arch::x86_64::*;

use super::layout::Format;
use super::rowwise::{Args, rows};
use super::vector::Vector;

/// AVX-512 F, BW, DQ, VL and VNNI.
pub struct Avx512;

/// Makes the compiler finish eight vectors here, and not put them off until it runs out of registers. A macro, as a function
/// would have to be inlined for that.
macro_rules! settle {
    ($eight:expr) => {{
        let [a, b, c, d, e, f, g, h] = $eight;
        std::arch::asm!(
            "/* {} {} {} {} {} {} {} {} */",
            inout(zmm_reg) * a,
            inout(zmm_reg) * b,
            inout(zmm_reg) * c,
            inout(zmm_reg) * d,
            inout(zmm_reg) * e,
            inout(zmm_reg) * f,
            inout(zmm_reg) * g,
            inout(zmm_reg) * h,
            options(nomem, nostack, preserves_flags)
        );
    }};
}
pub(super) use settle;

impl Vector for Avx512 {
    type Bytes = __m512i;
    type Quad = __m512i;
    type Ints = __m512i;
    type Floats = __m512;

    const MAX_ROWS: usize = 8;
    const PAIRS: bool = true;
    // The instruction multiplies unsigned with signed bytes, and the activations are the signed ones.
    const SIGNED_OFFSET: Option<u32> = Some(7);

    #[inline(always)]
    unsafe fn line(from: *const u8) -> __m512i {
        // SAFETY: the caller's promise.
        unsafe { _mm512_loadu_si512(from.cast()) }
    }

    #[inline(always)]
    unsafe fn bits(line: __m512i, from: usize, to: usize, mask: u8) -> __m512i {
        // SAFETY: the caller's promise. What shifts carry across bytes is not in the mask.
        unsafe {
            let moved = match from as isize - to as isize {
                1 => _mm512_srli_epi16::<1>(line),
                2 => _mm512_srli_epi16::<2>(line),
                3 => _mm512_srli_epi16::<3>(line),
                4 => _mm512_srli_epi16::<4>(line),
                5 => _mm512_srli_epi16::<5>(line),
                6 => _mm512_srli_epi16::<6>(line),
                -1 => _mm512_slli_epi16::<1>(line),
                -2 => _mm512_slli_epi16::<2>(line),
                -3 => _mm512_slli_epi16::<3>(line),
                -4 => _mm512_slli_epi16::<4>(line),
                _ => line,
            };
            _mm512_and_si512(moved, _mm512_set1_epi8(mask as i8))
        }
    }

    #[inline(always)]
    unsafe fn or(a: __m512i, b: __m512i) -> __m512i {
        // SAFETY: the caller's promise.
        unsafe { _mm512_or_si512(a, b) }
    }

    #[inline(always)]
    unsafe fn quad(from: *const i8) -> __m512i {
        // SAFETY: the caller's promise.
        unsafe { _mm512_set1_epi32(from.cast::<i32>().read_unaligned()) }
    }

    #[inline(always)]
    unsafe fn signed(line: __m512i) -> __m512i {
        // SAFETY: the caller's promise.
        unsafe { _mm512_xor_si512(line, _mm512_set1_epi8(-128)) }
    }

    #[inline(always)]
    unsafe fn dot(sum: __m512i, weights: __m512i, activations: __m512i) -> __m512i {
        // SAFETY: the caller's promise.
        unsafe { _mm512_dpbusd_epi32(sum, weights, activations) }
    }

    #[inline(always)]
    unsafe fn dot_signed(sum: __m512i, weights: __m512i, activations: __m512i) -> __m512i {
        // SAFETY: the caller's promise.
        unsafe { Self::dot(sum, weights, activations) }
    }

    #[inline(always)]
    unsafe fn settle(sums: &mut [__m512i]) {
        for sums in sums.as_chunks_mut::<8>().0 {
            // SAFETY: the caller's promise.
            unsafe { settle_eight(sums) };
        }
    }

    #[inline(always)]
    unsafe fn start(value: *const i32, shift: u32) -> __m512i {
        // SAFETY: the caller's promise.
        unsafe { _mm512_set1_epi32(value.read() << shift) }
    }

    #[inline(always)]
    unsafe fn zero() -> __m512i {
        // SAFETY: the caller's promise.
        unsafe { _mm512_setzero_si512() }
    }

    #[inline(always)]
    unsafe fn to_floats(ints: __m512i) -> __m512 {
        // SAFETY: the caller's promise.
        unsafe { _mm512_cvtepi32_ps(ints) }
    }

    #[inline(always)]
    unsafe fn halves(from: *const u8) -> __m512 {
        // SAFETY: the caller's promise.
        unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(from.cast())) }
    }

    #[inline(always)]
    unsafe fn unsigned_bytes(from: *const u8) -> __m512i {
        // SAFETY: the caller's promise.
        unsafe { _mm512_cvtepu8_epi32(_mm_loadu_si128(from.cast())) }
    }

    #[inline(always)]
    unsafe fn signed_bytes(from: *const u8) -> __m512i {
        // SAFETY: the caller's promise.
        unsafe { _mm512_cvtepi8_epi32(_mm_loadu_si128(from.cast())) }
    }

    #[inline(always)]
    unsafe fn nibbles(from: *const u8) -> [__m512i; 2] {
        // SAFETY: the caller's promise.
        unsafe {
            let bytes = _mm512_cvtepu8_epi32(_mm_loadu_si128(from.cast()));
            [_mm512_and_si512(bytes, _mm512_set1_epi32(15)), _mm512_srli_epi32::<4>(bytes)]
        }
    }

    #[inline(always)]
    unsafe fn multiply_add(a: __m512i, b: __m512i, c: __m512i) -> __m512i {
        // SAFETY: the caller's promise.
        unsafe { _mm512_add_epi32(_mm512_mullo_epi32(a, b), c) }
    }

    #[inline(always)]
    unsafe fn splat(from: *const f32) -> __m512 {
        // SAFETY: the caller's promise.
        unsafe { _mm512_set1_ps(from.read()) }
    }

    #[inline(always)]
    unsafe fn mul(a: __m512, b: __m512) -> __m512 {
        // SAFETY: the caller's promise.
        unsafe { _mm512_mul_ps(a, b) }
    }

    #[inline(always)]
    unsafe fn neg(a: __m512) -> __m512 {
        // SAFETY: the caller's promise.
        unsafe { _mm512_xor_ps(a, _mm512_set1_ps(-0.0)) }
    }

    #[inline(always)]
    unsafe fn fma(a: __m512, b: __m512, c: __m512) -> __m512 {
        // SAFETY: the caller's promise.
        unsafe { _mm512_fmadd_ps(a, b, c) }
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> __m512 {
        // SAFETY: the caller's promise.
        unsafe { _mm512_loadu_ps(from) }
    }

    #[inline(always)]
    unsafe fn store(floats: __m512, to: *mut f32) {
        // SAFETY: the caller's promise.
        unsafe { _mm512_storeu_ps(to, floats) }
    }

    #[inline(always)]
    unsafe fn prefetch(line: *const u8) {
        // SAFETY: a prefetch of any address is allowed.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(line.cast()) }
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,fma,f16c")]
    unsafe fn run<F: Format, const ROWS: usize>(args: &Args) {
        // SAFETY: the caller's promise.
        unsafe { rows::<Self, F, ROWS>(args) }
    }
}

/// For `settle`, whose caller's level the compiler does not know there.
#[target_feature(enable = "avx512f")]
#[inline]
fn settle_eight(sums: &mut [__m512i; 8]) {
    // SAFETY: no instruction at all, on registers that the level has.
    unsafe { settle!(sums) }
}
