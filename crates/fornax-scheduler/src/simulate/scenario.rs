//! Scenarios in TOML: one workload, and the variants that are compared on it.

use serde::Deserialize;

use super::plot::{self, Labels, Line};
use super::{Arrivals, Class, CostModel, Fleet, FleetConfig, Report, TraceRequest, Workload, comparison};
use crate::{Admission, BatchConfig, ModelConfig, Preemption, SchedulerError, TenantId, Time};

/// The scenarios that come with the crate: a name and its TOML.
pub const BUILT_IN: &[(&str, &str)] = &[
    ("mixed", include_str!("../../scenarios/mixed.toml")),
    ("tenants", include_str!("../../scenarios/tenants.toml")),
    ("prefixes", include_str!("../../scenarios/prefixes.toml")),
    ("conversations", include_str!("../../scenarios/conversations.toml")),
    ("diurnal", include_str!("../../scenarios/diurnal.toml")),
    ("learning", include_str!("../../scenarios/learning.toml")),
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
}

/// What a scenario gives.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// One report a variant.
    pub reports: Vec<Report>,
    /// The reports as a table in Markdown.
    pub table: String,
    /// The reports as JSON.
    pub json: String,
    /// Plots as SVG, each with the name of a file.
    pub plots: Vec<(String, String)>,
}

/// Runs the scenario `text`, in TOML, or the built-in one of that name; `trace` is a trace in JSON lines to serve instead
/// of the scenario's own requests.
///
/// A line of a trace is `{"arrival": 0.5, "prompt": 200, "output": 50}`, in order of time; `tenant`, `class` (by name),
/// `prefix_group` and `prefix` (its length, a part of `prompt`) may be added.
///
/// # Errors
/// [`SchedulerError::Scenario`] saying where the text is wrong; what a configuration refuses.
pub fn simulate(text: &str, trace: Option<&str>) -> Result<Outcome, SchedulerError> {
    let text = BUILT_IN.iter().find(|(name, _)| *name == text).map_or(text, |(_, built_in)| built_in);
    let scenario = Scenario::parse(text)?;
    let reports = scenario.run(trace)?;
    let json = serde_json::to_string_pretty(&reports)
        .map_err(|error| SchedulerError::Scenario { place: "report".into(), reason: error.to_string() })?;
    let plots = scenario.plots(&reports);
    Ok(Outcome { table: comparison(&reports), json, plots, reports })
}

