//! Operations on rows against their definitions in `f64`, at every level of instructions, in all kinds of shapes.

use fornax_cpu::rows::{Activation, NormWeights, Rows, activate, gated, layer_norm_rows, rms_norm_rows};
use fornax_cpu::{Isa, Pool};
use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

fn values(random: &mut ChaCha8Rng, count: usize, size: f32) -> Vec<f32> {
    (0..count).map(|_| (random.random::<f32>() * 2.0 - 1.0) * size).collect()
}

fn shape(random: &mut ChaCha8Rng, round: usize) -> (usize, usize) {
    match round % 50 {
        0 => (random.random_range(1..4), random.random_range(1000..5000)),
        1 => (random.random_range(60..300), random.random_range(1..400)),
        _ => (random.random_range(1..5), random.random_range(1..90)),
    }
}

#[track_caller]
fn assert_close(found: &[f32], expected: &[f64], tolerance: f64, what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    for (found, expected) in found.iter().zip(expected) {
        let error = (f64::from(*found) - expected).abs();
        assert!(error <= tolerance * (1.0 + expected.abs()), "{what}: {found} for {expected}");
    }
}

/// A row's result is the same alone.
#[track_caller]
fn assert_row(row: &[f32], all: &[f32], index: usize, what: &str) {
    let bits = |x: &[f32]| x.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
    assert_eq!(bits(row), bits(&all[index * row.len()..][..row.len()]), "{what}, row {index}");
}

#[test]
fn norms_follow_their_definitions() {
    let (alone, many) = (Pool::new(1), Pool::new(3));
    let mut random = ChaCha8Rng::seed_from_u64(1);
    for round in 0..2500 {
        let (rows, columns) = shape(&mut random, round);
        let x = values(&mut random, rows * columns, 5.0);
        let y = values(&mut random, rows * columns, 5.0);
        let (weight, bias) = (values(&mut random, columns, 2.0), values(&mut random, columns, 2.0));
        let bias = (round % 2 == 0).then_some(&bias[..]);
        let offset = if round % 3 == 0 { 1.0 } else { 0.0 };
        let weights = NormWeights { weight: &weight, bias, epsilon: 1e-5, offset };
        let reference = |centered: bool, residual: &[f32]| -> Vec<f64> {
            let mut out = Vec::new();
            for row in x.chunks_exact(columns) {
                let row: Vec<f64> = row.iter().map(|&x| f64::from(x)).collect();
                let mean = if centered { row.iter().sum::<f64>() / columns as f64 } else { 0.0 };
                let variance = row.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / columns as f64;
                out.extend(row.iter().enumerate().map(|(i, x)| {
                    (x - mean) / (variance + 1e-5).sqrt() * f64::from(offset + weight[i])
                        + bias.map_or(0.0, |bias| f64::from(bias[i]))
                }));
            }
            out.iter().zip(residual).map(|(out, &residual)| out + f64::from(residual)).collect()
        };
        let nothing = vec![0.0; x.len()];
        for isa in Isa::available() {
            let what = format!("{isa}, {rows} rows of {columns}");
            let mut out = vec![f32::NAN; x.len()];
            let one = random.random_range(0..rows);
            let row = &x[one * columns..][..columns];
            let mut single = vec![f32::NAN; columns];

            rms_norm_rows(&many, isa, &x, weights, None, &mut out);
            assert_close(&out, &reference(false, &nothing), 2e-6, &what);
            rms_norm_rows(&alone, isa, row, weights, None, &mut single);
            assert_row(&single, &out, one, &what);

            layer_norm_rows(&many, isa, &x, weights, None, &mut out);
            // A row of one or two numbers that are nearly the same has hardly any variance, so that it shows more.
            let tolerance = if columns < 4 { 2e-3 } else { 1e-5 };
            assert_close(&out, &reference(true, &nothing), tolerance, &what);
            layer_norm_rows(&alone, isa, row, weights, None, &mut single);
            assert_row(&single, &out, one, &what);

            rms_norm_rows(&many, isa, &x, weights, Some(&y), &mut out);
            assert_close(&out, &reference(false, &y), 2e-6, &what);
            layer_norm_rows(&many, isa, &x, weights, Some(&y), &mut out);
            assert_close(&out, &reference(true, &y), tolerance, &what);
        }
    }
}

