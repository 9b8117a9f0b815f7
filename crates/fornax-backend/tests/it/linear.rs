//! `linear`: the definition, views as operands, both paths of the CPU, and rows that do not know their company.

use burn::tensor::Tensor;
use fornax_backend::ops::cases::linear::{Case, TESTS};
use fornax_backend::ops::{linear, reference};

use crate::common::*;

/// The CPU's kernel takes up to this many rows, and the reference the rest.
const FEW_ROWS: usize = 8;

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
        assert_close(&case, linear(x.clone(), weight.clone(), None), &naive(&self.x, &self.weight, None), unit);
        let expected = naive(&self.x, &self.weight, Some(&self.bias));
        assert_close(format!("{case} with bias"), linear(x, weight, Some(bias)), &expected, unit);
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
        let y = linear(x, weight.clone(), Some(bias.clone()));
        assert_close("3-D", y, &expected.reshaped([batch, seq, 6]), unit(19));
        let x = operands.x.reshaped([batch, 1, seq, 19]).tensor(device());
        let y = linear(x, weight, Some(bias));
        assert_close("4-D", y, &expected.reshaped([batch, 1, seq, 6]), unit(19));
    }
    let operands = Operands::random([1, 19, 6], &mut Random::new(2));
    let (_, weight, bias) = operands.tensors();
    let y = linear(operands.x.reshaped([19]).tensor(device()), weight, Some(bias));
    let expected = naive(&operands.x, &operands.weight, Some(&operands.bias));
    assert_close("1-D", y, &expected.reshaped([6]), unit(19));
}

#[test]
fn an_input_without_rows_gives_an_output_without_rows() {
    let Some(device) = cpu() else { return };
    let Operands { weight, bias, .. } = Operands::random([1, 5, 3], &mut Random::new(0));
    for device in [device, &device.autodiff()] {
        let x = Tensor::<3>::zeros([2, 0, 5], device.as_burn());
        let y = linear(x, weight.tensor(device), Some(bias.tensor(device)));
        assert_eq!(y.dims(), [2, 0, 3]);
        let x = Tensor::<2>::zeros([0, 5], device.as_burn());
        assert_eq!(linear(x, weight.tensor(device), None).dims(), [0, 3]);
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
        assert_close("x transposed", linear(transposed(&operands.x), weight.clone(), None), &expected, unit);
        assert_close("weight transposed", linear(x.clone(), transposed(&operands.weight), None), &expected, unit);

        // Some of the rows of the weight, as in a fused projection.
        let y = linear(x.clone(), weight.clone().narrow(0, 3, 6), None);
        assert_close("weight rows", y, &naive(&operands.x, &operands.weight.narrow(0, 3, 6), None), unit);

        // Some of the features of both.
        let expected = naive(&operands.x.narrow(1, 2, 17), &operands.weight.narrow(1, 4, 17), None);
        let y = linear(x.clone().narrow(1, 2, 17), weight.clone().narrow(1, 4, 17), None);
        assert_close("features", y, &expected, unit);

        // The last position of each sequence, as before a language model's head.
        let longer = Array::random([rows, 4, 21], &mut Random::new(9));
        let y = linear(longer.tensor(device()).narrow(1, 3, 1), weight.clone(), None);
        let last = longer.narrow(1, 3, 1).reshaped([rows, 21]);
        assert_close("last", y, &naive(&last, &operands.weight, None).reshaped([rows, 1, 10]), unit);

        // A row for all, without a copy of it.
        let y = linear(x.clone().narrow(0, 0, 1).expand([4, 21]), weight, None);
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
        let expected = Array::read(reference::linear(x.clone(), weight.clone()));
        assert_close(TESTS[seed], linear(x, weight, None), &expected, unit(in_features));
        // The reference itself, for few rows too, where the CPU would not take it.
        let (x, weight) = (operands.x.tensor(device), operands.weight.tensor(device));
        let expected = naive(&operands.x, &operands.weight, None);
        assert_close(TESTS[seed], reference::linear(x, weight), &expected, unit(in_features));
    }
}

#[test]
fn a_row_is_the_same_in_any_company() {
    if cpu().is_none() {
        return;
    }
    for [in_features, out_features] in [[1, 1], [17, 5], [100, 33], [129, 66], [768, 130]] {
        let operands = Operands::random([FEW_ROWS, in_features, out_features], &mut Random::new(3));
        let (x, weight, bias) = operands.tensors();
        let alone: Vec<_> =
            (0..FEW_ROWS).map(|row| linear(x.clone().narrow(0, row, 1), weight.clone(), Some(bias.clone()))).collect();
        for rows in 2..=FEW_ROWS {
            for first in 0..=FEW_ROWS - rows {
                let y = linear(x.clone().narrow(0, first, rows), weight.clone(), Some(bias.clone()));
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
            let y = linear(x, weight, Some(bias));
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
        let y = linear(xt.clone(), wt.clone(), Some(bt.clone()));
        assert_close(shape, y.clone().inner(), &naive(&x, &weight, Some(&bias)), unit(shape[1]));
        let gradients = backward(y, &coefficients);
        let of = |x: &Array<2>, w: &Array<2>, b: &Array<1>| loss(&naive(x, w, Some(b)), &coefficients);
        assert_gradient("x", &gradients, &xt, &x, |x| of(x, &weight, &bias));
        assert_gradient("weight", &gradients, &wt, &weight, |weight| of(&x, weight, &bias));
        assert_gradient("bias", &gradients, &bt, &bias, |bias| of(&x, &weight, bias));

        // A frozen weight that knows nothing of gradients does not stop those of the input, nor the other way round.
        let gradients = backward(linear(xt.clone(), weight.tensor(device), None), &coefficients);
        assert_gradient("x alone", &gradients, &xt, &x, |x| loss(&naive(x, &weight, None), &coefficients));
        let gradients = backward(linear(x.tensor(device), wt.clone(), None), &coefficients);
        assert_gradient("weight alone", &gradients, &wt, &weight, |w| loss(&naive(&x, w, None), &coefficients));
    }
}

#[test]
fn operands_that_do_not_fit_are_named() {
    let Operands { x, weight, bias } = Operands::random([2, 5, 3], &mut Random::new(7));
    let (x, weight, bias) = (x.tensor(device()), weight.tensor(device()), bias.tensor(device()));
    assert_panics(&["linear:", "[2, 4]", "[3, 5]"], || linear(x.clone().narrow(1, 0, 4), weight.clone(), None));
    assert_panics(&["linear:", "bias", "[3, 5]"], || linear(x, weight, Some(bias.narrow(0, 0, 2))));
}
