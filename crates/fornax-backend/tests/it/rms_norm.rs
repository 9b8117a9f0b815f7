//! `rms_norm`: the definition, with an offset and a residual, views as operands, and the kernel against the reference.

use burn::tensor::Tensor;
use fornax_backend::ops::cases::rms_norm::{Case, TESTS};
use fornax_backend::ops::{RmsNormOptions, reference, rms_norm};

use crate::common::*;

const EPSILON: f64 = 1e-5;

fn plain<const D: usize>(x: Tensor<D>, weight: Tensor<1>, epsilon: f64) -> Tensor<D> {
    rms_norm(x, weight, None, RmsNormOptions::new(epsilon))
}

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
    let y = plain(x.tensor(device()), weight.tensor(device()), epsilon);
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
    let y = plain(x.reshaped([2, 3, 13]).tensor(device()), weight.tensor(device()), EPSILON);
    assert_close("3-D", y, &expected.reshaped([2, 3, 13]), unit(13));
    let y = plain(x.reshaped([1, 3, 2, 13]).tensor(device()), weight.tensor(device()), EPSILON);
    assert_close("4-D", y, &expected.reshaped([1, 3, 2, 13]), unit(13));
    let (x, weight) = operands(1, 13, &mut Random::new(3));
    let y = plain(x.reshaped([13]).tensor(device()), weight.tensor(device()), EPSILON);
    assert_close("1-D", y, &naive(&x, &weight, EPSILON).reshaped([13]), unit(13));
}

#[test]
fn an_input_without_rows_stays_without_rows() {
    let Some(device) = cpu() else { return };
    let weight = Array::random([5], &mut Random::new(0));
    for device in [device, &device.autodiff()] {
        let x = Tensor::<4>::zeros([2, 0, 3, 5], device.as_burn());
        assert_eq!(plain(x, weight.tensor(device), EPSILON).dims(), [2, 0, 3, 5]);
    }
}

#[test]
fn views_are_read_where_they_lie() {
    let (x, weight) = operands(18, 6, &mut Random::new(4));
    let long = Array::random([18], &mut Random::new(5));
    let transposed = Array::from_fn([6, 18], |[i, j]| x.at([j, i]));
    let y = plain(x.tensor(device()).transpose(), long.tensor(device()), EPSILON);
    assert_close("transposed", y, &naive(&transposed, &long, EPSILON), unit(18));
    let y = plain(x.tensor(device()).narrow(1, 2, 3), weight.tensor(device()).narrow(0, 1, 3), EPSILON);
    assert_close("narrowed", y, &naive(&x.narrow(1, 2, 3), &weight.narrow(0, 1, 3), EPSILON), unit(3));
    // The queries' norm of a model that normalizes heads: `[batch, seq, heads, dim]` seen as `[batch, heads, seq, dim]`.
    let y = plain(x.reshaped([2, 3, 3, 6]).tensor(device()).swap_dims(1, 2), weight.tensor(device()), EPSILON);
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
        let from_reference = reference::rms_norm(xt.clone(), wt.clone(), RmsNormOptions::new(EPSILON));
        assert_close(case, from_reference.clone(), &naive(&x, &weight, EPSILON), unit(case.features));
        assert_close(case, plain(xt, wt, EPSILON), &Array::read(from_reference), unit(case.features));
    }
}