/// `1 - erf(x)`, by its continued fraction for large arguments and its series for small ones.
fn erfc(x: f64) -> f64 {
    if x < 0.0 {
        return 2.0 - erfc(-x);
    }
    if x < 3.0 {
        let (mut term, mut sum) = (x, x);
        for n in 1..100 {
            term *= -x * x / f64::from(n);
            sum += term / f64::from(2 * n + 1);
        }
        return 1.0 - sum * std::f64::consts::FRAC_2_SQRT_PI;
    }
    let fraction = (1..60).rev().fold(x, |below, n| x + f64::from(n) / 2.0 / below);
    (-x * x).exp() / fraction / std::f64::consts::PI.sqrt()
}

fn activated(activation: Activation, x: f64) -> f64 {
    let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
    match activation {
        Activation::Relu => x.max(0.0),
        Activation::ReluSquared => x.max(0.0).powi(2),
        Activation::Gelu => x * 0.5 * erfc(-x / std::f64::consts::SQRT_2),
        Activation::GeluTanh => {
            x * 0.5 * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x.powi(3))).tanh())
        }
        Activation::QuickGelu => x * sigmoid(1.702 * x),
        Activation::Silu => x * sigmoid(x),
        Activation::Tanh => x.tanh(),
        Activation::Sigmoid => sigmoid(x),
    }
}

#[test]
fn activations_follow_their_definitions() {
    let (alone, many) = (Pool::new(1), Pool::new(3));
    let mut random = ChaCha8Rng::seed_from_u64(2);
    for round in 0..3000 {
        let (rows, columns) = shape(&mut random, round);
        let activation = Activation::ALL[round % 8];
        let size = [1e-3, 1.0, 8.0, 30.0][random.random_range(0..4)];
        let fused = values(&mut random, rows * columns * 2, size);
        let (gate, up) = (Rows::strided(&fused, 2 * columns), Rows::strided(&fused[columns..], 2 * columns));
        let expected: Vec<f64> = fused
            .chunks_exact(2 * columns)
            .flat_map(|row| {
                (0..columns).map(|i| activated(activation, f64::from(row[i])) * f64::from(row[columns + i]))
            })
            .collect();
        for isa in Isa::available() {
            let what = format!("{activation:?} at {isa}, {rows} rows of {columns}");
            let mut out = vec![f32::NAN; rows * columns];
            gated(&many, isa, gate, up, rows, columns, activation, &mut out);
            // Relative to the product's own size: errors where it is tiny would hide beside one.
            for (found, expected) in out.iter().zip(&expected) {
                let error = (f64::from(*found) - expected).abs();
                assert!(error <= 2e-6 * expected.abs() + 1e-9, "{what}: {found} for {expected}");
            }
            let one = random.random_range(0..rows);
            let mut single = vec![f32::NAN; columns];
            gated(
                &alone,
                isa,
                Rows::new(gate.row(one), 0),
                Rows::new(up.row(one), 0),
                1,
                columns,
                activation,
                &mut single,
            );
            assert_row(&single, &out, one, &what);
            let mut in_place = fused.clone();
            activate(&many, isa, &mut in_place, activation);
            let expected: Vec<f64> = fused.iter().map(|&x| activated(activation, f64::from(x))).collect();
            assert_close(&in_place, &expected, 1e-6, &what);
        }
    }
}

#[test]
fn activations_at_the_ends_of_the_range() {
    let x = [f32::NAN, f32::INFINITY, 3e38, -3e38, 1e-40, -0.0, 100.0, -100.0];
    for isa in Isa::available() {
        for activation in Activation::ALL {
            let mut y = x;
            activate(&Pool::new(1), isa, &mut y, activation);
            assert!(y[0].is_nan(), "{activation:?} at {isa}: {y:?}");
            for (x, y) in x.into_iter().zip(y).skip(1) {
                let expected = activated(activation, f64::from(x)) as f32;
                let close = y == expected || (y - expected).abs() <= 1e-6 * expected.abs() + f32::MIN_POSITIVE;
                assert!(close, "{activation:?}({x}) at {isa}: {y} for {expected}");
            }
        }
    }
}
