//! The operations on the shapes of real models, by criterion. The throughput in elements is that of operations (one
//! `elem` is a FLOP), the one in bytes is to be read against the machine's memory bandwidth.
//!
//! `FORNAX_BENCH_DEVICE` names the device, whose feature has to be enabled (`--features cuda`). To see several
//! devices and other libraries side by side, with the machine's limits: `cargo xtask bench`.

#![allow(missing_docs, reason = "criterion's macros make undocumented functions")]

use std::time::Instant;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

fn all(c: &mut Criterion) {
    let device = fornax_benches::device().expect("FORNAX_BENCH_DEVICE names a device of this machine and build");
    for case in fornax_benches::operations().iter().filter(|case| case.unsupported_on(&device).is_none()) {
        let mut group = c.benchmark_group(case.op);
        group.throughput(Throughput::ElementsAndBytes { elements: case.cost.flops, bytes: case.cost.bytes });
        // Made when it is first run, so that a filter saves the operands of the others.
        let mut run = None;
        group.bench_function(BenchmarkId::from_parameter(&case.name), |bencher| {
            let run = run.get_or_insert_with(|| case.prepare(&device).expect("operands on the device"));
            bencher.iter_custom(|calls| {
                let start = Instant::now();
                for _ in 0..calls {
                    run().expect("the device computes");
                }
                device.sync().expect("the device computes");
                start.elapsed()
            });
        });
    }
}

criterion_group!(benches, all);
criterion_main!(benches);