#[test]
fn a_row_is_the_same_in_any_company() {
    if cpu().is_none() {
        return;
    }
    let (x, weight) = operands(5, 77, &mut Random::new(6));
    let (x, weight) = (x.tensor(device()), weight.tensor(device()));
    let together = plain(x.clone(), weight.clone(), EPSILON);
    for row in 0..5 {
        let alone = plain(x.clone().narrow(0, row, 1), weight.clone(), EPSILON);
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
    let found = Array::read(plain(x, weight, EPSILON));
    assert!(found.at([0, 0]).is_nan() && found.at([1, 0]) == 0.0 && found.at([2, 0]).is_finite(), "{found:?}");
}

#[test]
fn half_precision_is_close() {
    for dtype in half_dtypes() {
        let (x, weight) = operands(3, 40, &mut Random::new(8));
        let (x, x_values) = x.rounded(device(), dtype);
        let (weight, weight_values) = weight.rounded(device(), dtype);
        let y = plain(x, weight, EPSILON);
        assert_eq!(y.dtype(), dtype.into());
        assert_close(dtype, y, &naive(&x_values, &weight_values, EPSILON), HALF_UNIT);

        // Values whose squares an `f16` cannot hold.
        let (x, weight) = operands(2, 16, &mut Random::new(9));
        let large = Array::from_fn(x.dims, |index| 5000.0 * x.at(index));
        let (large, large_values) = large.rounded(device(), dtype);
        let (weight, weight_values) = weight.rounded(device(), dtype);
        let y = plain(large, weight, EPSILON);
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
        let y = plain(xt.clone(), wt.clone(), EPSILON);
        assert_close("forward", y.clone().inner(), &naive(&x, &weight, EPSILON), unit(features));
        let gradients = backward(y, &coefficients);
        let of = |x: &Array<2>, weight: &Array<1>| loss(&naive(x, weight, EPSILON), &coefficients);
        assert_gradient("x", &gradients, &xt, &x, |x| of(x, &weight));
        assert_gradient("weight", &gradients, &wt, &weight, |weight| of(&x, weight));
    }
}

/// `residual + naive(x, offset + weight)`, all of one shape.
fn naive_fused(x: &Array<2>, weight: &Array<1>, residual: &Array<2>, offset: f64) -> Array<2> {
    let y = naive(x, &Array::from_fn(weight.dims, |index| offset + weight.at(index)), EPSILON);
    Array::from_fn(y.dims, |index| residual.at(index) + y.at(index))
}

#[test]
fn offset_and_residual_are_added() {
    for (seed, &Case { rows, features }) in TESTS.iter().enumerate() {
        let random = &mut Random::new(seed as u64);
        let (x, weight) = operands(rows, features, random);
        let residual = Array::random(x.dims, random);
        let zeros = Array::from_fn(x.dims, |_| 0.0);
        for offset in [0.0, 1.0, -0.5] {
            let options = RmsNormOptions { offset, ..RmsNormOptions::new(EPSILON) };
            let y = rms_norm(x.tensor(device()), weight.tensor(device()), None, options);
            assert_close((seed, offset), y, &naive_fused(&x, &weight, &zeros, offset), unit(features));
            let kept = residual.tensor(device());
            let y = rms_norm(x.tensor(device()), weight.tensor(device()), Some(kept.clone()), options);
            assert_close((seed, offset), y, &naive_fused(&x, &weight, &residual, offset), unit(features));
            assert_close("a residual that others hold stays as it is", kept, &residual, 0.0);
            let y = rms_norm(
                x.reshaped([1, rows, 1, features]).tensor(device()),
                weight.tensor(device()),
                Some(residual.reshaped([1, rows, 1, features]).tensor(device())),
                options,
            );
            let expected = naive_fused(&x, &weight, &residual, offset).reshaped([1, rows, 1, features]);
            assert_close((seed, offset, "4-D"), y, &expected, unit(features));
        }
    }
}

/// A small weight is not lost beside an offset of 1, as it would be in half precision.
#[test]
fn a_small_weight_counts_beside_the_offset() {
    for dtype in half_dtypes() {
        let options = RmsNormOptions { offset: 1.0, ..RmsNormOptions::new(EPSILON) };
        let (x, weight) = operands(3, 40, &mut Random::new(12));
        let small = Array::from_fn(weight.dims, |index| 0.0035 * weight.at(index).signum());
        let (x, x_values) = x.rounded(device(), dtype);
        let (small, small_values) = small.rounded(device(), dtype);
        let y = rms_norm(x.clone(), small, None, options);
        assert_eq!(y.dtype(), dtype.into());
        let zeros = Array::from_fn(x_values.dims, |_| 0.0);
        let expected = naive_fused(&x_values, &small_values, &zeros, 1.0);
        // Only the result is rounded: by at most 2⁻⁹ of itself in bf16.
        assert_close(dtype, y, &expected, 2.5e-3);
        let residual = Array::from_fn(x_values.dims, |_| 2.0);
        let y =
            rms_norm(x, small_values.rounded(device(), dtype).0, Some(residual.rounded(device(), dtype).0), options);
        let expected = naive_fused(&x_values, &small_values, &residual, 1.0);
        assert_close((dtype, "residual"), y, &expected, HALF_UNIT);
    }
}

#[test]
fn gradients_reach_weight_and_residual() {
    let Some(device) = cpu() else { return };
    let mut random = Random::new(13);
    let (x, weight) = operands(3, 4, &mut random);
    let [residual, coefficients] = [(); 2].map(|()| Array::random(x.dims, &mut random));
    let (xt, wt, rt) = (x.tracked(device), weight.tracked(device), residual.tracked(device));
    let options = RmsNormOptions { offset: 1.0, ..RmsNormOptions::new(EPSILON) };
    let y = rms_norm(xt.clone(), wt.clone(), Some(rt.clone()), options);
    assert_close("forward", y.clone().inner(), &naive_fused(&x, &weight, &residual, 1.0), unit(4));
    let gradients = backward(y, &coefficients);
    let of = |x: &Array<2>, weight: &Array<1>| loss(&naive_fused(x, weight, &residual, 1.0), &coefficients);
    assert_gradient("x", &gradients, &xt, &x, |x| of(x, &weight));
    assert_gradient("weight", &gradients, &wt, &weight, |weight| of(&x, weight));
    assert_close("residual", rt.grad(&gradients).expect("recorded"), &coefficients, 1e-6);
}

#[test]
fn operands_that_do_not_fit_are_named() {
    let (x, weight) = operands(2, 5, &mut Random::new(11));
    let short: Tensor<1> = weight.tensor(device()).narrow(0, 0, 4);
    assert_panics(&["rms_norm:", "weight", "[2, 5]"], || plain(x.tensor(device()), short, EPSILON));
    assert_panics(&["rms_norm:", "residual", "[1, 5]", "[2, 5]"], || {
        let residual = Tensor::zeros([1, 5], device().as_burn());
        rms_norm(x.tensor(device()), weight.tensor(device()), Some(residual), RmsNormOptions::new(EPSILON))
    });
}
