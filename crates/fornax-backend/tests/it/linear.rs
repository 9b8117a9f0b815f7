//! `linear`, `linears` and `linear_add` with dense and packed weights: the definition, views as operands, kernels
//! against the reference, and results that do not depend on the other rows.

use burn::tensor::Tensor;
use fornax_backend::ops::cases::linear::{Case, PACKED_TESTS, TESTS};
use fornax_backend::ops::{LinearRef, WeightRef, linear, linear_add, linears, reference};
use fornax_cpu::{PackedWeight, WeightType};

use crate::common::*;

/// Numbers of rows around which the CPU switches to other kernels.
const ROWS: usize = 40;

/// A map with a dense weight.
fn dense(weight: Tensor<2>, bias: Option<Tensor<1>>) -> LinearRef<'static> {
    LinearRef { weight: WeightRef::Dense(weight), bias }
}

/// A map with a packed weight.
fn packed(weight: &PackedWeight, bias: Option<Tensor<1>>) -> LinearRef<'_> {
    LinearRef { weight: WeightRef::Packed(weight), bias }
}

/// `y[r, o] = Σ x[r, i] · weight[o, i] + bias[o]`.
fn naive(x: &Array<2>, weight: &Array<2>, bias: Option<&Array<1>>) -> Array<2> {
    let ([rows, in_features], [out_features, _]) = (x.dims, weight.dims);
    Array::from_fn([rows, out_features], |[row, out]| {
        let product: f64 = (0..in_features).map(|i| x.at([row, i]) * weight.at([out, i])).sum();
        product + bias.map_or(0.0, |bias| bias.at([out]))
    })
}

struct Operands {
    x: Array<2>,
    weight: Array<2>,
    bias: Array<1>,
}

impl Operands {
    fn random([rows, in_features, out_features]: [usize; 3], random: &mut Random) -> Self {
        Self {
            x: Array::random([rows, in_features], random),
            weight: Array::random([out_features, in_features], random),
            bias: Array::random([out_features], random),
        }
    }

    fn tensors(&self) -> (Tensor<2>, Tensor<2>, Tensor<1>) {
        (self.x.tensor(device()), self.weight.tensor(device()), self.bias.tensor(device()))
    }

    fn check(&self, case: &str) {
        let case = format!("{case} x {:?}, weight {:?}", self.x.dims, self.weight.dims);
        let (x, weight, bias) = self.tensors();
        let unit = unit(self.x.dims[1]);
        assert_close(&case, linear(x.clone(), &dense(weight.clone(), None)), &naive(&self.x, &self.weight, None), unit);
        let expected = naive(&self.x, &self.weight, Some(&self.bias));
        assert_close(format!("{case} with bias"), linear(x, &dense(weight, Some(bias))), &expected, unit);
    }
}

#[test]
fn cases_follow_the_definition() {
    for (seed, &Case { rows, in_features, out_features }) in TESTS.iter().enumerate() {
        Operands::random([rows, in_features, out_features], &mut Random::new(seed as u64)).check("case");
    }
}

/// Large enough for several tasks of the CPU's kernel, with a tail in the last one.
#[test]
fn several_tasks_follow_the_definition() {
    for rows in [1, 3, 8] {
        Operands::random([rows, 1000, 101], &mut Random::new(rows as u64)).check("tasks");
    }
}

#[test]
fn random_shapes_follow_the_definition() {
    for mut random in random_shapes() {
        let shape = [random.size(12), random.size(80), random.size(40)];
        Operands::random(shape, &mut random).check("random");
    }
}

#[test]
fn leading_dimensions_are_rows() {
    for [batch, seq] in [[2, 3], [4, 5]] {
        let operands = Operands::random([batch * seq, 19, 6], &mut Random::new(1));
        let (_, weight, bias) = operands.tensors();
        let expected = naive(&operands.x, &operands.weight, Some(&operands.bias));
        let x = operands.x.reshaped([batch, seq, 19]).tensor(device());
        let y = linear(x, &dense(weight.clone(), Some(bias.clone())));
        assert_close("3-D", y, &expected.reshaped([batch, seq, 6]), unit(19));
        let x = operands.x.reshaped([batch, 1, seq, 19]).tensor(device());
        let y = linear(x, &dense(weight, Some(bias)));
        assert_close("4-D", y, &expected.reshaped([batch, 1, seq, 6]), unit(19));
    }
    let operands = Operands::random([1, 19, 6], &mut Random::new(2));
    let (_, weight, bias) = operands.tensors();
    let y = linear(operands.x.reshaped([19]).tensor(device()), &dense(weight, Some(bias)));
    let expected = naive(&operands.x, &operands.weight, Some(&operands.bias));
    assert_close("1-D", y, &expected.reshaped([6]), unit(19));
}

