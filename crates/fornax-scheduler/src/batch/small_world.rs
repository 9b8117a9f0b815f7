//! An exhaustive test of a small world: a few requests, six blocks, and every order of events up to some depth.
//!
//! States that differ only in counters (serials, statistics) count as one, so that a breadth-first search can reach
//! them all. After each event the invariants are audited, and from every state the work can be finished.

use std::collections::{HashSet, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};

use super::{
    Admission, BatchConfig, BatchEvent, BatchScheduler, ModelConfig, Output, Plan, PlanStatus, Preemption, Request,
};
use crate::{PlanId, RequestId, SequenceId, Time, policy};

/// What an engine may do besides submitting requests, reporting results, cancelling, and failing plans.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Engine {
    /// Draft tokens, and a fork after results.
    Drafts,
    /// Deferred samples, failed samples, requests that are not ready or have no output.
    Deferring,
}

/// The results of a plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Results {
    Plain,
    FirstEnds,
    AllAccepted,
    FirstFails,
    FirstDeferred,
}

#[derive(Clone)]
struct World {
    engine: Engine,
    scheduler: BatchScheduler,
    /// The plans in flight.
    plans: VecDeque<Plan>,
    submitted: usize,
    forked: bool,
    cancelled: bool,
    failed: bool,
    deferred: bool,
}

/// Requests that together need more blocks than there are. Two share the beginning of their prompts; one has two
/// sequences.
fn requests(engine: Engine) -> Vec<Request> {
    let two = Request { sequences: 2, ..Request::new(1, vec![1, 2, 3], 3) };
    let first = Request::new(0, vec![1, 2, 3, 4, 5], 4);
    match engine {
        Engine::Drafts => {
            let drafting = Request { plan_ahead: false, ..Request::new(3, vec![1, 2, 5], 4) };
            vec![first, two, Request::new(2, vec![7], 6), drafting]
        }
        Engine::Deferring => {
            let scored = Request { reuse_prefix: false, ..Request::new(2, vec![1, 2, 3], 0) };
            vec![first, two, scored, Request { ready: false, ..Request::new(3, vec![7], 5) }]
        }
    }
}

impl World {
    fn new(engine: Engine, config: BatchConfig) -> Self {
        let scheduler = BatchScheduler::new(config, policy("fcfs").expect("a policy")).expect("sound");
        Self {
            engine,
            scheduler,
            plans: VecDeque::new(),
            submitted: 0,
            forked: false,
            cancelled: false,
            failed: false,
            deferred: false,
        }
    }

    /// All events that may come next.
    fn events(&self) -> Vec<BatchEvent> {
        let mut events = Vec::new();
        if let Some(request) = requests(self.engine).get(self.submitted) {
            events.push(BatchEvent::Submit(request.clone()));
        }
        if let Some(plan) = self.plans.front() {
            events.push(done(plan, Results::Plain));
            events.push(done(plan, Results::FirstEnds));
            if plan.items.iter().any(|item| item.drafts > 0) {
                events.push(done(plan, Results::AllAccepted));
            }
            if !self.failed {
                events.push(BatchEvent::Failed { plan: plan.id.expect("it is in flight") });
            }
            if self.engine == Engine::Deferring {
                if !self.failed {
                    events.push(done(plan, Results::FirstFails));
                }
                if !self.deferred {
                    events.push(done(plan, Results::FirstDeferred));
                }
            }
        }
        let ids = self.scheduler.ids.sorted();
        if !self.cancelled {
            events.extend(ids.first().map(|(id, _)| BatchEvent::Cancel(id.request)));
            events.extend(ids.last().map(|(id, _)| BatchEvent::Stop(*id)));
        }
        let swapped = |&&(_, slot): &&(SequenceId, u32)| !self.scheduler.sequences[slot as usize].host.is_empty();
        events.extend(ids.iter().find(swapped).map(|(id, _)| BatchEvent::SwapLost(*id)));
        events.extend(self.answers());
        if let Some(slot) = self.scheduler.deferred.slot(0)
            && !self.forked
        {
            let from = self.scheduler.sequences[slot as usize].id;
            events.push(BatchEvent::Fork { from, index: 5, last: None });
            events.push(BatchEvent::Fork { from, index: 5, last: Some(9) });
        }
        events
    }

