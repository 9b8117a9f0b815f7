//! The vectors of AVX2, in pairs: columns 0 to 7 and 8 to 15.

use std::arch::x86_64::*;

use super::layout::Format;
use super::rowwise::{Args, rows};
use super::vector::Vector;

/// AVX2, FMA and F16C.
pub struct Avx2;

impl Vector for Avx2 {
    type Bytes = [__m256i; 2];
    type Quad = __m256i;
    type Ints = [__m256i; 2];
    type Floats = [__m256; 2];

    const MAX_ROWS: usize = 4;
    const PAIRS: bool = false;
    const SIGNED_OFFSET: Option<u32> = None;

    #[inline(always)]
    unsafe fn line(from: *const u8) -> [__m256i; 2] {
        // SAFETY: the caller's promise.
        unsafe { [_mm256_loadu_si256(from.cast()), _mm256_loadu_si256(from.add(32).cast())] }
    }

    #[inline(always)]
    unsafe fn bits(line: [__m256i; 2], from: usize, to: usize, mask: u8) -> [__m256i; 2] {
        // SAFETY: the caller's promise.
        unsafe { [bits(line[0], from, to, mask), bits(line[1], from, to, mask)] }
    }

    #[inline(always)]
    unsafe fn or(a: [__m256i; 2], b: [__m256i; 2]) -> [__m256i; 2] {
        // SAFETY: the caller's promise.
        unsafe { [_mm256_or_si256(a[0], b[0]), _mm256_or_si256(a[1], b[1])] }
    }

    #[inline(always)]
    unsafe fn quad(from: *const i8) -> __m256i {
        // SAFETY: the caller's promise.
        unsafe { _mm256_set1_epi32(from.cast::<i32>().read_unaligned()) }
    }

    #[inline(always)]
    unsafe fn signed(line: [__m256i; 2]) -> [__m256i; 2] {
        line
    }

    #[inline(always)]
    unsafe fn dot(sum: [__m256i; 2], weights: [__m256i; 2], x: __m256i) -> [__m256i; 2] {
        // SAFETY: the caller's promise. 63 · 127 twice stays below 2^15, so nothing saturates.
        unsafe {
            let low = add_pairs(sum[0], _mm256_maddubs_epi16(weights[0], x));
            [low, add_pairs(sum[1], _mm256_maddubs_epi16(weights[1], x))]
        }
    }

    #[inline(always)]
    unsafe fn dot_signed(sum: [__m256i; 2], weights: [__m256i; 2], x: __m256i) -> [__m256i; 2] {
        // SAFETY: the caller's promise. The magnitudes are 128 and 127 at most, and 128 · 127 twice stays below 2^15.
        unsafe {
            let low = _mm256_maddubs_epi16(_mm256_abs_epi8(weights[0]), _mm256_sign_epi8(x, weights[0]));
            let high = _mm256_maddubs_epi16(_mm256_abs_epi8(weights[1]), _mm256_sign_epi8(x, weights[1]));
            [add_pairs(sum[0], low), add_pairs(sum[1], high)]
        }
    }

    #[inline(always)]
    unsafe fn settle(sums: &mut [[__m256i; 2]]) {
        for sums in sums.as_chunks_mut::<4>().0 {
            // SAFETY: the caller's promise.
            unsafe { settle_four(sums) };
        }
    }

    #[inline(always)]
    unsafe fn start(value: *const i32, shift: u32) -> [__m256i; 2] {
        // SAFETY: the caller's promise.
        [unsafe { _mm256_set1_epi32(value.read() << shift) }; 2]
    }

    #[inline(always)]
    unsafe fn zero() -> [__m256i; 2] {
        // SAFETY: the caller's promise.
        [unsafe { _mm256_setzero_si256() }; 2]
    }

    #[inline(always)]
    unsafe fn to_floats(ints: [__m256i; 2]) -> [__m256; 2] {
        // SAFETY: the caller's promise.
        unsafe { [_mm256_cvtepi32_ps(ints[0]), _mm256_cvtepi32_ps(ints[1])] }
    }

    #[inline(always)]
    unsafe fn halves(from: *const u8) -> [__m256; 2] {
        // SAFETY: the caller's promise.
        unsafe {
            [_mm256_cvtph_ps(_mm_loadu_si128(from.cast())), _mm256_cvtph_ps(_mm_loadu_si128(from.add(16).cast()))]
        }
    }

    #[inline(always)]
    unsafe fn unsigned_bytes(from: *const u8) -> [__m256i; 2] {
        // SAFETY: the caller's promise.
        unsafe {
            [
                _mm256_cvtepu8_epi32(_mm_loadl_epi64(from.cast())),
                _mm256_cvtepu8_epi32(_mm_loadl_epi64(from.add(8).cast())),
            ]
        }
    }

    #[inline(always)]
    unsafe fn signed_bytes(from: *const u8) -> [__m256i; 2] {
        // SAFETY: the caller's promise.
        unsafe {
            [
                _mm256_cvtepi8_epi32(_mm_loadl_epi64(from.cast())),
                _mm256_cvtepi8_epi32(_mm_loadl_epi64(from.add(8).cast())),
            ]
        }
    }

