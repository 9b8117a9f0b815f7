//! The limits of a device as JSON, for `cargo xtask bench`. Those of a processor are measured by `fornax_cpu::limits`;
//! those of other devices through tensor operations, which is as near as it gets without kernels of one's own.

use std::time::Instant;

use fornax::backend::{Backend, threads};
use fornax::burn::tensor::{DType, Distribution, Tensor};
use fornax::prelude::{Device, FloatDtype};
use fornax_cpu::limits::{Arithmetic, Limits};
use serde_json::{Value, json};

/// Measures what `device` can give at most: bytes a second, and operations a second for each arithmetic.
///
/// # Errors
/// When the device fails.
pub fn measure(device: &Device) -> anyhow::Result<Value> {
    if device.backend() == Backend::Cpu { Ok(processor(&Limits::measure(threads()))) } else { tensors(device) }
}

/// The limits of a processor, as the report reads them.
pub fn processor(limits: &Limits) -> Value {
    let memory = &limits.memory;
    let peaks: Vec<Value> = limits
        .peaks
        .iter()
        .map(|peak| {
            json!({
                "arithmetic": peak.arithmetic.to_string(),
                "how": peak.instruction,
                "one_thread": peak.one_thread,
                "all_threads": peak.all_threads,
            })
        })
        .collect();
    let source = if memory.flushed { "flushed from every cache first" } else { "more than the caches hold" };
    json!({
        "threads": limits.threads,
        "isa": limits.isa.to_string(),
        "memory": {
            "how": format!("{} MiB read, {source}, {} streams a thread", memory.bytes >> 20, memory.streams),
            "one_thread": memory.one_thread,
            "all_threads": memory.all_threads,
            "largest_cache": memory.caches,
        },
        "peaks": peaks,
    })
}

/// Elements of the tensor that is read and written for the memory's rate: 256 MiB.
const ELEMENTS: usize = 64 << 20;

/// The largest product of square matrices that is tried.
const MOST: usize = 8192;

fn tensors(device: &Device) -> anyhow::Result<Value> {
    let x = Tensor::<1>::zeros([ELEMENTS], device.as_burn());
    let seconds = best(device, 4, || drop(x.clone().add_scalar(1.0)))?;
    let memory = (2 * 4 * ELEMENTS) as f64 / seconds;
    let mut peaks = Vec::new();
    for (dtype, arithmetic) in [(FloatDtype::F32, Arithmetic::F32), (FloatDtype::Bf16, Arithmetic::Bf16)] {
        if device.supports(dtype) {
            let (rate, size) = product(device, dtype.into())?;
            let how = format!("burn's product of {size}×{size} matrices");
            peaks.push(json!({"arithmetic": arithmetic.to_string(), "how": how, "all_threads": rate}));
        }
    }
    Ok(json!({
        "memory": {"how": "256 MiB read and as many written, by one of burn's operations", "all_threads": memory},
        "peaks": peaks,
    }))
}

/// Operations a second of a matrix product, and the size at which it was that fast.
fn product(device: &Device, dtype: DType) -> anyhow::Result<(f64, usize)> {
    let (mut fastest, mut at, mut size) = (0.0, 0, 256);
    loop {
        let x = Tensor::<2>::random([size, size], Distribution::Default, (device.as_burn(), dtype));
        let seconds = best(device, 4, || drop(x.clone().matmul(x.clone())))?;
        let rate = 2.0 * (size as f64).powi(3) / seconds;
        if rate > fastest {
            (fastest, at) = (rate, size);
        }
        // The next is eight times the work.
        if size >= MOST || seconds > 0.05 {
            return Ok((fastest, at));
        }
        size *= 2;
    }
}

/// The shortest of some calls, each to its end on the device, in seconds; the first, which compiles kernels, not counted.
fn best(device: &Device, calls: usize, run: impl Fn()) -> anyhow::Result<f64> {
    let mut shortest = f64::INFINITY;
    for call in 0..=calls {
        let start = Instant::now();
        run();
        device.sync().map_err(|error| anyhow::anyhow!("the device failed: {error:?}"))?;
        if call > 0 {
            shortest = shortest.min(start.elapsed().as_secs_f64());
        }
    }
    Ok(shortest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use fornax_cpu::Isa;
    use fornax_cpu::limits::{MemoryLimit, Peak};

    #[test]
    fn the_report_finds_what_it_reads() {
        let limits = Limits {
            isa: Isa::Portable,
            threads: 2,
            memory: MemoryLimit {
                one_thread: 1e9,
                all_threads: 2e9,
                streams: 4,
                bytes: 1 << 30,
                caches: Some(5),
                flushed: false,
            },
            peaks: vec![Peak { arithmetic: Arithmetic::F32, instruction: "mul", one_thread: 1.0, all_threads: 2.0 }],
        };
        let json = processor(&limits);
        assert_eq!(json["memory"]["all_threads"], 2e9);
        assert_eq!(json["memory"]["how"], "1024 MiB read, more than the caches hold, 4 streams a thread");
        assert_eq!(json["peaks"][0]["arithmetic"], "f32");
        assert_eq!(json["peaks"][0]["all_threads"], 2.0);
    }
}