    /// The events that sequences wait for: `Continue` for deferred ones, `Ready` for the request that is not ready.
    fn answers(&self) -> Vec<BatchEvent> {
        let id = |slot: u32| self.scheduler.sequences[slot as usize].id;
        let continued = |slot| BatchEvent::Continue { sequence: id(slot), token: 8, ended: false };
        let mut events: Vec<BatchEvent> = self.scheduler.deferred.slots().map(continued).collect();
        let not_ready = SequenceId::first(RequestId(3));
        if self.scheduler.not_ready() > 0 && self.scheduler.ids.slot(not_ready).is_some() {
            events.push(BatchEvent::Ready(RequestId(3)));
        }
        events
    }

    fn apply(&mut self, event: BatchEvent) {
        self.submitted += usize::from(matches!(event, BatchEvent::Submit(_)));
        self.cancelled |= matches!(event, BatchEvent::Cancel(_) | BatchEvent::Stop(_));
        self.failed |= matches!(event, BatchEvent::Failed { .. });
        self.forked |= matches!(event, BatchEvent::Fork { .. });
        let mut events = vec![event];
        match &events[0] {
            BatchEvent::Done { outputs, .. } => {
                self.failed |= outputs.contains(&Output::FAILED);
                let plan = self.plans.pop_front().expect("it is in flight");
                let sampled =
                    plan.items.iter().zip(outputs).any(|(item, output)| item.samples > 0 && output.tokens == 0);
                self.deferred |= sampled && !outputs.contains(&Output::FAILED);
                if self.engine == Engine::Drafts && !self.forked && self.submitted == 3 {
                    // A beam forks once, right after results.
                    let from = plan.items.first().map(|item| item.sequence);
                    events.extend(from.map(|from| BatchEvent::Fork { from, index: 5, last: Some(9) }));
                    self.forked = true;
                }
                if self.engine == Engine::Drafts {
                    let sequence = SequenceId::first(RequestId(3));
                    events.push(BatchEvent::Drafts { sequence, tokens: vec![3, 4] });
                }
            }
            BatchEvent::Failed { .. } => self.plans.clear(),
            _ => {}
        }
        let plan = self.scheduler.step(events, Time::ZERO);
        self.scheduler.audit();
        let waits = self.scheduler.deferred() + self.scheduler.not_ready();
        assert!(
            plan.status != PlanStatus::Blocked || waits > 0,
            "{} sequences and nothing to do",
            self.scheduler.len()
        );
        if plan.id.is_some() {
            self.plans.push_back(plan);
        }
        let in_flight: Vec<PlanId> = self.scheduler.in_flight().collect();
        assert_eq!(in_flight, self.plans.iter().filter_map(|plan| plan.id).collect::<Vec<PlanId>>());
    }

    /// A hash of all that the future depends on.
    fn digest(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        let scheduler = &self.scheduler;
        (self.submitted, self.forked, self.cancelled, self.failed, self.deferred).hash(&mut hasher);
        for (id, slot) in scheduler.ids.sorted() {
            let one = &scheduler.sequences[slot as usize];
            (id, one.state, one.shared_tail, one.flights, one.ahead, one.pending).hash(&mut hasher);
            (one.computed, one.produced, one.committed, one.samples).hash(&mut hasher);
            (one.promised, one.reserved, one.admitted, one.rest).hash(&mut hasher);
            (&one.tokens, &one.table, &one.host, &one.drafts).hash(&mut hasher);
        }
        for slot in scheduler.running.slots().chain(scheduler.deferred.slots()) {
            scheduler.sequences[slot as usize].id.hash(&mut hasher);
        }
        for flight in &scheduler.flights {
            for work in &flight.items {
                let sequence = &scheduler.sequences[work.slot as usize];
                let counts = sequence.epoch == work.epoch;
                (counts, counts.then_some(sequence.id), work.start, work.tokens, work.drafts).hash(&mut hasher);
            }
            flight.items.len().hash(&mut hasher);
        }
        (scheduler.draining, scheduler.preferred).hash(&mut hasher);
        for model in &scheduler.models {
            model.kv.hash_state(&mut hasher);
            model.host.iter().for_each(|host| host.hash_state(&mut hasher));
        }
        hasher.finish()
    }

