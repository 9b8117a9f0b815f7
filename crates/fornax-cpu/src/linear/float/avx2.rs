//! The products with AVX2: half a panel's columns at a time, so that up to four rows fit the 16 registers.

use std::arch::x86_64::*;

use super::rows::GROUP;
use super::{BLOCK, BLOCK_BYTES, Job};
use crate::packed::PANEL;

/// Rows that one pass over a block takes.
const ROWS: usize = 4;

/// How far ahead of the arithmetic memory is asked for.
const AHEAD: usize = 4 * BLOCK_BYTES;

/// # Safety
/// The processor has AVX2, FMA and F16C, denormals are taken as zeros, and the job's columns are the caller's.
#[inline(never)]
#[target_feature(enable = "avx2,fma,f16c")]
pub unsafe fn multiply<const F16: bool>(job: &Job) {
    for (index, panel) in job.panels.clone().enumerate() {
        let weight = &job.weight[index * job.panel_bytes()..(index + 1) * job.panel_bytes()];
        for group in 0..job.x.groups() {
            let (x, width) = job.x.group(group);
            let mut sums = [[0.0f32; PANEL]; GROUP];
            for block in 0..job.blocks {
                // The whole parts of 4 rows, then those of 2 and 1 that are left.
                let weight = weight[block * BLOCK_BYTES..(block + 1) * BLOCK_BYTES].as_ptr();
                let x = &x[block * BLOCK * width..(block + 1) * BLOCK * width];
                let mut row = 0;
                while row < width {
                    let x = x[row..].as_ptr();
                    let sums = &mut sums[row..];
                    // SAFETY: `weight` is a block, `x` has `BLOCK` columns of `width` rows, and `width - row` are left.
                    unsafe {
                        row += match width - row {
                            1 => step::<F16, 1>(x, width, weight, sums),
                            2 => step::<F16, 2>(x, width, weight, sums),
                            3 => step::<F16, 3>(x, width, weight, sums),
                            _ => step::<F16, ROWS>(x, width, weight, sums),
                        };
                    }
                }
            }
            for (row, sums) in sums.iter().take(width).enumerate() {
                // SAFETY: the columns are the caller's, and the row is one of `x`.
                unsafe { job.out.write(group * GROUP + row, panel, sums) };
            }
        }
    }
}

/// Adds the products of 32 columns to the sums of `COUNT` rows, and returns `COUNT`.
///
/// # Safety
/// `x` has `BLOCK` columns of `width` rows, of which `COUNT` are left; `weight` is a block.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn step<const F16: bool, const COUNT: usize>(
    x: *const f32,
    width: usize,
    weight: *const u8,
    sums: &mut [[f32; PANEL]],
) -> usize {
    // SAFETY: the caller's promise.
    unsafe {
        for half in 0..2 {
            if F16 {
                half_step::<1, COUNT>(x, width, weight, half, sums);
                half_step::<2, COUNT>(x, width, weight, half, sums);
            } else {
                half_step::<0, COUNT>(x, width, weight, half, sums);
            }
        }
    }
    COUNT
}

/// One half of a panel's columns; `PART` is 0 for bf16, 1 for the upper part of f16, 2 for its rest.
///
/// # Safety
/// As for [`step`].
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn half_step<const PART: u8, const COUNT: usize>(
    x: *const f32,
    width: usize,
    weight: *const u8,
    half: usize,
    sums: &mut [[f32; PANEL]],
) {
    let mut chains = [[_mm256_setzero_ps(); 2]; COUNT];
    for pair in 0..BLOCK / 2 {
        // SAFETY: the caller's promise; a prefetch may have any address.
        unsafe {
            let line = weight.add(pair * 64);
            if half == 0 && PART != 2 {
                _mm_prefetch::<_MM_HINT_T0>(line.wrapping_add(AHEAD).cast());
            }
            let weights = split::<PART>(line, half);
            for (row, chains) in chains.iter_mut().enumerate() {
                for (odd, (sum, weights)) in chains.iter_mut().zip(weights).enumerate() {
                    let x = _mm256_broadcast_ss(&*x.add((2 * pair + odd) * width + row));
                    *sum = _mm256_fmadd_ps(x, weights, *sum);
                }
            }
        }
    }
    for (sums, [even, odd]) in sums.iter_mut().zip(chains) {
        let at = sums[8 * half..8 * half + 8].as_mut_ptr();
        // SAFETY: 8 numbers are there.
        unsafe { _mm256_storeu_ps(at, _mm256_add_ps(_mm256_loadu_ps(at), _mm256_add_ps(even, odd))) };
    }
}

/// The weights of half a line: of the even column and of the odd one.
///
/// # Safety
/// A line is there.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn split<const PART: u8>(line: *const u8, half: usize) -> [__m256; 2] {
    let high = _mm256_set1_epi32(0xffff_0000u32 as i32);
    if PART == 0 {
        // SAFETY: the caller's promise.
        let both = unsafe { _mm256_loadu_si256(line.add(32 * half).cast()) };
        return [_mm256_castsi256_ps(_mm256_slli_epi32::<16>(both)), _mm256_castsi256_ps(_mm256_and_si256(both, high))];
    }
    [0, 1].map(|odd| {
        // SAFETY: the caller's promise.
        let whole = _mm256_cvtph_ps(unsafe { _mm_loadu_si128(line.add(32 * odd + 16 * half).cast()) });
        let upper = _mm256_and_ps(whole, _mm256_castsi256_ps(high));
        if PART == 1 {
            return upper;
        }
        // Infinities and NaNs have no rest: what is subtracted from itself is zero, or not a number.
        let finite = _mm256_cmp_ps::<_CMP_ORD_Q>(_mm256_sub_ps(whole, whole), _mm256_setzero_ps());
        _mm256_and_ps(_mm256_sub_ps(whole, upper), finite)
    })
}
