//! candle's operations on the processor, beside Fornax: answers the requests of `cargo xtask bench` (the table of them is
//! in benches/src/protocol.rs). Every operation is what candle's own models call.
//!
//!     fornax-peer-candle [THREADS]

use std::io::{BufRead, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use candle_core::quantized::{GgmlDType, QMatMul, QTensor};
use candle_core::{DType, Device, Module, Tensor};
use serde_json::{Value, json};

/// One call.
type Run = Box<dyn FnMut() -> Result<()>>;

/// What candle has no operation for; the reason is shown.
#[derive(Debug)]
struct Unsupported(String);

impl std::fmt::Display for Unsupported {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Unsupported {}

/// The version of candle that `Cargo.lock` holds.
const LOCK: &str = include_str!("../Cargo.lock");

fn main() -> Result<()> {
    let mut prepared = None;
    let mut output = std::io::stdout();
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        let answer = catch_unwind(AssertUnwindSafe(|| answer(&line, &mut prepared)));
        let answer = match answer {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => match error.downcast_ref::<Unsupported>() {
                Some(reason) => json!({"unsupported": reason.0}),
                None => json!({"error": format!("{error:#}")}),
            },
            Err(_) => json!({"error": "it panicked"}),
        };
        writeln!(output, "{answer}")?;
        output.flush()?;
    }
    Ok(())
}

fn answer(line: &str, prepared: &mut Option<Run>) -> Result<Value> {
    let request: Value = serde_json::from_str(line)?;
    match request["do"].as_str() {
        Some("hello") => {
            let threads = std::env::args().nth(1).and_then(|threads| threads.parse::<usize>().ok());
            Ok(json!({"name": "candle", "version": version(), "device": "cpu", "threads": threads}))
        }
        Some("prepare") => {
            *prepared = None;
            let mut run = prepare(&request)?;
            run()?;
            *prepared = Some(run);
            Ok(json!({"ready": true}))
        }
        Some("time") => {
            let budget = Duration::from_secs_f64(request["seconds"].as_f64().context("no seconds")?);
            time(prepared.as_mut().context("nothing is prepared")?, budget)
        }
        other => anyhow::bail!("request {other:?} is unknown"),
    }
}

fn version() -> &'static str {
    let entry = LOCK.split("[[package]]").find(|entry| entry.contains("name = \"candle-core\""));
    entry.and_then(|entry| entry.split("version = \"").nth(1)?.split('"').next()).unwrap_or("unknown")
}

fn prepare(request: &Value) -> Result<Run> {
    let shape = &request["shape"];
    let size = |name: &str| -> Result<usize> {
        Ok(shape[name].as_u64().with_context(|| format!("the shape has no {name}"))? as usize)
    };
    let copies = request["copies"].as_u64().unwrap_or(1).max(1) as usize;
    match request["op"].as_str() {
        Some("linear" | "packed_linear") => linear(
            [size("rows")?, size("in_features")?, size("out_features")?],
            shape["weights"].as_str().unwrap_or("f32"),
            copies,
        ),
        Some("attention") => attention(shape, copies),
        Some("rms_norm") => {
            let (x, weight) = (random(&[size("rows")?, size("features")?])?, random(&[size("features")?])?);
            call(move || candle_nn::ops::rms_norm(&x, &weight, 1e-6))
        }
        Some("layer_norm") => {
            let (x, weight) = (random(&[size("rows")?, size("features")?])?, random(&[size("features")?])?);
            let bias = weight.zeros_like()?;
            call(move || candle_nn::ops::layer_norm(&x, &weight, &bias, 1e-5))
        }
        Some("rope") => {
            let (seq, head) = (size("seq")?, size("head_dim")?);
            if size("rotary_dim")? != head {
                return Err(Unsupported("heads that turn in part".into()).into());
            }
            let x = random(&[size("batch")?, size("heads")?, seq, head])?;
            let (cos, sin) = (random(&[seq, head / 2])?, random(&[seq, head / 2])?);
            call(move || candle_nn::rotary_emb::rope(&x, &cos, &sin))
        }
        Some("gated") => {
            let shape = [size("rows")?, size("features")?];
            let (gate, up) = (random(&shape)?, random(&shape)?);
            call(move || candle_nn::ops::silu(&gate)? * &up)
        }
        other => Err(Unsupported(format!("no runner for {}", other.unwrap_or("nothing"))).into()),
    }
}

