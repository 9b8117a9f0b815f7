//! The products with AVX-512. For few rows, blocks of 16 rows by 16 columns of the weight are transposed in registers on
//! their way from memory. For many, pieces of the weight and of the input are put in the order of their use, and blocks
//! of 8 rows by 48 columns stay in registers.

use std::arch::x86_64::*;
use std::cell::RefCell;
use std::ops::Range;

use super::Job;
use crate::packed::PANEL;

/// Up to this many rows the weight is best transposed in registers, again for every 8 rows.
const FEW: usize = 24;

/// How many columns ahead memory is asked for.
const AHEAD: usize = 128;

/// Rows in registers at once.
const ROWS: usize = 8;
/// Panels in registers at once.
const WIDE: usize = 3;
/// Columns of the input for which pieces are put in order: 24 KiB of the weight.
const DEPTH: usize = 128;
/// Rows, of which 256 KiB are put in order with [`DEPTH`] columns.
const MAX_ROWS: usize = 512;
/// Panels whose sums are kept at once.
const MAX_PANELS: usize = 24;

/// # Safety
/// The processor has AVX-512 F, and the job's columns are the caller's to write.
#[target_feature(enable = "avx512f,avx2,fma")]
pub unsafe fn multiply(job: &Job) {
    if job.rows > FEW {
        // SAFETY: the caller's promise.
        return unsafe { many(job) };
    }
    for panel in job.panels.clone() {
        for first in (0..job.rows).step_by(ROWS) {
            // SAFETY: the caller's promise.
            unsafe {
                match job.rows - first {
                    1 => few::<1>(job, panel, first),
                    2 => few::<2>(job, panel, first),
                    3 => few::<3>(job, panel, first),
                    4 => few::<4>(job, panel, first),
                    5 => few::<5>(job, panel, first),
                    6 => few::<6>(job, panel, first),
                    7 => few::<7>(job, panel, first),
                    _ => few::<ROWS>(job, panel, first),
                }
            }
        }
    }
}

/// # Safety
/// As for [`multiply`]; the job has `COUNT` rows from `first` on.
#[inline]
#[target_feature(enable = "avx512f,avx2,fma")]
unsafe fn few<const COUNT: usize>(job: &Job, panel: usize, first: usize) {
    let in_features = job.in_features;
    let x: [&[f32]; COUNT] = std::array::from_fn(|row| job.x_row(first + row));
    let mut sums = [_mm512_setzero_ps(); COUNT];
    let rows: [*const f32; PANEL] = std::array::from_fn(|row| job.weight_row(panel * PANEL + row).as_ptr());
    for from in (0..in_features).step_by(PANEL) {
        let depth = PANEL.min(in_features - from);
        // Towards the end of these rows, memory is asked for those of the next panel.
        let skip = if from + AHEAD < in_features { 0 } else { (PANEL - 1) * in_features };
        for row in rows {
            _mm_prefetch::<_MM_HINT_T1>(row.wrapping_add(from + AHEAD + skip).cast());
        }
        // SAFETY: `depth` columns are there from `from` on.
        let weights = unsafe { transposed(rows.map(|row| row.add(from)), depth) };
        if depth == PANEL {
            let x: [&[f32; PANEL]; COUNT] =
                x.map(|x| x[from..from + PANEL].try_into().expect("the length of the range"));
            for (k, weights) in weights.into_iter().enumerate() {
                for (sum, x) in sums.iter_mut().zip(x) {
                    *sum = _mm512_fmadd_ps(_mm512_set1_ps(x[k]), weights, *sum);
                }
            }
        } else {
            for (k, weights) in weights.into_iter().enumerate().take(depth) {
                for (sum, x) in sums.iter_mut().zip(x) {
                    *sum = _mm512_fmadd_ps(_mm512_set1_ps(x[from + k]), weights, *sum);
                }
            }
        }
    }
    for (row, sum) in sums.into_iter().enumerate() {
        // SAFETY: the caller's promise.
        unsafe { write(job, first + row, panel, sum) };
    }
}

/// # Safety
/// As for [`multiply`].
#[inline]
#[target_feature(enable = "avx512f,avx2,fma")]
unsafe fn many(job: &Job) {
    thread_local! {
        /// Kept from call to call, as new memory costs more than a small product.
        static SCRATCH: RefCell<Vec<[f32; PANEL]>> = const { RefCell::new(Vec::new()) };
    }
    SCRATCH.with_borrow_mut(|scratch| {
        for first in (0..job.rows).step_by(MAX_ROWS) {
            let rows = first..(first + MAX_ROWS).min(job.rows);
            for first in job.panels.clone().step_by(MAX_PANELS) {
                let panels = first..(first + MAX_PANELS).min(job.panels.end);
                // SAFETY: the caller's promise.
                unsafe { block(job, rows.clone(), panels, scratch) };
            }
        }
    });
}

