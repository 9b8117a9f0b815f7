//! Replicas behind a router, in made-up time: arrivals and finished steps, one after another.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

use super::report::{Ending, Recorder, Report};
use super::{Class, FleetConfig, StepLoad, TraceRequest};
use crate::kv::{KvMemory, Scope, block_hash};
use crate::{
    AdapterId, BatchEvent, BatchScheduler, EndReason, Output, Plan, Random, Request, RequestId, RouteRequest, Router,
    RouterConfig, RouterEvent, SchedulerError, SequenceId, TenantId, Time, policy, routing,
};

/// A replica in made-up time.
#[derive(Debug)]
struct Replica {
    scheduler: BatchScheduler,
    plan: Plan,
    /// When the plan under way began; none if there is none.
    began: Option<Time>,
    /// Tokens still to be computed, as the replica would report them.
    pending: u64,
    /// Tokens computed so far.
    computed: u64,
    reported: Time,
}

/// A request that has not ended.
#[derive(Clone, Debug)]
struct Live {
    request: TraceRequest,
    replica: u32,
    /// How many tokens each of its sequences puts out in the end: the truth.
    output: u32,
    first_sequence: Progress,
    /// The other sequences, as far as they have come.
    others: Vec<Progress>,
    /// Tokens of it that count as pending.
    pending: u64,
    /// Whether any of it was computed.
    begun: bool,
    /// What its computing time is reckoned at, in seconds.
    cost: f64,
    /// When its first token came.
    first: Time,
    /// How its sequences ended so far, the worst.
    ending: Ending,
}

/// How far a sequence is: tokens put out, and when the last of them came.
#[derive(Clone, Copy, Debug)]
struct Progress {
    emitted: u32,
    last: Time,
}

impl Live {
    fn sequence(&mut self, index: u32) -> &mut Progress {
        match index.checked_sub(1) {
            None => &mut self.first_sequence,
            Some(other) => {
                let (most, none) =
                    (self.others.len().max(other as usize + 1), Progress { emitted: 0, last: self.first });
                self.others.resize(most, none);
                &mut self.others[other as usize]
            }
        }
    }

    /// The tokens of the sequence that put out most.
    fn emitted(&self) -> u32 {
        self.others.iter().map(|one| one.emitted).fold(self.first_sequence.emitted, u32::max)
    }
}

/// Replicas behind a router.
#[derive(Debug)]
pub struct Fleet {
    config: FleetConfig,
    classes: Vec<Class>,
    replicas: Vec<Replica>,
    router: Router,
    random: Random,
    /// By the request's number, which is its id; those that ended before all others are gone from the front.
    live: VecDeque<Option<Live>>,
    /// How many are gone.
    gone: u64,
    /// Steps by when they end.
    ends: BinaryHeap<Reverse<(Time, u32)>>,
    /// Requests by when they are cancelled.
    cancels: BinaryHeap<Reverse<(Time, u64)>>,
    /// Which tenants the schedulers know.
    tenants: Vec<bool>,
    /// The root of each tenant's prefixes is asked of this one.
    roots: KvMemory,
    /// Of each class: the sum and number of the outputs of its requests that have ended.
    lengths: Vec<(f64, f64)>,
    recorder: Recorder,
}

impl Fleet {
    /// Idle replicas for requests of `classes`.
    ///
    /// # Errors
    /// What the configuration of schedulers, policies, router or tenants refuses.
    pub fn new(mut config: FleetConfig, classes: &[Class]) -> Result<Self, SchedulerError> {
        config.check(classes)?;
        (config.batch.seconds_per_prompt_token, config.batch.seconds_per_output_token) = config.cost.token_seconds();
        let scheduler = BatchScheduler::new(config.batch.clone(), policy(&config.policy)?)?;
        let block_size = config.batch.models[0].block_size;
        let router = Router::new(
            RouterConfig {
                replicas: config.replicas,
                block_size,
                // What runs needs a part of a replica's blocks for itself.
                prefixes: config.batch.models[0].blocks / 4 * 3,
                ..RouterConfig::default()
            },
            routing(&config.routing, config.seed)?,
        )?;
        let replica = || Replica {
            scheduler: scheduler.clone(),
            plan: Plan::default(),
            began: None,
            pending: 0,
            computed: 0,
            reported: Time::ZERO,
        };
        let mut fleet = Self {
            replicas: (0..config.replicas).map(|_| replica()).collect(),
            router,
            random: Random::new(config.seed).fork(7),
            live: VecDeque::new(),
            gone: 0,
            ends: BinaryHeap::new(),
            cancels: BinaryHeap::new(),
            tenants: Vec::new(),
            roots: KvMemory::new(1, block_size, config.batch.hash_seed)?,
            lengths: vec![(0.0, 0.0); classes.len()],
            recorder: Recorder::new(&config, classes),
            classes: classes.to_vec(),
            config,
        };
        for tenant in classes.iter().flat_map(|class| class.tenant..class.tenant + class.tenants) {
            fleet.declare(tenant)?;
        }
        Ok(fleet)
    }