#[test]
fn an_input_without_rows_gives_an_output_without_rows() {
    let Some(device) = cpu() else { return };
    let Operands { weight, bias, .. } = Operands::random([1, 5, 3], &mut Random::new(0));
    for device in [device, &device.autodiff()] {
        let x = Tensor::<3>::zeros([2, 0, 5], device.as_burn());
        let y = linear(x, &dense(weight.tensor(device), Some(bias.tensor(device))));
        assert_eq!(y.dims(), [2, 0, 3]);
        let x = Tensor::<2>::zeros([0, 5], device.as_burn());
        assert_eq!(linear(x, &dense(weight.tensor(device), None)).dims(), [0, 3]);
    }
}

#[test]
fn views_are_read_where_they_lie() {
    for rows in [1, 3, 12] {
        let operands = Operands::random([rows, 21, 10], &mut Random::new(rows as u64));
        let (x, weight, _) = operands.tensors();
        let unit = unit(21);

        // The operands as transposes of their transposes.
        let transposed = |array: &Array<2>| {
            let [first, second] = array.dims;
            Array::from_fn([second, first], |[i, j]| array.at([j, i])).tensor(device()).transpose()
        };
        let expected = naive(&operands.x, &operands.weight, None);
        assert_close("x transposed", linear(transposed(&operands.x), &dense(weight.clone(), None)), &expected, unit);
        assert_close(
            "weight transposed",
            linear(x.clone(), &dense(transposed(&operands.weight), None)),
            &expected,
            unit,
        );

        // Some of the rows of the weight, as in a fused projection.
        let y = linear(x.clone(), &dense(weight.clone().narrow(0, 3, 6), None));
        assert_close("weight rows", y, &naive(&operands.x, &operands.weight.narrow(0, 3, 6), None), unit);

        // Some of the features of both.
        let expected = naive(&operands.x.narrow(1, 2, 17), &operands.weight.narrow(1, 4, 17), None);
        let y = linear(x.clone().narrow(1, 2, 17), &dense(weight.clone().narrow(1, 4, 17), None));
        assert_close("features", y, &expected, unit);

        // The last position of each sequence, as before a language model's head.
        let longer = Array::random([rows, 4, 21], &mut Random::new(9));
        let y = linear(longer.tensor(device()).narrow(1, 3, 1), &dense(weight.clone(), None));
        let last = longer.narrow(1, 3, 1).reshaped([rows, 21]);
        assert_close("last", y, &naive(&last, &operands.weight, None).reshaped([rows, 1, 10]), unit);

        // A row for all, without a copy of it.
        let y = linear(x.clone().narrow(0, 0, 1).expand([4, 21]), &dense(weight, None));
        let row = Array::from_fn([4, 21], |[_, i]| operands.x.at([0, i]));
        assert_close("expanded", y, &naive(&row, &operands.weight, None), unit);
    }
}

#[test]
fn the_cpu_kernel_gives_what_the_reference_gives() {
    let Some(device) = cpu() else { return };
    for (seed, &Case { rows, in_features, out_features }) in TESTS.iter().enumerate() {
        let operands = Operands::random([rows, in_features, out_features], &mut Random::new(seed as u64));
        let (x, weight, _) = operands.tensors();
        let expected = Array::read(reference::linear(x.clone(), &LinearRef::dense(weight.clone())));
        assert_close(TESTS[seed], linear(x, &dense(weight, None)), &expected, unit(in_features));
        let (x, weight) = (operands.x.tensor(device), operands.weight.tensor(device));
        let expected = naive(&operands.x, &operands.weight, None);
        assert_close(TESTS[seed], reference::linear(x, &LinearRef::dense(weight)), &expected, unit(in_features));
    }
}

