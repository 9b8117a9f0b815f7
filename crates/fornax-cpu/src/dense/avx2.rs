//! The products with AVX2: 16 rows of the weight are transposed piece by piece, then multiplied with all rows of the
//! input, four at a time.

use std::arch::x86_64::*;

use super::Job;
use crate::packed::PANEL;

/// Columns of the weight that are transposed at once: 4 KiB.
const DEPTH: usize = 64;

/// Rows in registers at once.
const ROWS: usize = 4;

/// How many columns ahead memory is asked for.
const AHEAD: usize = 2 * DEPTH;

type Sums = [f32; PANEL];

/// # Safety
/// The processor has AVX2 and FMA, and the job's columns are the caller's to write.
#[target_feature(enable = "avx2,fma")]
pub unsafe fn multiply(job: &Job) {
    let mut sums = vec![[0.0f32; PANEL]; job.rows];
    for panel in job.panels.clone() {
        sums.fill([0.0; PANEL]);
        for from in (0..job.in_features).step_by(DEPTH) {
            let depth = DEPTH.min(job.in_features - from);
            let weights = transpose(job, panel, from, depth);
            for first in (0..job.rows).step_by(ROWS) {
                let sums = &mut sums[first..];
                match job.rows - first {
                    1 => step::<1>(job, first, from, &weights[..depth], sums),
                    2 => step::<2>(job, first, from, &weights[..depth], sums),
                    3 => step::<3>(job, first, from, &weights[..depth], sums),
                    _ => step::<ROWS>(job, first, from, &weights[..depth], sums),
                }
            }
        }
        for (row, sums) in sums.iter().enumerate() {
            // SAFETY: the caller's promise, and the row is one of `x`.
            unsafe { job.out.write(row, panel, sums) };
        }
    }
}

/// `[columns, 16]` of the 16 rows of a panel.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn transpose(job: &Job, panel: usize, from: usize, depth: usize) -> [Sums; DEPTH] {
    let mut out = [[0.0; PANEL]; DEPTH];
    for half in [0, 8] {
        let rows: [&[f32]; 8] =
            std::array::from_fn(|column| &job.weight_row(panel * PANEL + half + column)[from..from + depth]);
        let whole = depth / 8 * 8;
        for k in (0..whole).step_by(8) {
            // SAFETY: 8 columns are there, and places for 8 numbers in 8 lines; a prefetch may have any address.
            unsafe {
                let block = rows.map(|row| {
                    if k % 16 == 0 {
                        _mm_prefetch::<_MM_HINT_T1>(row.as_ptr().wrapping_add(k + AHEAD).cast());
                    }
                    _mm256_loadu_ps(row[k..k + 8].as_ptr())
                });
                for (line, values) in out[k..k + 8].iter_mut().zip(transpose8(block)) {
                    _mm256_storeu_ps(line[half..half + 8].as_mut_ptr(), values);
                }
            }
        }
        for k in whole..depth {
            for (value, row) in out[k][half..].iter_mut().zip(rows) {
                *value = row[k];
            }
        }
    }
    out
}

#[inline]
#[target_feature(enable = "avx2")]
fn transpose8(rows: [__m256; 8]) -> [__m256; 8] {
    let [a, b, c, d, e, f, g, h] = rows;
    let pair = |x, y| (_mm256_unpacklo_ps(x, y), _mm256_unpackhi_ps(x, y));
    let ((ab0, ab1), (cd0, cd1), (ef0, ef1), (gh0, gh1)) = (pair(a, b), pair(c, d), pair(e, f), pair(g, h));
    let four = |x, y| (_mm256_shuffle_ps::<0x44>(x, y), _mm256_shuffle_ps::<0xee>(x, y));
    let ((a0, a1), (a2, a3)) = (four(ab0, cd0), four(ab1, cd1));
    let ((e0, e1), (e2, e3)) = (four(ef0, gh0), four(ef1, gh1));
    let low = |x, y| _mm256_permute2f128_ps::<0x20>(x, y);
    let high = |x, y| _mm256_permute2f128_ps::<0x31>(x, y);
    [low(a0, e0), low(a1, e1), low(a2, e2), low(a3, e3), high(a0, e0), high(a1, e1), high(a2, e2), high(a3, e3)]
}

/// Goes on with the sums of `COUNT` rows for some columns.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn step<const COUNT: usize>(job: &Job, first: usize, from: usize, weights: &[Sums], sums: &mut [Sums]) {
    let x: [&[f32]; COUNT] = std::array::from_fn(|row| &job.x_row(first + row)[from..from + weights.len()]);
    // SAFETY: each is 16 numbers long.
    let mut chains: [[__m256; 2]; COUNT] = std::array::from_fn(|row| unsafe {
        [_mm256_loadu_ps(sums[row].as_ptr()), _mm256_loadu_ps(sums[row][8..].as_ptr())]
    });
    for (k, line) in weights.iter().enumerate() {
        // SAFETY: a line is 16 numbers long.
        let line = unsafe { [_mm256_loadu_ps(line.as_ptr()), _mm256_loadu_ps(line[8..].as_ptr())] };
        for (chains, x) in chains.iter_mut().zip(x) {
            let x = _mm256_set1_ps(x[k]);
            chains[0] = _mm256_fmadd_ps(x, line[0], chains[0]);
            chains[1] = _mm256_fmadd_ps(x, line[1], chains[1]);
        }
    }
    for (sums, chains) in sums.iter_mut().zip(chains) {
        // SAFETY: each is 16 numbers long.
        unsafe {
            _mm256_storeu_ps(sums.as_mut_ptr(), chains[0]);
            _mm256_storeu_ps(sums[8..].as_mut_ptr(), chains[1]);
        }
    }
}
