//! Scenarios in TOML: one workload, and the variants that are compared on it.

use serde::Deserialize;

use super::jsonl::{self, shortened};
use super::{Arrivals, Class, CostModel, Fleet, FleetConfig, Outcome, TraceRequest, Workload};
use crate::{Admission, BatchConfig, ModelConfig, Preemption, SchedulerError, TenantId, policy};

/// The scenarios that come with the crate: a name and its TOML.
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
    /// What it shows.
    pub title: String,
    /// How many requests.
    pub requests: u64,
    /// The same seed gives the same reports.
    #[serde(default = "one")]
    pub seed: u64,
    /// When requests come.
    pub arrivals: Arrivals,
    /// Kinds of requests.
    #[serde(rename = "class")]
    pub classes: Vec<Class>,
    /// How long steps take.
    pub cost: CostModel,
    /// What holds for all variants that do not say otherwise.
    #[serde(default)]
    pub defaults: Variant,
    /// Weights of tenants, as pairs of tenant and weight.
    #[serde(default)]
    pub weights: Vec<(u32, f64)>,
    /// What is compared.
    #[serde(rename = "variant")]
    pub variants: Vec<Variant>,
}

fn one() -> u64 {
    1
}

/// One way to serve the workload; what is not given is as in `defaults`, or else as in [`FleetConfig`].
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
#[allow(missing_docs, reason = "the fields of FleetConfig, BatchConfig and ModelConfig, which document them")]
pub struct Variant {
    pub name: Option<String>,
    pub policy: Option<String>,
    pub routing: Option<String>,
    pub replicas: Option<usize>,
    pub prediction: Option<f64>,
    pub report_interval: Option<f64>,
    pub blocks: Option<usize>,
    pub block_size: Option<usize>,
    pub host_blocks: Option<usize>,
    pub max_running: Option<usize>,
    pub max_tokens: Option<usize>,
    pub max_chunk: Option<usize>,
    pub chunked: Option<bool>,
    pub reserved: Option<bool>,
    pub watermark: Option<usize>,
    pub swap: Option<bool>,
    pub preemptive: Option<bool>,
    pub prefix_caching: Option<bool>,
    pub lookahead: Option<u32>,
    /// Whether it is what others are measured by: it knows the lengths of outputs, and preempts for work that is shorter.
    pub oracle: Option<bool>,
}

/// How far a simulation has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress<'a> {
    /// The variant that runs.
    pub variant: &'a str,
    /// Its place, from zero.
    pub number: usize,
    /// How many variants there are.
    pub variants: usize,
    /// How many requests have come.
    pub requests: u64,
    /// How many will come.
    pub of: u64,
}

/// Runs the scenario `text`, in TOML, or the built-in one of that name; `trace` is a trace in JSON lines to serve instead
/// of the scenario's own requests ([`Scenario::read_trace`]).
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
    scenario.run(trace.as_deref(), &mut |_| {})
}

/// What a scenario says of itself: the comment at its beginning, up to the first full stop.
pub fn summary(toml: &str) -> String {
    let comment: Vec<&str> = toml.lines().map_while(|line| line.strip_prefix('#')).map(str::trim).collect();
    let text = comment.join(" ");
    text.split_once(". ").map_or(text.as_str(), |(first, _)| first).trim_end_matches('.').to_owned()
}

impl Scenario {
    /// Reads a scenario.
    ///
    /// # Errors
    /// [`SchedulerError::Scenario`] with the line and what was expected; what [`Workload::check`] or, for one of the
    /// variants, [`FleetConfig::check`] refuses.
    pub fn parse(text: &str) -> Result<Self, SchedulerError> {
        if text.trim_start_matches('\u{feff}').trim().is_empty() {
            let reason = "it is empty; give title, requests, arrivals, cost, [[class]] and [[variant]]";
            return Err(SchedulerError::Scenario { place: "the scenario".into(), reason: reason.into() });
        }
        let scenario: Self = toml::from_str(text).map_err(|error| {
            let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
            let line = before.matches('\n').count() + 1;
            SchedulerError::Scenario { place: format!("line {line}"), reason: shortened(error.message()) }
        })?;
        scenario.check()?;
        Ok(scenario)
    }

