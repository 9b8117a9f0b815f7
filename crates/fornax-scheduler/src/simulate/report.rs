//! The report of a simulation: how classes and tenants were served, how even the replicas were, and what the cache
//! found.

use super::balance::Spread;
use super::{Balance, Class, FleetConfig, Histogram, TraceRequest};
use crate::policy::bandit::Epoch;
use crate::{BatchScheduler, BatchStats, Plan, Time};

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Ending {
    /// With all its tokens.
    Served,
    /// Past its deadline.
    Late,
    /// Cancelled by its client.
    Cancelled,
}

/// How a class of requests was served. Times are in seconds. Latencies are times from arrival to end, of served
/// requests only.
#[derive(Clone, Debug, Default, PartialEq)]
#[cfg_attr(feature = "simulate", derive(serde::Serialize))]
#[allow(missing_docs, reason = "percentiles, named after what they are of")]
pub struct ClassReport {
    /// The class.
    pub name: String,
    /// How many requests came.
    pub requests: u64,
    /// How many requests were served to the end.
    pub finished: u64,
    /// How many requests the scheduler refused.
    pub refused: u64,
    /// How many requests were dropped because their deadline had passed.
    pub late: u64,
    /// How many requests were cancelled before they had ended.
    pub cancelled: u64,
    /// The part of all requests that was served within both of the class's targets.
    pub within_targets: f64,
    pub mean_latency: f64,
    pub latency_p50: f64,
    pub latency_p90: f64,
    pub latency_p99: f64,
    /// Mean time from arrival to the first token, of requests that got one.
    pub first_token_mean: f64,
    pub first_token_p50: f64,
    pub first_token_p90: f64,
    pub first_token_p99: f64,
    pub next_token_p50: f64,
    pub next_token_p99: f64,
    /// The distribution of times to the first token.
    #[cfg_attr(feature = "simulate", serde(skip))]
    pub first_token: Histogram,
}

/// How a tenant was served. Times are in seconds; latencies are of served requests only.
#[derive(Clone, Debug, Default, PartialEq)]
#[cfg_attr(feature = "simulate", derive(serde::Serialize))]
pub struct TenantReport {
    /// Its number.
    pub tenant: u32,
    /// Its name in the trace, if it has one.
    pub name: Option<String>,
    /// How many requests of the tenant came.
    pub requests: u64,
    /// How many of them were served to the end.
    pub finished: u64,
    /// Mean time from arrival to end.
    pub mean_latency: f64,
    /// The largest time from arrival to end.
    pub most_latency: f64,
    /// Mean time from arrival to the first token, of requests that got one.
    pub first_token_mean: f64,
    /// The largest time from arrival to the first token.
    pub first_token_most: f64,
    /// The service that it got: prompt + 2 · output tokens.
    pub service: f64,
}

impl TenantReport {
    /// Its name, or else its number.
    pub fn label(&self) -> String {
        self.name.clone().unwrap_or_else(|| self.tenant.to_string())
    }
}

