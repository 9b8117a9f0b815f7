//! The product for few rows of `f32`, which is bound by reading the weight: all threads read, four weight rows at a
//! time, so that a core has several streams of memory in flight. Many rows are a matter for a blocked GEMM, not for this.

use burn::tensor::{DType, TensorData};
use burn_flex::FlexTensor;
use rayon::prelude::*;

/// Above this many rows the reference, a GEMM, is the faster one.
pub const FEW_ROWS: usize = 8;

/// Weight rows that are read together.
const STREAMS: usize = 4;
/// Accumulators of each dot product: one AVX-512 register, two of AVX2.
const LANES: usize = 16;
/// A thread is not woken for less than this much of the weight.
const BYTES_PER_TASK: usize = 128 << 10;

/// `x: [rows, in]`, `weight: [out, in]` → `[rows, out]`, with `rows ≤ FEW_ROWS`.
pub fn linear_few_rows(x: FlexTensor, weight: FlexTensor) -> FlexTensor {
    let (rows, out_features) = (x.layout().shape()[0], weight.layout().shape()[0]);
    let in_features = x.layout().shape()[1];
    let (x, weight) = (x.to_contiguous(), weight.to_contiguous());
    let (xs, ws) = (
        x.as_slice::<f32>().expect("contiguous f32, the operation checked the dtype"),
        weight.as_slice::<f32>().expect("contiguous f32, the operation checked the dtype"),
    );
    let dot_rows = select_kernel();

    // Column-major while it is computed, so that each task owns a contiguous piece.
    let mut columns = vec![0.0f32; rows * out_features];
    let per_task = (BYTES_PER_TASK / (4 * in_features.max(1))).next_multiple_of(STREAMS).max(STREAMS);
    let task = |(index, out): (usize, &mut [f32])| {
        let first = index * per_task;
        let count = out.len() / rows;
        dot_rows(xs, &ws[first * in_features..(first + count) * in_features], in_features, out);
    };
    if out_features <= per_task {
        task((0, &mut columns));
    } else {
        columns.par_chunks_mut(per_task * rows).enumerate().for_each(task);
    }

    let y = if rows == 1 { columns } else { transpose(&columns, rows, out_features) };
    debug_assert_eq!(x.dtype(), DType::F32);
    FlexTensor::from_data(TensorData::new(y, [rows, out_features]))
}

/// `[out, rows]` → `[rows, out]`.
fn transpose(columns: &[f32], rows: usize, out_features: usize) -> Vec<f32> {
    let mut y = vec![0.0; columns.len()];
    for (column, values) in columns.chunks_exact(rows).enumerate() {
        for (row, &value) in values.iter().enumerate() {
            y[row * out_features + column] = value;
        }
    }
    y
}

/// Dot products of every row of `xs` with every row of `ws`; `out` is `[rows of ws, rows of xs]`.
type DotRows = fn(xs: &[f32], ws: &[f32], in_features: usize, out: &mut [f32]);

