//! Products with weights of `f32` at every level, against sums in `f64` and against each other.

use fornax_cpu::linear::OutRows;
use fornax_cpu::{Isa, Pool, dense};
use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// `x Wᵀ` in tasks of `panels` panels.
fn multiply(
    pool: &Pool,
    isa: Isa,
    x: &[f32],
    rows: usize,
    weight: &[f32],
    in_features: usize,
    panels: usize,
) -> Vec<f32> {
    let out_features = weight.len() / in_features;
    let mut y = vec![f32::NAN; rows * out_features];
    // SAFETY: `y` outlives the products, and is not touched until they are done.
    let out = unsafe { OutRows::new(y.as_mut_ptr(), out_features, out_features) };
    let count = out_features.div_ceil(16);
    pool.run(count.div_ceil(panels), |task| {
        let panels = task * panels..((task + 1) * panels).min(count);
        // SAFETY: every task has other panels.
        unsafe { dense::multiply(isa, x, rows, weight, in_features, panels, out) };
    });
    y
}

/// Equal to the bit, but for which NaN it is.
fn assert_same(found: &[f32], expected: &[f32], what: impl Fn() -> String) {
    assert_eq!(found.len(), expected.len());
    for (at, (found, expected)) in found.iter().zip(expected).enumerate() {
        let same = found.to_bits() == expected.to_bits() || found.is_nan() && expected.is_nan();
        assert!(same, "{}, value {at}: {found:e} for {expected:e}", what());
    }
}

fn value(random: &mut impl Rng, kind: usize) -> f32 {
    let usual = random.random_range(-1.0f32..1.0);
    match kind {
        0 => usual,
        1 => usual * 2.0f32.powi(-random.random_range(0..146)),
        2 => usual * 2.0f32.powi(random.random_range(0..126)),
        _ => match random.random_range(0..60) {
            0 => f32::INFINITY.copysign(usual),
            1 => f32::NAN,
            2 => 0.0f32.copysign(usual),
            _ => usual,
        },
    }
}

#[test]
fn products_are_right_at_every_level() {
    let mut random = ChaCha8Rng::seed_from_u64(1);
    let mut cases = 0;
    // Threads are the other tests' matter: these products are too small for them.
    let pool = Pool::new(1);
    for kind in 0..4 {
        for case in 0..640 {
            let (rows, out_features, in_features) = if case % 40 == 0 {
                (random.random_range(1..41), random.random_range(1..200), random.random_range(1..400))
            } else {
                (random.random_range(1..12), random.random_range(1..70), random.random_range(1..60))
            };
            let x: Vec<f32> = (0..rows * in_features).map(|_| value(&mut random, kind)).collect();
            let weight: Vec<f32> = (0..out_features * in_features).map(|_| value(&mut random, kind)).collect();
            let what = |isa| format!("{isa} kind {kind} {rows}x{in_features}x{out_features}");
            let portable = multiply(&pool, Isa::Portable, &x, rows, &weight, in_features, 4);
            for row in 0..rows {
                for column in 0..out_features {
                    let (mut sum, mut size) = (0.0f64, 0.0f64);
                    for k in 0..in_features {
                        let product = f64::from(x[row * in_features + k]) * f64::from(weight[column * in_features + k]);
                        sum += product;
                        size += if product.is_finite() { product.abs() } else { 0.0 };
                    }
                    let found = f64::from(portable[row * out_features + column]);
                    let what = || format!("{}, [{row}, {column}]: {found:e} for {sum:e}", what(Isa::Portable));
                    if sum.is_nan() {
                        assert!(found.is_nan(), "{}", what());
                    } else if size >= 1e38 {
                        // A sum on the way may overflow.
                    } else if sum.is_infinite() {
                        assert!(found == sum, "{}", what());
                    } else {
                        let steps = in_features as f64;
                        let bound = size * steps * 2f64.powi(-24) + steps * 2f64.powi(-150);
                        assert!((found - sum).abs() <= bound, "{}", what());
                    }
                }
            }
            for isa in Isa::available() {
                let tasks = random.random_range(1..30);
                assert_same(&multiply(&pool, isa, &x, rows, &weight, in_features, tasks), &portable, || what(isa));
                cases += 1;
            }
        }
    }
    assert!(cases >= 640 * 4 * Isa::available().len(), "{cases}");
}

#[test]
fn a_row_is_the_same_in_any_company() {
    let mut random = ChaCha8Rng::seed_from_u64(2);
    for (in_features, out_features) in [(200, 875), (1025, 33)] {
        let rows = 520;
        let x: Vec<f32> = (0..rows * in_features).map(|_| value(&mut random, 0)).collect();
        let weight: Vec<f32> = (0..out_features * in_features).map(|_| value(&mut random, 0)).collect();
        let all = multiply(Pool::global(), Isa::best(), &x, rows, &weight, in_features, 30);
        for batch in [1, 2, 3, 8, 9, 16, 17, 40, 520] {
            for isa in Isa::available() {
                // The slower levels are compared over some of the rows.
                let count = if isa == Isa::best() { rows } else { batch.clamp(3, 17) };
                for first in (0..count).step_by(batch) {
                    let count = batch.min(count - first);
                    let x = &x[first * in_features..(first + count) * in_features];
                    let expected = &all[first * out_features..(first + count) * out_features];
                    assert_same(
                        &multiply(Pool::global(), isa, x, count, &weight, in_features, 1 + first % 30),
                        expected,
                        || format!("{isa} {count} rows of {batch} from {first}, {in_features}x{out_features}"),
                    );
                }
            }
        }
    }
}

#[test]
fn nothing_times_nothing_is_zero() {
    for isa in Isa::available() {
        let mut y = [1.0; 60];
        // SAFETY: `y` is used by nobody else.
        unsafe {
            dense::multiply(isa, &[], 3, &[], 0, 0..2, OutRows::new(y.as_mut_ptr(), 20, 20));
        }
        assert_eq!(y, [0.0; 60]);
        assert!(multiply(Pool::global(), isa, &[], 0, &[1.0; 40], 2, 2).is_empty());
    }
}