    #[inline(always)]
    unsafe fn nibbles(from: *const u8) -> [[__m256i; 2]; 2] {
        // SAFETY: the caller's promise.
        unsafe {
            let [low, high] = Self::unsigned_bytes(from);
            let mask = _mm256_set1_epi32(15);
            [
                [_mm256_and_si256(low, mask), _mm256_and_si256(high, mask)],
                [_mm256_srli_epi32::<4>(low), _mm256_srli_epi32::<4>(high)],
            ]
        }
    }

    #[inline(always)]
    unsafe fn multiply_add(a: [__m256i; 2], b: [__m256i; 2], c: [__m256i; 2]) -> [__m256i; 2] {
        // SAFETY: the caller's promise.
        unsafe {
            [
                _mm256_add_epi32(_mm256_mullo_epi32(a[0], b[0]), c[0]),
                _mm256_add_epi32(_mm256_mullo_epi32(a[1], b[1]), c[1]),
            ]
        }
    }

    #[inline(always)]
    unsafe fn splat(from: *const f32) -> [__m256; 2] {
        // SAFETY: the caller's promise.
        [unsafe { _mm256_set1_ps(from.read()) }; 2]
    }

    #[inline(always)]
    unsafe fn mul(a: [__m256; 2], b: [__m256; 2]) -> [__m256; 2] {
        // SAFETY: the caller's promise.
        unsafe { [_mm256_mul_ps(a[0], b[0]), _mm256_mul_ps(a[1], b[1])] }
    }

    #[inline(always)]
    unsafe fn neg(a: [__m256; 2]) -> [__m256; 2] {
        // SAFETY: the caller's promise.
        unsafe { [_mm256_xor_ps(a[0], _mm256_set1_ps(-0.0)), _mm256_xor_ps(a[1], _mm256_set1_ps(-0.0))] }
    }

    #[inline(always)]
    unsafe fn fma(a: [__m256; 2], b: [__m256; 2], c: [__m256; 2]) -> [__m256; 2] {
        // SAFETY: the caller's promise.
        unsafe { [_mm256_fmadd_ps(a[0], b[0], c[0]), _mm256_fmadd_ps(a[1], b[1], c[1])] }
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> [__m256; 2] {
        // SAFETY: the caller's promise.
        unsafe { [_mm256_loadu_ps(from), _mm256_loadu_ps(from.add(8))] }
    }

    #[inline(always)]
    unsafe fn store(floats: [__m256; 2], to: *mut f32) {
        // SAFETY: the caller's promise.
        unsafe {
            _mm256_storeu_ps(to, floats[0]);
            _mm256_storeu_ps(to.add(8), floats[1]);
        }
    }

    #[inline(always)]
    unsafe fn prefetch(line: *const u8) {
        // SAFETY: a prefetch of any address is allowed.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(line.cast()) }
    }

    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn run<F: Format, const ROWS: usize>(args: &Args) {
        // SAFETY: the caller's promise.
        unsafe { rows::<Self, F, ROWS>(args) }
    }
}

// Closures, even of `map`, would be compiled without the level's instructions, and called.

/// One half of `Vector::bits`.
///
/// # Safety
/// The processor has AVX2.
#[inline(always)]
unsafe fn bits(line: __m256i, from: usize, to: usize, mask: u8) -> __m256i {
    // SAFETY: the caller's promise. What shifts carry across bytes is not in the mask.
    unsafe {
        let moved = match from as isize - to as isize {
            1 => _mm256_srli_epi16::<1>(line),
            2 => _mm256_srli_epi16::<2>(line),
            3 => _mm256_srli_epi16::<3>(line),
            4 => _mm256_srli_epi16::<4>(line),
            5 => _mm256_srli_epi16::<5>(line),
            6 => _mm256_srli_epi16::<6>(line),
            -1 => _mm256_slli_epi16::<1>(line),
            -2 => _mm256_slli_epi16::<2>(line),
            -3 => _mm256_slli_epi16::<3>(line),
            -4 => _mm256_slli_epi16::<4>(line),
            _ => line,
        };
        _mm256_and_si256(moved, _mm256_set1_epi8(mask as i8))
    }
}

/// Makes the compiler finish eight vectors here: it would else read the weights of several quads at once, and run out of
/// registers.
#[target_feature(enable = "avx2")]
#[inline]
fn settle_four([[a, b], [c, d], [e, f], [g, h]]: &mut [[__m256i; 2]; 4]) {
    // SAFETY: no instruction at all, on registers that the level has.
    unsafe {
        std::arch::asm!(
            "/* {} {} {} {} {} {} {} {} */",
            inout(ymm_reg) * a,
            inout(ymm_reg) * b,
            inout(ymm_reg) * c,
            inout(ymm_reg) * d,
            inout(ymm_reg) * e,
            inout(ymm_reg) * f,
            inout(ymm_reg) * g,
            inout(ymm_reg) * h,
            options(nomem, nostack, preserves_flags)
        );
    }
}

/// Adds pairs of 16-bit numbers to sums of 32 bits.
///
/// # Safety
/// The processor has AVX2.
#[inline(always)]
unsafe fn add_pairs(sum: __m256i, pairs: __m256i) -> __m256i {
    // SAFETY: the caller's promise.
    unsafe { _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1))) }
}
