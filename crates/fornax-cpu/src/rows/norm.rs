//! Norms of rows: by root mean square (Zhang and Sennrich, 2019, <https://arxiv.org/abs/1910.07467>) and by mean and
//! variance (Ba et al., 2016, <https://arxiv.org/abs/1607.06450>), with the addition that may follow them.

use std::ops::Range;

use super::{SharedRows, in_pieces};
use crate::simd::{Kernel, Simd, dispatch};
use crate::{Isa, Pool};

/// The weights and biases of a norm.
#[derive(Debug, Clone, Copy)]
pub struct NormWeights<'a> {
    /// `[columns]`
    pub weight: &'a [f32],
    /// `[columns]`
    pub bias: Option<&'a [f32]>,
    /// Added to the mean of squares, or to the variance.
    pub epsilon: f32,
    /// Added to each weight: 1 for models that keep their weights around 0 (Gemma), else 0.
    pub offset: f32,
}

/// `out = x / √(mean(x²) + ε) · weight + bias` for each row, plus the residual's row where there is one; all
/// `[rows, columns]`.
///
/// ```
/// use fornax_cpu::rows::{NormWeights, rms_norm_rows};
/// use fornax_cpu::{Isa, Pool};
///
/// let weights = NormWeights { weight: &[1.0, 2.0], bias: None, epsilon: 0.0, offset: 0.0 };
/// let mut out = [0.0; 2];
/// rms_norm_rows(Pool::global(), Isa::active(), &[3.0, -3.0], weights, None, &mut out);
/// assert_eq!(out, [1.0, -2.0]);
/// ```
///
/// # Panics
/// When `x`, `out` and the residual differ in length or are no whole rows of as many columns as the weights have, as for all
/// norms.
pub fn rms_norm_rows(
    pool: &Pool,
    isa: Isa,
    x: &[f32],
    weights: NormWeights<'_>,
    residual: Option<&[f32]>,
    out: &mut [f32],
) {
    norm(pool, isa, x, weights, false, residual, out);
}

/// `out = (x − mean(x)) / √(var(x) + ε) · weight + bias` for each row, plus the residual's row where there is one; all
/// `[rows, columns]`. The variance is the mean of squares, computed around the mean.
///
/// # Panics
/// As [`rms_norm_rows`].
pub fn layer_norm_rows(
    pool: &Pool,
    isa: Isa,
    x: &[f32],
    weights: NormWeights<'_>,
    residual: Option<&[f32]>,
    out: &mut [f32],
) {
    norm(pool, isa, x, weights, true, residual, out);
}

fn norm(
    pool: &Pool,
    isa: Isa,
    x: &[f32],
    weights: NormWeights<'_>,
    centered: bool,
    residual: Option<&[f32]>,
    out: &mut [f32],
) {
    let (columns, len) = (weights.weight.len(), x.len());
    assert_eq!(len, out.len(), "norm: values of the output");
    assert!(residual.is_none_or(|residual| residual.len() == len), "norm: values of the residual");
    assert!(weights.bias.is_none_or(|bias| bias.len() == columns), "norm: values of the bias");
    if len == 0 {
        return;
    }
    assert!(columns > 0 && len.is_multiple_of(columns), "norm: {len} values in rows of {columns}");
    let out = SharedRows(out.as_mut_ptr());
    in_pieces(pool, len / columns, columns, &|rows| {
        dispatch(isa, Norm { x, weights, centered, residual, rows, out: &out });
    });
}

/// Norms some rows.
struct Norm<'a> {
    x: &'a [f32],
    weights: NormWeights<'a>,
    centered: bool,
    residual: Option<&'a [f32]>,
    rows: Range<usize>,
    out: &'a SharedRows,
}

impl Kernel for Norm<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let weight = self.weights.weight;
        let columns = weight.len();
        let bias = self.weights.bias.map_or(std::ptr::null(), <[f32]>::as_ptr);
        for row in self.rows {
            // SAFETY: by the checks before, all are at least `columns` long from here; rows are this task's.
            unsafe {
                let (x, out) = (self.x.as_ptr().add(row * columns), self.out.0.add(row * columns));
                let residual = self.residual.map_or(std::ptr::null(), |residual| residual.as_ptr().add(row * columns));
                let mean = if self.centered { sum(s, x, columns) / columns as f32 } else { 0.0 };
                let variance = squares(s, x, columns, mean) / columns as f32;
                let scale = s.splat(1.0 / (variance + self.weights.epsilon).sqrt());
                let mean = s.splat(mean);
                let offset = s.splat(self.weights.offset);
                let mut at = 0;
                while at < columns {
                    let count = S::LANES.min(columns - at);
                    let v = s.mul(s.sub(s.load_some(x.add(at), count), mean), scale);
                    let weight = s.add(s.load_some(weight.as_ptr().add(at), count), offset);
                    let v = if bias.is_null() {
                        s.mul(v, weight)
                    } else {
                        s.fma(v, weight, s.load_some(bias.add(at), count))
                    };
                    let v = if residual.is_null() { v } else { s.add(v, s.load_some(residual.add(at), count)) };
                    s.store_some(out.add(at), v, count);
                    at += S::LANES;
                }
            }
        }
    }
}

/// Sums that run beside each other, so that none waits for the one before.
const SUMS: usize = 4;

/// # Safety
/// `x` has `len` values.
#[inline(always)]
unsafe fn sum<S: Simd>(s: S, x: *const f32, len: usize) -> f32 {
    let mut sums = [s.splat(0.0); SUMS];
    let mut at = 0;
    // SAFETY: the caller's promise.
    unsafe {
        while at + SUMS * S::LANES <= len {
            for (i, sum) in sums.iter_mut().enumerate() {
                *sum = s.add(*sum, s.load(x.add(at + i * S::LANES)));
            }
            at += SUMS * S::LANES;
        }
        while at < len {
            let v = s.load_first(x.add(at), S::LANES.min(len - at));
            sums[0] = s.add(sums[0], v);
            at += S::LANES;
        }
    }
    s.sum(s.add(s.add(sums[0], sums[1]), s.add(sums[2], sums[3])))
}

/// The sum of squares of what `x` differs from `mean` by.
///
/// # Safety
/// `x` has `len` values.
#[inline(always)]
unsafe fn squares<S: Simd>(s: S, x: *const f32, len: usize, mean: f32) -> f32 {
    let (zero, mean) = (s.splat(0.0), s.splat(mean));
    let mut sums = [zero; SUMS];
    let mut at = 0;
    // SAFETY: the caller's promise.
    unsafe {
        while at + SUMS * S::LANES <= len {
            for (i, sum) in sums.iter_mut().enumerate() {
                let v = s.sub(s.load(x.add(at + i * S::LANES)), mean);
                *sum = s.fma(v, v, *sum);
            }
            at += SUMS * S::LANES;
        }
        while at < len {
            let count = S::LANES.min(len - at);
            let v = s.in_lanes(0, count, s.sub(s.load_first(x.add(at), count), mean), zero);
            sums[0] = s.fma(v, v, sums[0]);
            at += S::LANES;
        }
    }
    s.sum(s.add(s.add(sums[0], sums[1]), s.add(sums[2], sums[3])))
}
