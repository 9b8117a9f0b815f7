//! `layer_norm`: the definition with and without a bias, views as operands, the kernel against the reference, and half
//! precision.

use burn::tensor::Tensor;
use fornax_backend::ops::cases::layer_norm::{Case, TESTS};
use fornax_backend::ops::{layer_norm, reference};

use crate::common::*;

const EPSILON: f64 = 1e-5;

/// `y[r, i] = (x[r, i] − mean) / sqrt(Σ (x[r, j] − mean)² / n + ε) · weight[i] + bias[i]`.
fn naive(x: &Array<2>, weight: &Array<1>, bias: Option<&Array<1>>, epsilon: f64) -> Array<2> {
    let features = x.dims[1];
    Array::from_fn(x.dims, |[row, i]| {
        let mean = (0..features).map(|j| x.at([row, j])).sum::<f64>() / features as f64;
        let squares: f64 = (0..features).map(|j| (x.at([row, j]) - mean).powi(2)).sum();
        let normalized = (x.at([row, i]) - mean) / (squares / features as f64 + epsilon).sqrt();
        normalized * weight.at([i]) + bias.map_or(0.0, |bias| bias.at([i]))
    })
}

fn operands(rows: usize, features: usize, random: &mut Random) -> (Array<2>, Array<1>, Array<1>) {
    (Array::random([rows, features], random), Array::random([features], random), Array::random([features], random))
}

fn check(case: &str, x: &Array<2>, weight: &Array<1>, bias: Option<&Array<1>>, epsilon: f64) {
    let y = layer_norm(x.tensor(device()), weight.tensor(device()), bias.map(|bias| bias.tensor(device())), epsilon);
    let case = format!("{case} {:?}, bias {}, epsilon {epsilon:e}", x.dims, bias.is_some());
    assert_close(case, y, &naive(x, weight, bias, epsilon), unit(x.dims[1]));
}

#[test]
fn cases_follow_the_definition() {
    for (seed, &Case { rows, features }) in TESTS.iter().enumerate() {
        let (x, weight, bias) = operands(rows, features, &mut Random::new(seed as u64));
        for epsilon in [1e-12, EPSILON, 0.5] {
            // The epsilon of BERT is nothing beside the rounding of a variance that should be 0.
            if features > 1 || epsilon >= EPSILON {
                check("case", &x, &weight, Some(&bias), epsilon);
                check("case", &x, &weight, None, epsilon);
            }
        }
    }
}

#[test]
fn random_shapes_follow_the_definition() {
    for mut random in random_shapes() {
        let (rows, features) = (random.size(9), 1 + random.size(69));
        let (x, weight, bias) = operands(rows, features, &mut random);
        // An epsilon large beside the rounding of two features that happen to lie close together.
        check("random", &x, &weight, Some(&bias).filter(|_| random.coin()), 1e-3);
    }
}

/// A variance computed as the difference of two large numbers would lose everything here.
#[test]
fn a_large_mean_does_not_drown_the_variance() {
    let (x, weight, bias) = operands(2, 64, &mut Random::new(1));
    let shifted = Array::from_fn(x.dims, |index| f64::from(1024.0 + x.at(index) as f32));
    let y = layer_norm(shifted.tensor(device()), weight.tensor(device()), Some(bias.tensor(device())), EPSILON);
    // The mean itself is rounded to 2⁻¹⁴ at this size.
    assert_close("shifted", y, &naive(&shifted, &weight, Some(&bias), EPSILON), 1e-3);
}

#[test]
fn leading_dimensions_are_rows() {
    let (x, weight, bias) = operands(6, 13, &mut Random::new(2));
    let expected = naive(&x, &weight, Some(&bias), EPSILON);
    let (weight, bias) = (weight.tensor(device()), bias.tensor(device()));
    let y = layer_norm(x.reshaped([2, 3, 13]).tensor(device()), weight.clone(), Some(bias.clone()), EPSILON);
    assert_close("3-D", y, &expected.reshaped([2, 3, 13]), unit(13));
    let y = layer_norm(x.reshaped([1, 3, 2, 13]).tensor(device()), weight, Some(bias), EPSILON);
    assert_close("4-D", y, &expected.reshaped([1, 3, 2, 13]), unit(13));
}

#[test]
fn an_input_without_rows_stays_without_rows() {
    let Some(device) = cpu() else { return };
    let weight = Array::random([5], &mut Random::new(0)).tensor(device);
    let x = Tensor::<4>::zeros([2, 0, 3, 5], device.as_burn());
    assert_eq!(layer_norm(x, weight, None, EPSILON).dims(), [2, 0, 3, 5]);
}

#[test]
fn views_are_read_where_they_lie() {
    let (x, weight, bias) = operands(18, 6, &mut Random::new(3));
    let long = Array::random([18], &mut Random::new(4));
    let transposed = Array::from_fn([6, 18], |[i, j]| x.at([j, i]));
    let y = layer_norm(x.tensor(device()).transpose(), long.tensor(device()), None, EPSILON);
    assert_close("transposed", y, &naive(&transposed, &long, None, EPSILON), unit(18));
    let part = |array: &Array<1>| array.narrow(0, 1, 4);
    let y = layer_norm(
        x.tensor(device()).narrow(1, 2, 4),
        weight.tensor(device()).narrow(0, 1, 4),
        Some(bias.tensor(device()).narrow(0, 1, 4)),
        EPSILON,
    );
    let expected = naive(&x.narrow(1, 2, 4), &part(&weight), Some(&part(&bias)), EPSILON);
    assert_close("narrowed", y, &expected, unit(4));
}

