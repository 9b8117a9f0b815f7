//! The operations on the shapes of real models. Each case states the bytes it must move, so criterion's throughput is to be
//! read against the machine's memory bandwidth; `FORNAX_BENCH_DEVICE` names the device, of those whose
//! features are enabled (`--features fornax-backend/cuda`).

#![allow(missing_docs, reason = "criterion's macros make undocumented functions")]

use std::hint::black_box;

use burn::tensor::{Device as BurnDevice, Distribution, Tensor};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use fornax_backend::Device;
use fornax_backend::ops::{self, Activation, AttentionOptions, Cost, cases};

fn device() -> Device {
    let name = std::env::var("FORNAX_BENCH_DEVICE").unwrap_or_else(|_| "cpu".into());
    name.parse().expect("FORNAX_BENCH_DEVICE names a device of this machine and build")
}

fn random<const D: usize>(shape: [usize; D], device: &BurnDevice) -> Tensor<D> {
    Tensor::random(shape, Distribution::Normal(0.0, 1.0), device)
}

/// Times one call, to its end on the device.
fn bench<const D: usize>(c: &mut Criterion, group: &str, name: String, cost: Cost, call: impl Fn() -> Tensor<D>) {
    let mut group = c.benchmark_group(group);
    group.throughput(Throughput::Bytes(cost.bytes));
    group.bench_function(BenchmarkId::from_parameter(name), |bencher| {
        bencher.iter(|| {
            let y = black_box(call());
            y.device().sync().expect("the device computes");
        });
    });
}

fn all(c: &mut Criterion) {
    let device = device();
    for case in cases::linear::BENCHES {
        let x = random([case.rows, case.in_features], &device);
        let weight = random([case.out_features, case.in_features], &device);
        let name = format!("{}x{}x{}", case.rows, case.in_features, case.out_features);
        bench(c, "linear", name, case.cost(), || ops::linear(x.clone(), weight.clone(), None));
    }
    for case in cases::rms_norm::BENCHES {
        let (x, weight) = (random([case.rows, case.features], &device), random([case.features], &device));
        let name = format!("{}x{}", case.rows, case.features);
        bench(c, "rms_norm", name, case.cost(), || ops::rms_norm(x.clone(), weight.clone(), 1e-6));
    }
    for case in cases::layer_norm::BENCHES {
        let (x, weight) = (random([case.rows, case.features], &device), random([case.features], &device));
        let name = format!("{}x{}", case.rows, case.features);
        bench(c, "layer_norm", name, case.cost(), || ops::layer_norm(x.clone(), weight.clone(), None, 1e-5));
    }
    for case in cases::rope::BENCHES {
        let x = random(case.shape, &device);
        let (cos, sin) = (
            random([case.shape[2], case.rotary_dim / 2], &device),
            random([case.shape[2], case.rotary_dim / 2], &device),
        );
        bench(c, "rope", format!("{:?}", case.shape), case.cost(), || ops::rope(x.clone(), cos.clone(), sin.clone()));
    }
    for case in cases::attention::BENCHES {
        let query = random([case.batch, case.heads, case.queries, case.head_dim], &device);
        let key = random([case.batch, case.kv_heads, case.keys, case.head_dim], &device);
        let options = AttentionOptions {
            causal: case.causal,
            window: case.window,
            ..AttentionOptions::bidirectional(case.head_dim)
        };
        let name = format!("{}x{}/{}x{}x{}", case.batch, case.heads, case.kv_heads, case.queries, case.keys);
        bench(c, "attention", name, case.cost(), || {
            ops::attention(query.clone(), key.clone(), key.clone(), None, &options)
        });
    }
    for case in cases::activation::BENCHES {
        let (gate, up) = (random([case.rows, case.features], &device), random([case.rows, case.features], &device));
        let name = format!("{}x{}", case.rows, case.features);
        bench(c, "gated", name, case.cost(), || ops::gated(gate.clone(), up.clone(), Activation::Silu));
    }
}

criterion_group!(benches, all);
criterion_main!(benches);
