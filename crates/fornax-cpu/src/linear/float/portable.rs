//! The products in plain Rust, which also say what the other kernels must compute. It is made to be right anywhere, and
//! no faster than the compiler makes it.

use half::f16;

use super::rows::GROUP;
use super::{BLOCK, BLOCK_BYTES, Job};
use crate::packed::PANEL;

type Lanes = [f32; PANEL];

/// The weights of 32 input columns for 16 output columns.
type Block = [Lanes; BLOCK];

/// # Safety
/// The job's columns are the caller's to write.
pub unsafe fn multiply<const F16: bool>(job: &Job) {
    for (index, panel) in job.panels.clone().enumerate() {
        let bytes = &job.weight[index * job.panel_bytes()..(index + 1) * job.panel_bytes()];
        for group in 0..job.x.groups() {
            let (x, width) = job.x.group(group);
            let mut sums = [[0.0; PANEL]; GROUP];
            for (block, lines) in bytes.chunks_exact(BLOCK_BYTES).enumerate() {
                let weights = if F16 { f16_weights(lines) } else { bf16_weights(lines) };
                let (upper, rest) = if F16 { split(&weights) } else { (weights, [[0.0; PANEL]; BLOCK]) };
                for (row, sums) in sums.iter_mut().enumerate().take(width) {
                    let x: [f32; BLOCK] = std::array::from_fn(|k| x[(block * BLOCK + k) * width + row]);
                    step(sums, &x, &upper);
                    if F16 {
                        step(sums, &x, &rest);
                    }
                }
            }
            for (row, sums) in sums.iter().enumerate().take(width) {
                // SAFETY: the caller's promise, and the row is one of `x`.
                unsafe { job.out.write(group * GROUP + row, panel, sums) };
            }
        }
    }
}

/// One row times f16 weights that are taken whole, for rows with infinities.
///
/// # Safety
/// The job's columns are the caller's to write.
pub unsafe fn whole_row(job: &Job, row: usize) {
    for (index, panel) in job.panels.clone().enumerate() {
        let bytes = &job.weight[index * job.panel_bytes()..(index + 1) * job.panel_bytes()];
        let mut sums = [0.0; PANEL];
        for (block, lines) in bytes.chunks_exact(BLOCK_BYTES).enumerate() {
            let x: [f32; BLOCK] = std::array::from_fn(|k| job.x.value(row, block * BLOCK + k));
            step(&mut sums, &x, &f16_weights(lines));
        }
        // SAFETY: the caller's promise, and the row is one of `x`.
        unsafe { job.out.write(row, panel, &sums) };
    }
}

/// Adds the products of 32 columns to the sums of 16.
#[inline(always)]
fn step(sums: &mut Lanes, x: &[f32; BLOCK], weights: &Block) {
    let (mut even, mut odd) = ([0.0; PANEL], [0.0; PANEL]);
    for k in (0..BLOCK).step_by(2) {
        multiply_add(&mut even, x[k], &weights[k]);
        multiply_add(&mut odd, x[k + 1], &weights[k + 1]);
    }
    for ((sum, even), odd) in sums.iter_mut().zip(even).zip(odd) {
        let step = to_f32(f64::from(even) + f64::from(odd));
        *sum = to_f32(f64::from(*sum) + f64::from(step));
    }
}

#[inline(always)]
fn multiply_add(sums: &mut Lanes, x: f32, weights: &Lanes) {
    let x = f64::from(normal(x));
    for (sum, &weight) in sums.iter_mut().zip(weights) {
        *sum = to_f32(x * f64::from(weight) + f64::from(*sum));
    }
}

/// Rounds a sum or a product and sum of `f32` numbers, computed in `f64`, as if it had been computed at once; what would
/// be below the smallest normal number becomes zero.
///
/// Rounding twice changes nothing: where a sum needs more than 53 bits, one of its parts is below a 2⁻²⁹th of the other,
/// and the sum is not near the middle between two `f32`.
#[inline(always)]
fn to_f32(value: f64) -> f32 {
    /// Numbers below are not rounded up to the smallest normal one.
    const TINY: f64 = f32::MIN_POSITIVE as f64 * (1.0 - 1.0 / (1 << 25) as f64);
    let value = if value.abs() < TINY { 0.0f64.copysign(value) } else { value };
    value as f32
}

/// Denormal numbers are zeros.
#[inline(always)]
fn normal(value: f32) -> f32 {
    if value.abs() < f32::MIN_POSITIVE { 0.0f32.copysign(value) } else { value }
}

fn bf16_weights(lines: &[u8]) -> Block {
    let mut weights = [[0.0; PANEL]; BLOCK];
    for (line, pair) in lines.chunks_exact(4 * PANEL).zip(weights.chunks_exact_mut(2)) {
        for (column, bytes) in line.chunks_exact(4).enumerate() {
            for (weights, bytes) in pair.iter_mut().zip(bytes.chunks_exact(2)) {
                weights[column] = normal(f32::from_bits(u32::from(u16::from_le_bytes([bytes[0], bytes[1]])) << 16));
            }
        }
    }
    weights
}

fn f16_weights(lines: &[u8]) -> Block {
    let mut weights = [[0.0; PANEL]; BLOCK];
    for (weight, bytes) in weights.as_flattened_mut().iter_mut().zip(lines.chunks_exact(2)) {
        *weight = f16::from_le_bytes([bytes[0], bytes[1]]).to_f32_const();
    }
    weights
}

/// The upper 8 bits of f16 weights, and what that leaves of them, nothing of infinities and NaNs.
fn split(weights: &Block) -> (Block, Block) {
    let (mut uppers, mut rests) = ([[0.0; PANEL]; BLOCK], [[0.0; PANEL]; BLOCK]);
    let parts = uppers.as_flattened_mut().iter_mut().zip(rests.as_flattened_mut());
    for (&weight, (upper, rest)) in weights.as_flattened().iter().zip(parts) {
        *upper = f32::from_bits(weight.to_bits() & 0xffff_0000);
        *rest = if weight.is_finite() { weight - *upper } else { 0.0 };
    }
    (uppers, rests)
}
