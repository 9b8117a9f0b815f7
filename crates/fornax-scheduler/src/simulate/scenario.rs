//! Scenarios in TOML: one workload, and the variants that are compared on it.

use std::fmt;

use serde::Deserialize;

use super::fleet_config::MOST_TENANTS;
use super::format::{Name, TraceFormat};
use super::jsonl::{self, shortened};
use super::{Arrivals, Class, CostModel, Fleet, FleetConfig, Outcome, Report, Trace, Workload};
use crate::{Admission, BatchConfig, ModelConfig, Preemption, SchedulerError, TenantId, policy};

/// The scenarios that come with the crate: their names and TOML.
pub const BUILT_IN: &[(&str, &str)] = &[
    ("mixed", include_str!("../../scenarios/mixed.toml")),
    ("policies", include_str!("../../scenarios/policies.toml")),
    ("tenants", include_str!("../../scenarios/tenants.toml")),
    ("prefixes", include_str!("../../scenarios/prefixes.toml")),
    ("balance", include_str!("../../scenarios/balance.toml")),
    ("conversations", include_str!("../../scenarios/conversations.toml")),
    ("diurnal", include_str!("../../scenarios/diurnal.toml")),
    ("learning", include_str!("../../scenarios/learning.toml")),
    ("learning-alike", include_str!("../../scenarios/learning-alike.toml")),
    ("fleet", include_str!("../../scenarios/fleet.toml")),
];

/// A workload and the variants to compare on it.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// The title of its reports.
    pub title: String,
    /// How many requests come; a trace has its own requests.
    pub requests: Option<u64>,
    /// The same seed gives the same reports.
    #[serde(default = "one")]
    pub seed: u64,
    /// How many seeds it is run with, from `seed` on. With several, tables have means and standard deviations.
    #[serde(default = "one")]
    pub seeds: u64,
    /// When requests come; a trace has its own times.
    pub arrivals: Option<Arrivals>,
    /// Kinds of requests.
    #[serde(rename = "class")]
    pub classes: Vec<Class>,
    /// How long steps take.
    pub cost: CostModel,
    /// The settings of all variants that do not set them themselves.
    #[serde(default)]
    pub defaults: Variant,
    /// Weights of tenants, as pairs of tenant and weight. Tenants of classes are given by number, tenants of the trace
    /// by name.
    #[serde(default)]
    pub weights: Vec<(Name, f64)>,
    /// The units and sizes of the trace.
    #[serde(default)]
    pub trace: TraceFormat,
    /// The variants to compare.
    #[serde(rename = "variant")]
    pub variants: Vec<Variant>,
}

fn one() -> u64 {
    1
}

/// How a variant predicts the lengths of outputs: in TOML `"perfect"`, `"none"`, or a standard deviation.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Prediction {
    /// The standard deviation of the logarithm; 0 is perfect.
    Deviation(f64),
    /// The mean output length of the ended requests of its class.
    ClassMean,
}

impl<'de> Deserialize<'de> for Prediction {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;

        impl serde::de::Visitor<'_> for Visitor {
            type Value = Prediction;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a standard deviation, \"perfect\" or \"none\"")
            }

            fn visit_f64<E: serde::de::Error>(self, deviation: f64) -> Result<Prediction, E> {
                Ok(Prediction::Deviation(deviation))
            }

            fn visit_i64<E: serde::de::Error>(self, deviation: i64) -> Result<Prediction, E> {
                Ok(Prediction::Deviation(deviation as f64))
            }

            fn visit_str<E: serde::de::Error>(self, words: &str) -> Result<Prediction, E> {
                match words {
                    "perfect" => Ok(Prediction::Deviation(0.0)),
                    "none" => Ok(Prediction::ClassMean),
                    _ => Err(E::invalid_value(serde::de::Unexpected::Str(words), &self)),
                }
            }
        }

        deserializer.deserialize_any(Visitor)
    }
}