#[test]
fn a_row_is_the_same_in_any_company() {
    if cpu().is_none() {
        return;
    }
    for [in_features, out_features] in [[1, 1], [17, 5], [100, 33], [129, 66], [768, 130]] {
        let operands = Operands::random([ROWS, in_features, out_features], &mut Random::new(3));
        let (x, weight, bias) = operands.tensors();
        let alone: Vec<_> = (0..ROWS)
            .map(|row| linear(x.clone().narrow(0, row, 1), &dense(weight.clone(), Some(bias.clone()))))
            .collect();
        for rows in [2, 3, 8, 9, 17, ROWS] {
            for first in [0, 1, ROWS - rows] {
                if first + rows > ROWS {
                    continue;
                }
                let y = linear(x.clone().narrow(0, first, rows), &dense(weight.clone(), Some(bias.clone())));
                for row in 0..rows {
                    let case = format!("{in_features}x{out_features}: row {row} of {rows} from {first}");
                    assert_identical(case, y.clone().narrow(0, row, 1), alone[first + row].clone());
                }
            }
        }
    }
}

/// Shader compilers may take it that there are neither, so only the CPU promises this.
#[test]
fn nan_and_infinity_travel() {
    if cpu().is_none() {
        return;
    }
    for rows in [4, 12] {
        let mut operands = Operands::random([rows, 20, 9], &mut Random::new(4));
        operands.x.set([0, 3], f64::NAN);
        operands.x.set([1, 19], f64::INFINITY);
        operands.x.set([2, 0], f64::NEG_INFINITY);
        operands.weight.set([5, 7], f64::NAN);
        operands.weight.set([6, 0], 0.0);
        operands.weight.set([8, 16], f64::INFINITY);
        operands.check("specials");
        let expected = naive(&operands.x, &operands.weight, None);
        assert!(expected.at([3, 0]).is_finite() && expected.at([3, 5]).is_nan(), "specials stay where they belong");
    }
}

#[test]
fn half_precision_is_close() {
    for dtype in half_dtypes() {
        for rows in [1, 9] {
            let operands = Operands::random([rows, 96, 20], &mut Random::new(5));
            let (x, x_values) = operands.x.rounded(device(), dtype);
            let (weight, weight_values) = operands.weight.rounded(device(), dtype);
            let (bias, bias_values) = operands.bias.rounded(device(), dtype);
            let y = linear(x, &dense(weight, Some(bias)));
            assert_eq!(y.dtype(), dtype.into());
            assert_close(dtype, y, &naive(&x_values, &weight_values, Some(&bias_values)), HALF_UNIT);
        }
    }
}

#[test]
fn gradients_follow_differences() {
    let Some(device) = cpu() else { return };
    for shape in [[1, 5, 3], [3, 4, 6], [9, 3, 2]] {
        let mut random = Random::new(6);
        let Operands { x, weight, bias } = Operands::random(shape, &mut random);
        let coefficients = Array::random([shape[0], shape[2]], &mut random);
        let (xt, wt, bt) = (x.tracked(device), weight.tracked(device), bias.tracked(device));
        let y = linear(xt.clone(), &dense(wt.clone(), Some(bt.clone())));
        assert_close(shape, y.clone().inner(), &naive(&x, &weight, Some(&bias)), unit(shape[1]));
        let gradients = backward(y, &coefficients);
        let of = |x: &Array<2>, w: &Array<2>, b: &Array<1>| loss(&naive(x, w, Some(b)), &coefficients);
        assert_gradient("x", &gradients, &xt, &x, |x| of(x, &weight, &bias));
        assert_gradient("weight", &gradients, &wt, &weight, |weight| of(&x, weight, &bias));
        assert_gradient("bias", &gradients, &bt, &bias, |bias| of(&x, &weight, bias));

        // A frozen weight that knows nothing of gradients does not stop those of the input, nor the other way round.
        let gradients = backward(linear(xt.clone(), &dense(weight.tensor(device), None)), &coefficients);
        assert_gradient("x alone", &gradients, &xt, &x, |x| loss(&naive(x, &weight, None), &coefficients));
        let gradients = backward(linear(x.tensor(device), &dense(wt.clone(), None)), &coefficients);
        assert_gradient("weight alone", &gradients, &wt, &weight, |w| loss(&naive(&x, w, None), &coefficients));
    }
}

fn quantized(
    weight_type: WeightType,
    [out_features, in_features]: [usize; 2],
    random: &mut Random,
) -> Option<PackedWeight> {
    let values: Vec<f32> = (0..out_features * in_features).map(|_| random.value() as f32).collect();
    PackedWeight::quantize(weight_type, out_features, in_features, &values).ok()
}