/// The report of a simulation of one variant. Times are in seconds.
#[derive(Clone, Debug, Default, PartialEq)]
#[cfg_attr(feature = "simulate", derive(serde::Serialize))]
pub struct Report {
    /// The variant.
    pub name: String,
    /// Its policy.
    pub policy: String,
    /// Its routing.
    pub routing: String,
    /// How many replicas it had.
    pub replicas: usize,
    /// Whether it is the oracle that other variants are compared with.
    pub oracle: bool,
    /// The time from the first arrival to the last event.
    pub seconds: f64,
    /// By class.
    pub classes: Vec<ClassReport>,
    /// By tenant, in the order of their numbers, without tenants that sent no request.
    pub tenants: Vec<TenantReport>,
    /// How many requests came.
    pub requests: u64,
    /// How many were served to the end.
    pub finished: u64,
    /// Mean time from arrival to end of all served requests.
    pub mean_latency: f64,
    /// The mean number of requests in the system, waiting or running, over time.
    pub mean_in_system: f64,
    /// Output tokens a second.
    pub output_tokens_per_second: f64,
    /// Requests a second that were served within their targets.
    pub goodput: f64,
    /// The largest difference in service (prompt + 2 · output tokens) between two tenants over a window of ten seconds in
    /// which both had work waiting.
    pub fairness_gap: f64,
    /// The part of the prompts' full blocks that was found in the cache when requests were admitted. The blocks that a
    /// preempted request finds again do not count.
    pub cache_hit_rate: f64,
    /// The number of these blocks.
    pub cache_hits: u64,
    /// Lookups that ended at a block that had been evicted.
    pub evicted_misses: u64,
    /// Lookups that ended at a block that was never there, or at the prompt's end.
    pub cold_misses: u64,
    /// Sequences preempted.
    pub preemptions: u64,
    /// Tokens whose keys and values were given up after they were computed.
    pub lost_tokens: u64,
    /// The part of the computed draft tokens that was accepted.
    pub accepted: f64,
    /// The part of the time in which replicas computed.
    pub utilisation: f64,
    /// The number of steps.
    pub steps: u64,
    /// The mean number of sequences in a step.
    pub mean_batch: f64,
    /// How evenly tokens were computed over the replicas.
    pub tokens_balance: Balance,
    /// How evenly the replicas were busy.
    pub busy_balance: Balance,
    /// The tokens that the busiest replica computed.
    pub busiest_tokens: u64,
    /// How well requests were served whatever their size, between 0 and 1. The slowdown of a request is
    /// `1 + waited / cost`. The reward of a window of ten seconds is one over the root mean square of the slowdowns of the
    /// requests that came in it. This is the mean over the windows. The policy `bandit` learns from such rewards.
    pub reward: f64,
    /// The reward of each window; none for windows in which no request came.
    #[cfg_attr(feature = "simulate", serde(skip))]
    pub rewards: Vec<Option<f64>>,
    /// The epochs of the first replica's policy, if that learns.
    #[cfg_attr(feature = "simulate", serde(skip))]
    pub epochs: Vec<Epoch>,
    /// The policies that its policy chooses among, if that learns.
    pub learned_from: Vec<&'static str>,
    /// Requests waiting for their first token, by second.
    #[cfg_attr(feature = "simulate", serde(skip))]
    pub queue: Vec<u32>,
}

impl Report {
    /// The class of this name.
    pub fn class(&self, name: &str) -> Option<&ClassReport> {
        self.classes.iter().find(|class| class.name == name)
    }
}

/// The counts of a class during a simulation.
#[derive(Clone, Debug, Default)]
struct Record {
    requests: u64,
    refused: u64,
    late: u64,
    cancelled: u64,
    good: u64,
    /// Of served requests.
    latency: Histogram,
    first_token: Histogram,
    next_token: Histogram,
}

/// The counts of a tenant during a simulation.
#[derive(Clone, Debug, Default)]
struct Account {
    /// Requests that wait for their first token.
    waiting: u32,
    /// The least number of such requests in this window.
    least: u32,
    /// Service in this window.
    service: f64,
    all_service: f64,
    requests: u64,
    /// The number, the sum and the largest of latencies; the same of times to the first token.
    latency: (u64, f64, f64),
    first_token: (u64, f64, f64),
}

impl Account {
    fn serve(&mut self, tokens: f64) {
        self.service += tokens;
        self.all_service += tokens;
    }
}

/// Adds a time to the number, the sum and the largest of times.
fn add(times: &mut (u64, f64, f64), seconds: f64) {
    *times = (times.0 + 1, times.1 + seconds, times.2.max(seconds));
}

