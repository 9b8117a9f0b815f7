//! `rms_norm`: the definition, views as operands, and both paths of the CPU.

use burn::tensor::Tensor;
use fornax_backend::ops::cases::rms_norm::{Case, TESTS};
use fornax_backend::ops::{reference, rms_norm};

use crate::common::*;

const EPSILON: f64 = 1e-5;

/// `y[r, i] = x[r, i] / sqrt(Σ x[r, j]² / n + ε) · weight[i]`.
fn naive(x: &Array<2>, weight: &Array<1>, epsilon: f64) -> Array<2> {
    let features = x.dims[1];
    Array::from_fn(x.dims, |[row, i]| {
        let squares: f64 = (0..features).map(|j| x.at([row, j]).powi(2)).sum();
        x.at([row, i]) / (squares / features as f64 + epsilon).sqrt() * weight.at([i])
    })
}

fn operands(rows: usize, features: usize, random: &mut Random) -> (Array<2>, Array<1>) {
    (Array::random([rows, features], random), Array::random([features], random))
}

fn check(case: &str, x: &Array<2>, weight: &Array<1>, epsilon: f64) {
    let y = rms_norm(x.tensor(device()), weight.tensor(device()), epsilon);
    let case = format!("{case} {:?}, epsilon {epsilon:e}", x.dims);
    assert_close(case, y, &naive(x, weight, epsilon), unit(x.dims[1]));
}

#[test]
fn cases_follow_the_definition() {
    for (seed, &Case { rows, features }) in TESTS.iter().enumerate() {
        let (x, weight) = operands(rows, features, &mut Random::new(seed as u64));
        for epsilon in [1e-6, EPSILON, 0.5] {
            check("case", &x, &weight, epsilon);
        }
    }
}

#[test]
fn random_shapes_follow_the_definition() {
    for mut random in random_shapes() {
        let (rows, features) = (random.size(9), random.size(70));
        let (x, weight) = operands(rows, features, &mut random);
        check("random", &x, &weight, EPSILON);
    }
}

/// The epsilon stands under the root: it decides where the input is small, and a row of zeros stays zeros.
#[test]
fn small_rows_are_ruled_by_epsilon() {
    let (mut x, weight) = operands(3, 24, &mut Random::new(1));
    for i in 0..24 {
        x.set([0, i], 0.0);
        x.set([1, i], x.at([1, i]) * f64::from(2.0f32.powi(-10)));
        x.set([2, i], x.at([2, i]) * f64::from(2.0f32.powi(20)));
    }
    check("scales", &x, &weight, EPSILON);
}

#[test]
fn leading_dimensions_are_rows() {
    let (x, weight) = operands(6, 13, &mut Random::new(2));
    let expected = naive(&x, &weight, EPSILON);
    let y = rms_norm(x.reshaped([2, 3, 13]).tensor(device()), weight.tensor(device()), EPSILON);
    assert_close("3-D", y, &expected.reshaped([2, 3, 13]), unit(13));
    let y = rms_norm(x.reshaped([1, 3, 2, 13]).tensor(device()), weight.tensor(device()), EPSILON);
    assert_close("4-D", y, &expected.reshaped([1, 3, 2, 13]), unit(13));
    let (x, weight) = operands(1, 13, &mut Random::new(3));
    let y = rms_norm(x.reshaped([13]).tensor(device()), weight.tensor(device()), EPSILON);
    assert_close("1-D", y, &naive(&x, &weight, EPSILON).reshaped([13]), unit(13));
}

#[test]
fn an_input_without_rows_stays_without_rows() {
    let Some(device) = cpu() else { return };
    let weight = Array::random([5], &mut Random::new(0));
    for device in [device, &device.autodiff()] {
        let x = Tensor::<4>::zeros([2, 0, 3, 5], device.as_burn());
        assert_eq!(rms_norm(x, weight.tensor(device), EPSILON).dims(), [2, 0, 3, 5]);
    }
}

#[test]
fn views_are_read_where_they_lie() {
    let (x, weight) = operands(18, 6, &mut Random::new(4));
    let long = Array::random([18], &mut Random::new(5));
    let transposed = Array::from_fn([6, 18], |[i, j]| x.at([j, i]));
    let y = rms_norm(x.tensor(device()).transpose(), long.tensor(device()), EPSILON);
    assert_close("transposed", y, &naive(&transposed, &long, EPSILON), unit(18));
    let y = rms_norm(x.tensor(device()).narrow(1, 2, 3), weight.tensor(device()).narrow(0, 1, 3), EPSILON);
    assert_close("narrowed", y, &naive(&x.narrow(1, 2, 3), &weight.narrow(0, 1, 3), EPSILON), unit(3));
    // The queries' norm of a model that normalizes heads: `[batch, seq, heads, dim]` seen as `[batch, heads, seq, dim]`.
    let y = rms_norm(x.reshaped([2, 3, 3, 6]).tensor(device()).swap_dims(1, 2), weight.tensor(device()), EPSILON);
    let expected = naive(&x, &weight, EPSILON).reshaped([2, 3, 3, 6]);
    let expected = Array::from_fn([2, 3, 3, 6], |[b, h, s, d]| expected.at([b, s, h, d]));
    assert_close("heads", y, &expected, unit(6));
}