/// Compares results of an input that is rounded to 8 bits, relative to the usual size of the results.
#[track_caller]
fn assert_near(case: &str, found: Tensor<2>, expected: Tensor<2>) {
    assert_eq!(found.dims(), expected.dims(), "{case}: the shape");
    let (found, expected) = (Array::read(found).values, Array::read(expected).values);
    let length = (expected.iter().map(|y| y * y).sum::<f64>() / expected.len() as f64).sqrt();
    for (at, (found, expected)) in found.iter().zip(&expected).enumerate() {
        assert!((found - expected).abs() < 0.05 * length, "{case} at {at}: found {found}, expected {expected}");
    }
}

/// Packed weights against the product with the unpacked ones, alone and added to a residual.
#[test]
fn packed_weights_give_what_they_unpack_to() {
    let mut compared = 0;
    for (seed, &[rows, in_features, out_features]) in PACKED_TESTS.iter().enumerate() {
        for weight_type in WeightType::ALL {
            let random = &mut Random::new(seed as u64);
            let Some(weight) = quantized(weight_type, [out_features, in_features], random) else { continue };
            let case = format!("{rows}x{in_features}x{out_features} {weight_type}");
            let x = Array::random([rows, in_features], random).tensor(device());
            let map = packed(&weight, Some(Array::random([out_features], random).tensor(device())));
            let expected = reference::linear(x.clone(), &map);
            assert_near(&case, linear(x.clone(), &map), expected.clone());
            let residual = Array::random([rows, out_features], random).tensor(device());
            assert_near(&case, linear_add(x, &map, residual.clone()), residual + expected);
            compared += 1;
        }
    }
    assert!(compared > 3 * PACKED_TESTS.len());
}

#[test]
fn gradients_pass_through_packed_weights() {
    let weight = quantized(WeightType::Q8_0, [5, 32], &mut Random::new(7)).expect("32 columns are a block");
    let x = Array::random([2, 32], &mut Random::new(8)).tracked(device());
    let gradients = linear(x.clone(), &packed(&weight, None)).sum().backward();
    let values = weight.to_f32();
    let expected = Array::from_fn([2, 32], |[_, i]| (0..5).map(|row| f64::from(values[row * 32 + i])).sum());
    assert_close("x", x.grad(&gradients).expect("x has a gradient"), &expected, 1e-4);
}

/// Each map's result stands where the ones before it end, whatever the kinds of their weights.
#[test]
fn maps_of_one_input_stand_side_by_side() {
    for (seed, &[rows, in_features, out_features]) in PACKED_TESTS.iter().enumerate() {
        let random = &mut Random::new(seed as u64);
        let Operands { x, weight, bias } = Operands::random([rows, in_features, out_features], random);
        let other = Array::random([3, in_features], random);
        let packed_weight = quantized(WeightType::BF16, [out_features + 2, in_features], random).expect("no blocks");
        let x = x.tensor(device());
        let first = dense(weight.tensor(device()), Some(bias.tensor(device())));
        let (second, third) = (packed(&packed_weight, None), dense(other.tensor(device()), None));
        let case = format!("{rows}x{in_features}x{out_features}");
        let alone = |map: &LinearRef<'_>| linear(x.clone(), map);
        let together = linears(x.clone(), [&first, &second, &third]);
        let expected = Tensor::cat(vec![alone(&first), alone(&second), alone(&third)], 1);
        // The kernels add in an order that the row's length alone decides.
        if cpu().is_some() {
            assert_identical(case, together, expected)
        } else {
            assert_near(&case, together, expected)
        }
        assert_close("one map", linears(x.clone(), [&first]), &Array::read(alone(&first)), unit(in_features));
    }
}

#[test]
fn a_residual_is_added_once() {
    for (seed, &Case { rows, in_features, out_features }) in TESTS.iter().enumerate() {
        let random = &mut Random::new(seed as u64);
        let operands = Operands::random([rows, in_features, out_features], random);
        let residual = Array::random([rows, out_features], random);
        let (x, weight, bias) = operands.tensors();
        let product = naive(&operands.x, &operands.weight, Some(&operands.bias));
        let expected = Array::from_fn(residual.dims, |index| residual.at(index) + product.at(index));
        let kept = residual.tensor(device());
        let y = linear_add(x, &dense(weight, Some(bias)), kept.clone());
        assert_close(TESTS[seed], y, &expected, unit(in_features));
        assert_close("a residual that others hold stays as it is", kept, &residual, 0.0);
    }
}