impl Scenario {
    /// Reads a scenario.
    ///
    /// # Errors
    /// [`SchedulerError::Scenario`] with the line and what was expected; what [`Workload::check`] refuses.
    pub fn parse(text: &str) -> Result<Self, SchedulerError> {
        let scenario: Self = toml::from_str(text).map_err(|error| {
            let line = error.span().map_or(1, |span| text[..span.start.min(text.len())].lines().count().max(1));
            SchedulerError::Scenario { place: format!("line {line}"), reason: error.message().to_owned() }
        })?;
        if scenario.variants.is_empty() {
            let reason = "empty; give at least one [[variant]] to run";
            return Err(SchedulerError::Scenario { place: "variant".into(), reason: reason.into() });
        }
        scenario.workload().check()?;
        Ok(scenario)
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
                variant.$name.clone().or_else(|| self.defaults.$name.clone()).unwrap_or($otherwise)
            };
        }
        let (fleet, batch, model) = (FleetConfig::default(), BatchConfig::default(), ModelConfig::default());
        let policy = field!(policy, fleet.policy);
        let swap = field!(swap, false);
        FleetConfig {
            name: field!(name, policy.clone()),
            policy,
            routing: field!(routing, fleet.routing),
            replicas: field!(replicas, fleet.replicas),
            prediction: variant.prediction.or(self.defaults.prediction).or(fleet.prediction),
            report_interval: field!(report_interval, fleet.report_interval),
            cost: self.cost,
            weights: self.weights.iter().map(|&(tenant, weight)| (TenantId(tenant), weight)).collect(),
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
                preemptive: field!(preemptive, batch.preemptive),
                prefix_caching: field!(prefix_caching, batch.prefix_caching),
                lookahead: field!(lookahead, batch.lookahead),
                ..batch
            },
        }
    }

    /// Runs every variant.
    ///
    /// # Errors
    /// What a configuration refuses, or a trace that cannot be read.
    pub fn run(&self, trace: Option<&str>) -> Result<Vec<Report>, SchedulerError> {
        let read = trace.map(|trace| self.read_trace(trace)).transpose()?;
        let mut reports = Vec::new();
        for variant in &self.variants {
            let fleet = Fleet::new(self.fleet(variant), &self.classes)?;
            reports.push(match &read {
                Some(requests) => fleet.run(requests.iter().copied())?,
                None => fleet.run(self.workload().iter())?,
            });
        }
        Ok(reports)
    }

    fn read_trace(&self, text: &str) -> Result<Vec<TraceRequest>, SchedulerError> {
        /// A line of a trace.
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Entry {
            arrival: f64,
            prompt: u32,
            output: u32,
            #[serde(default)]
            tenant: u32,
            class: Option<String>,
            #[serde(default)]
            prefix_group: u64,
            #[serde(default)]
            prefix: u32,
        }
        let mut requests: Vec<TraceRequest> = Vec::new();
        for (at, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
            let refuse =
                |reason: String| SchedulerError::Scenario { place: format!("line {} of the trace", at + 1), reason };
            let entry: Entry = serde_json::from_str(line).map_err(|error| refuse(error.to_string()))?;
            let arrival = Time::from_secs_f64(entry.arrival);
            let class = match &entry.class {
                None => 0,
                Some(name) => self
                    .classes
                    .iter()
                    .position(|class| class.name == *name)
                    .ok_or_else(|| refuse(format!("the scenario has no class {name:?}")))?,
            };
            let known =
                self.classes.iter().any(|class| (class.tenant..class.tenant + class.tenants).contains(&entry.tenant));
            if !(entry.arrival.is_finite() && entry.arrival >= 0.0) {
                return Err(refuse("arrival is no time; give seconds from the start".into()));
            }
            if requests.last().is_some_and(|last| last.arrival > arrival) {
                return Err(refuse("it comes before the line above; sort the lines by arrival".into()));
            }
            if entry.output == 0 || entry.prompt <= entry.prefix {
                return Err(refuse("give an output of at least 1, and a prompt longer than its prefix".into()));
            }
            if !known {
                return Err(refuse(format!("the scenario's classes have no tenant {}", entry.tenant)));
            }
            requests.push(TraceRequest {
                arrival,
                class: class as u16,
                tenant: entry.tenant,
                prefix_stream: crate::random::mix(entry.prefix_group.wrapping_add(1)),
                prefix: entry.prefix,
                body_stream: crate::random::mix(!(at as u64)),
                body: entry.prompt - entry.prefix,
                new_tokens: entry.output,
            });
        }
        Ok(requests)
    }

    /// Times to the first token as distributions by class, percentiles as bars, and queues over time.
    fn plots(&self, reports: &[Report]) -> Vec<(String, String)> {
        let mut plots = Vec::new();
        for (at, class) in self.classes.iter().enumerate() {
            let lines: Vec<Line> = reports
                .iter()
                .map(|report| Line { name: report.name.clone(), points: report.classes[at].first_token.curve() })
                .collect();
            let title = format!("{}: time to the first token, {}", self.title, class.name);
            let labels = Labels { title: &title, x: "seconds", y: "part of requests", log_x: true };
            plots.push((format!("first-token-{}.svg", class.name), plot::lines(labels, &lines)));
        }
        let names: Vec<&str> = self.classes.iter().map(|class| class.name.as_str()).collect();
        let p99 = |report: &Report| report.classes.iter().map(|class| class.first_token_p99).collect();
        let series: Vec<(String, Vec<f64>)> = reports.iter().map(|report| (report.name.clone(), p99(report))).collect();
        let title = format!("{}: time to the first token, 99th percentile", self.title);
        let labels = Labels { title: &title, x: "class", y: "seconds", log_x: false };
        plots.push(("p99.svg".into(), plot::bars(labels, &names, &series)));
        let queues: Vec<Line> = reports
            .iter()
            .map(|report| {
                let points = report.queue.iter().enumerate().map(|(at, &count)| (at as f64, f64::from(count)));
                Line { name: report.name.clone(), points: points.collect() }
            })
            .collect();
        let title = format!("{}: requests waiting for their first token", self.title);
        let labels = Labels { title: &title, x: "seconds", y: "requests", log_x: false };
        plots.push(("queue.svg".into(), plot::lines(labels, &queues)));
        plots.extend(regret(&self.title, reports).map(|svg| ("regret.svg".to_owned(), svg)));
        plots
    }
}

/// What a learning policy lost, epoch by epoch, against the best of the others in hindsight.
fn regret(title: &str, reports: &[Report]) -> Option<String> {
    let learner = reports.iter().find(|report| !report.epochs.is_empty())?;
    let best = learner.epochs.iter().map(|epoch| epoch.reward).fold(0.0, f64::max);
    let mut arms: Vec<&str> = learner.epochs.iter().map(|epoch| epoch.arm).collect();
    arms.sort_unstable();
    arms.dedup();
    let mean = |arm: &str| {
        let rewards: Vec<f64> =
            learner.epochs.iter().filter(|epoch| epoch.arm == arm).map(|epoch| epoch.reward).collect();
        rewards.iter().sum::<f64>() / rewards.len() as f64
    };
    let best = arms.iter().map(|arm| mean(arm)).fold(0.0, f64::max).min(best);
    let mut lost = 0.0;
    let points = learner.epochs.iter().map(|epoch| {
        lost += best - epoch.reward;
        (epoch.end.as_secs_f64(), lost)
    });
    let line = Line { name: "regret".into(), points: points.map(|(at, lost)| (at, lost.max(0.0))).collect() };
    let title = format!("{title}: regret against the arm of the best mean reward");
    Some(plot::lines(Labels { title: &title, x: "seconds", y: "lost reward", log_x: false }, &[line]))
}
