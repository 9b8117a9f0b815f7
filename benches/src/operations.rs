//! The operations: an entry each, over the table of cases that drives its tests.

use fornax::backend::ops::{self, Activation, AttentionOptions, Cost, cases};
use fornax::burn::tensor::{Device as BurnDevice, Distribution, Tensor};
use fornax::cpu::{Buffer, PackedWeight, WeightType};
use fornax::prelude::{Backend, Device};
use fornax_cpu::limits::Arithmetic;
use serde_json::{Value, json};

use crate::case::{Case, Run, copies};

/// Every operation's cases.
pub fn operations() -> Vec<Case> {
    let mut list = Vec::new();

    list.extend(cases::linear::BENCHES.iter().map(|&case| {
        let cases::linear::Case { rows, in_features, out_features } = case;
        let copies = copies(4 * in_features * out_features);
        Case::new("linear", format!("{rows}×{in_features}×{out_features}"), case.cost(), move |device| {
            let x = random([rows, in_features], device);
            let mut weights = Ring::of(random([out_features, in_features], device), copies);
            call(move || ops::linear(x.clone(), weights.next().clone(), None))
        })
        .shape(json!({"rows": rows, "in_features": in_features, "out_features": out_features, "weights": "f32"}))
        .cold(copies)
    }));

    list.extend(cases::packed_linear::benches().into_iter().map(|case| {
        let cases::packed_linear::Case { weight_type, rows, in_features, out_features } = case;
        let copies = copies(out_features * weight_type.row_bytes(in_features));
        let name = format!("{weight_type} {rows}×{in_features}×{out_features}");
        let weights = weight_type.to_string();
        let packed = Case::new("packed_linear", name, case.cost(), move |device| {
            let x = random([rows, in_features], device);
            let mut weights = Ring { items: packed(weight_type, [out_features, in_features], copies)?, next: 0 };
            call(move || ops::packed_linear(x.clone(), weights.next(), None))
        });
        let packed = packed
            .shape(json!({"rows": rows, "in_features": in_features, "out_features": out_features, "weights": weights}))
            .cold(copies)
            .arithmetic(if weight_type.is_float() { Arithmetic::Bf16 } else { Arithmetic::Int8 })
            .only(Backend::Cpu);
        // One matrix, in the types that people use most, says most of what there is to say.
        let often = matches!(weight_type, WeightType::Q4_0 | WeightType::Q4_K | WeightType::Q8_0 | WeightType::BF16);
        if often && (in_features, out_features) == (2048, 5632) { packed } else { packed.slow() }
    }));

    list.extend(cases::attention::BENCHES.iter().map(|&case| {
        let cases::attention::Case { batch, heads, kv_heads, queries, keys, head_dim, causal, window } = case;
        let name = format!("{batch}×{heads}/{kv_heads}×{queries}×{keys}×{head_dim}");
        // In decoding the keys and values are those of one layer of many; in prefill they were just made.
        let copies = if queries == 1 { copies(8 * batch * kv_heads * keys * head_dim) } else { 1 };
        Case::new("attention", name, case.cost(), move |device| {
            let query = random([batch, heads, queries, head_dim], device);
            let mut keys = Ring::of(random([batch, kv_heads, keys, head_dim], device), 2 * copies);
            let options = AttentionOptions { causal, window, ..AttentionOptions::bidirectional(head_dim) };
            call(move || ops::attention(query.clone(), keys.next().clone(), keys.next().clone(), None, &options))
        })
        .shape(json!({
            "batch": batch, "heads": heads, "kv_heads": kv_heads, "queries": queries, "keys": keys,
            "head_dim": head_dim, "causal": causal, "window": window
        }))
        .cold(copies)
    }));

    list.extend(cases::rms_norm::BENCHES.iter().map(|&case| {
        rows_case("rms_norm", case.rows, case.features, case.cost(), |shape, device| {
            let (x, weight) = (random(shape, device), random([shape[1]], device));
            call(move || ops::rms_norm(x.clone(), weight.clone(), 1e-6))
        })
    }));

    list.extend(cases::layer_norm::BENCHES.iter().map(|&case| {
        rows_case("layer_norm", case.rows, case.features, case.cost(), |shape, device| {
            let (x, weight) = (random(shape, device), random([shape[1]], device));
            call(move || ops::layer_norm(x.clone(), weight.clone(), None, 1e-5))
        })
    }));

    list.extend(cases::rope::BENCHES.iter().map(|&case| {
        let shape @ [batch, heads, seq, head_dim] = case.shape;
        let half = case.rotary_dim / 2;
        Case::new("rope", format!("{batch}×{heads}×{seq}×{head_dim}"), case.cost(), move |device| {
            let x = random(shape, device);
            let (cos, sin) = (random([seq, half], device), random([seq, half], device));
            call(move || ops::rope(x.clone(), cos.clone(), sin.clone()))
        })
        .shape(json!({"batch": batch, "heads": heads, "seq": seq, "head_dim": head_dim, "rotary_dim": 2 * half}))
    }));

    list.extend(cases::activation::BENCHES.iter().map(|&case| {
        rows_case("gated", case.rows, case.features, case.cost(), |shape, device| {
            let (gate, up) = (random(shape, device), random(shape, device));
            call(move || ops::gated(gate.clone(), up.clone(), Activation::Silu))
        })
    }));

    list
}

