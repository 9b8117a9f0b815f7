//! The products in plain Rust, fused multiply-adds included, which not every processor has.

use super::Job;
use crate::packed::PANEL;

/// # Safety
/// The job's columns are the caller's to write.
pub unsafe fn multiply(job: &Job) {
    for panel in job.panels.clone() {
        let weights: [&[f32]; PANEL] = std::array::from_fn(|column| job.weight_row(panel * PANEL + column));
        for row in 0..job.rows {
            let mut sums = [0.0; PANEL];
            for (k, &x) in job.x_row(row).iter().enumerate() {
                for (sum, weight) in sums.iter_mut().zip(weights) {
                    *sum = multiply_add(x, weight[k], *sum);
                }
            }
            // SAFETY: the caller's promise, and the row is one of `x`.
            unsafe { job.out.write(row, panel, &sums) };
        }
    }
}

/// `a · b + c`, rounded once.
#[inline(always)]
fn multiply_add(a: f32, b: f32, c: f32) -> f32 {
    if cfg!(any(target_arch = "aarch64", target_feature = "fma")) { a.mul_add(b, c) } else { rounded_once(a, b, c) }
}

/// A fused multiply-add without the instruction: the product is exact in `f64`; if the sum is not, its last bit is made
/// odd, so that rounding it again does what rounding the exact sum would ("rounding to odd", Boldo and Melquiond 2008,
/// <https://doi.org/10.1109/TC.2007.70819>).
#[inline(always)]
fn rounded_once(a: f32, b: f32, c: f32) -> f32 {
    let (product, c) = (f64::from(a) * f64::from(b), f64::from(c));
    let sum = product + c;
    let of_product = sum - c;
    let error = (product - of_product) + (c - (sum - of_product));
    let bits = sum.to_bits();
    // Away from zero if the error has the sign of the sum, otherwise towards zero.
    let step = if (error > 0.0) == (sum > 0.0) { 1 } else { u64::MAX };
    // The error of an infinity is not a number.
    let inexact = error.abs() > 0.0;
    f64::from_bits(if inexact & (bits & 1 == 0) { bits.wrapping_add(step) } else { bits }) as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn multiply_add_rounds_once() {
        let mut state = 1u64;
        let mut random = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 32) as u32
        };
        for _ in 0..200_000 {
            // Exponents close to each other, so that sums cancel and ties occur, or any bits.
            let mut value = || {
                let bits = random();
                if bits & 7 == 0 {
                    f32::from_bits(random())
                } else {
                    f32::from_bits(bits & 0x80ff_f000 | (bits >> 3 & 1) << 12 | (115 + bits % 25) << 23)
                }
            };
            let (a, b, c) = (value(), value(), value());
            let (found, expected) = (rounded_once(a, b, c), a.mul_add(b, c));
            assert!(
                found.to_bits() == expected.to_bits() || found.is_nan() && expected.is_nan(),
                "{a:e} * {b:e} + {c:e}: {found:e} for {expected:e}"
            );
        }
    }
}
