//! The operations: an entry each, over the table of cases that drives its tests.

use fornax::backend::kv::{CacheType, KvFormat, KvLayer};
use fornax::backend::ops::{self, Activation, Cost, LinearRef, Mask, RmsNormOptions, Sequences, WeightRef, cases};
use fornax::burn::tensor::{DType, Device as BurnDevice, Distribution, Tensor};
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
            call(move || ops::linear(x.clone(), &LinearRef::dense(weights.next().clone())))
        })
        .shape(json!({"rows": rows, "in_features": in_features, "out_features": out_features, "weights": "f32"}))
        .cold(copies)
    }));

    list.extend(cases::linear::packed_benches().into_iter().map(|case| {
        let cases::linear::PackedCase { weight_type, rows, in_features, out_features } = case;
        let copies = copies(out_features * weight_type.row_bytes(in_features));
        let bench = packed_case("packed_linear", case, case.cost(), copies, move |device| {
            let x = random([rows, in_features], device);
            let mut weights = Ring { items: packed(weight_type, [out_features, in_features], copies)?, next: 0 };
            call(move || ops::linear(x.clone(), &packed_map(weights.next())))
        });
        // One matrix, in the types that people use most, says most of what there is to say.
        let often = matches!(weight_type, WeightType::Q4_0 | WeightType::Q4_K | WeightType::Q8_0 | WeightType::BF16);
        if often && (in_features, out_features) == (2048, 5632) { bench } else { bench.slow() }
    }));

    list.extend(cases::linear::linear_add_benches().into_iter().map(|case| {
        let cases::linear::PackedCase { weight_type, rows, in_features, out_features } = case;
        let copies = copies(out_features * weight_type.row_bytes(in_features));
        let Cost { bytes, flops } = case.cost();
        let added = rows * out_features;
        let cost = Cost { bytes: bytes + 4 * added as u64, flops: flops + added as u64 };
        packed_case("linear_add", case, cost, copies, move |device| {
            let (x, residual) = (random([rows, in_features], device), random([rows, out_features], device));
            let mut weights = Ring { items: packed(weight_type, [out_features, in_features], copies)?, next: 0 };
            call(move || ops::linear_add(x.clone(), &packed_map(weights.next()), residual.clone()))
        })
    }));

    list.extend(cases::linear::linears_benches().into_iter().map(|case| {
        let cases::linear::PackedCase { weight_type, rows, in_features, out_features } = case;
        let copies = copies(out_features * weight_type.row_bytes(in_features));
        packed_case("linears", case, case.cost(), copies, move |device| {
            let x = random([rows, in_features], device);
            let [query, key, value] = cases::linear::LINEARS.map(|features| [features, in_features]);
            let mut queries = Ring { items: packed(weight_type, query, copies)?, next: 0 };
            let mut keys = Ring { items: packed(weight_type, key, copies)?, next: 0 };
            let mut values = Ring { items: packed(weight_type, value, copies)?, next: 0 };
            call(move || {
                let maps = [queries.next(), keys.next(), values.next()].map(packed_map);
                ops::linears(x.clone(), maps.each_ref())
            })
        })
    }));

    list.extend(cases::gated_linear::BENCHES.iter().map(|&case| {
        let cases::gated_linear::Case { weight_type, rows, in_features, out_features } = case;
        let (shape, copies) = ([out_features, in_features], copies(2 * case.weight_bytes()));
        if let Some(weight_type) = weight_type {
            let sizes = cases::linear::PackedCase { weight_type, rows, in_features, out_features };
            return packed_case("gated_linear", sizes, case.cost(), copies, move |device| {
                let x = random([rows, in_features], device);
                let mut weights = Ring { items: packed(weight_type, shape, 2 * copies)?, next: 0 };
                call(move || {
                    let gate = weights.advance();
                    let [gate, up] = [gate, weights.advance()].map(|index| packed_map(&weights.items[index]));
                    ops::gated_linear(x.clone(), Some(&gate), &up, Activation::Silu)
                })
            });
        }
        let name = format!("f32 {rows}×{in_features}×{out_features}");
        Case::new("gated_linear", name, case.cost(), move |device| {
            let x = random([rows, in_features], device);
            let mut weights = Ring::of(random(shape, device), 2 * copies);
            call(move || {
                let [gate, up] = [(); 2].map(|()| LinearRef::dense(weights.next().clone()));
                ops::gated_linear(x.clone(), Some(&gate), &up, Activation::Silu)
            })
        })
        .shape(json!({"rows": rows, "in_features": in_features, "out_features": out_features, "weights": "f32"}))
        .cold(copies)
    }));

    list.extend(cases::attention::BENCHES.iter().map(|&(case, cache)| attention(case, cache)));

    list.extend(cases::rms_norm::BENCHES.iter().map(|&case| {
        rows_case("rms_norm", case.rows, case.features, case.cost(), |shape, device| {
            let (x, weight) = (random(shape, device), random([shape[1]], device));
            call(move || ops::rms_norm(x.clone(), weight.clone(), None, RmsNormOptions::new(1e-6)))
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

/// A case of attention. All of its sequences have one shape, as other libraries need it.
fn attention(case: cases::attention::Case<'static>, cache: Option<CacheType>) -> Case {
    let cases::attention::Case { sequences, heads, kv_heads, head_dim, mask, .. } = case;
    let (batch, [queries, past]) = (sequences.len(), sequences[0]);
    let keys = queries + past;
    let kind = cache.map_or_else(String::new, |cache| format!(" {cache}"));
    // In decoding, the keys and values of one of many layers are read; in prefill, they were just computed.
    let bytes = |cache| case.blocks() * KvFormat::Arena(cache).block_bytes(kv_heads, head_dim);
    let copies = if past > 0 { copies(cache.map_or(0, bytes)) } else { 1 };
    let name = format!("{batch}×{heads}/{kv_heads}×{queries}×{keys}×{head_dim}{kind}");
    let bench = Case::new("attention", name, case.cost(cache), move |device| {
        let options = case.options();
        let qkv = random([case.rows(), options.qkv_columns()], device);
        let Some(cache) = cache else {
            let sequences = case.uncached();
            return call(move || ops::attention(qkv.clone(), &sequences, None, None, None, &options));
        };
        let mut layers = kept(&case, cache, copies, device)?;
        let sequences = case.cached();
        call(move || ops::attention(qkv.clone(), &sequences, Some(layers.next_mut()), None, None, &options))
    });
    let window = if let Mask::Window(window) = mask { Some(window) } else { None };
    let bench = bench
        .shape(json!({
            "batch": batch, "heads": heads, "kv_heads": kv_heads, "queries": queries, "keys": keys, "head_dim": head_dim,
            "causal": mask != Mask::Full, "window": window,
            "cache": cache.map_or_else(|| "f32".to_owned(), |cache| cache.to_string())
        }))
        .cold(copies);
    // Other devices keep numbers as tensors.
    if cache == Some(CacheType::I8) { bench.only(Backend::Cpu) } else { bench }
}

/// Copies of a layer's memory in which everything before the rows of the case is kept.
fn kept(
    case: &cases::attention::Case<'_>,
    cache: CacheType,
    copies: usize,
    device: &Device,
) -> anyhow::Result<Ring<KvLayer>> {
    let format = match (device.backend(), cache) {
        (Backend::Cpu, cache) => KvFormat::Arena(cache),
        (_, CacheType::F16) => KvFormat::Tensors(DType::F16),
        (_, CacheType::BF16) => KvFormat::Tensors(DType::BF16),
        (_, CacheType::F32 | CacheType::I8) => KvFormat::Tensors(DType::F32),
    };
    let layer = || KvLayer::new(format, [case.kv_heads, case.head_dim], case.blocks(), device);
    let mut first = layer()?;
    let all = case.cached();
    let before = (0..all.len()).map(|sequence| (all.past(sequence), 0, all.blocks(sequence)));
    let before = Sequences::cached(before);
    let qkv = random([before.rows(), case.options().qkv_columns()], device);
    ops::attention(qkv, &before, Some(&mut first), None, None, &case.options());
    let mut items = vec![first];
    for _ in 1..copies {
        let mut copy = layer()?;
        for block in 0..copy.blocks() as u32 {
            let mut bytes = Vec::new();
            items[0].save_block(block, &mut bytes);
            copy.restore_block(block, &bytes)?;
        }
        items.push(copy);
    }
    Ok(Ring { items, next: 0 })
}

/// A case of an operation with packed weights, which the processor alone has.
fn packed_case(
    op: &'static str,
    case: cases::linear::PackedCase,
    cost: Cost,
    copies: usize,
    prepare: impl Fn(&Device) -> anyhow::Result<Run> + 'static,
) -> Case {
    let cases::linear::PackedCase { weight_type, rows, in_features, out_features } = case;
    let weights = weight_type.to_string();
    Case::new(op, format!("{weights} {rows}×{in_features}×{out_features}"), cost, prepare)
        .shape(json!({"rows": rows, "in_features": in_features, "out_features": out_features, "weights": weights}))
        .cold(copies)
        .arithmetic(if weight_type.is_float() { Arithmetic::Bf16 } else { Arithmetic::Int8 })
        .only(Backend::Cpu)
}

/// A map of a packed weight.
fn packed_map(weight: &PackedWeight) -> LinearRef<'_> {
    LinearRef { weight: WeightRef::Packed(weight), bias: None }
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

/// Operands that are used in turn, so that the next one was not read for a while.
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
        let index = self.advance();
        &self.items[index]
    }

    fn next_mut(&mut self) -> &mut T {
        let index = self.advance();
        &mut self.items[index]
    }

    /// The index of the next operand.
    fn advance(&mut self) -> usize {
        self.next = (self.next + 1) % self.items.len();
        self.next
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