/// A case of an operation over `[rows, features]`.
fn rows_case(
    op: &'static str,
    rows: usize,
    features: usize,
    cost: Cost,
    prepare: impl Fn([usize; 2], &Device) -> anyhow::Result<Run> + 'static,
) -> Case {
    let shape: Value = json!({"rows": rows, "features": features});
    Case::new(op, format!("{rows}×{features}"), cost, move |device| prepare([rows, features], device)).shape(shape)
}

/// A call whose result is made and dropped.
fn call<const D: usize>(mut operation: impl FnMut() -> Tensor<D> + 'static) -> anyhow::Result<Run> {
    Ok(Box::new(move || {
        std::hint::black_box(operation());
        Ok(())
    }))
}

fn random<const D: usize>(shape: [usize; D], device: &BurnDevice) -> Tensor<D> {
    Tensor::random(shape, Distribution::Normal(0.0, 1.0), device)
}

/// Copies of a packed weight of random numbers.
fn packed(weight_type: WeightType, [rows, columns]: [usize; 2], copies: usize) -> anyhow::Result<Vec<PackedWeight>> {
    let mut state = 1u32;
    let values: Vec<f32> = (0..rows * columns)
        .map(|_| {
            state = state.wrapping_mul(0x0019_660d).wrapping_add(0x3c6e_f35f);
            (state >> 8) as f32 / (1 << 23) as f32 - 1.0
        })
        .collect();
    let first = PackedWeight::quantize(weight_type, rows, columns, &values)?;
    let copy = |_| -> anyhow::Result<PackedWeight> {
        let mut bytes = Buffer::zeroed(first.bytes().len());
        bytes.copy_from_slice(first.bytes());
        Ok(PackedWeight::from_packed(weight_type, rows, columns, bytes.freeze())?)
    };
    (0..copies.max(1)).map(copy).collect()
}

/// Operands taken in turn, so that the one that is read next was not read for long.
struct Ring<T> {
    items: Vec<T>,
    next: usize,
}

impl<const D: usize> Ring<Tensor<D>> {
    /// Copies of a tensor.
    fn of(first: Tensor<D>, copies: usize) -> Self {
        // An operation, since a clone would share the memory.
        let tensors = (1..copies.max(1)).map(|_| first.clone().add_scalar(0.0)).collect::<Vec<_>>();
        Self { items: std::iter::once(first).chain(tensors).collect(), next: 0 }
    }
}

impl<T> Ring<T> {
    fn next(&mut self) -> &T {
        self.next = (self.next + 1) % self.items.len();
        &self.items[self.next]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_case_has_a_name_of_its_own_and_work_to_do() {
        let operations = operations();
        assert!(operations.len() >= 15);
        for (index, case) in operations.iter().enumerate() {
            let same = |other: &Case| (other.op, &other.name) == (case.op, &case.name);
            assert_eq!(operations.iter().position(same), Some(index), "{} {}", case.op, case.name);
            assert!(case.cost.bytes > 0 && case.cost.flops > 0, "{} {}", case.op, case.name);
            assert!(case.shape.as_object().is_some_and(|shape| !shape.is_empty()), "{} {}", case.op, case.name);
        }
    }
}