/// Collects the figures of a report while a simulation runs.
#[derive(Debug)]
pub(super) struct Recorder {
    name: String,
    policy: String,
    routing: String,
    oracle: bool,
    classes: Vec<Class>,
    records: Vec<Record>,
    busy: Spread,
    tokens: Spread,
    /// When the latest request came.
    latest: Time,
    steps: u64,
    items: u64,
    first: Option<Time>,
    last: Time,
    /// By tenant.
    tenants: Vec<Account>,
    /// Names of tenants.
    names: Vec<(u32, String)>,
    /// The sum of the times that requests were in the system.
    there: f64,
    /// Whether prefix caching is on. The fields after it are the tokens of a block, the blocks looked up and the blocks
    /// found.
    caching: bool,
    block_size: u32,
    looked_up: u64,
    hits: u64,
    window: u64,
    gap: f64,
    queue: Vec<u32>,
    waiting: u32,
    /// For each window, the sum of the squared slowdowns of the requests that came in it, and their number.
    slowdowns: Vec<(f64, u32)>,
}

/// Seconds of a window, over which tenants' services are compared.
const WINDOW: f64 = 10.0;
/// The most windows, and the most seconds of the queue's record. Later events count in the last window.
const MOST_WINDOWS: usize = 1_000_000;

impl Recorder {
    pub(super) fn new(config: &FleetConfig, classes: &[Class]) -> Self {
        Self {
            name: config.name.clone(),
            policy: config.policy.clone(),
            routing: config.routing.clone(),
            oracle: config.oracle,
            records: vec![Record::default(); classes.len()],
            classes: classes.to_vec(),
            busy: Spread::new(config.replicas),
            tokens: Spread::new(config.replicas),
            latest: Time::ZERO,
            steps: 0,
            items: 0,
            first: None,
            last: Time::ZERO,
            tenants: Vec::new(),
            names: config.tenants.clone(),
            there: 0.0,
            caching: config.batch.prefix_caching,
            block_size: config.batch.models[0].block_size as u32,
            looked_up: 0,
            hits: 0,
            window: 0,
            gap: 0.0,
            queue: Vec::new(),
            waiting: 0,
            slowdowns: Vec::new(),
        }
    }

    pub(super) fn arrived(&mut self, request: &TraceRequest) {
        self.first.get_or_insert(request.arrival);
        self.at(request.arrival);
        self.latest = request.arrival;
        self.records[usize::from(request.class)].requests += 1;
        let tenant = request.tenant as usize;
        if tenant >= self.tenants.len() {
            self.tenants.resize(tenant + 1, Account::default());
        }
        self.tenants[tenant].requests += 1;
        self.tenants[tenant].waiting += 1;
        self.waiting += 1;
    }

    /// A request is computed for the first time, with this slowdown and `found` tokens from the cache.
    pub(super) fn begun(&mut self, request: &TraceRequest, slowdown: f64, found: u32) {
        if self.caching {
            self.looked_up += u64::from(request.prompt_tokens() / self.block_size);
            self.hits += u64::from(found / self.block_size);
        }
        let window = ((request.arrival.as_secs_f64() / WINDOW) as usize).min(MOST_WINDOWS);
        if window >= self.slowdowns.len() {
            self.slowdowns.resize(window + 1, (0.0, 0));
        }
        self.slowdowns[window].0 += slowdown * slowdown;
        self.slowdowns[window].1 += 1;
    }

    pub(super) fn refused(&mut self, request: &TraceRequest) {
        self.records[usize::from(request.class)].refused += 1;
        self.leave(request.tenant);
    }

    /// A request put out its first tokens, `new` of them.
    pub(super) fn emitted_first(&mut self, request: &TraceRequest, new: u32, now: Time) {
        self.at(now);
        let waited = now.secs_since(request.arrival);
        self.records[usize::from(request.class)].first_token.add(waited);
        self.leave(request.tenant);
        let tenant = &mut self.tenants[request.tenant as usize];
        add(&mut tenant.first_token, waited);
        tenant.serve(f64::from(request.prompt_tokens()) + 2.0 * f64::from(new));
    }

