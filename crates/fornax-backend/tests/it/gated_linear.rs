//! `gated_linear`: with and without a gate, every activation, dense and packed weights, and gradients.

use burn::tensor::Tensor;
use fornax_backend::ops::cases::gated_linear::TESTS;
use fornax_backend::ops::{Activation, LinearRef, WeightRef, activate, gated, gated_linear, linear};
use fornax_cpu::{PackedWeight, WeightType};

use crate::common::*;

/// `x Wᵀ + b`.
fn product(x: &Array<2>, weight: &Array<2>, bias: &Array<1>) -> Array<2> {
    let ([rows, in_features], [out_features, _]) = (x.dims, weight.dims);
    Array::from_fn([rows, out_features], |[row, out]| {
        (0..in_features).map(|i| x.at([row, i]) * weight.at([out, i])).sum::<f64>() + bias.at([out])
    })
}

fn silu(x: f64) -> f64 {
    x / (1.0 + (-x).exp())
}

fn naive(x: &Array<2>, gate: Option<(&Array<2>, &Array<1>)>, up: (&Array<2>, &Array<1>)) -> Array<2> {
    let up = product(x, up.0, up.1);
    match gate {
        Some((weight, bias)) => {
            let gate = product(x, weight, bias);
            Array::from_fn(up.dims, |index| silu(gate.at(index)) * up.at(index))
        }
        None => Array::from_fn(up.dims, |index| silu(up.at(index))),
    }
}

struct Operands {
    x: Array<2>,
    /// Gate and up.
    weights: [Array<2>; 2],
    biases: [Array<1>; 2],
}

impl Operands {
    fn random([rows, in_features, out_features]: [usize; 3], random: &mut Random) -> Self {
        Self {
            x: Array::random([rows, in_features], random),
            weights: [(); 2].map(|()| Array::random([out_features, in_features], random)),
            biases: [(); 2].map(|()| Array::random([out_features], random)),
        }
    }

    fn maps(&self) -> [LinearRef<'static>; 2] {
        [0, 1].map(|which| LinearRef {
            weight: WeightRef::Dense(self.weights[which].tensor(device())),
            bias: Some(self.biases[which].tensor(device())),
        })
    }

    fn check(&self) {
        let ([gate, up], x) = (self.maps(), self.x.tensor(device()));
        let branches = [0, 1].map(|which| (&self.weights[which], &self.biases[which]));
        let unit = unit(4 * self.x.dims[1]);
        let case = format!("x {:?}, weights {:?}", self.x.dims, self.weights[0].dims);
        let y = gated_linear(x.clone(), Some(&gate), &up, Activation::Silu);
        assert_close(&case, y, &naive(&self.x, Some(branches[0]), branches[1]), unit);
        let y = gated_linear(x, None, &up, Activation::Silu);
        assert_close(format!("{case} without gate"), y, &naive(&self.x, None, branches[1]), unit);
    }
}

#[test]
fn cases_follow_the_definition() {
    for (seed, &shape) in TESTS.iter().enumerate() {
        Operands::random(shape, &mut Random::new(seed as u64)).check();
    }
}

#[test]
fn random_shapes_follow_the_definition() {
    for mut random in random_shapes() {
        let shape = [random.size(12), random.size(80), random.size(40)];
        Operands::random(shape, &mut random).check();
    }
}

#[test]
fn every_activation_is_applied_to_the_right_branch() {
    let operands = Operands::random([5, 33, 20], &mut Random::new(1));
    let ([gate, up], x) = (operands.maps(), operands.x.tensor(device()));
    for activation in Activation::ALL {
        let (gate_only, up_only) = (linear(x.clone(), &gate), linear(x.clone(), &up));
        let expected = Array::read(gated(gate_only, up_only.clone(), activation));
        let y = gated_linear(x.clone(), Some(&gate), &up, activation);
        assert_close(activation, y, &expected, unit(33));
        let expected = Array::read(activate(up_only, activation));
        assert_close(activation, gated_linear(x.clone(), None, &up, activation), &expected, unit(33));
    }
}

/// Packed weights give what the packed maps and the product of their results give one by one.
#[test]
fn packed_weights_give_what_their_maps_give() {
    let mut compared = 0;
    for shape in [[1, 256, 16], [2, 256, 33], [9, 512, 48], [40, 256, 31]] {
        let operands = Operands::random(shape, &mut Random::new(2));
        for weight_type in WeightType::ALL {
            let pack = |array: &Array<2>| {
                let values: Vec<f32> = array.values.iter().map(|&value| value as f32).collect();
                PackedWeight::quantize(weight_type, array.dims[0], array.dims[1], &values).ok()
            };
            let [Some(gate), Some(up)] = operands.weights.each_ref().map(pack) else { continue };
            let biases = operands.biases.each_ref().map(|bias| bias.tensor(device()));
            let [gate, up] = [(&gate, 0), (&up, 1)].map(|(weight, which)| LinearRef {
                weight: WeightRef::Packed(weight),
                bias: Some(biases[which].clone()),
            });
            let x = operands.x.tensor(device());
            let (gate_only, up_only) = (linear(x.clone(), &gate), linear(x.clone(), &up));
            let expected = Array::read(gated(gate_only, up_only.clone(), Activation::Gelu));
            let y = gated_linear(x.clone(), Some(&gate), &up, Activation::Gelu);
            assert_close((shape, weight_type), y, &expected, unit(1));
            let expected = Array::read(activate(up_only, Activation::Gelu));
            assert_close((shape, weight_type), gated_linear(x, None, &up, Activation::Gelu), &expected, unit(1));
            compared += 1;
        }
    }
    assert!(compared > 12);
}

