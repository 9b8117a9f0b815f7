//! `packed_linear`: every type of weight against the product with the unpacked weight, by as much as the rounding of the
//! input allows; gradients through the reference.

use burn::tensor::Tensor;
use fornax_backend::ops::cases::packed_linear::TESTS;
use fornax_backend::ops::{packed_linear, reference};
use fornax_cpu::{PackedWeight, WeightType};

use crate::common::*;

fn weight(
    weight_type: WeightType,
    [out_features, in_features]: [usize; 2],
    random: &mut Random,
) -> Option<PackedWeight> {
    let values: Vec<f32> = (0..out_features * in_features).map(|_| random.value() as f32).collect();
    PackedWeight::quantize(weight_type, out_features, in_features, &values).ok()
}

fn numbers<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data().convert::<f32>().iter::<f32>().collect()
}

#[test]
fn cases_follow_the_unpacked_product() {
    let mut compared = 0;
    for (seed, &[rows, in_features, out_features]) in TESTS.iter().enumerate() {
        for weight_type in WeightType::ALL {
            let random = &mut Random::new(seed as u64);
            let Some(weight) = weight(weight_type, [out_features, in_features], random) else { continue };
            let x = Array::random([rows, in_features], random);
            let bias = Array::random([out_features], random);
            let (x, bias) = (x.tensor(device()), bias.tensor(device()));
            let found = numbers(packed_linear(x.clone(), &weight, Some(bias.clone())));
            let expected = numbers(reference::packed_linear(x, &weight, Some(bias)));
            let length = (expected.iter().map(|y| y * y).sum::<f32>() / expected.len() as f32).sqrt();
            for (found, expected) in found.iter().zip(&expected) {
                let apart = (found - expected).abs() / length;
                assert!(apart < 0.05, "{rows}x{in_features}x{out_features} {weight_type}: {found} for {expected}");
            }
            compared += 1;
        }
    }
    assert!(compared > 3 * TESTS.len());
}

#[test]
fn gradients_pass_through_to_the_input() {
    let weight = weight(WeightType::Q8_0, [5, 32], &mut Random::new(7)).expect("32 columns are a block");
    let x = Array::random([2, 32], &mut Random::new(8)).tracked(device());
    let gradients = packed_linear(x.clone(), &weight, None).sum().backward();
    let found = numbers(x.grad(&gradients).expect("x has a gradient"));
    let values = weight.to_f32();
    for (at, found) in found.iter().enumerate() {
        let expected: f32 = (0..5).map(|row| values[row * 32 + at % 32]).sum();
        assert!((found - expected).abs() < 1e-4, "at {at}: {found} for {expected}");
    }
}

#[test]
fn nothing_in_nothing_out() {
    let weight = weight(WeightType::BF16, [3, 4], &mut Random::new(1)).expect("bf16 has no blocks");
    let x = Tensor::<3>::zeros([2, 0, 4], device().as_burn());
    assert_eq!(packed_linear(x, &weight, None).dims(), [2, 0, 3]);
}