/// # Safety
/// As for [`multiply`].
#[target_feature(enable = "avx512f,avx2,fma")]
unsafe fn block(job: &Job, rows: Range<usize>, panels: Range<usize>, scratch: &mut Vec<[f32; PANEL]>) {
    let groups = rows.len().div_ceil(ROWS);
    let sum_lines = groups * ROWS * panels.len();
    let x_lines = groups.next_multiple_of(2) * ROWS * DEPTH / PANEL;
    scratch.resize((sum_lines + x_lines + WIDE * DEPTH).max(scratch.len()), [0.0; PANEL]);
    let (sums, rest) = scratch.split_at_mut(sum_lines);
    let (x, rest) = rest.split_at_mut(x_lines);
    let weights = &mut rest[..WIDE * DEPTH];
    for from in (0..job.in_features).step_by(DEPTH) {
        let depth = DEPTH.min(job.in_features - from);
        // Of the input `[rows / 16, depth, 16]`, rows that are not there repeating the last.
        for (pair, x) in x.chunks_exact_mut(DEPTH).enumerate() {
            let starts = std::array::from_fn(|row| {
                job.x_row((rows.start + pair * PANEL + row).min(rows.end - 1))[from..].as_ptr()
            });
            // SAFETY: `depth` columns are there.
            unsafe { transpose(starts, depth, &mut x[..depth]) };
        }
        for first in (0..panels.len()).step_by(WIDE) {
            let wide = WIDE.min(panels.len() - first);
            // Of the weight `[depth, panels, 16]`.
            for index in 0..wide {
                let column = (panels.start + first + index) * PANEL;
                let starts = std::array::from_fn(|row| job.weight_row(column + row)[from..].as_ptr());
                // SAFETY: `depth` columns are there.
                unsafe { transpose(starts, depth, &mut weights[index * DEPTH..index * DEPTH + depth]) };
            }
            for group in 0..groups {
                let x = &x.as_flattened()[group / 2 * DEPTH * PANEL + group % 2 * ROWS..];
                let sums = &mut sums[(first * groups + group * wide) * ROWS..][..ROWS * wide];
                // SAFETY: the pieces are as long as the kernel needs.
                unsafe {
                    match wide {
                        1 => kernel::<1>(x.as_ptr(), weights, depth, from == 0, sums),
                        2 => kernel::<2>(x.as_ptr(), weights, depth, from == 0, sums),
                        _ => kernel::<WIDE>(x.as_ptr(), weights, depth, from == 0, sums),
                    }
                }
            }
        }
    }
    for first in (0..panels.len()).step_by(WIDE) {
        let wide = WIDE.min(panels.len() - first);
        for row in 0..rows.len() {
            for index in 0..wide {
                let at = (first * groups + row / ROWS * wide) * ROWS + row % ROWS * wide + index;
                // SAFETY: a line of 16 numbers; the caller's promise.
                unsafe {
                    let sum = _mm512_loadu_ps(sums[at].as_ptr());
                    write(job, rows.start + row, panels.start + first + index, sum);
                }
            }
        }
    }
}

/// Goes on with the sums of 8 rows and `PANELS` panels, `[row, panel]`, for `depth` columns; they start at zero if
/// `first`.
///
/// # Safety
/// `x` has `depth` columns of 8 rows, 16 numbers apart; `weights` has [`DEPTH`] lines a panel, `sums` 8 a panel.
#[inline]
#[target_feature(enable = "avx512f,avx2,fma")]
unsafe fn kernel<const PANELS: usize>(
    x: *const f32,
    weights: &[[f32; PANEL]],
    depth: usize,
    first: bool,
    sums: &mut [[f32; PANEL]],
) {
    let mut chains = [[_mm512_setzero_ps(); PANELS]; ROWS];
    if !first {
        for (chain, sum) in chains.as_flattened_mut().iter_mut().zip(&*sums) {
            // SAFETY: 16 numbers.
            *chain = unsafe { _mm512_loadu_ps(sum.as_ptr()) };
        }
    }
    for k in 0..depth {
        // SAFETY: the caller's promise.
        unsafe {
            let mut line = [_mm512_setzero_ps(); PANELS];
            for (panel, line) in line.iter_mut().enumerate() {
                *line = _mm512_loadu_ps(weights.as_ptr().add(panel * DEPTH + k).cast());
            }
            for (row, chains) in chains.iter_mut().enumerate() {
                let x = _mm512_set1_ps(*x.add(k * PANEL + row));
                for (chain, line) in chains.iter_mut().zip(line) {
                    *chain = _mm512_fmadd_ps(x, line, *chain);
                }
            }
        }
    }
    for (chain, sum) in chains.as_flattened().iter().zip(sums) {
        // SAFETY: 16 numbers.
        unsafe { _mm512_storeu_ps(sum.as_mut_ptr(), *chain) };
    }
}