#[test]
fn the_cpu_kernel_gives_what_the_reference_gives() {
    if cpu().is_none() {
        return;
    }
    // One feature has no variance.
    for (seed, case) in TESTS.iter().enumerate().filter(|(_, case)| case.features > 1) {
        let (x, weight, bias) = operands(case.rows, case.features, &mut Random::new(seed as u64));
        for bias in [None, Some(&bias)] {
            let (xt, wt, bt) = (x.tensor(device()), weight.tensor(device()), bias.map(|bias| bias.tensor(device())));
            let from_reference = reference::layer_norm(xt.clone(), wt.clone(), bt.clone(), EPSILON);
            assert_close(case, from_reference.clone(), &naive(&x, &weight, bias, EPSILON), unit(case.features));
            assert_close(case, layer_norm(xt, wt, bt, EPSILON), &Array::read(from_reference), unit(case.features));
        }
    }
}

#[test]
fn a_row_is_the_same_in_any_company() {
    if cpu().is_none() {
        return;
    }
    let (x, weight, bias) = operands(5, 77, &mut Random::new(9));
    let (x, weight, bias) = (x.tensor(device()), weight.tensor(device()), bias.tensor(device()));
    let norm = |x: Tensor<2>| layer_norm(x, weight.clone(), Some(bias.clone()), EPSILON);
    let together = norm(x.clone());
    for row in 0..5 {
        assert_identical(row, together.clone().narrow(0, row, 1), norm(x.clone().narrow(0, row, 1)));
    }
}

/// Shader compilers may take it that there are neither, so only the CPU promises this.
#[test]
fn nan_and_infinity_travel() {
    if cpu().is_none() {
        return;
    }
    let (mut x, mut weight, mut bias) = operands(4, 21, &mut Random::new(5));
    x.set([0, 3], f64::NAN);
    x.set([1, 20], f64::INFINITY);
    weight.set([5], f64::NAN);
    bias.set([6], f64::NEG_INFINITY);
    check("specials", &x, &weight, Some(&bias), EPSILON);
    let expected = naive(&x, &weight, Some(&bias), EPSILON);
    assert!(expected.at([0, 0]).is_nan() && expected.at([2, 0]).is_finite(), "specials stay where they belong");
}

#[test]
fn half_precision_is_close() {
    for dtype in half_dtypes() {
        let (x, weight, bias) = operands(3, 40, &mut Random::new(6));
        // Values whose squares an `f16` cannot hold, beside ordinary ones.
        for factor in [1.0, 5000.0] {
            let (x, x_values) = Array::from_fn(x.dims, |index| factor * x.at(index)).rounded(device(), dtype);
            let (weight, weight_values) = weight.rounded(device(), dtype);
            let (bias, bias_values) = bias.rounded(device(), dtype);
            let y = layer_norm(x, weight, Some(bias), EPSILON);
            assert_eq!(y.dtype(), dtype.into());
            let expected = naive(&x_values, &weight_values, Some(&bias_values), EPSILON);
            assert_close((dtype, factor), y, &expected, HALF_UNIT);
        }
    }
}

#[test]
fn gradients_follow_differences() {
    let Some(device) = cpu() else { return };
    for (rows, features) in [(1, 5), (3, 4)] {
        let mut random = Random::new(7);
        let (x, weight, bias) = operands(rows, features, &mut random);
        let coefficients = Array::random(x.dims, &mut random);
        let (xt, wt, bt) = (x.tracked(device), weight.tracked(device), bias.tracked(device));
        let y = layer_norm(xt.clone(), wt.clone(), Some(bt.clone()), EPSILON);
        assert_close("forward", y.clone().inner(), &naive(&x, &weight, Some(&bias), EPSILON), unit(features));
        let gradients = backward(y, &coefficients);
        let of = |x: &Array<2>, weight: &Array<1>, bias: &Array<1>| {
            loss(&naive(x, weight, Some(bias), EPSILON), &coefficients)
        };
        assert_gradient("x", &gradients, &xt, &x, |x| of(x, &weight, &bias));
        assert_gradient("weight", &gradients, &wt, &weight, |weight| of(&x, weight, &bias));
        assert_gradient("bias", &gradients, &bt, &bias, |bias| of(&x, &weight, bias));

        let gradients = backward(layer_norm(xt.clone(), wt, None, EPSILON), &coefficients);
        assert_gradient("without bias", &gradients, &xt, &x, |x| {
            loss(&naive(x, &weight, None, EPSILON), &coefficients)
        });
    }
}

#[test]
fn operands_that_do_not_fit_are_named() {
    let (x, weight, bias) = operands(2, 5, &mut Random::new(8));
    let (x, weight, bias) = (x.tensor(device()), weight.tensor(device()), bias.tensor(device()));
    assert_panics(&["layer_norm:", "weight", "[2, 5]"], || {
        layer_norm(x.clone(), weight.clone().narrow(0, 0, 4), None, EPSILON)
    });
    assert_panics(&["layer_norm:", "bias", "[2, 5]"], || layer_norm(x, weight, Some(bias.narrow(0, 0, 1)), EPSILON));
}