/// One way to serve the workload. Settings that it does not have are taken from `defaults`, and else from
/// [`FleetConfig`]. Keys may be written with hyphens too.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs, reason = "the fields of FleetConfig, BatchConfig and ModelConfig, which document them")]
pub struct Variant {
    pub name: Option<String>,
    pub policy: Option<String>,
    pub routing: Option<String>,
    pub replicas: Option<usize>,
    pub prediction: Option<Prediction>,
    #[serde(alias = "report-interval")]
    pub report_interval: Option<f64>,
    pub blocks: Option<usize>,
    #[serde(alias = "block-size")]
    pub block_size: Option<usize>,
    #[serde(alias = "host-blocks")]
    pub host_blocks: Option<usize>,
    #[serde(alias = "max-running")]
    pub max_running: Option<usize>,
    #[serde(alias = "max-tokens")]
    pub max_tokens: Option<usize>,
    #[serde(alias = "max-chunk")]
    pub max_chunk: Option<usize>,
    pub chunked: Option<bool>,
    pub reserved: Option<bool>,
    pub watermark: Option<usize>,
    pub swap: Option<bool>,
    pub preemptive: Option<bool>,
    #[serde(alias = "prefix-caching")]
    pub prefix_caching: Option<bool>,
    pub lookahead: Option<u32>,
    #[serde(alias = "drop-late")]
    pub drop_late: Option<bool>,
    pub adapters: Option<usize>,
    /// Whether it is the oracle that other variants are compared with: it knows the lengths of outputs, and preempts
    /// for shorter work.
    pub oracle: Option<bool>,
}

/// How far a simulation has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress<'a> {
    /// The variant that runs.
    pub variant: &'a str,
    /// The number of the run, from zero: variants are counted again for each seed.
    pub run: usize,
    /// How many runs there are: variants times seeds.
    pub runs: usize,
    /// How many requests of this run have come.
    pub requests: u64,
    /// How many requests will come in all.
    pub of: u64,
}

/// Runs the scenario `text` in TOML, or the built-in scenario of that name. `trace` is a trace in JSON lines that is
/// served instead of the scenario's own requests ([`Scenario::read_trace`]).
///
/// ```
/// let outcome = fornax_scheduler::simulate::simulate(
///     r#"
///     title = "Two policies"
///     requests = 200
///     arrivals = { poisson = 20.0 }
///     cost = { fitted = { base = 0.005, per_token = 4e-5, per_context = 5e-8 } }
///     class = [{ name = "all" }]
///     variant = [{ policy = "fcfs" }, { policy = "shortest" }]
///     "#,
///     None,
/// )?;
/// assert_eq!(outcome.reports.len(), 2);
/// assert!(outcome.markdown().contains("| shortest |"));
/// # Ok::<(), fornax_scheduler::SchedulerError>(())
/// ```
///
/// # Errors
/// As [`Scenario::parse`], [`Scenario::read_trace`] and [`Scenario::run`].
pub fn simulate(text: &str, trace: Option<&[u8]>) -> Result<Outcome, SchedulerError> {
    let text = BUILT_IN.iter().find(|(name, _)| *name == text).map_or(text, |(_, built_in)| built_in);
    let scenario = Scenario::parse(text)?;
    let trace = trace.map(|trace| scenario.read_trace(trace)).transpose()?;
    scenario.run(trace.as_ref(), &mut |_| {})
}

/// The summary of a scenario: the comment at the beginning of its TOML, up to the first full stop.
pub fn summary(toml: &str) -> String {
    let comment: Vec<&str> = toml.lines().map_while(|line| line.strip_prefix('#')).map(str::trim).collect();
    let text = comment.join(" ");
    text.split_once(". ").map_or(text.as_str(), |(first, _)| first).trim_end_matches('.').to_owned()
}

