//! `activate` and `gated`: every non-linearity against its formula in `f64`.

use std::f64::consts::{FRAC_1_SQRT_2, PI};

use burn::tensor::Tensor;
use fornax_backend::ops::cases::activation::TESTS;
use fornax_backend::ops::{Activation, activate, gated, reference};

use super::common::*;

/// The complement of the error function, to about 1e-15.
fn erfc(x: f64) -> f64 {
    if x < 0.0 {
        return 2.0 - erfc(-x);
    }
    if x < 2.0 {
        // erf(x) = 2/√π · e^(−x²) · Σ 2ⁿ x^(2n+1) / (2n+1)!!, a series without cancellation.
        let (mut term, mut sum) = (x, x);
        for n in 1..100 {
            term *= 2.0 * x * x / f64::from(2 * n + 1);
            sum += term;
        }
        return 1.0 - 2.0 / PI.sqrt() * (-x * x).exp() * sum;
    }
    // The continued fraction x + (1/2)/(x + (2/2)/(x + (3/2)/(x + …))), from its far end.
    let fraction = (1..=200).rev().fold(x, |below, n| x + f64::from(n) / 2.0 / below);
    (-x * x).exp() / PI.sqrt() / fraction
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

fn formula(activation: Activation, x: f64) -> f64 {
    let relu = if x < 0.0 { 0.0 } else { x };
    match activation {
        Activation::Relu => relu,
        Activation::ReluSquared => relu * relu,
        Activation::Gelu => x * 0.5 * erfc(-x * FRAC_1_SQRT_2),
        Activation::GeluTanh => 0.5 * x * (1.0 + ((2.0 / PI).sqrt() * (x + 0.044715 * x * x * x)).tanh()),
        Activation::QuickGelu => x * sigmoid(1.702 * x),
        Activation::Silu => x * sigmoid(x),
        Activation::Tanh => x.tanh(),
        Activation::Sigmoid => sigmoid(x),
    }
}

fn naive<const D: usize>(gate: &Array<D>, up: &Array<D>, activation: Activation) -> Array<D> {
    Array::from_fn(gate.dims, |index| formula(activation, gate.at(index)) * up.at(index))
}

/// The values that the tests of the activations rest on, from tables of the error function.
#[test]
fn the_error_function_is_right() {
    for (x, expected) in [
        (0.0, 1.0),
        (0.5, 0.479_500_122_186_953_5),
        (1.0, 0.157_299_207_050_285_13),
        (2.0, 4.677_734_981_047_266e-3),
        (3.0, 2.209_049_699_858_544e-5),
        (5.0, 1.537_459_794_428_035e-12),
        (-1.0, 1.842_700_792_949_715),
    ] {
        let found = erfc(x);
        assert!((found - expected).abs() <= 1e-12 * expected, "erfc({x}): found {found:e}, expected {expected:e}");
    }
    // Both ways of computing it meet where one gives way to the other.
    assert!((erfc(2.0 - 1e-13) - erfc(2.0)).abs() < 1e-14);
}

#[test]
fn every_activation_follows_its_formula() {
    // From −20 to 20, 0 included, and finer around it.
    let mut inputs: Vec<f64> = (-160..=160).map(|step| f64::from(step) / 8.0).collect();
    inputs.extend((-64..=64).map(|step| f64::from(step) / 1024.0));
    inputs.extend([-0.0, 1e-30, -1e-30]);
    let inputs = Array { dims: [inputs.len()], values: inputs };
    for activation in Activation::ALL {
        let expected = Array::from_fn(inputs.dims, |index| formula(activation, inputs.at(index)));
        assert_close(activation, activate(inputs.tensor(device()), activation), &expected, unit(1));
    }
}

#[test]
fn far_values_neither_overflow_nor_turn_nan() {
    let inputs = Array { dims: [6], values: vec![-1e4, -200.0, -88.0, 88.0, 200.0, 1e4] };
    for activation in Activation::ALL {
        let expected = Array::from_fn(inputs.dims, |index| formula(activation, inputs.at(index)));
        assert_close(activation, activate(inputs.tensor(device()), activation), &expected, unit(1));
    }
}

#[test]
fn cases_follow_the_definition() {
    for (seed, case) in TESTS.iter().enumerate() {
        let mut random = Random::new(seed as u64);
        let dims = [case.rows, case.features];
        let (gate, up) = (Array::random(dims, &mut random), Array::random(dims, &mut random));
        let gate = Array::from_fn(dims, |index| 4.0 * gate.at(index));
        for activation in Activation::ALL {
            let y = gated(gate.tensor(device()), up.tensor(device()), activation);
            assert_close((case, activation), y, &naive(&gate, &up, activation), unit(1));
        }
    }
}

#[test]
fn the_cpu_kernel_gives_what_the_reference_gives() {
    let x = Array::random([3, 7, 50], &mut Random::new(4));
    // A power of two, so that `f32` holds the products exactly.
    let x = Array::from_fn(x.dims, |index| 8.0 * x.at(index));
    for activation in Activation::ALL {
        let expected = Array::read(reference::activate(x.tensor(device()), activation));
        let kept = x.tensor(device());
        assert_close(activation, activate(kept.clone(), activation), &expected, unit(1));
        assert_close("an operand that others hold stays as it is", kept, &x, 0.0);
    }
}

#[test]
fn nothing_in_nothing_out() {
    let Some(device) = cpu() else { return };
    for device in [device, &device.autodiff()] {
        for dims in [[0, 3], [3, 0]] {
            let empty = || Tensor::<2>::zeros(dims, device.as_burn());
            assert_eq!(activate(empty(), Activation::Silu).dims(), dims);
            assert_eq!(gated(empty(), empty(), Activation::Silu).dims(), dims);
        }
    }
}

/// Both branches of one projection, `[…, 2 · features]`, taken apart as views.
#[test]
fn views_are_read_where_they_lie() {
    let both = Array::random([2, 3, 14], &mut Random::new(1));
    let y = gated(both.tensor(device()).narrow(2, 0, 7), both.tensor(device()).narrow(2, 7, 7), Activation::Silu);
    let expected = naive(&both.narrow(2, 0, 7), &both.narrow(2, 7, 7), Activation::Silu);
    assert_close("halves", y, &expected, unit(1));
}

/// Shader compilers may take it that there are neither, so only the CPU promises this.
#[test]
fn nan_and_infinity_travel() {
    if cpu().is_none() {
        return;
    }
    let specials = Array { dims: [3], values: vec![f64::NAN, f64::INFINITY, 0.5] };
    let ones = Array::from_fn([3], |_| 1.0);
    for activation in Activation::ALL {
        let y = gated(specials.tensor(device()), ones.tensor(device()), activation);
        assert_close(("gate", activation), y, &naive(&specials, &ones, activation), unit(1));
        let y = gated(ones.tensor(device()), specials.tensor(device()), activation);
        assert_close(("up", activation), y, &naive(&ones, &specials, activation), unit(1));
    }
    // The others are 0 · ∞ by their formulas there.
    let infinity = Array { dims: [1], values: vec![f64::NEG_INFINITY] };
    for (activation, expected) in
        [(Activation::Relu, 0.0), (Activation::ReluSquared, 0.0), (Activation::Tanh, -1.0), (Activation::Sigmoid, 0.0)]
    {
        let expected = Array { dims: [1], values: vec![expected] };
        assert_close(activation, activate(infinity.tensor(device()), activation), &expected, 0.0);
    }
}

#[test]
fn half_precision_is_close() {
    for dtype in half_dtypes() {
        let mut random = Random::new(2);
        let (gate, up) = (Array::random([3, 17], &mut random), Array::random([3, 17], &mut random));
        let gate = Array::from_fn(gate.dims, |index| 4.0 * gate.at(index));
        for activation in Activation::ALL {
            let (gate, gate_values) = gate.rounded(device(), dtype);
            let (up, up_values) = up.rounded(device(), dtype);
            let y = gated(gate, up, activation);
            assert_eq!(y.dtype(), dtype.into());
            assert_close((dtype, activation), y, &naive(&gate_values, &up_values, activation), HALF_UNIT);
        }
    }
}

#[test]
fn gradients_follow_differences() {
    let Some(device) = cpu() else { return };
    let mut random = Random::new(3);
    let [gate, up, coefficients] = [(); 3].map(|()| Array::random([3, 7], &mut random));
    let gate = Array::from_fn(gate.dims, |index| 4.0 * gate.at(index));
    for activation in Activation::ALL {
        let (gt, ut) = (gate.tracked(device), up.tracked(device));
        let y = gated(gt.clone(), ut.clone(), activation);
        assert_close(activation, y.clone().inner(), &naive(&gate, &up, activation), unit(1));
        let gradients = backward(y, &coefficients);
        assert_gradient(("gate", activation), &gradients, &gt, &gate, |gate| {
            loss(&naive(gate, &up, activation), &coefficients)
        });
        assert_gradient(("up", activation), &gradients, &ut, &up, |up| {
            loss(&naive(&gate, up, activation), &coefficients)
        });
    }
}

#[test]
fn operands_that_do_not_fit_are_named() {
    let branch = |features: usize| Tensor::<2>::zeros([2, features], device().as_burn());
    assert_panics(&["gated:", "[2, 5]", "[2, 4]"], || gated(branch(5), branch(4), Activation::Silu));
}