#[test]
fn the_cpu_kernel_gives_what_the_reference_gives() {
    if cpu().is_none() {
        return;
    }
    for (seed, case) in TESTS.iter().enumerate() {
        let (x, weight) = operands(case.rows, case.features, &mut Random::new(seed as u64));
        let (xt, wt) = (x.tensor(device()), weight.tensor(device()));
        let from_reference = reference::rms_norm(xt.clone(), wt.clone(), EPSILON);
        assert_close(case, from_reference.clone(), &naive(&x, &weight, EPSILON), unit(case.features));
        assert_close(case, rms_norm(xt, wt, EPSILON), &Array::read(from_reference), unit(case.features));
    }
}

#[test]
fn a_row_is_the_same_in_any_company() {
    if cpu().is_none() {
        return;
    }
    let (x, weight) = operands(5, 77, &mut Random::new(6));
    let (x, weight) = (x.tensor(device()), weight.tensor(device()));
    let together = rms_norm(x.clone(), weight.clone(), EPSILON);
    for row in 0..5 {
        let alone = rms_norm(x.clone().narrow(0, row, 1), weight.clone(), EPSILON);
        assert_identical(row, together.clone().narrow(0, row, 1), alone);
    }
}

/// Shader compilers may take it that there are neither, so only the CPU promises this.
#[test]
fn nan_and_infinity_travel() {
    if cpu().is_none() {
        return;
    }
    let (mut x, mut weight) = operands(4, 21, &mut Random::new(7));
    x.set([0, 3], f64::NAN);
    x.set([1, 20], f64::INFINITY);
    weight.set([5], f64::NAN);
    check("specials", &x, &weight, EPSILON);
    let (x, weight) = (x.tensor(device()), weight.tensor(device()));
    let found = Array::read(rms_norm(x, weight, EPSILON));
    assert!(found.at([0, 0]).is_nan() && found.at([1, 0]) == 0.0 && found.at([2, 0]).is_finite(), "{found:?}");
}

#[test]
fn half_precision_is_close() {
    for dtype in half_dtypes() {
        let (x, weight) = operands(3, 40, &mut Random::new(8));
        let (x, x_values) = x.rounded(device(), dtype);
        let (weight, weight_values) = weight.rounded(device(), dtype);
        let y = rms_norm(x, weight, EPSILON);
        assert_eq!(y.dtype(), dtype.into());
        assert_close(dtype, y, &naive(&x_values, &weight_values, EPSILON), HALF_UNIT);

        // Values whose squares an `f16` cannot hold.
        let (x, weight) = operands(2, 16, &mut Random::new(9));
        let large = Array::from_fn(x.dims, |index| 5000.0 * x.at(index));
        let (large, large_values) = large.rounded(device(), dtype);
        let (weight, weight_values) = weight.rounded(device(), dtype);
        let y = rms_norm(large, weight, EPSILON);
        assert_close(dtype, y, &naive(&large_values, &weight_values, EPSILON), HALF_UNIT);
    }
}

#[test]
fn gradients_follow_differences() {
    let Some(device) = cpu() else { return };
    for (rows, features) in [(1, 5), (3, 4)] {
        let mut random = Random::new(10);
        let (x, weight) = operands(rows, features, &mut random);
        let coefficients = Array::random(x.dims, &mut random);
        let (xt, wt) = (x.tracked(device), weight.tracked(device));
        let y = rms_norm(xt.clone(), wt.clone(), EPSILON);
        assert_close("forward", y.clone().inner(), &naive(&x, &weight, EPSILON), unit(features));
        let gradients = backward(y, &coefficients);
        let of = |x: &Array<2>, weight: &Array<1>| loss(&naive(x, weight, EPSILON), &coefficients);
        assert_gradient("x", &gradients, &xt, &x, |x| of(x, &weight));
        assert_gradient("weight", &gradients, &wt, &weight, |weight| of(&x, weight));
    }
}

#[test]
fn operands_that_do_not_fit_are_named() {
    let (x, weight) = operands(2, 5, &mut Random::new(11));
    let weight: Tensor<1> = weight.tensor(device()).narrow(0, 0, 4);
    assert_panics(&["rms_norm:", "weight", "[2, 5]"], || rms_norm(x.tensor(device()), weight, EPSILON));
}
