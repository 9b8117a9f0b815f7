//! Learning rates over time.

/// Linear from 0 to `peak` over `warmup` steps, then a half cosine down to `floor · peak` at the last of `steps`.
///
/// `step` counts from 1.
///
/// ```
/// use fornax_train::cosine_with_warmup;
///
/// assert_eq!(cosine_with_warmup(5, 100, 10, 1.0, 0.1), 0.5);
/// assert_eq!(cosine_with_warmup(10, 100, 10, 1.0, 0.1), 1.0);
/// assert!((cosine_with_warmup(100, 100, 10, 1.0, 0.1) - 0.1).abs() < 1e-12);
/// ```
pub fn cosine_with_warmup(step: usize, steps: usize, warmup: usize, peak: f64, floor: f64) -> f64 {
    if step < warmup {
        return peak * step as f64 / warmup as f64;
    }
    let progress = (step - warmup) as f64 / (steps.saturating_sub(warmup)).max(1) as f64;
    let cosine = 0.5 * (1.0 + (std::f64::consts::PI * progress.min(1.0)).cos());
    peak * (floor + (1.0 - floor) * cosine)
}