#[test]
fn a_row_is_the_same_in_any_company() {
    if cpu().is_none() {
        return;
    }
    let operands = Operands::random([20, 129, 66], &mut Random::new(3));
    let ([gate, up], x) = (operands.maps(), operands.x.tensor(device()));
    for gate in [None, Some(&gate)] {
        let together = gated_linear(x.clone(), gate, &up, Activation::Silu);
        for row in 0..20 {
            let alone = gated_linear(x.clone().narrow(0, row, 1), gate, &up, Activation::Silu);
            assert_identical(row, together.clone().narrow(0, row, 1), alone);
        }
    }
}

#[test]
fn half_precision_is_close() {
    for dtype in half_dtypes() {
        let operands = Operands::random([3, 24, 20], &mut Random::new(4));
        let (x, x_values) = operands.x.rounded(device(), dtype);
        let weights = operands.weights.each_ref().map(|array| array.rounded(device(), dtype));
        let biases = operands.biases.each_ref().map(|array| array.rounded(device(), dtype));
        let [gate, up] = [0, 1].map(|which| LinearRef {
            weight: WeightRef::Dense(weights[which].0.clone()),
            bias: Some(biases[which].0.clone()),
        });
        let y = gated_linear(x, Some(&gate), &up, Activation::Silu);
        assert_eq!(y.dtype(), dtype.into());
        let branches = [0, 1].map(|which| (&weights[which].1, &biases[which].1));
        // Both branches are rounded, and then their product.
        assert_close(dtype, y, &naive(&x_values, Some(branches[0]), branches[1]), 2.0 * HALF_UNIT);
    }
}

#[test]
fn gradients_follow_differences() {
    let Some(device) = cpu() else { return };
    let mut random = Random::new(5);
    let Operands { x, weights, biases } = Operands::random([3, 4, 5], &mut random);
    let coefficients = Array::random([3, 5], &mut random);
    let xt = x.tracked(device);
    let tracked = weights.each_ref().map(|weight| weight.tracked(device));
    let [gate, up] = [0, 1].map(|which| LinearRef {
        weight: WeightRef::Dense(tracked[which].clone()),
        bias: Some(biases[which].tracked(device)),
    });
    let gradients = backward(gated_linear(xt.clone(), Some(&gate), &up, Activation::Silu), &coefficients);
    let of = |x: &Array<2>, gate: &Array<2>, up: &Array<2>| {
        loss(&naive(x, Some((gate, &biases[0])), (up, &biases[1])), &coefficients)
    };
    assert_gradient("x", &gradients, &xt, &x, |x| of(x, &weights[0], &weights[1]));
    assert_gradient("gate", &gradients, &tracked[0], &weights[0], |gate| of(&x, gate, &weights[1]));
    assert_gradient("up", &gradients, &tracked[1], &weights[1], |up| of(&x, &weights[0], up));

    let gradients = backward(gated_linear(xt.clone(), None, &up, Activation::Silu), &coefficients);
    let of = |x: &Array<2>| loss(&naive(x, None, (&weights[1], &biases[1])), &coefficients);
    assert_gradient("without gate", &gradients, &xt, &x, of);
}

#[test]
fn nothing_in_nothing_out() {
    let Some(device) = cpu() else { return };
    let operands = Operands::random([1, 4, 3], &mut Random::new(6));
    let [gate, up] = operands.maps();
    let x = Tensor::<2>::zeros([0, 4], device.as_burn());
    assert_eq!(gated_linear(x.clone(), Some(&gate), &up, Activation::Silu).dims(), [0, 3]);
    assert_eq!(gated_linear(x, None, &up, Activation::Silu).dims(), [0, 3]);
}

#[test]
fn operands_that_do_not_fit_are_named() {
    let operands = Operands::random([2, 5, 3], &mut Random::new(7));
    let ([gate, up], x) = (operands.maps(), operands.x.tensor(device()));
    let run = |x: Tensor<2>, gate: Option<&LinearRef<'_>>| gated_linear(x, gate, &up, Activation::Silu);
    assert_eq!(run(x.clone(), Some(&gate)).dims(), [2, 3], "these fit");
    assert_panics(&["linear:", "[2, 4]", "[3, 5]"], || run(x.clone().narrow(1, 0, 4), None));
    let short = LinearRef::dense(operands.weights[0].tensor(device()).narrow(0, 0, 2));
    assert_panics(&["gated_linear:", "gate and up"], || run(x.clone(), Some(&short)));
    let narrow = LinearRef::dense(operands.weights[0].tensor(device()).narrow(1, 0, 4));
    assert_panics(&["linear:", "[2, 5]", "[3, 4]"], || run(x.clone(), Some(&narrow)));
}
