//! What a run found, as it is shown, saved and compared with.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::statistics::Summary;

/// The version of the saved form; another is not read.
pub const FORMAT: u32 = 1;

/// A run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Results {
    /// [`FORMAT`].
    pub format: u32,
    /// When it began, in UTC: `2026-11-22 08:03`.
    pub date: String,
    /// The commit, with a word where the tree has changes of its own.
    pub commit: String,
    /// The command that ran it.
    pub command: String,
    /// Whether it was a quick one.
    pub quick: bool,
    /// Where it ran.
    pub machine: Machine,
    /// Who was measured, the first being whom the others are compared with.
    pub contestants: Vec<Contestant>,
    /// The limits of each device, by the label of its contestant.
    pub limits: BTreeMap<String, Limits>,
    /// What was found, in the order it was run.
    pub cases: Vec<CaseResult>,
    /// What was asked for and could not be had, and why.
    pub skipped: Vec<String>,
    /// What a reader of the figures must know.
    pub notes: Vec<String>,
}

/// The machine, as far as it tells.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Machine {
    /// The processor's name.
    pub processor: String,
    /// How many processors the operating system schedules on.
    pub cores: usize,
    /// Bytes of memory.
    pub memory: Option<u64>,
    /// The operating system.
    pub system: String,
    /// The compiler.
    pub rustc: String,
}

/// One that is measured: a device of Fornax, or another library.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Contestant {
    /// The device's name, or the library's.
    pub label: String,
    /// `fornax`, or the library's name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Where it computes.
    pub device: String,
    /// How many threads it has.
    pub threads: Option<u64>,
}

impl Contestant {
    /// Whether it is Fornax, on whatever device.
    pub fn is_fornax(&self) -> bool {
        self.name == "fornax"
    }
}

/// What a device can give at most, in bytes and operations a second.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Limits {
    /// Of its memory.
    pub memory: MemoryLimit,
    /// Of its arithmetic, a row for each kind of instruction.
    pub peaks: Vec<Peak>,
    /// The highest level of instructions, of a processor.
    #[serde(default)]
    pub isa: Option<String>,
    /// How many threads "all" are, of a processor.
    #[serde(default)]
    pub threads: Option<usize>,
}

/// What memory can give.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MemoryLimit {
    /// How it was measured.
    pub how: String,
    /// Bytes a second of one thread.
    #[serde(default)]
    pub one_thread: Option<f64>,
    /// Bytes a second of all.
    pub all_threads: f64,
    /// Bytes of the largest cache, as the system tells.
    #[serde(default)]
    pub largest_cache: Option<u64>,
}

/// What one kind of instruction can give.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Peak {
    /// `f32`, `bf16` or `int8`.
    pub arithmetic: String,
    /// The instruction, or how else it was measured.
    pub how: String,
    /// Operations a second of one thread.
    #[serde(default)]
    pub one_thread: Option<f64>,
    /// Operations a second of all.
    pub all_threads: f64,
}

impl Limits {
    /// The better of two measurements of one device: whatever disturbed one of them made it less.
    #[must_use]
    pub fn best(mut self, other: &Self) -> Self {
        let best =
            |mine: &mut Option<f64>, other: Option<f64>| *mine = mine.zip(other).map(|(a, b)| a.max(b)).or(*mine);
        best(&mut self.memory.one_thread, other.memory.one_thread);
        if other.memory.all_threads > self.memory.all_threads {
            self.memory.all_threads = other.memory.all_threads;
            self.memory.how.clone_from(&other.memory.how);
        }
        for (mine, other) in self.peaks.iter_mut().zip(&other.peaks).filter(|(mine, other)| mine.how == other.how) {
            best(&mut mine.one_thread, other.one_thread);
            mine.all_threads = mine.all_threads.max(other.all_threads);
        }
        self
    }

    /// Operations a second for this arithmetic; those of f32 where it has none of its own.
    pub fn peak(&self, arithmetic: &str) -> f64 {
        let best = |arithmetic: &str| {
            let of_this = self.peaks.iter().filter(|peak| peak.arithmetic == arithmetic);
            of_this.map(|peak| peak.all_threads).fold(0.0, f64::max)
        };
        best(arithmetic).max(best("f32"))
    }

    /// The seconds that a case takes at the least: for its bytes, and for its operations.
    pub fn least_seconds(&self, case: &Case) -> Bound {
        let memory = case.bytes as f64 / self.memory.all_threads;
        let compute = case.flops as f64 / self.peak(&case.arithmetic);
        let by = match memory >= compute {
            true if case.in_cache() => By::Cache,
            true => By::Memory,
            false => By::Arithmetic,
        };
        Bound { seconds: memory.max(compute), by }
    }
}