impl Scenario {
    /// Reads a scenario.
    ///
    /// # Errors
    /// [`SchedulerError::Scenario`] with the line and what was expected, the errors of [`Workload::check`], and for
    /// each variant those of [`FleetConfig::check`].
    pub fn parse(text: &str) -> Result<Self, SchedulerError> {
        if text.trim_start_matches('\u{feff}').trim().is_empty() {
            let reason = "it is empty; give title, requests, arrivals, cost, [[class]] and [[variant]]";
            return Err(SchedulerError::Scenario { place: "the scenario".into(), reason: reason.into() });
        }
        let scenario: Self = toml::from_str(text).map_err(|error| {
            let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
            let line = before.matches('\n').count() + 1;
            SchedulerError::Scenario {
                place: format!("line {line}"),
                reason: jsonl::cut(&one_spelling(error.message()), KEYS),
            }
        })?;
        scenario.check()?;
        Ok(scenario)
    }

    /// Checks that all settings are valid, with every variant.
    ///
    /// # Errors
    /// As [`Scenario::parse`], without the errors of the text.
    pub fn check(&self) -> Result<(), SchedulerError> {
        if self.variants.is_empty() {
            let reason = "it is empty; give at least one [[variant]] to run";
            return Err(SchedulerError::Scenario { place: "variant".into(), reason: reason.into() });
        }
        if !(1..=MOST_SEEDS).contains(&self.seeds) {
            return Err(SchedulerError::config("seeds", self.seeds, "give 1 to 1000"));
        }
        if self.trace.block_size == Some(0) {
            return Err(SchedulerError::config("trace.block_size", 0, "give the tokens that a hash id stands for"));
        }
        // `Self::run` checks what a trace brings.
        let arrivals = self.arrivals.unwrap_or(Arrivals::Poisson(1.0));
        self.workload_of(self.requests.unwrap_or(1), arrivals).check()?;
        let mut names: Vec<String> = Vec::new();
        for variant in &self.variants {
            let fleet = self.fleet(variant);
            let place = format!("variant {:?}", shortened(&fleet.name));
            let refuse = |reason: &str| SchedulerError::Scenario { place: place.clone(), reason: reason.into() };
            if names.contains(&fleet.name) {
                return Err(refuse("another has the same name; give each a name of its own"));
            }
            if self.field(variant, |variant| variant.oracle).unwrap_or(false)
                && (variant.policy.is_some() || variant.prediction.is_some() || variant.preemptive.is_some())
            {
                return Err(refuse("an oracle has its policy, prediction and preemptive already; leave them out"));
            }
            fleet.check(&self.classes).map_err(|error| refuse(&error.to_string()))?;
            names.push(fleet.name);
        }
        Ok(())
    }

    /// Replaces the variants by one for each policy of a comma-separated list, with all other settings from `defaults`.
    /// A comma may also separate the options of a policy: `fcfs,bandit:epoch=5,explore=0.2` are two policies.
    ///
    /// # Errors
    /// [`SchedulerError::UnknownPolicy`], the errors of a policy's options, and [`SchedulerError::Scenario`] for a
    /// policy that is named twice.
    pub fn compare(&mut self, policies: &str) -> Result<(), SchedulerError> {
        let mut names: Vec<String> = Vec::new();
        for part in policies.split(',').map(str::trim) {
            match names.last_mut() {
                Some(last) if part.contains('=') && !part.contains(':') => *last = format!("{last},{part}"),
                _ => names.push(part.to_owned()),
            }
        }
        names.iter().try_for_each(|name| policy(name).map(drop))?;
        self.variants = names.into_iter().map(|name| Variant { policy: Some(name), ..Variant::default() }).collect();
        self.defaults.name = None;
        self.check()
    }