#[test]
fn fused_maps_record_gradients() {
    let Some(device) = cpu() else { return };
    let mut random = Random::new(9);
    let Operands { x, weight, bias } = Operands::random([3, 4, 2], &mut random);
    let (other, residual) = (Array::random([3, 4], &mut random), Array::random([3, 2], &mut random));
    let [xt, wt, ot, rt] = [&x, &weight, &other, &residual].map(|array| array.tracked(device));
    let bt = bias.tracked(device);

    let coefficients = Array::random([3, 5], &mut random);
    let y = linears(xt.clone(), [&dense(wt.clone(), Some(bt.clone())), &dense(ot.clone(), None)]);
    let both = |x: &Array<2>, weight: &Array<2>, other: &Array<2>| {
        let parts = [naive(x, weight, Some(&bias)), naive(x, other, None)];
        let side_by_side = |[row, i]: [usize; 2]| if i < 2 { parts[0].at([row, i]) } else { parts[1].at([row, i - 2]) };
        loss(&Array::from_fn([3, 5], side_by_side), &coefficients)
    };
    let gradients = backward(y, &coefficients);
    assert_gradient("x", &gradients, &xt, &x, |x| both(x, &weight, &other));
    assert_gradient("first", &gradients, &wt, &weight, |weight| both(&x, weight, &other));
    assert_gradient("second", &gradients, &ot, &other, |other| both(&x, &weight, other));

    let coefficients = Array::random([3, 2], &mut random);
    let gradients = backward(linear_add(xt.clone(), &dense(wt, Some(bt)), rt.clone()), &coefficients);
    assert_gradient("x", &gradients, &xt, &x, |x| loss(&naive(x, &weight, Some(&bias)), &coefficients));
    assert_gradient("residual", &gradients, &rt, &residual, |residual| loss(residual, &coefficients));
}

#[test]
fn nothing_in_nothing_out() {
    let Some(device) = cpu() else { return };
    let weight = quantized(WeightType::BF16, [3, 4], &mut Random::new(1)).expect("bf16 has no blocks");
    let map = packed(&weight, None);
    for device in [device, &device.autodiff()] {
        let empty = |columns: usize| Tensor::<2>::zeros([0, columns], device.as_burn());
        assert_eq!(linear(Tensor::<3>::zeros([2, 0, 4], device.as_burn()), &map).dims(), [2, 0, 3]);
        assert_eq!(linears(empty(4), [&map, &map]).dims(), [0, 6]);
        assert_eq!(linear_add(empty(4), &map, empty(3)).dims(), [0, 3]);
    }
}

#[test]
fn operands_that_do_not_fit_are_named() {
    let Operands { x, weight, bias } = Operands::random([2, 5, 3], &mut Random::new(7));
    let (x, weight, bias) = (x.tensor(device()), weight.tensor(device()), bias.tensor(device()));
    assert_panics(&["linear:", "[2, 4]", "[3, 5]"], || linear(x.clone().narrow(1, 0, 4), &dense(weight.clone(), None)));
    assert_panics(&["linear:", "bias", "[3, 5]"], || {
        linear(x.clone(), &dense(weight.clone(), Some(bias.clone().narrow(0, 0, 2))))
    });
    let map = dense(weight.clone(), Some(bias));
    assert_eq!(map.weight.dims(), [3, 5]);
    assert_panics(&["linear:", "[2, 4]", "[3, 5]"], || linears(x.clone().narrow(1, 0, 4), [&map, &map]));
    assert_panics(&["linear:", "[2, 5]", "[3, 4]"], || {
        linears(x.clone(), [&map, &LinearRef::dense(weight.clone().narrow(1, 0, 4))])
    });
    assert_panics(&["linear_add:", "residual", "[2, 4]", "[2, 3]"], || {
        linear_add(x.clone(), &map, Tensor::zeros([2, 4], device().as_burn()))
    });
    let packed_weight = quantized(WeightType::BF16, [3, 4], &mut Random::new(1)).expect("bf16 has no blocks");
    assert_panics(&["linear:", "[2, 5]", "[3, 4]"], || linear(x, &packed(&packed_weight, None)));
}
