//! `cargo xtask bench`: how fast Fornax is on this machine, how far that is from what the machine can do, and how it
//! compares: with its other devices, with an earlier run, and with other libraries.
//!
//! It computes nothing itself. What is timed is in `benches/` (Fornax's runner) and `benches/peers/` (the others'); they
//! run as processes that answer questions, and this program asks them in turn and writes down what they say.

mod baseline;
mod build;
mod cases;
mod contestant;
mod machine;
mod measure;
mod options;
mod peers;
mod progress;
mod report;
mod results;
mod statistics;
mod table;
mod units;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::json;

use self::baseline::Comparison;
use self::contestant::{Absent, Contestant, Launch};
pub use self::machine::commit;
use self::measure::Effort;
pub use self::options::Options;
use self::progress::{Progress, minutes};
use self::results::{FORMAT, Limits, Machine, Results};
use crate::workspace::Workspace;

/// How long the answer to a question that measures nothing is waited for.
const PATIENCE: Duration = Duration::from_secs(120);

/// Measures, shows, keeps and compares, as the options say.
///
/// # Errors
/// When nothing can be measured, a file cannot be written, or there are regressions and the options call that an error.
pub fn run(workspace: &Workspace, options: &Options) -> Result<()> {
    let places = Places::new(workspace, options)?;
    // Read before the long work, so that a name that is not there costs no time.
    let before = options.compare.as_ref().map(|name| baseline::load(&places.out, name)).transpose()?;
    let machine = Machine::this();
    let threads = options.threads.map_or(machine.cores, usize::from);
    let mut notes: Vec<String> = machine::busy(machine.cores).into_iter().collect();
    if options.profile != "release" {
        notes.push(format!("Fornax was built with the profile `{}`, not as users build it.", options.profile));
    }

    let (mut contestants, mut skipped) = start_devices(workspace, options, &places, threads)?;
    let list = contestants[0].ask(&json!({"do": "list", "quick": options.quick}), PATIENCE)?;
    let cases = cases::select(cases::parse(&list)?, options.filter.as_ref())?;
    if options.list {
        cases.iter().for_each(|case| println!("{}", case.label()));
        return Ok(());
    }
    let (peers, absent) = start_peers(workspace, options, &places, threads);
    let started = Instant::now();
    let first_limits = limits(&mut contestants, &mut skipped);
    let devices = contestants.len();
    contestants.extend(peers);
    skipped.extend(absent);

    let effort = if options.quick { Effort::QUICK } else { Effort::FULL };
    let (cases, left_out) = measure::measure(cases, &mut contestants, &effort, started);
    // Once more, since a limit is the best that was seen, and another program may have run when it was first measured.
    let again = limits(&mut contestants[..devices], &mut Vec::new());
    let limits = before_and_after(first_limits, &again);
    if !left_out.is_empty() {
        let names: Vec<String> = left_out.iter().map(results::Case::label).collect();
        skipped.push(format!("left out, as the time of a quick run was over: {}", names.join(", ")));
    }
    let results = Results {
        format: FORMAT,
        date: machine::now(),
        commit: machine::commit(&workspace.root),
        command: machine::command(),
        quick: options.quick,
        machine,
        contestants: contestants.into_iter().map(|contestant| contestant.facts.clone()).collect(),
        limits,
        cases,
        skipped,
        notes,
    };
    let comparison = before.map(|before| {
        let name = options.compare.as_deref().unwrap_or_default();
        baseline::compare(name, &before, &results)
    });
    show(&results, comparison.as_ref());
    keep(&results, comparison.as_ref(), options, &places)?;
    println!("measured in {}", minutes(started.elapsed().as_secs_f64()));
    let regressions = comparison.map_or(0, |comparison| comparison.regressions.len());
    ensure!(
        regressions == 0 || !options.fail_on_regression,
        "{regressions} times are longer than in the baseline, beyond noise"
    );
    Ok(())
}

/// Where things are written.
struct Places {
    /// The reports and the baselines.
    out: PathBuf,
    /// What the builds and the contestants say.
    logs: PathBuf,
    /// Made-up models, for all runs.
    models: PathBuf,
}

impl Places {
    fn new(workspace: &Workspace, options: &Options) -> Result<Self> {
        let bench = workspace.target.join("bench");
        let out = options.out.clone().unwrap_or_else(|| bench.clone());
        std::fs::create_dir_all(&out).with_context(|| format!("no reports can be written to {}", out.display()))?;
        Ok(Self { logs: out.join("logs"), out, models: bench.join("models") })
    }
}

