//! What a simulation shows: how each class was served, how evenly tenants and replicas were, and what the memory did.

use super::balance::Spread;
use super::{Balance, Class, FleetConfig, Histogram, TraceRequest};
use crate::policy::bandit::Epoch;
use crate::{BatchScheduler, BatchStats, Plan, Time};

/// How a kind of request was served. Times are in seconds.
#[derive(Clone, Debug, Default, PartialEq)]
#[cfg_attr(feature = "simulate", derive(serde::Serialize))]
#[allow(missing_docs, reason = "percentiles, named after what they are of")]
pub struct ClassReport {
    /// The class.
    pub name: String,
    /// How many came.
    pub requests: u64,
    /// How many were served to the end.
    pub finished: u64,
    /// How many the scheduler refused.
    pub refused: u64,
    /// The part that was served within both of the class's targets.
    pub within_targets: f64,
    /// Mean time from arrival to end.
    pub mean_latency: f64,
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

/// What a simulation shows. Times are in seconds.
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
    /// Whether others are measured by it.
    pub oracle: bool,
    /// From the first arrival to the last token.
    pub seconds: f64,
    /// By kind of request.
    pub classes: Vec<ClassReport>,
    /// Mean time from arrival to end over all requests.
    pub mean_latency: f64,
    /// Tokens put out a second.
    pub output_tokens_per_second: f64,
    /// Requests a second that were served within their targets.
    pub goodput: f64,
    /// The largest difference in service (prompt + 2 · output tokens) between two tenants over a window of ten seconds in
    /// which both had work waiting.
    pub fairness_gap: f64,
    /// The part of prompts' full blocks that were found in the cache.
    pub cache_hit_rate: f64,
    /// Full blocks of prompts that were found.
    pub cache_hits: u64,
    /// Lookups that ended at a block that had made room for others.
    pub evicted_misses: u64,
    /// Lookups that ended at a block that was never there, or at the prompt's end.
    pub cold_misses: u64,
    /// Sequences preempted.
    pub preemptions: u64,
    /// Tokens computed in vain.
    pub lost_tokens: u64,
    /// Speculative tokens that were right, as a part of those granted.
    pub accepted: f64,
    /// The part of the time in which replicas computed.
    pub utilisation: f64,
    /// Steps.
    pub steps: u64,
    /// Sequences in a step, in the mean.
    pub mean_batch: f64,
    /// How evenly tokens were computed over the replicas.
    pub tokens_balance: Balance,
    /// How evenly the replicas were busy.
    pub busy_balance: Balance,
    /// The tokens that the busiest replica computed.
    pub busiest_tokens: u64,
    /// How well requests were served whatever their size, between 0 and 1: one over the root mean square of their
    /// slowdowns, which are `1 + waited / cost`, in windows of ten seconds by arrival, in the mean of the windows. It is what
    /// the policy `bandit` learns from.
    pub reward: f64,
    /// The reward of each window, and none where no request came.
    #[cfg_attr(feature = "simulate", serde(skip))]
    pub rewards: Vec<Option<f64>>,
    /// What a learning policy of the first replica did.
    #[cfg_attr(feature = "simulate", serde(skip))]
    pub epochs: Vec<Epoch>,
    /// The policies that it learned among, if it did.
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

/// What is kept of a class while it is served.
#[derive(Clone, Debug, Default)]
struct Record {
    requests: u64,
    finished: u64,
    refused: u64,
    good: u64,
    latency: f64,
    first_token: Histogram,
    next_token: Histogram,
}

/// Keeps account while a simulation runs.
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
    /// By tenant: requests that wait for their first token, the least number in this window, and service in it.
    tenants: Vec<(u32, u32, f64)>,
    window: u64,
    gap: f64,
    queue: Vec<u32>,
    waiting: u32,
    /// By window: the sum of the squares of slowdowns of the requests that came in it, and their number.
    slowdowns: Vec<(f64, u32)>,
}

