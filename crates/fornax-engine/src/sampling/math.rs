//! Exponentials and their sums over rows of logits.
//!
//! Only additions, multiplications, divisions and integer operations decide what is drawn: the platform's `exp` is
//! not used, because its last bit differs between systems and equal seeds must give equal tokens everywhere.

use super::SamplingError;

/// Elements summed in `f32` before the sum moves to `f64`; short enough that the rounding stays near 1e-7.
pub(super) const BLOCK: usize = 64;
const LANES: usize = 8;

/// The natural logarithm of the sum of the exponentials of `logits`, as needed to turn logits into log-probabilities.
///
/// # Errors
/// [`SamplingError::InvalidLogit`] for NaN or positive infinity, [`SamplingError::NoCandidate`] where all are `-inf`
/// or there are none.
///
/// ```
/// let sum = fornax_engine::sampling::log_sum_exp(&[0.0, 0.0])?;
/// assert!((sum - 2f64.ln()).abs() < 1e-6);
/// # Ok::<(), fornax_engine::sampling::SamplingError>(())
/// ```
pub fn log_sum_exp(logits: &[f32]) -> Result<f64, SamplingError> {
    let max = finite_max(logits)?;
    let mut sum = 0.0;
    for block in logits.chunks(BLOCK) {
        sum += sum_block(block, |logit| exp_nonpositive(logit - max));
    }
    Ok(f64::from(max) + sum.ln())
}

/// Turns one row of logits into natural log-probabilities, in place.
///
/// # Errors
/// As [`log_sum_exp`]; the row is then unchanged.
pub fn log_softmax(logits: &mut [f32]) -> Result<(), SamplingError> {
    let sum = log_sum_exp(logits)?;
    for logit in logits {
        *logit = (f64::from(*logit) - sum) as f32;
    }
    Ok(())
}

/// The largest logit, which is finite; anything that leaves no distribution is an error.
pub(crate) fn finite_max(logits: &[f32]) -> Result<f32, SamplingError> {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let mut any_nan = false;
    let (rows, rest) = logits.as_chunks::<LANES>();
    for row in rows {
        for (lane, &logit) in lanes.iter_mut().zip(row) {
            *lane = if logit > *lane { logit } else { *lane };
            any_nan |= logit.is_nan();
        }
    }
    for (lane, &logit) in lanes.iter_mut().zip(rest) {
        *lane = if logit > *lane { logit } else { *lane };
        any_nan |= logit.is_nan();
    }
    let max = lanes.into_iter().fold(f32::NEG_INFINITY, f32::max);
    if any_nan || max == f32::INFINITY {
        let invalid = |logit: &f32| logit.is_nan() || *logit == f32::INFINITY;
        let token = logits.iter().position(invalid).unwrap_or_default();
        return Err(SamplingError::InvalidLogit { token, found: logits[token] });
    }
    if max == f32::NEG_INFINITY {
        return Err(SamplingError::NoCandidate);
    }
    Ok(max)
}

/// The sum of at most [`BLOCK`] terms in a fixed order. The terms are all computed before they are added, so that both
/// loops vectorise.
pub(super) fn sum_block(block: &[f32], term: impl Fn(f32) -> f32) -> f64 {
    let mut terms = [0f32; BLOCK];
    for (slot, &value) in terms.iter_mut().zip(block) {
        *slot = term(value);
    }
    let mut lanes = [0f32; LANES];
    for row in terms.as_chunks::<LANES>().0 {
        for (lane, &value) in lanes.iter_mut().zip(row) {
            *lane += value;
        }
    }
    lanes.iter().map(|&lane| f64::from(lane)).sum()
}

/// `exp(x)` for `x <= 0` (`-inf` included), within 2e-7 of the true value relatively; 0 below -87, where `f32` would
/// turn denormal.
///
/// `x = n ln 2 + r` with `|r| <= ln 2 / 2`; the Taylor series to the seventh power leaves 6e-9.
#[inline]
pub(super) fn exp_nonpositive(x: f32) -> f32 {
    // Adding 1.5 * 2^23 leaves no room for a fraction, so that this rounds to the nearest integer.
    const ROUND: f32 = 12_582_912.0;
    // ln 2 in two parts: n times the first is exact.
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    let clamped = if x > -87.0 { x } else { -87.0 };
    let shifted = clamped * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = (clamped - n * LN2_HIGH) - n * LN2_LOW;
    let mut series = 1.0 / 5040.0;
    for coefficient in [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
        series = series * r + coefficient;
    }
    // The low bits of `shifted` hold n (two's complement); n >= -126, so that the exponent below is a normal number's.
    let n_bits = shifted.to_bits().wrapping_sub(ROUND.to_bits());
    let power = f32::from_bits(n_bits.wrapping_add(127) << 23);
    if x >= -87.0 { series * power } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exponential_is_close_and_exact_at_the_ends() {
        assert_eq!(exp_nonpositive(0.0), 1.0);
        assert_eq!(exp_nonpositive(-0.0), 1.0);
        assert_eq!(exp_nonpositive(f32::NEG_INFINITY), 0.0);
        assert_eq!(exp_nonpositive(-1e30), 0.0);
        for step in 0..870_000 {
            let x = -(step as f32) * 1e-4;
            let expected = f64::from(x).exp();
            let error = (f64::from(exp_nonpositive(x)) - expected).abs() / expected;
            assert!(error < 2e-7, "exp({x}) is off by {error:e}");
        }
    }

    #[test]
    fn log_sum_exp_agrees_with_f64() {
        for len in [1, 7, 8, 63, 64, 65, 1000, 4099] {
            let logits: Vec<f32> = (0..len).map(|i| ((i * 37) % 101) as f32 * 0.3 - 20.0).collect();
            let exact = logits.iter().map(|&l| f64::from(l).exp()).sum::<f64>().ln();
            let found = log_sum_exp(&logits).unwrap();
            assert!((found - exact).abs() < 3e-7, "{len}: {found} against {exact}");
        }
    }

    #[test]
    fn log_softmax_sums_to_one_at_any_offset() {
        for offset in [0.0, 1e4, -1e4] {
            let mut row: Vec<f32> = (0..50).map(|i| i as f32 * 0.25 + offset).collect();
            log_softmax(&mut row).unwrap();
            let sum: f64 = row.iter().map(|&l| f64::from(l).exp()).sum();
            assert!((sum - 1.0).abs() < 1e-6);
        }
    }

    #[test]
    fn refuses_what_is_no_distribution() {
        let nan = finite_max(&[0.0, 1.0, f32::NAN, f32::INFINITY]).unwrap_err();
        assert!(matches!(nan, SamplingError::InvalidLogit { token: 2, .. }), "{nan}");
        let infinite = finite_max(&[0.0, f32::INFINITY]).unwrap_err();
        assert!(matches!(infinite, SamplingError::InvalidLogit { token: 1, .. }));
        assert_eq!(finite_max(&[f32::NEG_INFINITY; 9]), Err(SamplingError::NoCandidate));
        assert_eq!(finite_max(&[]), Err(SamplingError::NoCandidate));
        for at in 0..19 {
            let mut row = [0f32; 19];
            row[at] = f32::NAN;
            let error = finite_max(&row).unwrap_err();
            assert!(matches!(error, SamplingError::InvalidLogit { token, .. } if token == at));
        }
        assert_eq!(finite_max(&[f32::NEG_INFINITY, -3.0]), Ok(-3.0));
    }
}