/// The least time that a case takes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Bound {
    /// The time.
    pub seconds: f64,
    /// What sets it.
    pub by: By,
}

/// What sets the least time of a case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum By {
    /// Memory, from which its operands come.
    Memory,
    /// Memory by the numbers; but all of its operands fit in a cache, so that it can be beaten.
    Cache,
    /// Arithmetic.
    Arithmetic,
}

/// Operands of fewer bytes than this stay in the caches of many processors.
const CACHED: u64 = 32 << 20;

/// A case, as the runner lists it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Case {
    /// The operation.
    pub op: String,
    /// Its sizes.
    pub name: String,
    /// Bytes that it moves at the least.
    pub bytes: u64,
    /// Operations that it computes at the least.
    pub flops: u64,
    /// What it multiplies.
    pub arithmetic: String,
    /// Copies of what must not be in a cache.
    #[serde(default = "one")]
    pub copies: u64,
    /// What another library needs to compute the same.
    #[serde(default)]
    pub shape: Value,
    /// What a call yields, where users count it.
    #[serde(default)]
    pub yields: Option<Yields>,
}

/// What a call yields.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Yields {
    /// Its name, in the plural.
    pub unit: String,
    /// How many.
    pub count: u64,
}

impl Case {
    /// Operation and sizes: `linear 1×2048×2048`.
    pub fn label(&self) -> String {
        format!("{} {}", self.op, self.name)
    }

    /// Whether all that its calls touch may stay in a cache, as what was just computed does in a model too.
    pub fn in_cache(&self) -> bool {
        self.bytes.saturating_mul(self.copies) < CACHED
    }
}

fn one() -> u64 {
    1
}

/// A case with what came of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CaseResult {
    /// The case.
    pub case: Case,
    /// What each contestant came to, by its label.
    pub outcomes: BTreeMap<String, Outcome>,
}

/// What a contestant came to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// A time.
    Timed(Summary),
    /// It has no such operation; the reason.
    Unsupported(String),
    /// It failed; what it said.
    Failed(String),
}

impl CaseResult {
    /// The times of the contestant with this label.
    pub fn timed(&self, label: &str) -> Option<&Summary> {
        match self.outcomes.get(label)? {
            Outcome::Timed(summary) => Some(summary),
            Outcome::Unsupported(_) | Outcome::Failed(_) => None,
        }
    }
}

impl Results {
    /// The limits of the device that a contestant computes on: a library on the processor has the processor's.
    pub fn limits_of(&self, contestant: &Contestant) -> Option<&Limits> {
        self.limits.get(&contestant.label).or_else(|| self.limits.get(&contestant.device))
    }

    /// How a contestant did in a case.
    pub fn row<'a>(&'a self, result: &'a CaseResult, contestant: &Contestant) -> Option<Row<'a>> {
        let summary = result.timed(&contestant.label)?;
        let bound = self.limits_of(contestant).map(|limits| limits.least_seconds(&result.case));
        let first = self.contestants.first().and_then(|first| result.timed(&first.label));
        Some(Row {
            summary,
            bytes_per_second: result.case.bytes as f64 / summary.median,
            flops_per_second: result.case.flops as f64 / summary.median,
            bound,
            share: bound.map(|bound| bound.seconds / summary.median),
            to_first: first.map(|first| summary.median / first.median),
        })
    }

    /// The times of a contestant as multiples of the first's, in each case that both did.
    pub fn ratios(&self, contestant: &Contestant) -> Vec<f64> {
        self.cases.iter().filter_map(|result| self.row(result, contestant)?.to_first).collect()
    }
}

/// A contestant's figures in one case.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Row<'a> {
    /// Its times.
    pub summary: &'a Summary,
    /// Least bytes over the time.
    pub bytes_per_second: f64,
    /// Least operations over the time.
    pub flops_per_second: f64,
    /// The least time that the case takes, where the device's limits are known.
    pub bound: Option<Bound>,
    /// That time over the one measured.
    pub share: Option<f64>,
    /// Its time as a multiple of the first contestant's.
    pub to_first: Option<f64>,
}

#[cfg(test)]
pub mod tests {
    use super::*;

    pub fn case(op: &str, name: &str, bytes: u64, flops: u64) -> Case {
        Case {
            op: op.into(),
            name: name.into(),
            bytes,
            flops,
            arithmetic: "f32".into(),
            copies: 4,
            shape: Value::Null,
            yields: None,
        }
    }

    pub fn timed(rounds: &[f64]) -> Outcome {
        let rounds: Vec<Vec<f64>> = rounds.iter().map(|&time| vec![time]).collect();
        Outcome::Timed(Summary::of(&rounds).expect("times"))
    }