/// The widest kernel that this processor runs.
fn select_kernel() -> DotRows {
    #[cfg(target_arch = "x86_64")]
    {
        if is_x86_feature_detected!("avx512f") {
            // SAFETY: the processor has what the function was compiled for.
            return |xs, ws, k, out| unsafe { dot_rows_avx512(xs, ws, k, out) };
        }
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            // SAFETY: as above.
            return |xs, ws, k, out| unsafe { dot_rows_avx2(xs, ws, k, out) };
        }
    }
    // NEON is part of every 64-bit Arm processor, with its fused multiply-add.
    dot_rows::<{ cfg!(target_arch = "aarch64") }>
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx2,fma")]
fn dot_rows_avx512(xs: &[f32], ws: &[f32], in_features: usize, out: &mut [f32]) {
    dot_rows::<true>(xs, ws, in_features, out);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn dot_rows_avx2(xs: &[f32], ws: &[f32], in_features: usize, out: &mut [f32]) {
    dot_rows::<true>(xs, ws, in_features, out);
}

/// The one body of the kernels above, which the compiler vectorises for the features of the function around it.
#[inline(always)]
fn dot_rows<const FMA: bool>(xs: &[f32], ws: &[f32], in_features: usize, out: &mut [f32]) {
    let rows = xs.len() / in_features.max(1);
    if in_features == 0 {
        return;
    }
    let mut blocks = ws.chunks_exact(STREAMS * in_features);
    let mut outs = out.chunks_exact_mut(STREAMS * rows);
    for (block, out) in (&mut blocks).zip(&mut outs) {
        let streams: [&[f32]; STREAMS] = std::array::from_fn(|s| &block[s * in_features..(s + 1) * in_features]);
        for (row, x) in xs.chunks_exact(in_features).enumerate() {
            let sums = dots::<FMA, STREAMS>(x, streams);
            for (stream, sum) in sums.into_iter().enumerate() {
                out[stream * rows + row] = sum;
            }
        }
    }
    for (w, out) in blocks.remainder().chunks_exact(in_features).zip(outs.into_remainder().chunks_exact_mut(rows)) {
        for (x, out) in xs.chunks_exact(in_features).zip(out) {
            *out = dots::<FMA, 1>(x, [w])[0];
        }
    }
}

/// The dot products of `x` with `N` rows of the same length. The order of additions depends on the length alone, so a
/// row's result is the same in whatever company it is computed.
#[inline(always)]
fn dots<const FMA: bool, const N: usize>(x: &[f32], ws: [&[f32]; N]) -> [f32; N] {
    let mut lanes = [[0.0f32; LANES]; N];
    let whole = x.len() / LANES * LANES;
    for at in (0..whole).step_by(LANES) {
        let x: &[f32; LANES] = x[at..at + LANES].try_into().expect("LANES long");
        for (lanes, w) in lanes.iter_mut().zip(ws) {
            let w: &[f32; LANES] = w[at..at + LANES].try_into().expect("LANES long");
            for lane in 0..LANES {
                lanes[lane] = multiply_add::<FMA>(x[lane], w[lane], lanes[lane]);
            }
        }
    }
    let mut sums = [0.0; N];
    for ((sum, mut lanes), w) in sums.iter_mut().zip(lanes).zip(ws) {
        for (lane, (&x, &w)) in lanes.iter_mut().zip(x[whole..].iter().zip(&w[whole..])) {
            *lane = multiply_add::<FMA>(x, w, *lane);
        }
        let mut width = LANES;
        while width > 1 {
            width /= 2;
            for lane in 0..width {
                lanes[lane] += lanes[lane + width];
            }
        }
        *sum = lanes[0];
    }
    sums
}

#[inline(always)]
fn multiply_add<const FMA: bool>(a: f32, b: f32, c: f32) -> f32 {
    if FMA { a.mul_add(b, c) } else { a * b + c }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every variant that this processor runs gives what the definition gives, remainders and infinities included.
    #[test]
    fn variants_agree_with_the_definition() {
        let mut variants: Vec<(&str, DotRows)> = vec![("portable", dot_rows::<false>), ("selected", select_kernel())];
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            // SAFETY: the processor has what the function was compiled for.
            variants.push(("avx2", |xs, ws, k, out| unsafe { dot_rows_avx2(xs, ws, k, out) }));
        }
        for (rows, in_features, out_features) in [(1, 1, 1), (1, 15, 4), (3, 16, 5), (8, 47, 9), (2, 200, 13)] {
            let value = |i: usize| ((i * 37 + 11) % 64) as f32 / 16.0 - 2.0;
            let xs: Vec<f32> = (0..rows * in_features).map(value).collect();
            let ws: Vec<f32> = (0..out_features * in_features).map(|i| value(i + 5)).collect();
            for (name, variant) in &variants {
                let mut out = vec![f32::NAN; rows * out_features];
                variant(&xs, &ws, in_features, &mut out);
                for column in 0..out_features {
                    for row in 0..rows {
                        let expected: f64 = (0..in_features)
                            .map(|k| f64::from(xs[row * in_features + k]) * f64::from(ws[column * in_features + k]))
                            .sum();
                        let found = out[column * rows + row];
                        assert!(
                            (f64::from(found) - expected).abs() < 1e-3,
                            "{name} {rows}x{in_features}x{out_features} at {row},{column}: {found} for {expected}"
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn infinities_and_nans_travel() {
        let mut out = [0.0; 2];
        select_kernel()(&[f32::INFINITY, 1.0], &[1.0, 1.0, f32::NAN, 0.0], 2, &mut out);
        assert_eq!(out[0], f32::INFINITY);
        assert!(out[1].is_nan());
    }
}