/// Seconds of a window over which tenants' services are compared.
const WINDOW: f64 = 10.0;
/// How many windows and seconds are told apart; what comes later counts as in the last.
const MOST_WINDOWS: usize = 1_000_000;

impl Recorder {
    pub(super) fn new(config: &FleetConfig, classes: &[Class]) -> Self {
        let tenants = classes.iter().map(|class| class.tenant + class.tenants).max().unwrap_or(0) as usize;
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
            tenants: vec![(0, 0, 0.0); tenants],
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
        self.tenants[request.tenant as usize].0 += 1;
        self.waiting += 1;
    }

    /// A request is computed for the first time, with this slowdown.
    pub(super) fn begun(&mut self, request: &TraceRequest, slowdown: f64) {
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

    /// `new` tokens came out of a request that had `before`, the last of them at `last`.
    pub(super) fn emitted(&mut self, request: &TraceRequest, before: u32, new: u32, last: Time, now: Time) {
        self.at(now);
        let record = &mut self.records[usize::from(request.class)];
        if before == 0 {
            record.first_token.add(now.secs_since(request.arrival));
            self.leave(request.tenant);
            self.tenants[request.tenant as usize].2 += f64::from(request.prompt_tokens());
        } else {
            for _ in 0..new {
                record.next_token.add(now.secs_since(last) / f64::from(new));
            }
        }
        self.tenants[request.tenant as usize].2 += 2.0 * f64::from(new);
    }

    /// A request ended with `emitted` tokens, of which the first came at `first`.
    pub(super) fn finished(&mut self, request: &TraceRequest, emitted: u32, first: Time, now: Time) {
        self.at(now);
        let class = &self.classes[usize::from(request.class)];
        let record = &mut self.records[usize::from(request.class)];
        record.latency += now.secs_since(request.arrival);
        if emitted == 0 {
            self.leave(request.tenant);
            return;
        }
        if emitted < request.new_tokens {
            return;
        }
        record.finished += 1;
        let pace = now.secs_since(first) / f64::from(emitted.saturating_sub(1).max(1));
        let in_time = first.secs_since(request.arrival) <= class.first_token_target;
        record.good += u64::from(in_time && pace <= class.next_token_target);
    }

    pub(super) fn stepped(&mut self, replica: usize, plan: &Plan, seconds: f64) {
        self.busy.add(replica, seconds);
        self.tokens.add(replica, plan.tokens.len() as f64);
        self.steps += 1;
        self.items += plan.items.len() as u64;
    }

    fn leave(&mut self, tenant: u32) {
        let (waiting, least, _) = &mut self.tenants[tenant as usize];
        *waiting -= 1;
        *least = (*least).min(*waiting);
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
        // Windows in which the last requests run out say nothing about routing; neither does the first, which starts empty.
        let counts = self.window > 0 && self.latest.as_secs_f64() >= (self.window + 1) as f64 * WINDOW - 1.0;
        self.busy.end_window(counts);
        self.tokens.end_window(counts);
        self.window = window;
        let (mut least, mut most) = (f64::INFINITY, 0.0f64);
        for (waiting, fewest, service) in &mut self.tenants {
            if *fewest > 0 {
                least = least.min(*service);
                most = most.max(*service);
            }
            (*fewest, *service) = (*waiting, 0.0);
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
            stats.looked_up_blocks += one.looked_up_blocks;
            stats.hit_blocks += one.hit_blocks;
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
                finished: record.finished,
                refused: record.refused,
                within_targets: share(record.good, record.requests),
                mean_latency: record.latency / record.requests.max(1) as f64,
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
            mean_latency: classes.iter().map(|class| class.mean_latency * class.requests as f64).sum::<f64>()
                / requests.max(1) as f64,
            output_tokens_per_second: stats.output_tokens as f64 / seconds,
            goodput: classes.iter().map(|class| class.within_targets * class.requests as f64).sum::<f64>() / seconds,
            fairness_gap: self.gap.max(0.0),
            cache_hit_rate: share(stats.hit_blocks, stats.looked_up_blocks),
            cache_hits: stats.hit_blocks,
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