    /// A request put out `new` further tokens. The sequence's token before them came at `last`, if there was one.
    pub(super) fn emitted(&mut self, request: &TraceRequest, new: u32, last: Option<Time>, now: Time) {
        self.at(now);
        let record = &mut self.records[usize::from(request.class)];
        for last in last.into_iter().flat_map(|last| std::iter::repeat_n(last, new as usize)) {
            record.next_token.add(now.secs_since(last) / f64::from(new));
        }
        self.tenants[request.tenant as usize].serve(2.0 * f64::from(new));
    }

    /// A request ended with `emitted` tokens, of which the first came at `first`.
    pub(super) fn ended(&mut self, request: &TraceRequest, ending: Ending, emitted: u32, first: Time, now: Time) {
        self.at(now);
        let latency = now.secs_since(request.arrival);
        self.there += latency;
        if emitted == 0 {
            self.leave(request.tenant);
        }
        let class = &self.classes[usize::from(request.class)];
        let record = &mut self.records[usize::from(request.class)];
        match ending {
            Ending::Late => record.late += 1,
            Ending::Cancelled => record.cancelled += 1,
            Ending::Served => {
                record.latency.add(latency);
                add(&mut self.tenants[request.tenant as usize].latency, latency);
                // A request without output is served when its prompt is computed.
                let first = if emitted == 0 { now } else { first };
                let pace = now.secs_since(first) / f64::from(emitted.saturating_sub(1).max(1));
                let in_time = first.secs_since(request.arrival) <= class.first_token_target;
                record.good += u64::from(in_time && pace <= class.next_token_target);
            }
        }
    }

    pub(super) fn stepped(&mut self, replica: usize, plan: &Plan, seconds: f64) {
        self.busy.add(replica, seconds);
        self.tokens.add(replica, plan.tokens.len() as f64);
        self.steps += 1;
        self.items += plan.items.len() as u64;
    }

    fn leave(&mut self, tenant: u32) {
        let tenant = &mut self.tenants[tenant as usize];
        tenant.waiting -= 1;
        tenant.least = tenant.least.min(tenant.waiting);
        self.waiting -= 1;
    }

    /// Closes windows that are over.
    fn at(&mut self, now: Time) {
        self.last = self.last.max(now);
        let seconds = now.as_secs_f64();
        while (self.queue.len() as f64) < seconds.min(MOST_WINDOWS as f64) {
            self.queue.push(self.waiting);
        }
        let window = (seconds / WINDOW) as u64;
        if window == self.window {
            return;
        }
        // Windows after the last arrivals say nothing about routing, nor does the first window, which starts empty.
        let counts = self.window > 0 && self.latest.as_secs_f64() >= (self.window + 1) as f64 * WINDOW - 1.0;
        self.busy.end_window(counts);
        self.tokens.end_window(counts);
        self.window = window;
        let (mut least, mut most) = (f64::INFINITY, 0.0f64);
        for tenant in &mut self.tenants {
            if tenant.least > 0 {
                least = least.min(tenant.service);
                most = most.max(tenant.service);
            }
            (tenant.least, tenant.service) = (tenant.waiting, 0.0);
        }
        self.gap = self.gap.max(most - least);
    }