    /// Brings all sequences to their ends.
    fn finish(mut self) {
        (self.forked, self.deferred) = (true, true);
        for _ in 0..200 {
            let answer = self.answers().into_iter().next();
            let results = self.plans.front().map(|plan| done(plan, Results::Plain));
            let Some(event) = answer.or(results) else {
                assert!(self.scheduler.is_empty());
                let memory = &self.scheduler.models[0].kv;
                assert_eq!((memory.held(), memory.available()), (0, memory.total()));
                return;
            };
            self.apply(event);
        }
        panic!("{} sequences do not end", self.scheduler.len());
    }
}

/// Results of a plan.
fn done(plan: &Plan, results: Results) -> BatchEvent {
    let (mut outputs, mut tokens) = (Vec::new(), Vec::new());
    for item in &plan.items {
        for sample in 0..item.outputs() {
            let first = outputs.is_empty();
            if first && results == Results::FirstFails {
                outputs.push(Output::FAILED);
                continue;
            }
            if item.samples == 0 || (first && results == Results::FirstDeferred) {
                outputs.push(Output::NONE);
                continue;
            }
            let accepted = if results == Results::AllAccepted { item.drafts } else { 0 };
            tokens.extend(&plan.tokens_of(item)[item.tokens as usize..][..accepted as usize]);
            tokens.push(3 + sample);
            let ends = first && results == Results::FirstEnds;
            outputs.push(if ends { Output::ended(1 + accepted) } else { Output::tokens(1 + accepted) });
        }
    }
    BatchEvent::Done { plan: plan.id.expect("it is in flight"), outputs, tokens }
}

fn explore(engine: Engine, depth: usize, config: BatchConfig) -> usize {
    let first = World::new(engine, config);
    let mut seen = HashSet::from([first.digest()]);
    let mut front = vec![first];
    for _ in 0..depth {
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

fn swapping() -> BatchConfig {
    let mut swap = BatchConfig { preemption: Preemption::Swap, prefix_caching: false, ..config() };
    swap.models[0].host_blocks = 4;
    swap
}

#[test]
fn every_order_of_events_keeps_the_books() {
    let worlds = [
        config(),
        swapping(),
        BatchConfig { admission: Admission::Reserved, ..config() },
        BatchConfig { chunked: false, preemptive: true, lookahead: 1, ..config() },
    ];
    for world in worlds {
        let states = explore(Engine::Drafts, 12, world);
        assert!(states > 1000, "{states} states are too few to be all");
    }
}

#[test]
fn every_order_of_events_keeps_the_books_with_two_plans_in_flight() {
    for world in [config(), swapping(), BatchConfig { chunked: false, preemptive: true, ..config() }] {
        let states = explore(Engine::Drafts, 10, BatchConfig { plans_in_flight: 2, ..world });
        assert!(states > 1000, "{states} states are too few to be all");
    }
}

#[test]
fn every_order_of_events_keeps_the_books_where_samples_are_deferred() {
    for plans_in_flight in [1, 2] {
        for world in [config(), swapping(), BatchConfig { admission: Admission::Reserved, ..config() }] {
            let states = explore(Engine::Deferring, 9, BatchConfig { plans_in_flight, ..world });
            assert!(states > 1000, "{states} states are too few to be all");
        }
    }
}

#[test]
fn a_request_that_is_cancelled_before_it_ran_leaves_nothing() {
    let mut world = World::new(Engine::Drafts, config());
    for request in &requests(Engine::Drafts)[..2] {
        world.apply(BatchEvent::Submit(request.clone()));
    }
    world.apply(BatchEvent::Cancel(RequestId(1)));
    world.finish();
}