/// # Safety
/// As for [`multiply`].
#[inline]
#[target_feature(enable = "avx512f,avx2,fma")]
unsafe fn write(job: &Job, row: usize, panel: usize, sum: __m512) {
    // SAFETY: the caller's promise, and the row is one of `x`.
    unsafe {
        match job.out.whole(row, panel) {
            Some(out) => _mm512_storeu_ps(out, sum),
            None => job.out.write(row, panel, &std::mem::transmute::<__m512, [f32; PANEL]>(sum)),
        }
    }
}

/// `[depth, 16]` of 16 rows.
///
/// # Safety
/// `depth` numbers are at each place.
#[inline]
#[target_feature(enable = "avx512f,avx2,fma")]
unsafe fn transpose(rows: [*const f32; PANEL], depth: usize, out: &mut [[f32; PANEL]]) {
    for (index, out) in out.chunks_mut(PANEL).enumerate() {
        let from = index * PANEL;
        // SAFETY: `out` has `depth` lines, so that there are as many columns as this piece has lines.
        let block = unsafe { transposed(rows.map(|row| row.add(from)), PANEL.min(depth - from)) };
        for (line, values) in out.iter_mut().zip(block) {
            // SAFETY: 16 numbers.
            unsafe { _mm512_storeu_ps(line.as_mut_ptr(), values) };
        }
    }
}

/// Up to 16 columns of 16 rows, a column in each register.
///
/// # Safety
/// `depth` numbers are at each place.
#[inline]
#[target_feature(enable = "avx512f,avx2,fma")]
unsafe fn transposed(rows: [*const f32; PANEL], depth: usize) -> [__m512; PANEL] {
    let mask = if depth >= PANEL { u16::MAX } else { (1 << depth) - 1 };
    let mut a = [_mm512_setzero_ps(); PANEL];
    for (a, row) in a.iter_mut().zip(rows) {
        // SAFETY: the mask leaves out what is not there.
        *a = unsafe { _mm512_maskz_loadu_ps(mask, row) };
    }
    // Pairs of rows, then fours, within each quarter of 4 columns; `b[4 * i + j]` has of rows `4 * i` and on the columns
    // `j`, `4 + j`, `8 + j` and `12 + j`.
    let mut b = [_mm512_setzero_ps(); PANEL];
    for (a, b) in a.chunks_exact(4).zip(b.chunks_exact_mut(4)) {
        let low = [_mm512_unpacklo_ps(a[0], a[1]), _mm512_unpacklo_ps(a[2], a[3])];
        let high = [_mm512_unpackhi_ps(a[0], a[1]), _mm512_unpackhi_ps(a[2], a[3])];
        b[0] = _mm512_shuffle_ps::<0x44>(low[0], low[1]);
        b[1] = _mm512_shuffle_ps::<0xee>(low[0], low[1]);
        b[2] = _mm512_shuffle_ps::<0x44>(high[0], high[1]);
        b[3] = _mm512_shuffle_ps::<0xee>(high[0], high[1]);
    }
    // Then the quarters.
    for j in 0..4 {
        let (low01, high01) =
            (_mm512_shuffle_f32x4::<0x44>(b[j], b[4 + j]), _mm512_shuffle_f32x4::<0xee>(b[j], b[4 + j]));
        let (low23, high23) =
            (_mm512_shuffle_f32x4::<0x44>(b[8 + j], b[12 + j]), _mm512_shuffle_f32x4::<0xee>(b[8 + j], b[12 + j]));
        a[j] = _mm512_shuffle_f32x4::<0x88>(low01, low23);
        a[4 + j] = _mm512_shuffle_f32x4::<0xdd>(low01, low23);
        a[8 + j] = _mm512_shuffle_f32x4::<0x88>(high01, high23);
        a[12 + j] = _mm512_shuffle_f32x4::<0xdd>(high01, high23);
    }
    a
}