    /// Reads a trace in JSON lines.
    ///
    /// A line is `{"arrival": 0.5, "prompt": 200, "output": 50}`, in seconds and tokens, in order of time. It may have more:
    ///
    /// | key | meaning | without it |
    /// |---|---|---|
    /// | `max_tokens` | the most tokens that it may put out: what a client asks for | `max_tokens` of its class, or else the longest output of the trace |
    /// | `class` | its class, by name | the first that has its tenant, or else the first |
    /// | `tenant` | whose it is: a number or a name | the first of its class |
    /// | `priority` | the higher, the more urgent | that of its class |
    /// | `deadline` | the time after its arrival at which it is late | that of its class |
    /// | `cancel` | the time after its arrival at which its client cancels it | it is not cancelled |
    /// | `n` | how many continuations it wants | 1 |
    /// | `adapter` | the adapter that it needs: a number or a name | none |
    /// | `prefix`, `prefix_group` | how many tokens of its prompt it shares with all others of the group | it shares nothing |
    /// | `hash_ids` | a number for each block of its prompt, which stands for the block and all before it | it shares nothing |
    ///
    /// `timestamp`, `input_length` and `output_length` may stand for `arrival`, `prompt` and `output`, as in Mooncake's
    /// traces: then times are in milliseconds, and a hash id stands for 512 tokens. [`Scenario::trace`] gives other
    /// units and sizes. Where every `arrival` is a whole number and the last is above a thousand, it has to give the
    /// unit, since the times may be milliseconds. Empty lines and a byte order mark are skipped; lines end in LF or
    /// CRLF. A request with an output of 0 tokens is served once its prompt is computed.
    ///
    /// # Errors
    /// [`SchedulerError::Scenario`] with the line, the field and what was expected, or for a trace without a request;
    /// before that, the errors of [`Scenario::check`].
    pub fn read_trace(&self, bytes: &[u8]) -> Result<Trace, SchedulerError> {
        self.check()?;
        jsonl::read(bytes, &self.classes, self.trace)
    }

    /// The scenario's own requests.
    ///
    /// # Errors
    /// [`SchedulerError::Scenario`] if it lacks `requests` or `arrivals`.
    pub fn workload(&self) -> Result<Workload, SchedulerError> {
        let missing = |field: &str| SchedulerError::Scenario {
            place: field.into(),
            reason: "it is missing; give it, or a trace to serve".into(),
        };
        let requests = self.requests.ok_or_else(|| missing("requests"))?;
        let arrivals = self.arrivals.ok_or_else(|| missing("arrivals"))?;
        Ok(self.workload_of(requests, arrivals))
    }

    fn workload_of(&self, requests: u64, arrivals: Arrivals) -> Workload {
        Workload { requests, arrivals, classes: self.classes.clone(), seed: self.seed }
    }

    /// The full configuration of a variant.
    pub fn fleet(&self, variant: &Variant) -> FleetConfig {
        /// The field of the variant, else of `defaults`, else `$otherwise`.
        macro_rules! field {
            ($name:ident, $otherwise:expr) => {
                self.field(variant, |variant| variant.$name.clone()).unwrap_or($otherwise)
            };
        }
        let (fleet, batch, model) = (FleetConfig::default(), BatchConfig::default(), ModelConfig::default());
        let oracle = field!(oracle, false);
        let policy = if oracle { ORACLE.to_owned() } else { field!(policy, fleet.policy) };
        let swap = field!(swap, false);
        FleetConfig {
            name: field!(name, if oracle { "oracle".to_owned() } else { policy.clone() }),
            policy,
            oracle,
            routing: field!(routing, fleet.routing),
            replicas: field!(replicas, fleet.replicas),
            prediction: match variant.prediction.or(self.defaults.prediction) {
                _ if oracle => Some(0.0),
                Some(Prediction::Deviation(sigma)) => Some(sigma),
                Some(Prediction::ClassMean) => None,
                None => fleet.prediction,
            },
            report_interval: field!(report_interval, fleet.report_interval),
            cost: self.cost,
            weights: self.numbered_weights(&[]),
            tenants: Vec::new(),
            seed: self.seed,
            batch: BatchConfig {
                models: vec![ModelConfig {
                    blocks: field!(blocks, model.blocks),
                    block_size: field!(block_size, model.block_size),
                    host_blocks: field!(host_blocks, model.host_blocks),
                    adapters: field!(adapters, model.adapters),
                }],
                max_running: field!(max_running, batch.max_running),
                max_tokens: field!(max_tokens, batch.max_tokens),
                max_chunk: field!(max_chunk, batch.max_chunk),
                chunked: field!(chunked, batch.chunked),
                admission: if field!(reserved, false) { Admission::Reserved } else { Admission::Optimistic },
                watermark: field!(watermark, batch.watermark),
                preemption: if swap { Preemption::Swap } else { Preemption::Recompute },
                preemptive: oracle || field!(preemptive, batch.preemptive),
                prefix_caching: field!(prefix_caching, batch.prefix_caching),
                lookahead: field!(lookahead, batch.lookahead),
                drop_late: field!(drop_late, batch.drop_late),
                ..batch
            },
        }
    }

