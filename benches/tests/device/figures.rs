//! Figures of a device. They are written to disk after each case, so that a run that is ended early keeps them.
//!
//! | variable | meaning |
//! |---|---|
//! | `FORNAX_FIGURES` | the folder for `figures.json` and `figures.md`; nothing is measured without it |
//! | `FORNAX_FIGURES_SECONDS` | for how long new cases are begun |
//! | `FORNAX_BENCH_DEVICE` | the device |
//!
//! A case that breaks the program is named when the program is started again over the same folder, and the cases after
//! it are measured. How several devices compare is the matter of `cargo xtask bench`.

use std::collections::{HashMap, HashSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use fornax::prelude::{Device, FloatDtype};
use fornax_benches::protocol::panic_text;
use fornax_benches::{Case, cases, device, half_models, limits, time};
use serde_json::{Value, json};

use super::table::{line, table};

/// How long the timing of a case takes, its first calls not counted.
const CASE: Duration = Duration::from_millis(500);

/// A case that takes longer than this, preparation included, hangs or is not worth its time.
const MOST: Duration = Duration::from_secs(60);

/// The exit code after such a case: the program has to be started again for the others.
const HANGS: i32 = 3;

/// For how long cases are begun where nobody says.
const SECONDS: u64 = 180;

/// The device is opened, which computes a sum on it.
#[test]
fn the_device_answers() {
    let device = device().unwrap_or_else(|error| panic!("{error:#}"));
    eprintln!("{device} answers");
}

/// Measures the cases of quick runs that the device has.
#[test]
fn measure() {
    let Some(folder) = std::env::var_os("FORNAX_FIGURES").map(PathBuf::from) else {
        eprintln!("FORNAX_FIGURES names no folder: nothing is measured");
        return;
    };
    let begun = Instant::now();
    let seconds = std::env::var("FORNAX_FIGURES_SECONDS")
        .map_or(SECONDS, |seconds| seconds.parse().expect("FORNAX_FIGURES_SECONDS is a whole number of seconds"));
    let device = device().expect("FORNAX_BENCH_DEVICE names a device of this machine and build");
    let mut figures = Figures::read(&folder, &device);
    let watchdog = watchdog();
    let cases = in_turn(chosen(&device));
    let (done, left): (Vec<_>, Vec<_>) = cases.iter().partition(|case| figures.has(case));
    eprintln!("{} cases, {} of them measured before", cases.len(), done.len());
    for (index, case) in left.iter().enumerate() {
        figures.0["not_run"] = left[index..].iter().map(|case| label(case)).collect();
        if begun.elapsed() > Duration::from_secs(seconds) {
            eprintln!("{seconds} seconds are over: {} cases are not measured", left.len() - index);
            break;
        }
        // They take as long as many cases, so every operation comes first.
        if figures.0["limits"].is_null() && figures.rows().count() >= operations(&cases) {
            figures.begin("limits");
            figures.write(&folder);
            watchdog.send("limits".to_owned()).expect("the watchdog lives as long as this does");
            figures.0["limits"] = caught(|| limits::measure(&device)).unwrap_or_else(|error| json!({ "error": error }));
            eprintln!("limits: {}", figures.0["limits"]);
        }
        figures.begin(&label(case));
        figures.write(&folder);
        watchdog.send(label(case)).expect("the watchdog lives as long as this does");
        let start = Instant::now();
        let row = row(case, caught(|| measured(case, &device)));
        eprintln!("{} ({:.1} s)", line(&row, &figures.0["limits"]), start.elapsed().as_secs_f64());
        figures.end(row);
        figures.0["not_run"] = left[index + 1..].iter().map(|case| label(case)).collect();
    }
    figures.begin("");
    figures.write(&folder);
    let failed = figures.failed();
    assert!(failed.is_empty(), "{} cases failed: {}", failed.len(), failed.join(", "));
}

/// The cases of quick runs, and models in bf16 where the device computes with it: that is how GPUs are used.
fn chosen(device: &Device) -> Vec<Case> {
    let half = if device.supports(FloatDtype::Bf16) { half_models() } else { Vec::new() };
    cases(true).into_iter().chain(half).filter(|case| case.unsupported_on(device).is_none()).collect()
}

/// The first case of every operation, then the second of every operation, and so on, so that a run that is ended early has
/// figures of all operations.
fn in_turn(cases: Vec<Case>) -> Vec<Case> {
    let mut seen: HashMap<&str, usize> = HashMap::new();
    let mut numbered: Vec<(usize, Case)> = Vec::new();
    for case in cases {
        let number = seen.entry(case.op).or_default();
        numbered.push((*number, case));
        *number += 1;
    }
    // Stable, so the operations keep their order.
    numbered.sort_by_key(|&(number, _)| number);
    numbered.into_iter().map(|(_, case)| case).collect()
}

/// How many operations the cases are of.
fn operations(cases: &[Case]) -> usize {
    cases.iter().map(|case| case.op).collect::<HashSet<_>>().len()
}

/// Ends the program when no next case is named in time. It hears of each case that begins.
fn watchdog() -> Sender<String> {
    let (sender, receiver) = channel::<String>();
    std::thread::spawn(move || {
        let mut at = "the beginning".to_owned();
        loop {
            match receiver.recv_timeout(MOST) {
                Ok(next) => at = next,
                Err(RecvTimeoutError::Timeout) => {
                    eprintln!("{at} takes longer than {} s", MOST.as_secs());
                    // Nothing less ends a call into a driver that does not return.
                    std::process::exit(HANGS);
                }
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    });
    sender
}

/// Seconds of a call, a value for each sample, sorted.
fn measured(case: &Case, device: &Device) -> anyhow::Result<Vec<f64>> {
    let mut run = case.prepare(device)?;
    // The first call compiles and tunes kernels, which is nobody's time in the long run.
    run()?;
    device.sync().map_err(|error| anyhow::anyhow!("the device failed: {error:?}"))?;
    let mut samples = time(&mut run, device, CASE)?.samples;
    samples.sort_by(f64::total_cmp);
    Ok(samples)
}

/// The outcome of `run`, whose panics end the case and not the program.
fn caught<T>(run: impl FnOnce() -> anyhow::Result<T>) -> Result<T, String> {
    match catch_unwind(AssertUnwindSafe(run)) {
        Ok(outcome) => outcome.map_err(|error| format!("{error:#}")),
        Err(panic) => Err(panic_text(panic.as_ref())),
    }
}

fn label(case: &Case) -> String {
    format!("{} {}", case.op, case.name)
}

/// A case with the times of its calls, or with the reason why there are none.
fn row(case: &Case, samples: Result<Vec<f64>, String>) -> Value {
    let mut row = json!({
        "case": label(case),
        "bytes": case.cost.bytes,
        "flops": case.cost.flops,
        "arithmetic": case.arithmetic.to_string(),
        "yields": case.yields.map(|(unit, count)| json!({"unit": unit, "count": count})),
    });
    match samples {
        Ok(samples) => {
            row["median_s"] = json!(samples[samples.len() / 2]);
            row["least_s"] = json!(samples[0]);
            row["most_s"] = json!(samples[samples.len() - 1]);
            row["samples"] = json!(samples.len());
        }
        Err(error) => row["error"] = json!(error),
    }
    row
}

/// What `figures.json` holds: the device, its limits, a row for each case, and the cases that are yet to come.
struct Figures(Value);

impl Figures {
    /// Those of `folder`, if a run before this one left some there.
    fn read(folder: &Path, device: &Device) -> Self {
        let text = std::fs::read_to_string(folder.join("figures.json")).unwrap_or_default();
        let found = serde_json::from_str::<Value>(&text).ok().filter(|found| found["cases"].is_array());
        let mut figures = Self(found.unwrap_or_else(|| json!({ "cases": [], "begun": "" })));
        figures.0["fornax"] = json!(env!("CARGO_PKG_VERSION"));
        figures.0["device"] = json!(device.to_string());
        figures.broken();
        figures
    }

    /// The case that was begun and not ended broke the program.
    fn broken(&mut self) {
        let error = "the program ended during this case, by itself or because the case took too long";
        match self.0["begun"].as_str().unwrap_or_default() {
            "" => {}
            "limits" => self.0["limits"] = json!({ "error": error }),
            case => {
                let row = json!({ "case": case, "error": error });
                self.end(row);
            }
        }
        self.begin("");
    }

    fn begin(&mut self, case: &str) {
        self.0["begun"] = json!(case);
    }

    fn end(&mut self, row: Value) {
        self.0["cases"].as_array_mut().expect("it was made as one").push(row);
        self.begin("");
    }

    fn rows(&self) -> impl Iterator<Item = &Value> {
        self.0["cases"].as_array().into_iter().flatten()
    }

    fn has(&self, case: &Case) -> bool {
        self.rows().any(|row| row["case"] == label(case).as_str())
    }

    fn failed(&self) -> Vec<&str> {
        self.rows().filter(|row| !row["error"].is_null()).filter_map(|row| row["case"].as_str()).collect()
    }

    /// Writes both files. Each is renamed into place, so that there is a whole one at any time.
    fn write(&self, folder: &Path) {
        for (name, text) in [("figures.md", table(&self.0)), ("figures.json", format!("{:#}\n", self.0))] {
            let unfinished = folder.join(format!("{name}.part"));
            std::fs::write(&unfinished, text).expect("the folder of FORNAX_FIGURES can be written to");
            std::fs::rename(&unfinished, folder.join(name)).expect("the file is renamed in its folder");
        }
    }
}

#[test]
fn every_operation_has_its_turn_before_any_has_a_second() {
    let cases = in_turn(cases(true));
    let all = operations(&cases);
    assert_eq!(operations(&cases[..all]), all);
}

#[test]
fn a_case_that_broke_the_program_is_named_and_not_begun_again() {
    let case = &cases(true)[0];
    let mut figures = Figures(json!({ "cases": [], "begun": label(case) }));
    figures.broken();
    assert!(figures.has(case));
    assert_eq!(figures.failed(), [label(case)]);
    assert_eq!(figures.0["begun"], "");
    figures.broken();
    assert_eq!(figures.rows().count(), 1);
}