    /// Whether it makes sense, with every variant.
    ///
    /// # Errors
    /// As [`Scenario::parse`], but for the text.
    pub fn check(&self) -> Result<(), SchedulerError> {
        if self.variants.is_empty() {
            let reason = "it is empty; give at least one [[variant]] to run";
            return Err(SchedulerError::Scenario { place: "variant".into(), reason: reason.into() });
        }
        self.workload().check()?;
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

    /// Puts in the place of the variants one for each policy of a list with commas, as `defaults` say otherwise. A comma
    /// between the options of a policy stays there: `fcfs,bandit:epoch=5,explore=0.2` are two.
    ///
    /// # Errors
    /// [`SchedulerError::UnknownPolicy`] and what the options of a policy refuse; a policy that is named twice.
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
    /// A line is `{"arrival": 0.5, "prompt": 200, "output": 50}`, in order of time; `tenant`, `class` (by name),
    /// `prefix_group` and `prefix` (its length, a part of `prompt`) may be added. Empty lines, a byte order mark and line
    /// ends of either kind are passed over.
    ///
    /// # Errors
    /// [`SchedulerError::Scenario`] with the line, the field and what was expected; a trace without a request.
    pub fn read_trace(&self, bytes: &[u8]) -> Result<Vec<TraceRequest>, SchedulerError> {
        jsonl::read(bytes, &self.classes)
    }

    /// The requests.
    pub fn workload(&self) -> Workload {
        Workload { requests: self.requests, arrivals: self.arrivals, classes: self.classes.clone(), seed: self.seed }
    }

    /// What a variant is in full.
    pub fn fleet(&self, variant: &Variant) -> FleetConfig {
        /// The variant's field, or the default's, or else what it is without either.
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
            prediction: if oracle {
                Some(0.0)
            } else {
                variant.prediction.or(self.defaults.prediction).or(fleet.prediction)
            },
            report_interval: field!(report_interval, fleet.report_interval),
            cost: self.cost,
            weights: self.weights.iter().map(|&(tenant, weight)| (TenantId(tenant), weight)).collect(),
            tenants: Vec::new(),
            seed: self.seed,
            batch: BatchConfig {
                models: vec![ModelConfig {
                    blocks: field!(blocks, model.blocks),
                    block_size: field!(block_size, model.block_size),
                    host_blocks: field!(host_blocks, model.host_blocks),
                    adapters: model.adapters,
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
                ..batch
            },
        }
    }

    /// Runs every variant over the requests of `trace`, or its own, and tells `progress` now and then how far it is.
    ///
    /// # Errors
    /// What a configuration refuses, or a request: one of a class or tenant that the scenario does not have.
    pub fn run(
        &self,
        trace: Option<&[TraceRequest]>,
        progress: &mut dyn FnMut(Progress<'_>),
    ) -> Result<Outcome, SchedulerError> {
        self.check()?;
        let of = trace.map_or(self.requests, |trace| trace.len() as u64);
        let variants = self.variants.len();
        let mut reports = Vec::new();
        for (number, variant) in self.variants.iter().enumerate() {
            let config = self.fleet(variant);
            let name = config.name.clone();
            let mut tell = |requests| progress(Progress { variant: &name, number, variants, requests, of });
            tell(0);
            let fleet = Fleet::new(config, &self.classes)?;
            reports.push(match trace {
                Some(requests) => fleet.run_with(requests.iter().cloned(), &mut tell)?,
                None => fleet.run_with(self.workload().iter(), &mut tell)?,
            });
            tell(of);
        }
        Ok(Outcome { title: self.title.clone(), seed: self.seed, reports, repeats: Vec::new() })
    }

    /// The variant's field, or the default's.
    fn field<T>(&self, variant: &Variant, field: impl Fn(&Variant) -> Option<T>) -> Option<T> {
        field(variant).or_else(|| field(&self.defaults))
    }
}

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