    pub(super) fn report(self, schedulers: &[&BatchScheduler]) -> Report {
        let seconds = self.last.secs_since(self.first.unwrap_or(Time::ZERO)).max(1e-9);
        let mut stats = BatchStats::default();
        let mut lookups = 0;
        for scheduler in schedulers {
            let one = scheduler.stats();
            stats.output_tokens += one.output_tokens;
            stats.evicted_misses += one.evicted_misses;
            stats.preemptions += one.preemptions;
            stats.lost_tokens += one.lost_tokens;
            stats.draft_tokens += one.draft_tokens;
            stats.accepted_tokens += one.accepted_tokens;
            lookups += one.lookups;
        }
        let share = |part: u64, all: u64| if all == 0 { 0.0 } else { part as f64 / all as f64 };
        let classes: Vec<ClassReport> = self
            .classes
            .iter()
            .zip(self.records)
            .map(|(class, record)| ClassReport {
                name: class.name.clone(),
                requests: record.requests,
                finished: record.latency.count(),
                refused: record.refused,
                late: record.late,
                cancelled: record.cancelled,
                within_targets: share(record.good, record.requests),
                mean_latency: record.latency.mean(),
                latency_p50: record.latency.quantile(0.5),
                latency_p90: record.latency.quantile(0.9),
                latency_p99: record.latency.quantile(0.99),
                first_token_mean: record.first_token.mean(),
                first_token_p50: record.first_token.quantile(0.5),
                first_token_p90: record.first_token.quantile(0.9),
                first_token_p99: record.first_token.quantile(0.99),
                next_token_p50: record.next_token.quantile(0.5),
                next_token_p99: record.next_token.quantile(0.99),
                first_token: record.first_token,
            })
            .collect();
        let requests: u64 = classes.iter().map(|class| class.requests).sum();
        let finished: u64 = classes.iter().map(|class| class.finished).sum();
        let came = self.tenants.iter().enumerate().filter(|(_, account)| account.requests > 0);
        let tenants = came.map(|(number, account)| tenant_report(number as u32, account, &self.names)).collect();
        let mean_busy = self.busy.sum() / schedulers.len() as f64;
        let rewards: Vec<Option<f64>> = self
            .slowdowns
            .iter()
            .map(|&(squares, count)| (count > 0).then(|| (f64::from(count) / squares).sqrt()))
            .collect();
        let windows = rewards.iter().flatten().count();
        Report {
            reward: rewards.iter().flatten().sum::<f64>() / windows.max(1) as f64,
            rewards,
            name: self.name,
            policy: self.policy,
            routing: self.routing,
            oracle: self.oracle,
            replicas: schedulers.len(),
            seconds,
            tenants,
            requests,
            finished,
            mean_latency: classes.iter().map(|class| class.mean_latency * class.finished as f64).sum::<f64>()
                / finished.max(1) as f64,
            mean_in_system: self.there / seconds,
            output_tokens_per_second: stats.output_tokens as f64 / seconds,
            goodput: classes.iter().map(|class| class.within_targets * class.requests as f64).sum::<f64>() / seconds,
            fairness_gap: self.gap.max(0.0),
            cache_hit_rate: share(self.hits, self.looked_up),
            cache_hits: self.hits,
            evicted_misses: stats.evicted_misses,
            cold_misses: lookups - stats.evicted_misses,
            preemptions: stats.preemptions,
            lost_tokens: stats.lost_tokens,
            accepted: share(stats.accepted_tokens, stats.draft_tokens),
            utilisation: mean_busy / seconds,
            steps: self.steps,
            mean_batch: self.items as f64 / self.steps.max(1) as f64,
            busiest_tokens: self.tokens.most() as u64,
            tokens_balance: self.tokens.balance(),
            busy_balance: self.busy.balance(),
            learned_from: schedulers.first().map(|one| one.policy().learns_from()).unwrap_or_default(),
            epochs: schedulers.first().map(|scheduler| scheduler.policy().epochs().to_vec()).unwrap_or_default(),
            queue: self.queue,
            classes,
        }
    }
}

fn tenant_report(tenant: u32, account: &Account, names: &[(u32, String)]) -> TenantReport {
    let mean = |(count, sum, _): (u64, f64, f64)| sum / count.max(1) as f64;
    TenantReport {
        tenant,
        name: names.iter().find(|(number, _)| *number == tenant).map(|(_, name)| name.clone()),
        requests: account.requests,
        finished: account.latency.0,
        mean_latency: mean(account.latency),
        most_latency: account.latency.2,
        first_token_mean: mean(account.first_token),
        first_token_most: account.first_token.2,
        service: account.all_service,
    }
}
