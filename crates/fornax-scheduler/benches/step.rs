//! The time of one step: results of the last plan in, the next plan out.
//!
//! The replica has been busy for long. Its cache is full, so that every new block evicts another. In a step with a
//! thousand running sequences five end, five are admitted, five requests come and sixty sequences fill a block.
//!
//! The sizes show that the cost of a step depends on the sequences that it touches (decoding, ended and admitted ones),
//! and not on the waiting requests. In a second group, `decode`, no request comes and no sequence ends: a step only
//! gives a thousand sequences a token and sixty of them a block. Where outputs are long, most steps are like that.

#![allow(missing_docs, reason = "criterion's macros make public functions")]

use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use fornax_scheduler::{
    BatchConfig, BatchEvent, BatchScheduler, ModelConfig, Output, Plan, Random, Request, Time, policy,
};

/// How many steps of a replica that only decodes are timed at once: fewer than the remaining tokens of its sequences.
const PLATEAU: u64 = 128;

/// A replica in a steady state: `running` sequences decode, `waiting` requests wait, and a request comes for each that
/// ends.
#[derive(Clone)]
struct Replica {
    scheduler: BatchScheduler,
    random: Random,
    plan: Plan,
    next: u64,
    now: Time,
    waiting: usize,
    /// The fewest and the most output tokens of a sequence.
    outputs: (u64, u64),
}

impl Replica {
    fn new(name: &str, running: usize, waiting: usize, outputs: (u64, u64)) -> Self {
        let config = BatchConfig {
            models: vec![ModelConfig { blocks: running * 30, ..ModelConfig::default() }],
            max_running: running,
            max_tokens: running + 2048,
            ..BatchConfig::default()
        };
        let scheduler = BatchScheduler::new(config, policy(name).expect("a policy")).expect("a sound configuration");
        let plan = Plan::default();
        let mut replica = Self { scheduler, random: Random::new(1), plan, next: 0, now: Time::ZERO, waiting, outputs };
        while replica.scheduler.running() < running || replica.scheduler.waiting() < waiting {
            replica.step();
        }
        replica
    }

    /// The replica after 300 more steps.
    fn settled(mut self) -> Self {
        for _ in 0..300 {
            self.step();
        }
        self
    }

    /// The replica once the sequences that began together have ended and their successors have computed their prompts:
    /// for at least `PLATEAU` steps no request comes and no sequence ends, while a new block still evicts another.
    fn decoding(mut self) -> Self {
        while self.plan.finished.is_empty() {
            self.step();
        }
        let mut steps = 0;
        while steps < 8 {
            self.step();
            steps = if self.only_decodes() { steps + 1 } else { 0 };
        }
        self
    }

    /// Whether the last step neither began nor ended anything.
    fn only_decodes(&self) -> bool {
        self.plan.finished.is_empty() && self.plan.items.iter().all(|item| item.tokens == 1)
    }

    /// The events of the next step: the results, and a new request for each that has ended.
    fn events(&mut self) -> Vec<BatchEvent> {
        let mut events = Vec::new();
        if let Some(plan) = self.plan.id {
            let outputs = self.plan.items.iter().map(|item| Output::tokens(item.samples)).collect();
            let total: u32 = self.plan.items.iter().map(|item| item.samples).sum();
            let tokens = (0..total).map(|_| self.random.below(32_000) as u32).collect();
            events.push(BatchEvent::Done { plan, outputs, tokens });
        }
        let lacking = (self.waiting + 8).saturating_sub(self.scheduler.waiting());
        for _ in 0..lacking {
            let prompt = (0..self.random.between(16, 240)).map(|_| self.random.below(32_000) as u32).collect();
            let mut request =
                Request::new(self.next, prompt, self.random.between(self.outputs.0, self.outputs.1) as u32);
            request.tenant = fornax_scheduler::TenantId::DEFAULT;
            self.next += 1;
            events.push(BatchEvent::Submit(request));
        }
        self.now = self.now.after(Duration::from_millis(20));
        events
    }

    /// Makes one step and returns the time that the scheduler took.
    fn step(&mut self) -> Duration {
        let events = self.events();
        let start = Instant::now();
        self.scheduler.step_into(events, self.now, &mut self.plan);
        start.elapsed()
    }
}

fn bench(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("step");
    let sizes = [
        ("fcfs", 100, 10_000),
        ("fcfs", 1000, 1000),
        ("fcfs", 1000, 10_000),
        ("fcfs", 1000, 100_000),
        ("fcfs", 4000, 10_000),
    ];
    let policies = ["shortest", "aged-ratio", "vtc", "drf"].map(|name| (name, 1000, 10_000));
    for (name, running, waiting) in sizes.into_iter().chain(policies) {
        let mut replica = Replica::new(name, running, waiting, (100, 300)).settled();
        group.bench_function(BenchmarkId::new(name, format!("{running} running, {waiting} waiting")), |bencher| {
            // The median step, so that other work of the machine does not count.
            bencher.iter_custom(|steps| {
                let mut times: Vec<Duration> = (0..steps).map(|_| replica.step()).collect();
                times.sort_unstable();
                times[times.len() / 2] * steps as u32
            });
        });
    }
    group.finish();
    let mut group = criterion.benchmark_group("decode");
    let (running, waiting) = (1000, 10_000);
    let start = Replica::new("fcfs", running, waiting, (320, 320)).decoding();
    group.bench_function(
        BenchmarkId::new("fcfs", format!("{running} running, {waiting} waiting, none ends")),
        |bencher| {
            bencher.iter_custom(|steps| {
                let mut times = Vec::new();
                while (times.len() as u64) < steps {
                    let mut replica = start.clone();
                    for _ in 0..PLATEAU.min(steps - times.len() as u64) {
                        times.push(replica.step());
                        assert!(
                            replica.only_decodes() && replica.plan.items.len() == running,
                            "somebody came or ended"
                        );
                    }
                }
                times.sort_unstable();
                times[times.len() / 2] * steps as u32
            });
        },
    );
    group.finish();
}

criterion_group!(benches, bench);
criterion_main!(benches);