/// Builds Fornax's runner and starts it on every device; at least one is there. What is not is told why.
fn start_devices(
    workspace: &Workspace,
    options: &Options,
    places: &Places,
    threads: usize,
) -> Result<(Vec<Contestant>, Vec<String>)> {
    let features = options.features();
    eprintln!("building Fornax for {} (the first time takes some minutes)", features.join(", "));
    let runner = build::runner(workspace, &features, &options.profile, &places.logs)?;
    let mut contestants = Vec::new();
    let mut skipped: Vec<String> = runner.failed.iter().map(|reason| format!("does not build: {reason}")).collect();
    for device in &options.backends {
        if !runner.backends.iter().any(|backend| backend == options::backend_of(device)) {
            continue;
        }
        let started = Contestant::start(Launch {
            label: device.clone(),
            program: runner.program.clone(),
            arguments: vec![device.clone(), threads.to_string()],
            environment: vec![("FORNAX_BENCH_MODELS".into(), places.models.display().to_string())],
            log: places.logs.join(format!("{}.log", device.replace(':', "-"))),
        });
        match started {
            Ok(contestant) => contestants.push(contestant),
            Err(Absent { reason, .. }) => skipped.push(format!("{device}: {reason}")),
        }
    }
    for reason in &skipped {
        eprintln!("skipped: {reason}");
    }
    if contestants.is_empty() {
        bail!("there is no device to measure; `--backends cpu` is one that every machine has");
    }
    Ok((contestants, skipped))
}

/// Starts the other libraries; those that are not there are told, with how to get them.
fn start_peers(
    workspace: &Workspace,
    options: &Options,
    places: &Places,
    threads: usize,
) -> (Vec<Contestant>, Vec<String>) {
    let python = options.python.clone().unwrap_or_else(peers::default_python);
    let asked = peers::Options { python: &python, threads, logs: &places.logs, models: &places.models };
    let (mut contestants, mut absent) = (Vec::new(), Vec::new());
    for name in &options.peers {
        match peers::start(workspace, name, &asked) {
            Ok(contestant) => contestants.push(contestant),
            Err(Absent { reason, install }) => {
                let install = install.map_or_else(String::new, |install| format!("; {install}"));
                absent.push(format!("{name}: {reason}{install}"));
            }
        }
    }
    for reason in &absent {
        eprintln!("skipped: {reason}");
    }
    (contestants, absent)
}

/// The limits of each device.
fn limits(contestants: &mut [Contestant], skipped: &mut Vec<String>) -> BTreeMap<String, Limits> {
    let progress = Progress::new(0);
    let mut limits = BTreeMap::new();
    for contestant in contestants {
        let label = contestant.facts.label.clone();
        progress.say(&format!("measuring the limits of {label}"));
        let answer = contestant.ask(&json!({"do": "limits"}), PATIENCE);
        match answer.and_then(|answer| serde_json::from_value(answer).context("they are not as expected")) {
            Ok(found) => {
                limits.insert(label, found);
            }
            Err(error) => skipped.push(format!("the limits of {label} could not be measured: {error:#}")),
        }
    }
    progress.clear();
    limits
}

/// The better of both measurements of each device.
fn before_and_after(first: BTreeMap<String, Limits>, again: &BTreeMap<String, Limits>) -> BTreeMap<String, Limits> {
    let better = |(label, limits): (String, Limits)| {
        let best = match again.get(&label) {
            Some(again) => limits.best(again),
            None => limits,
        };
        (label, best)
    };
    first.into_iter().map(better).collect()
}

/// Prints what was found; what is worse than before comes first.
fn show(results: &Results, comparison: Option<&Comparison>) {
    if let Some(comparison) = comparison {
        table::comparison(comparison).iter().for_each(|line| println!("{line}"));
        println!();
    }
    for (label, limits) in &results.limits {
        let peaks = limits.peaks.iter().map(|peak| format!("{} {}", peak.arithmetic, units::compute(peak.all_threads)));
        let peaks: Vec<String> = peaks.collect();
        println!("{label} can give {} and {}", units::bandwidth(limits.memory.all_threads), peaks.join(", "));
    }
    println!("\n{}", table::terminal(results));
    table::summary(results).iter().for_each(|line| println!("{line}"));
    table::remarks(results).iter().for_each(|line| println!("note: {line}"));
}

/// Writes the reports and the baselines.
fn keep(results: &Results, comparison: Option<&Comparison>, options: &Options, places: &Places) -> Result<()> {
    let write = |name: &str, text: String| -> Result<PathBuf> {
        let path = places.out.join(name);
        std::fs::write(&path, text).with_context(|| format!("{} could not be written", path.display()))?;
        Ok(path)
    };
    write("results.json", serde_json::to_string_pretty(results)?)?;
    let markdown = write("report.md", table::markdown(results, comparison))?;
    let page = write("report.html", report::page(results, comparison))?;
    for name in options.save.iter().map(String::as_str).chain([baseline::LAST]) {
        let path = baseline::save(&places.out, name, results)?;
        if name != baseline::LAST {
            println!("kept as `{name}` in {}", shown(&path));
        }
    }
    println!("\nreport: {} (and {})", shown(&page), shown(&markdown));
    Ok(())
}

/// A path as one can open it from anywhere.
fn shown(path: &Path) -> String {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned()).display().to_string()
}