    /// Two contestants, three cases; the processor gives 10 GB/s and 100 GFLOP/s.
    pub fn example() -> Results {
        let contestant = |label: &str, name: &str, device: &str| Contestant {
            label: label.into(),
            name: name.into(),
            version: "1.2".into(),
            device: device.into(),
            threads: Some(2),
        };
        let result = |case, outcomes: [Outcome; 2]| CaseResult {
            case,
            outcomes: ["cpu", "torch"].map(str::to_owned).into_iter().zip(outcomes).collect(),
        };
        let limits = Limits {
            memory: MemoryLimit {
                how: "1024 MiB read".into(),
                one_thread: Some(6e9),
                all_threads: 1e10,
                largest_cache: None,
            },
            peaks: vec![Peak {
                arithmetic: "f32".into(),
                how: "vfmadd".into(),
                one_thread: Some(5e10),
                all_threads: 1e11,
            }],
            isa: Some("avx2".into()),
            threads: Some(2),
        };
        Results {
            format: FORMAT,
            date: "2026-01-02 03:04".into(),
            commit: "abc1234".into(),
            command: "cargo xtask bench --peers torch".into(),
            quick: true,
            machine: Machine {
                processor: "A <processor> & more".into(),
                cores: 2,
                memory: Some(8 << 30),
                system: "Linux".into(),
                rustc: "rustc 1.95.0".into(),
            },
            contestants: vec![contestant("cpu", "fornax", "cpu"), contestant("torch", "torch", "cpu")],
            limits: [("cpu".to_owned(), limits)].into(),
            cases: vec![
                result(case("linear", "1×2×3", 10_000_000, 1_000_000), [timed(&[2e-3, 2.2e-3]), timed(&[4.2e-3])]),
                result(
                    case("linear", "512×2×3", 1_000_000, 1_000_000_000),
                    [timed(&[2e-2]), Outcome::Unsupported("no <such> kernel".into())],
                ),
                result(case("rope", "1×8", 1000, 1000), [timed(&[1e-6]), Outcome::Failed("ended by signal 4".into())]),
            ],
            skipped: vec!["candle: cargo is not there".into()],
            notes: vec!["Other programs were running.".into()],
        }
    }

    #[test]
    fn rows_know_rates_shares_and_ratios() {
        let results = example();
        let [cpu, torch] = &results.contestants[..] else { panic!("two") };
        let row = results.row(&results.cases[0], cpu).expect("a time");
        assert!((row.bytes_per_second - 1e7 / 2.1e-3).abs() < 1.0);
        assert_eq!(row.bound, Some(Bound { seconds: 1e-3, by: By::Memory }));
        assert!((row.share.expect("limits") - 1.0 / 2.1).abs() < 1e-9);
        assert_eq!(row.to_first, Some(1.0));
        // The library on the processor is held against the processor's limits.
        let row = results.row(&results.cases[0], torch).expect("a time");
        assert!((row.to_first.expect("both have it") - 2.0).abs() < 1e-9);
        assert!(row.share.is_some());
        assert_eq!(results.row(&results.cases[1], torch), None);
        assert_eq!(results.ratios(torch).len(), 1);
    }

    #[test]
    fn arithmetic_bounds_large_products_and_f32_stands_in() {
        let results = example();
        let limits = &results.limits["cpu"];
        let mut case = results.cases[1].case.clone();
        assert_eq!(limits.least_seconds(&case), Bound { seconds: 1e-2, by: By::Arithmetic });
        let small = results.cases[2].case.clone();
        assert_eq!(limits.least_seconds(&small).by, By::Cache);
        case.arithmetic = "int8".into();
        assert_eq!(limits.least_seconds(&case).seconds, 1e-2);
    }

    #[test]
    fn of_two_measurements_the_better_counts() {
        let limits = example().limits["cpu"].clone();
        let mut other = limits.clone();
        other.memory.all_threads *= 2.0;
        other.memory.one_thread = Some(1.0);
        other.peaks[0].all_threads /= 2.0;
        let best = limits.clone().best(&other);
        assert_eq!(best.memory.all_threads, 2e10);
        assert_eq!(best.memory.one_thread, limits.memory.one_thread);
        assert_eq!(best.peaks, limits.peaks);
        assert_eq!(other.best(&limits), best);
    }

    #[test]
    fn results_are_read_back_as_they_were_written() {
        let results = example();
        let text = serde_json::to_string(&results).expect("JSON");
        assert_eq!(serde_json::from_str::<Results>(&text).expect("the same"), results);
    }
}