fn linear([rows, inputs, outputs]: [usize; 3], weights: &str, copies: usize) -> Result<Run> {
    let x = random(&[rows, inputs])?;
    let first = random(&[outputs, inputs])?;
    let quantized = match weights {
        "f32" | "bf16" | "f16" => None,
        "q4_0" => Some(GgmlDType::Q4_0),
        "q8_0" => Some(GgmlDType::Q8_0),
        "q4_k" => Some(GgmlDType::Q4K),
        "q6_k" => Some(GgmlDType::Q6K),
        other => return Err(Unsupported(format!("no {other} weights in this runner")).into()),
    };
    if let Some(kind) = quantized {
        let make = || -> candle_core::Result<QMatMul> { QMatMul::from_qtensor(QTensor::quantize(&first, kind)?) };
        let mut weights = Ring::new((0..copies).map(|_| make()).collect::<candle_core::Result<Vec<_>>>()?);
        return call(move || weights.take().forward(&x));
    }
    let kind = match weights {
        "bf16" => DType::BF16,
        "f16" => DType::F16,
        _ => DType::F32,
    };
    let (x, first) = (x.to_dtype(kind)?, first.to_dtype(kind)?);
    let copied = (0..copies).map(|_| first.copy()).collect::<candle_core::Result<Vec<_>>>()?;
    let mut weights = Ring::new(copied);
    call(move || x.matmul(&weights.take().t()?))
}

/// As candle's models compute it: keys and values repeated for each group of heads, scores, softmax.
fn attention(shape: &Value, copies: usize) -> Result<Run> {
    let size = |name: &str| shape[name].as_u64().map_or(0, |size| size as usize);
    let (batch, heads, kv_heads) = (size("batch"), size("heads"), size("kv_heads"));
    let (queries, keys, head) = (size("queries"), size("keys"), size("head_dim"));
    if !shape["window"].is_null() || shape["cache"].as_str().is_some_and(|cache| cache != "f32") {
        return Err(Unsupported("no windows and no packed caches in this runner".into()).into());
    }
    let query = random(&[batch, heads, queries, head])?;
    let first = random(&[batch, kv_heads, keys, head])?;
    let copied = (0..2 * copies).map(|_| first.copy()).collect::<candle_core::Result<Vec<_>>>()?;
    let mut cache = Ring::new(copied);
    let mask = if shape["causal"] == true && queries > 1 {
        let hidden = |query: usize, key: usize| if key > query + keys - queries { f32::NEG_INFINITY } else { 0.0 };
        let values: Vec<f32> = (0..queries * keys).map(|at| hidden(at / keys, at % keys)).collect();
        Some(Tensor::from_vec(values, (queries, keys), &Device::Cpu)?)
    } else {
        None
    };
    let scale = (head as f64).powf(-0.5);
    call(move || {
        let repeat = |x: &Tensor| {
            let groups = heads / kv_heads;
            if groups == 1 {
                return Ok(x.clone());
            }
            Tensor::cat(&vec![x; groups], 2)?.reshape((batch, heads, keys, head))
        };
        let (key, value) = (repeat(cache.take())?, repeat(cache.take())?);
        let scores = (query.matmul(&key.t()?)? * scale)?;
        let scores = match &mask {
            Some(mask) => scores.broadcast_add(mask)?,
            None => scores,
        };
        candle_nn::ops::softmax_last_dim(&scores)?.matmul(&value.contiguous()?)
    })
}

fn random(shape: &[usize]) -> candle_core::Result<Tensor> {
    Tensor::randn(0f32, 1f32, shape, &Device::Cpu)
}

/// A call whose result is made and dropped.
fn call(mut operation: impl FnMut() -> candle_core::Result<Tensor> + 'static) -> Result<Run> {
    Ok(Box::new(move || {
        std::hint::black_box(operation()?);
        Ok(())
    }))
}

/// Items taken in turn, so that the one taken next was not touched for long.
struct Ring<T> {
    items: Vec<T>,
    next: usize,
}

impl<T> Ring<T> {
    fn new(items: Vec<T>) -> Self {
        Self { items, next: 0 }
    }

    fn take(&mut self) -> &T {
        self.next = (self.next + 1) % self.items.len();
        &self.items[self.next]
    }
}

/// Samples of seconds a call for about `budget`, the first fifth of which is for getting warm.
fn time(run: &mut Run, budget: Duration) -> Result<Value> {
    const SAMPLE: Duration = Duration::from_millis(1);
    const MOST_SAMPLES: usize = 200;
    let start = Instant::now();
    let mut once = |calls: usize| -> Result<Duration> {
        let start = Instant::now();
        for _ in 0..calls {
            run()?;
        }
        Ok(start.elapsed())
    };
    let mut calls = 1;
    let mut last = once(calls)?;
    if last >= budget {
        return Ok(json!({"samples": [last.as_secs_f64()], "calls": calls}));
    }
    while start.elapsed() < budget / 5 || last < SAMPLE {
        last = once(calls)?;
        if last < SAMPLE {
            let wanted = SAMPLE.as_secs_f64() / last.as_secs_f64().max(1e-9) * calls as f64;
            calls = (wanted.ceil() as usize).clamp(calls + 1, 4 * calls);
        }
    }
    let mut samples = Vec::new();
    while samples.is_empty() || (start.elapsed() < budget && samples.len() < MOST_SAMPLES) {
        samples.push(once(calls)?.as_secs_f64() / calls as f64);
    }
    Ok(json!({"samples": samples, "calls": calls}))
}