    /// The weights with numbers in place of names; `tenants` has the numbers.
    fn numbered_weights(&self, tenants: &[(u32, String)]) -> Vec<(TenantId, f64)> {
        let number = |name: &Name| match name {
            Name::Number(number) => Some(*number),
            Name::Words(words) => tenants.iter().find(|(_, name)| name == words).map(|(number, _)| *number),
        };
        self.weights.iter().filter_map(|(name, weight)| Some((TenantId(number(name)?), *weight))).collect()
    }

    /// Runs every variant with each seed over the requests of `trace`, or over its own requests. Calls `progress` now
    /// and then.
    ///
    /// # Errors
    /// The errors of [`Scenario::check`]; those of requests, such as a class that the scenario does not have; without a
    /// trace, those of [`Scenario::workload`].
    pub fn run(
        &self,
        trace: Option<&Trace>,
        progress: &mut dyn FnMut(Progress<'_>),
    ) -> Result<Outcome, SchedulerError> {
        self.check()?;
        self.check_tenants(trace)?;
        let mut runs = Vec::new();
        for at in 0..self.seeds {
            let seeded = Self { seed: self.seed.wrapping_add(at), ..self.clone() };
            runs.push(seeded.run_once(at as usize, trace, progress)?);
        }
        let mut runs = runs.into_iter();
        let reports = runs.next().unwrap_or_default();
        Ok(Outcome { title: self.title.clone(), seed: self.seed, reports, repeats: runs.collect() })
    }

    /// Runs every variant with `self.seed`, which is the `at`th seed of the scenario.
    fn run_once(
        &self,
        at: usize,
        trace: Option<&Trace>,
        progress: &mut dyn FnMut(Progress<'_>),
    ) -> Result<Vec<Report>, SchedulerError> {
        let workload = trace.is_none().then(|| self.workload()).transpose()?;
        let names = trace.map_or(&[][..], |trace| &trace.tenants);
        let of = match (trace, &workload) {
            (Some(trace), _) => trace.requests.len() as u64,
            (None, workload) => workload.as_ref().map_or(0, |workload| workload.requests),
        };
        let runs = self.variants.len() * self.seeds as usize;
        let mut reports = Vec::new();
        for (number, variant) in self.variants.iter().enumerate() {
            let weights = self.numbered_weights(names);
            let config = FleetConfig { weights, tenants: names.to_vec(), ..self.fleet(variant) };
            let name = config.name.clone();
            let run = at * self.variants.len() + number;
            let mut tell = |requests| progress(Progress { variant: &name, run, runs, requests, of });
            tell(0);
            let fleet = Fleet::new(config, &self.classes)?;
            reports.push(match (trace, &workload) {
                (Some(trace), _) => fleet.run_with(trace.requests.iter().cloned(), &mut tell)?,
                (None, workload) => fleet.run_with(workload.iter().flat_map(Workload::iter), &mut tell)?,
            });
            tell(of);
        }
        Ok(reports)
    }

    /// Checks that the trace has the tenants that are weighed by name, and not too many tenants for the replicas.
    fn check_tenants(&self, trace: Option<&Trace>) -> Result<(), SchedulerError> {
        let names = trace.map_or(&[][..], |trace| &trace.tenants);
        let there = |words: &str| names.iter().any(|(_, name)| name == words);
        for (name, _) in &self.weights {
            if let Name::Words(words) = name
                && !there(words)
            {
                let found = format!("{:?}", shortened(words));
                let reason =
                    "the trace names no such tenant; give weights to tenants of the trace, or of classes by number";
                return Err(SchedulerError::config("weights", found, reason));
            }
        }
        let mut tenants: Vec<u32> = trace.iter().flat_map(|trace| &trace.requests).map(|one| one.tenant).collect();
        tenants.sort_unstable();
        tenants.dedup();
        let replicas = self.variants.iter().map(|variant| self.fleet(variant).replicas).max().unwrap_or(0);
        if tenants.len().saturating_mul(replicas) > MOST_TENANTS {
            let found = tenants.len().saturating_mul(replicas);
            return Err(SchedulerError::config("tenants", found, "times the replicas, give at most 10 million"));
        }
        Ok(())
    }

    /// The field of the variant, else of `defaults`.
    fn field<T>(&self, variant: &Variant, field: impl Fn(&Variant) -> Option<T>) -> Option<T> {
        field(variant).or_else(|| field(&self.defaults))
    }
}

/// An error message without the keys that are listed a second time with hyphens.
fn one_spelling(message: &str) -> String {
    let names: Vec<&str> = message.split(", ").collect();
    let twice = |name: &&str| name.contains('-') && names.contains(&name.replace('-', "_").as_str());
    names.iter().copied().filter(|name| !twice(name)).collect::<Vec<&str>>().join(", ")
}

/// Half of the most characters of an error message that may list the keys of a variant.
const KEYS: usize = 240;

/// The most seeds of a run.
const MOST_SEEDS: u64 = 1000;

/// The oracle's policy: the shortest remaining work first, which has the least mean latency where one task runs at a time
/// (Schrage, 1968, <https://doi.org/10.1287/opre.16.3.687>).
const ORACLE: &str = "shortest:ageing=0";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_ships_is_sound_and_says_what_it_is() {
        for (name, text) in BUILT_IN {
            Scenario::parse(text).unwrap_or_else(|error| panic!("{name}: {error}"));
            let summary = summary(text);
            assert!(summary.len() > 20 && !summary.contains('#') && !summary.ends_with('.'), "{name}: {summary}");
        }
    }

    #[test]
    fn an_oracle_knows_and_preempts() {
        let text = BUILT_IN[0].1;
        let scenario = Scenario::parse(text).expect("it ships");
        let oracle = scenario.variants.iter().find(|variant| variant.oracle == Some(true)).expect("it has an oracle");
        let fleet = scenario.fleet(oracle);
        assert_eq!((fleet.policy.as_str(), fleet.prediction, fleet.batch.preemptive), (ORACLE, Some(0.0), true));
        let mut scenario = scenario.clone();
        scenario.compare("vtc, shortest:ageing=1,bandit:epoch=5, explore=0.3").expect("policies");
        let names: Vec<String> = scenario.variants.iter().map(|variant| scenario.fleet(variant).name).collect();
        assert_eq!(names, ["vtc", "shortest:ageing=1", "bandit:epoch=5,explore=0.3"]);
        for bad in ["vtc,vtc", "quickest", "", "fcfs,", "explore=1", "fcfs:ageing=1"] {
            assert!(scenario.compare(bad).is_err(), "{bad}");
        }
    }
}
