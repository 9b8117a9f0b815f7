//! The small world, checked exhaustively: a few requests, six blocks, and every order of events up to a depth of twelve.
//!
//! States that differ in counts alone are one state, so that breadth-first search reaches all of them. After each event all
//! books are recounted, and from every state the work can be finished.

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};

use super::{Admission, BatchConfig, BatchEvent, BatchScheduler, ModelConfig, Output, Plan, Preemption, Request};
use crate::{PlanId, RequestId, SequenceId, Time, policy};

/// How many events follow each other.
const DEPTH: usize = 12;

#[derive(Clone)]
struct World {
    scheduler: BatchScheduler,
    /// The plan under way.
    plan: Plan,
    submitted: usize,
    forked: bool,
    cancelled: bool,
    failed: bool,
}

/// Requests that together need more than there is; two begin alike, one becomes two.
fn requests() -> Vec<Request> {
    let mut two = Request::new(1, vec![1, 2, 3], 3);
    two.sequences = 2;
    let mut guessing = Request::new(3, vec![1, 2, 5], 4);
    guessing.speculation = 2;
    vec![Request::new(0, vec![1, 2, 3, 4, 5], 4), two, Request::new(2, vec![7], 6), guessing]
}

impl World {
    fn new(config: BatchConfig) -> Self {
        let scheduler = BatchScheduler::new(config, policy("fcfs").expect("a policy")).expect("sound");
        Self { scheduler, plan: Plan::default(), submitted: 0, forked: false, cancelled: false, failed: false }
    }

    /// Everything that may happen next.
    fn events(&self) -> Vec<BatchEvent> {
        let mut events = Vec::new();
        if let Some(request) = requests().get(self.submitted) {
            events.push(BatchEvent::Submit(request.clone()));
        }
        if let Some(plan) = self.scheduler.under_way() {
            events.push(self.done(plan, false, false));
            events.push(self.done(plan, true, false));
            if self.plan.items.iter().any(|item| item.speculative > 0) {
                events.push(self.done(plan, false, true));
            }
            if !self.failed {
                events.push(BatchEvent::Failed { plan });
            }
        }
        let ids = self.scheduler.ids.sorted();
        if !self.cancelled {
            events.extend(ids.first().map(|(id, _)| BatchEvent::Cancel(id.request)));
            events.extend(ids.last().map(|(id, _)| BatchEvent::Stop(*id)));
        }
        let swapped = |&&(_, slot): &&(SequenceId, u32)| !self.scheduler.sequences[slot as usize].host.is_empty();
        events.extend(ids.iter().find(swapped).map(|(id, _)| BatchEvent::SwapLost(*id)));
        events
    }

    /// Results: all of the guesses right or none, and the first item at its end or not.
    fn done(&self, plan: PlanId, first_ends: bool, right: bool) -> BatchEvent {
        let mut tokens = Vec::new();
        let outputs = self.plan.items.iter().enumerate().map(|(at, item)| {
            let count = item.samples + if right { item.speculative } else { 0 };
            tokens.extend((0..count).map(|token| 3 + token));
            Output { tokens: count, finished: first_ends && at == 0 && count > 0 }
        });
        let outputs = outputs.collect();
        BatchEvent::Done { plan, outputs, tokens }
    }

    fn apply(&mut self, event: BatchEvent) {
        self.submitted += usize::from(matches!(event, BatchEvent::Submit(_)));
        self.cancelled |= matches!(event, BatchEvent::Cancel(_) | BatchEvent::Stop(_));
        self.failed |= matches!(event, BatchEvent::Failed { .. });
        let mut events = vec![event];
        let results = matches!(events[0], BatchEvent::Done { .. });
        if results && !self.forked && self.submitted == 3 {
            // A beam forks once, right after results.
            let from = self.plan.items.first().map(|item| item.sequence);
            events.extend(from.map(|from| BatchEvent::Fork { from, index: 5, last: Some(9) }));
            self.forked = true;
        }
        let plan = self.scheduler.step(events, Time::ZERO);
        self.scheduler.audit();
        if plan.id.is_some() || self.scheduler.under_way().is_none() {
            self.plan = plan;
        }
        let idle = self.scheduler.under_way().is_none();
        assert!(!idle || self.scheduler.is_empty(), "{} sequences and nothing to do", self.scheduler.len());
    }

    /// What the future depends on, as one number.
    fn digest(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        let scheduler = &self.scheduler;
        (self.submitted, self.forked, self.cancelled, self.failed).hash(&mut hasher);
        for (id, slot) in scheduler.ids.sorted() {
            let one = &scheduler.sequences[slot as usize];
            (id, one.state, one.shared_tail, one.moved, one.doomed.map(|reason| reason as u8)).hash(&mut hasher);
            (one.computed, one.produced, one.committed, one.samples).hash(&mut hasher);
            (one.promised, one.reserved).hash(&mut hasher);
            (&one.tokens, &one.table, &one.host).hash(&mut hasher);
        }
        for slot in scheduler.running.slots() {
            scheduler.sequences[slot as usize].id.hash(&mut hasher);
        }
        for item in &self.plan.items {
            (item.sequence, item.start, item.tokens, item.speculative).hash(&mut hasher);
        }
        scheduler.under_way().is_some().hash(&mut hasher);
        for model in &scheduler.models {
            model.kv.hash_state(&mut hasher);
            model.host.iter().for_each(|host| host.hash_state(&mut hasher));
        }
        hasher.finish()
    }

    /// Lets everything come to its end.
    fn finish(mut self) {
        for _ in 0..200 {
            let Some(plan) = self.scheduler.under_way() else {
                assert!(self.scheduler.is_empty());
                let memory = &self.scheduler.models[0].kv;
                assert_eq!((memory.held(), memory.available()), (0, memory.total()));
                return;
            };
            let event = self.done(plan, false, false);
            self.forked = true;
            self.apply(event);
        }
        panic!("{} sequences do not end", self.scheduler.len());
    }
}

fn explore(config: BatchConfig) -> usize {
    let first = World::new(config);
    let mut seen = HashSet::from([first.digest()]);
    let mut front = vec![first];
    for _ in 0..DEPTH {
        let mut next = Vec::new();
        for world in front {
            for event in world.events() {
                let mut after = world.clone();
                after.apply(event);
                if seen.insert(after.digest()) {
                    next.push(after);
                }
            }
            world.finish();
        }
        front = next;
    }
    front.into_iter().for_each(World::finish);
    seen.len()
}

fn config() -> BatchConfig {
    BatchConfig {
        models: vec![ModelConfig { blocks: 6, block_size: 2, host_blocks: 0, adapters: 0 }],
        max_running: 4,
        max_tokens: 5,
        watermark: 0,
        ..BatchConfig::default()
    }
}

#[test]
fn every_order_of_events_keeps_the_books() {
    let mut swap = BatchConfig { preemption: Preemption::Swap, prefix_caching: false, ..config() };
    swap.models[0].host_blocks = 4;
    let worlds = [
        config(),
        swap,
        BatchConfig { admission: Admission::Reserved, ..config() },
        BatchConfig { chunked: false, preemptive: true, lookahead: 1, ..config() },
    ];
    for world in worlds {
        let states = explore(world);
        assert!(states > 1000, "{states} states are too few to be all");
    }
}

#[test]
fn a_request_that_is_cancelled_before_it_ran_leaves_nothing() {
    let mut world = World::new(config());
    for event in [BatchEvent::Submit(requests()[0].clone()), BatchEvent::Submit(requests()[1].clone())] {
        world.apply(event);
    }
    world.apply(BatchEvent::Cancel(RequestId(1)));
    world.finish();
}