    /// Tells the schedulers of a tenant, unless they know it.
    fn declare(&mut self, tenant: u32) -> Result<(), SchedulerError> {
        let at = tenant as usize;
        if self.tenants.get(at) == Some(&true) {
            return Ok(());
        }
        let weights = &self.config.weights;
        let weight = weights.iter().find(|(other, _)| other.0 == tenant).map_or(1.0, |(_, weight)| *weight);
        for replica in &mut self.replicas {
            replica.scheduler.declare_tenant(TenantId(tenant), weight)?;
        }
        self.tenants.resize(self.tenants.len().max(at + 1), false);
        self.tenants[at] = true;
        Ok(())
    }

    /// Serves `requests`, which come in order of time, to the last token.
    ///
    /// # Errors
    /// What the router refuses, and tenants whose numbers are too large; a request that a scheduler refuses counts as such
    /// in the report.
    pub fn run(self, requests: impl IntoIterator<Item = TraceRequest>) -> Result<Report, SchedulerError> {
        self.run_with(requests, &mut |_| {})
    }

    /// As [`run`](Self::run), and tells `progress` every thousand requests how many have come.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub fn run_with(
        mut self,
        requests: impl IntoIterator<Item = TraceRequest>,
        progress: &mut dyn FnMut(u64),
    ) -> Result<Report, SchedulerError> {
        let mut requests = requests.into_iter().peekable();
        loop {
            let step = self.ends.peek().map(|Reverse((time, _))| *time);
            if let Some(&Reverse((now, id))) = self.cancels.peek()
                && step.is_none_or(|step| now <= step)
                && requests.peek().is_none_or(|request| now < request.arrival)
            {
                self.cancels.pop();
                self.cancel(id, now)?;
                continue;
            }
            match (requests.peek(), step) {
                (Some(request), step) if step.is_none_or(|step| request.arrival <= step) => {
                    let request = requests.next().expect("it was looked at");
                    self.arrive(request)?;
                    let come = self.gone + self.live.len() as u64;
                    if come.is_multiple_of(1000) {
                        progress(come);
                    }
                }
                (_, Some(_)) => {
                    let Reverse((now, replica)) = self.ends.pop().expect("it was looked at");
                    self.finish_step(replica as usize, now)?;
                }
                (_, None) => break,
            }
        }
        let schedulers: Vec<&BatchScheduler> = self.replicas.iter().map(|replica| &replica.scheduler).collect();
        for scheduler in &schedulers {
            scheduler.audit();
        }
        Ok(self.recorder.report(&schedulers))
    }

    fn arrive(&mut self, mut request: TraceRequest) -> Result<(), SchedulerError> {
        let now = request.arrival;
        let id = RequestId(self.gone + self.live.len() as u64);
        self.declare(request.tenant)?;
        let class = &self.classes[usize::from(request.class)];
        // One that wants no output asks for none; any other is cut at what it asks for at most.
        let most = if request.new_tokens == 0 { 0 } else { request.max_tokens.unwrap_or(class.limit()) };
        let output = request.new_tokens.min(most);
        let after = |seconds: f64| Time::from_secs_f64(now.as_secs_f64() + seconds);
        let submitted = Request {
            tenant: TenantId(request.tenant),
            priority: request.priority.unwrap_or(class.priority),
            deadline: request.deadline.or(class.deadline).map(after),
            // What puts out nothing is one sequence.
            sequences: if most == 0 { 1 } else { request.sequences },
            adapter: request.adapter.map(AdapterId),
            ..Request::new(id.0, request.prompt(), most)
        };
        if let Some(cancel) = request.cancel {
            self.cancels.push(Reverse((after(cancel), id.0)));
        }
        // What the prompt is made of is in its tokens now.
        request.blocks = Vec::new();
        let predicted = self.predict(&request, output).min(most);
        let route = RouteRequest {
            id,
            tenant: TenantId(request.tenant),
            prompt_tokens: request.prompt_tokens(),
            new_tokens: predicted.saturating_mul(request.sequences),
            prefix: if self.router.wants_prefix() { self.hashes(&submitted) } else { Vec::new() },
        };
        let new_tokens = u64::from(route.new_tokens);
        let (mut routes, mut rejected) = self.router.step([RouterEvent::Request(route)], now);
        let Some(route) = routes.pop() else {
            return Err(rejected.pop().map_or(SchedulerError::NoReplica, |rejected| rejected.error));
        };
        let pending = u64::from(request.prompt_tokens()) + new_tokens;
        let cost = f64::from(request.prompt_tokens()) * self.config.batch.seconds_per_prompt_token
            + f64::from(output) * self.config.batch.seconds_per_output_token;
        self.recorder.arrived(&request);
        self.live.push_back(Some(Live {
            request,
            replica: route.replica,
            output,
            first_sequence: Progress { emitted: 0, last: now },
            others: Vec::new(),
            pending,
            begun: false,
            cost,
            first: now,
            ending: Ending::Served,
        }));
        self.replicas[route.replica as usize].pending += pending;
        let submitted = Request { predicted_new_tokens: Some(predicted), ..submitted };
        self.tell(route.replica as usize, BatchEvent::Submit(submitted), now)
    }

    /// Ends a request that nobody wants any more, unless it has ended.
    fn cancel(&mut self, id: u64, now: Time) -> Result<(), SchedulerError> {
        let live = id.checked_sub(self.gone).and_then(|at| self.live[at as usize].as_ref());
        let Some(replica) = live.map(|live| live.replica) else { return Ok(()) };
        self.tell(replica as usize, BatchEvent::Cancel(RequestId(id)), now)
    }

    /// Gives a replica an event between two of its steps' ends.
    fn tell(&mut self, number: usize, event: BatchEvent, now: Time) -> Result<(), SchedulerError> {
        let replica = &mut self.replicas[number];
        if replica.began.is_some() {
            // A plan is under way; the event is taken in, and planned after it.
            let submits = matches!(event, BatchEvent::Submit(_));
            let plan = replica.scheduler.step([event], now);
            return self.close(number, &plan, submits.then_some(0), now);
        }
        self.step(number, vec![event], now)?;
        if self.replicas[number].began.is_none() {
            // It was refused. The report is a tick later, so that it covers what was sent just now.
            self.report(number, Time::from_micros(now.as_micros() + 1));
        }
        Ok(())
    }

    /// Tells the router what a replica has to do.
    fn report(&mut self, number: usize, now: Time) {
        let replica = &mut self.replicas[number];
        replica.reported = now;
        let (tokens, computed) = (replica.pending, replica.computed);
        self.router.step([RouterEvent::Report { replica: number as u32, at: now, tokens, computed }], now);
    }

    /// What a request that will put out `output` tokens is predicted to put out when it comes.
    fn predict(&mut self, request: &TraceRequest, output: u32) -> u32 {
        let (sum, count) = self.lengths[usize::from(request.class)];
        let predicted = match self.config.prediction {
            Some(sigma) => self.random.log_normal(f64::from(output), sigma),
            None => (sum + 100.0) / (count + 1.0),
        };
        (predicted as u32).max(1)
    }

    fn hashes(&self, request: &Request) -> Vec<u64> {
        let mut hash = self.roots.root(Scope::of(request.tenant, request.cache_group, request.adapter));
        let mut hashes = Vec::with_capacity(request.prompt.len() / self.roots.block_size());
        for chunk in request.prompt.chunks_exact(self.roots.block_size()) {
            hash = block_hash(hash, chunk);
            hashes.push(hash);
        }
        hashes
    }

    /// Reports the results of a replica's step, and lets it begin the next.
    fn finish_step(&mut self, number: usize, now: Time) -> Result<(), SchedulerError> {
        let replica = &mut self.replicas[number];
        let began = replica.began.take().expect("a step that ends was under way");
        let plan = std::mem::take(&mut replica.plan);
        let mut outputs = Vec::with_capacity(plan.items.len());
        let mut tokens = Vec::with_capacity(plan.items.len());
        // The results come first, then draft tokens for the next step.
        let mut events = Vec::with_capacity(1);
        for item in &plan.items {
            let at = item.sequence.request.0.checked_sub(self.gone);
            let live = at.and_then(|at| self.live.get_mut(at as usize)).and_then(Option::as_mut);
            let Some(live) = live else {
                // It ended while it was computed.
                outputs.extend((0..item.outputs()).map(|_| Output::NONE));
                continue;
            };
            let class = &self.classes[usize::from(live.request.class)];
            let mut done = u64::from(item.tokens);
            if !std::mem::replace(&mut live.begun, true) {
                // What was cached is not to be computed.
                done += u64::from(item.start);
                let waited = began.secs_since(live.request.arrival);
                self.recorder.begun(&live.request, 1.0 + waited / live.cost, item.start);
            }
            let index = item.sequence.index;
            let first = live.emitted() == 0;
            let Progress { emitted: before, last } = *live.sequence(index);
            // No more than it has to say, whatever was drafted and might have been right.
            let left = live.output - before;
            let mut new = item.samples.min(1);
            while new > 0 && new < left && new <= item.drafts && self.random.chance(class.acceptance) {
                new += 1;
            }
            let ended = new > 0 && new == left;
            if new > 0 {
                for sequence in (index..).take(item.samples as usize) {
                    *live.sequence(sequence) = Progress { emitted: before + new, last: now };
                    tokens.extend((before..before + new).map(|at| live.request.output_of(sequence, at)));
                }
                let new = new * item.samples;
                if first {
                    live.first = now;
                    self.recorder.emitted_first(&live.request, new, now);
                } else {
                    // Of a sequence that had to wait for a running slot, the first token follows no other.
                    let last = (before > 0).then_some(last);
                    self.recorder.emitted(&live.request, new, last, now);
                }
                done += u64::from(new - 1);
            }
            let output = if ended { Output::ended(new) } else { Output::tokens(new) };
            outputs.extend((0..item.outputs()).map(|_| output));
            // No more than a step could compute.
            let most = class.speculation.min(self.config.batch.max_tokens as u32);
            let drafting = if item.samples == 0 || ended { 0 } else { most };
            for sequence in (index..).take(item.samples as usize).filter(|_| drafting > 0) {
                let tokens = (0..drafting).map(|at| live.request.output_of(sequence, before + new + at)).collect();
                let sequence = SequenceId { index: sequence, ..item.sequence };
                events.push(BatchEvent::Drafts { sequence, tokens });
            }
            let done = done.min(live.pending);
            live.pending -= done;
            replica.pending -= done;
        }
        replica.computed += plan.tokens.len() as u64;
        self.recorder.stepped(number, &plan, now.secs_since(began));
        let done = BatchEvent::Done { plan: plan.id.expect("a plan under way has a name"), outputs, tokens };
        replica.plan = plan;
        events.insert(0, done);
        self.step(number, events, now)?;
        let replica = &self.replicas[number];
        if now.secs_since(replica.reported) >= self.config.report_interval || replica.began.is_none() {
            self.report(number, now);
        }
        Ok(())
    }

    /// Gives events to a replica's scheduler and begins what it plans.
    fn step(&mut self, number: usize, events: Vec<BatchEvent>, now: Time) -> Result<(), SchedulerError> {
        let submitted = events.iter().position(|event| matches!(event, BatchEvent::Submit(_)));
        let replica = &mut self.replicas[number];
        let mut plan = std::mem::take(&mut replica.plan);
        replica.scheduler.step_into(events, now, &mut plan);
        self.close(number, &plan, submitted, now)?;
        let replica = &mut self.replicas[number];
        if plan.id.is_some() {
            let mut load = StepLoad::default();
            for item in &plan.items {
                let new = f64::from(item.rows());
                let context = f64::from(item.start) + new;
                load.tokens += new;
                load.context += context;
                load.pairs += new * (f64::from(item.start) + new / 2.0);
            }
            let seconds = self.config.cost.seconds(&load).max(1e-6);
            replica.began = Some(now);
            self.ends.push(Reverse((Time::from_secs_f64(now.as_secs_f64() + seconds), number as u32)));
        }
        replica.plan = plan;
        Ok(())
    }

    /// Takes note of what ended, and of the request that came if it was refused: `submitted` is the number of its event
    /// among the step's, and it is the latest request.
    fn close(&mut self, number: usize, plan: &Plan, submitted: Option<usize>, now: Time) -> Result<(), SchedulerError> {
        for finished in &plan.finished {
            let request = finished.sequence.request;
            let slot = &mut self.live[(request.0 - self.gone) as usize];
            let Some(live) = slot else { continue };
            live.ending = live.ending.max(match finished.reason {
                EndReason::Late => Ending::Late,
                EndReason::Cancelled => Ending::Cancelled,
                EndReason::Stopped | EndReason::Length | EndReason::Computed => Ending::Served,
                EndReason::Failed => unreachable!("no result says that anything failed"),
            });
            let scheduler = &self.replicas[number].scheduler;
            let goes_on = |index| scheduler.blocks_of(SequenceId { request, index }).is_some();
            if live.request.sequences > 1 && (0..live.request.sequences).any(goes_on) {
                continue;
            }
            let live = slot.take().expect("it was looked at");
            self.replicas[number].pending -= live.pending;
            if live.ending == Ending::Served {
                let (sum, count) = &mut self.lengths[usize::from(live.request.class)];
                *sum += f64::from(live.output);
                *count += 1.0;
            }
            self.recorder.ended(&live.request, live.ending, live.emitted(), live.first, now);
        }
        for rejected in &plan.rejected {
            if Some(rejected.event) != submitted {
                // Whatever else is told to it is of requests that are there: that is a fault of the simulator's.
                return Err(rejected.error.clone());
            }
            if let Some(live) = self.live.back_mut().and_then(Option::take) {
                self.replicas[number].pending -= live.pending;
                self.recorder.refused(&live.request);
            }
        }
        while let Some(None) = self.live.front() {
            self.live.pop_front();
            self.gone += 1;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simulate::{CostModel, Fitted};
    use crate::{BatchConfig, ModelConfig};

    /// One replica whose steps take a second, and which reports at the end of each.
    fn config() -> FleetConfig {
        let models = vec![ModelConfig { blocks: 64, block_size: 16, ..ModelConfig::default() }];
        FleetConfig {
            cost: CostModel::Fitted(Fitted { base: 1.0, per_token: 0.0, per_context: 0.0 }),
            batch: BatchConfig { models, ..BatchConfig::default() },
            prediction: Some(0.0),
            report_interval: 0.0,
            ..FleetConfig::default()
        }
    }

    fn request(number: u64, arrival: f64, prompt: u32, new_tokens: u32) -> TraceRequest {
        TraceRequest {
            arrival: Time::from_secs_f64(arrival),
            prefix_stream: 7,
            body_stream: 1000 + number,
            body: prompt,
            new_tokens,
            max_tokens: Some(new_tokens),
            ..TraceRequest::default()
        }
    }

    /// Tokens that a replica has still to compute, and what the router knows of it: when a request has come, and after each
    /// step until all is done.
    fn pending(fleet: &mut Fleet, request: TraceRequest) -> Vec<(u64, u64)> {
        let seen = |fleet: &Fleet| (fleet.replicas[0].pending, fleet.router.load(0).expect("a replica"));
        fleet.arrive(request).expect("a replica");
        let mut all = vec![seen(fleet)];
        while let Some(Reverse((now, replica))) = fleet.ends.pop() {
            fleet.finish_step(replica as usize, now).expect("a replica");
            all.push(seen(fleet));
        }
        all
    }

    #[test]
    fn what_is_pending_is_what_is_left_of_prompts_and_outputs() {
        let both = |tokens: &[u64]| tokens.iter().map(|&tokens| (tokens, tokens)).collect::<Vec<_>>();
        let mut fleet = Fleet::new(config(), &[Class::default()]).expect("a sound configuration");
        assert_eq!(pending(&mut fleet, request(0, 0.0, 32, 3)), both(&[35, 3, 2, 0]));
        assert_eq!(fleet.replicas[0].computed, 32 + 1 + 1);
        // What is found in the cache is done at once: two blocks of the second request's three.
        let shared = |number, arrival| TraceRequest { prefix: 32, ..request(number, arrival, 16, 2) };
        assert_eq!(pending(&mut fleet, shared(1, 10.0)), both(&[50, 2, 0]));
        assert_eq!(pending(&mut fleet, shared(2, 20.0)), both(&[50, 2, 0]));
        assert_eq!(fleet.replicas[0].computed, 34 + (48 + 1) + (16 + 1));
        // One that is refused leaves nothing to be done.
        assert_eq!(pending(&mut fleet, request(3, 30.0, 2000, 2)), both(&[0]));
        // Guesses that are right are done with the token before them.
        let class = Class { speculation: 3, acceptance: 1.0, ..Class::default() };
        let mut fleet = Fleet::new(config(), &[class]).expect("a sound configuration");
        assert_eq!(pending(&mut fleet, request(0, 0.0, 16, 9)), both(&[25, 9, 5, 0]));
    }

    #[test]
    fn reports_come_at_the_interval_and_when_all_is_done() {
        let known = |report_interval| {
            let config = FleetConfig { report_interval, ..config() };
            let mut fleet = Fleet::new(config, &[Class::default()]).expect("a sound configuration");
            pending(&mut fleet, request(0, 0.0, 32, 6)).into_iter().map(|(_, known)| known).collect::<Vec<u64>>()
        };
        assert_eq!(known(1.0), [38, 6, 5, 4, 3, 2, 0]);
        assert_eq!(known(3.0), [38, 38, 38, 4, 4, 4, 0]);
        assert_eq!(known(4.0), [38, 38, 38, 38, 3, 3, 0]);
        assert_eq!(known(100.0), [38, 38, 38, 38, 38, 38, 0]);
    }

    #[test]
    fn without_predictions_a_class_is_told_the_mean_of_its_outputs_and_a_hundred() {
        let config = FleetConfig { prediction: None, ..config() };
        let classes = [Class { name: "a".into(), ..Class::default() }, Class { name: "b".into(), ..Class::default() }];
        let mut fleet = Fleet::new(config, &classes).expect("a sound configuration");
        let mut told = Vec::new();
        for (number, new_tokens) in [(0, 200), (1, 1), (2, 1000), (3, 4)] {
            told.push(fleet.predict(&request(0, 0.0, 16, 1), 7777));
            // Only what has ended counts, and not what a scheduler refused.
            pending(&mut fleet, request(number, 10_000.0 * number as f64, 16, new_tokens));
            pending(&mut fleet, request(9, 10_000.0 * number as f64 + 5000.0, 2000, 5));
        }
        assert_eq!(told, [100, 300 / 2, 301 / 3, 1301 / 4]);
        assert_eq!(fleet.predict(&TraceRequest { class: 1, ..request(0, 0.0, 16, 5) }, 5), 100);
    }

    #[test]
    fn prompts_that_begin_alike_have_the_hashes_of_their_full_blocks_in_common() {
        let fleet = Fleet::new(config(), &[Class { tenants: 2, ..Class::default() }]).expect("a sound configuration");
        let hashes = |number, tenant| {
            let request = TraceRequest { prefix: 40, ..request(number, 0.0, 30, 1) };
            fleet.hashes(&Request { tenant: TenantId(tenant), ..Request::new(0, request.prompt(), 1) })
        };
        let (one, two, other) = (hashes(0, 0), hashes(1, 0), hashes(0, 1));
        // Four of 16 tokens and a rest of six; the third block is in part the requests' own.
        assert_eq!((one.len(), two.len(), other.len()), (4, 4, 4));
        assert_eq!(one[..2], two[..2]);
        assert!((2..4).all(|at| one[at] != two[at]) && (0..4).all(|at| one[at] != other[at]));
        assert_eq!(one, hashes(0, 0));
    }
}
