//! What `cargo xtask bench` says to a runner, and what it answers: a JSON object on a line each, over the runner's
//! standard input and output. The runners of other libraries (`peers/`) speak it too, but for `list` and `limits`.
//!
//! | request | answer |
//! |---|---|
//! | `{"do": "hello"}` | `{"name", "version", "device", "threads"}` |
//! | `{"do": "list", "quick"}` | `{"cases": [{"op", "name", "bytes", "flops", "arithmetic", "copies", "shape", …}]}` |
//! | `{"do": "limits"}` | `{"memory": {"all_threads", …}, "peaks": [{"arithmetic", "all_threads", …}]}` |
//! | `{"do": "prepare", "op", "name", "shape", "copies"}` | `{"ready": true}` or `{"unsupported": "why"}` |
//! | `{"do": "time", "seconds"}` | `{"samples": [seconds of a call, …], "calls": calls that a sample covers}` |
//!
//! Whatever goes wrong is answered with `{"error": "what"}`, and the next request is served.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use anyhow::{Context as _, bail};
use fornax::backend::threads;
use fornax::prelude::Device;
use serde_json::{Value, json};

use crate::{Case, Run, cases, limits, time};

/// Answers requests, one after another.
pub struct Runner {
    device: Device,
    cases: Vec<Case>,
    prepared: Option<Run>,
}

impl Runner {
    /// Runs on `device`.
    pub fn new(device: Device) -> Self {
        Self { device, cases: cases(false), prepared: None }
    }

    /// The answer to one line.
    pub fn answer(&mut self, line: &str) -> Value {
        // A kernel that panics ends its case, not the run.
        let answer = catch_unwind(AssertUnwindSafe(|| self.serve(line)));
        let error = match answer {
            Ok(Ok(answer)) => return answer,
            Ok(Err(error)) => format!("{error:#}"),
            Err(panic) => panic_text(panic.as_ref()),
        };
        self.prepared = None;
        json!({ "error": error })
    }

    fn serve(&mut self, line: &str) -> anyhow::Result<Value> {
        let request: Value = serde_json::from_str(line).context("the request is not JSON")?;
        match request["do"].as_str().unwrap_or_default() {
            "hello" => Ok(json!({
                "name": "fornax",
                "version": env!("CARGO_PKG_VERSION"),
                "device": self.device.to_string(),
                "threads": threads(),
            })),
            "list" => Ok(json!({"cases": list(&self.cases, request["quick"] == true)})),
            "limits" => limits::measure(&self.device),
            "prepare" => self.prepare(&request),
            "time" => self.time(&request),
            other => bail!("request {other:?} is unknown; expected hello, list, limits, prepare or time"),
        }
    }

    fn prepare(&mut self, request: &Value) -> anyhow::Result<Value> {
        // The operands of the case before are given back first.
        self.prepared = None;
        let same = |case: &&Case| request["op"] == case.op && request["name"] == case.name.as_str();
        let Some(case) = self.cases.iter().find(same) else {
            bail!("there is no case {} {}", request["op"], request["name"]);
        };
        if let Some(reason) = case.unsupported_on(&self.device) {
            return Ok(json!({ "unsupported": reason }));
        }
        let mut run = case.prepare(&self.device)?;
        // The first call compiles and tunes kernels on some devices, which is nobody's time in the long run.
        run()?;
        self.device.sync().map_err(|error| anyhow::anyhow!("the device failed: {error:?}"))?;
        self.prepared = Some(run);
        Ok(json!({"ready": true}))
    }

    fn time(&mut self, request: &Value) -> anyhow::Result<Value> {
        let seconds = request["seconds"].as_f64().filter(|seconds| (0.0..=600.0).contains(seconds));
        let budget = Duration::from_secs_f64(seconds.context("`seconds` must be a number from 0 to 600")?);
        let run = self.prepared.as_mut().context("nothing is prepared: send `prepare` first")?;
        let timing = time(run, &self.device, budget)?;
        Ok(json!({"samples": timing.samples, "calls": timing.calls}))
    }
}

fn list(cases: &[Case], quick: bool) -> Vec<Value> {
    let chosen = cases.iter().filter(|case| !quick || case.quick);
    chosen
        .map(|case| {
            json!({
                "op": case.op,
                "name": case.name,
                "bytes": case.cost.bytes,
                "flops": case.cost.flops,
                "arithmetic": case.arithmetic.to_string(),
                "copies": case.copies,
                "shape": case.shape,
                "only": case.only.map(|backend| backend.name()),
                "yields": case.yields.map(|(unit, count)| json!({"unit": unit, "count": count})),
            })
        })
        .collect()
}

/// What a panic says, on one line.
pub fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
    format!("it panicked: {}", text.unwrap_or("no reason given").lines().next().unwrap_or_default())
}

#[cfg(all(test, feature = "cpu"))]
mod tests {
    use super::*;

    fn runner() -> Runner {
        Runner::new(Device::cpu())
    }

    #[test]
    fn a_case_is_listed_prepared_and_timed() {
        let mut runner = runner();
        assert_eq!(runner.answer(r#"{"do": "hello"}"#)["device"], "cpu");
        let list = runner.answer(r#"{"do": "list", "quick": true}"#);
        let case = list["cases"].as_array().unwrap().iter().find(|case| case["op"] == "rms_norm").unwrap().clone();
        assert!(case["bytes"].as_u64().unwrap() > 0);
        let prepare = json!({"do": "prepare", "op": case["op"], "name": case["name"]});
        assert_eq!(runner.answer(&prepare.to_string()), json!({"ready": true}));
        let timing = runner.answer(r#"{"do": "time", "seconds": 0}"#);
        assert!(timing["samples"][0].as_f64().unwrap() > 0.0, "{timing}");
    }

    #[test]
    fn bad_requests_are_answered_and_the_next_one_served() {
        let mut runner = runner();
        for (line, words) in [
            ("{", "not JSON"),
            (r#"{"do": "dance"}"#, "\"dance\" is unknown"),
            (r#"{"do": "time", "seconds": 1}"#, "`prepare` first"),
            (r#"{"do": "time", "seconds": -1}"#, "from 0 to 600"),
            (r#"{"do": "prepare", "op": "linear", "name": "none"}"#, "no case"),
        ] {
            let answer = runner.answer(line);
            assert!(answer["error"].as_str().unwrap().contains(words), "{line}: {answer}");
        }
        assert_eq!(runner.answer(r#"{"do": "hello"}"#)["name"], "fornax");
    }

    #[test]
    fn quick_lists_are_shorter() {
        let count = |quick| list(&cases(quick), quick).len();
        assert!(count(true) < count(false));
    }
}
