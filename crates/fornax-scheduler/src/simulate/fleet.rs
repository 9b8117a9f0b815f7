//! Replicas behind a router, in made-up time: arrivals and finished steps, one after another.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

use super::report::{Recorder, Report};
use super::{Class, CostModel, StepLoad, TraceRequest};
use crate::kv::{KvMemory, Scope, block_hash};
use crate::{
    BatchConfig, BatchEvent, BatchScheduler, Output, Plan, Random, Request, RequestId, RouteRequest, Router,
    RouterConfig, RouterEvent, SchedulerError, TenantId, Time, policy, routing,
};

/// What is simulated.
#[derive(Clone, Debug)]
pub struct FleetConfig {
    /// What reports call it.
    pub name: String,
    /// How many replicas, all alike.
    pub replicas: usize,
    /// The strategy of the router, by name.
    pub routing: String,
    /// The policy of each replica, by name and options.
    pub policy: String,
    /// The scheduler of each replica. Its estimates of time are set from `cost`.
    pub batch: BatchConfig,
    /// How long steps take.
    pub cost: CostModel,
    /// Weights of tenants that have another than 1.
    pub weights: Vec<(TenantId, f64)>,
    /// How wrong predictions of output lengths are: the standard deviation of their logarithm. 0 is clairvoyant; none
    /// predicts each class's mean so far.
    pub prediction: Option<f64>,
    /// Seconds between a replica's reports to the router.
    pub report_interval: f64,
    /// For chance in predictions, speculation and routing.
    pub seed: u64,
    /// Whether reports measure others by it.
    pub oracle: bool,
}

impl Default for FleetConfig {
    fn default() -> Self {
        Self {
            name: "fcfs".into(),
            replicas: 1,
            routing: "least-loaded".into(),
            policy: "fcfs".into(),
            batch: BatchConfig::default(),
            cost: CostModel::Roofline(super::Roofline::GPU_8B),
            weights: Vec::new(),
            prediction: Some(0.5),
            report_interval: 0.1,
            seed: 1,
            oracle: false,
        }
    }
}

/// The most blocks that all replicas have together, and the most pairs of a replica and a tenant: what memory holds.
const MOST_BLOCKS: usize = 100_000_000;
const MOST_TENANTS: usize = 10_000_000;

impl FleetConfig {
    /// Whether it makes sense for requests of `classes`.
    ///
    /// # Errors
    /// [`SchedulerError::InvalidConfig`] naming the field, and whatever the policy, the routing, the scheduler, the memory or
    /// the cost model refuses.
    pub fn check(&self, classes: &[Class]) -> Result<(), SchedulerError> {
        policy(&self.policy)?;
        routing(&self.routing, self.seed)?;
        self.cost.check()?;
        self.batch.check()?;
        if !(1..=100_000).contains(&self.replicas) {
            return Err(SchedulerError::config("replicas", self.replicas, "give 1 to 100000"));
        }
        if !(0.0..=1e9).contains(&self.report_interval) {
            return Err(SchedulerError::config("report-interval", self.report_interval, "give seconds, from 0 to 1e9"));
        }
        if let Some(sigma) = self.prediction.filter(|sigma| !(0.0..=10.0).contains(sigma)) {
            return Err(SchedulerError::config(
                "prediction",
                sigma,
                "give the standard deviation of a logarithm, from 0 to 10",
            ));
        }
        let mut blocks = 0usize;
        for model in &self.batch.models {
            // The memory checks the size of blocks; one of each kind is enough for that.
            KvMemory::new(1, model.block_size, 0)?;
            blocks = blocks.saturating_add(model.blocks).saturating_add(model.host_blocks);
        }
        if blocks.saturating_mul(self.replicas) > MOST_BLOCKS {
            let found = blocks.saturating_mul(self.replicas);
            return Err(SchedulerError::config("blocks", found, "give all replicas together at most 100 million"));
        }
        let tenants: usize = classes.iter().map(|class| class.tenants as usize).sum();
        if tenants.saturating_mul(self.replicas) > MOST_TENANTS {
            let found = tenants.saturating_mul(self.replicas);
            return Err(SchedulerError::config("class.tenants", found, "times the replicas, give at most 10 million"));
        }
        for (at, &(tenant, weight)) in self.weights.iter().enumerate() {
            let of = |class: &Class| (class.tenant..class.tenant.saturating_add(class.tenants)).contains(&tenant.0);
            if !classes.iter().any(of) {
                return Err(SchedulerError::config(
                    "weights",
                    tenant.0,
                    "no class has this tenant; weigh those that there are",
                ));
            }
            if self.weights[..at].iter().any(|(other, _)| *other == tenant) {
                return Err(SchedulerError::config("weights", tenant.0, "the tenant is weighed twice; do so once"));
            }
            if !(1e-9..=1e9).contains(&weight) {
                return Err(SchedulerError::config("weights", weight, "give a weight of 1e-9 to 1e9"));
            }
        }
        Ok(())
    }
}

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
#[derive(Clone, Copy, Debug)]
struct Live {
    request: TraceRequest,
    emitted: u32,
    /// Tokens of it that count as pending.
    pending: u64,
    /// Whether any of it was computed.
    begun: bool,
    /// What its computing time is reckoned at, in seconds.
    cost: f64,
    /// When its first token came.
    first: Time,
    last: Time,
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
    /// The root of each tenant's prefixes is asked of this one.
    roots: KvMemory,
    /// Of each class: the sum and number of its outputs so far.
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
        let mut tenants: Vec<u32> =
            classes.iter().flat_map(|class| class.tenant..class.tenant + class.tenants).collect();
        tenants.sort_unstable();
        tenants.dedup();
        let mut scheduler = BatchScheduler::new(config.batch.clone(), policy(&config.policy)?)?;
        for &tenant in &tenants {
            let weight = config.weights.iter().find(|(other, _)| other.0 == tenant).map_or(1.0, |(_, weight)| *weight);
            scheduler.declare_tenant(TenantId(tenant), weight)?;
        }
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
        Ok(Self {
            replicas: (0..config.replicas).map(|_| replica()).collect(),
            router,
            random: Random::new(config.seed).fork(7),
            live: VecDeque::new(),
            gone: 0,
            ends: BinaryHeap::new(),
            roots: KvMemory::new(1, block_size, config.batch.hash_seed)?,
            lengths: vec![(0.0, 0.0); classes.len()],
            recorder: Recorder::new(&config, classes),
            classes: classes.to_vec(),
            config,
        })
    }

    /// Serves `requests`, which come in order of time, to the last token.
    ///
    /// # Errors
    /// What the router refuses; a request that a scheduler refuses counts as such in the report.
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

    fn arrive(&mut self, request: TraceRequest) -> Result<(), SchedulerError> {
        let now = request.arrival;
        let id = RequestId(self.gone + self.live.len() as u64);
        let tokens = request.prompt();
        let predicted = self.predict(&request);
        let route = RouteRequest {
            id,
            tenant: TenantId(request.tenant),
            prompt_tokens: request.prompt_tokens(),
            new_tokens: predicted,
            prefix: if self.router.wants_prefix() { self.hashes(&request, &tokens) } else { Vec::new() },
        };
        let (mut routes, mut rejected) = self.router.step([RouterEvent::Request(route)], now);
        let Some(route) = routes.pop() else {
            return Err(rejected.pop().map_or(SchedulerError::NoReplica, |rejected| rejected.error));
        };
        let pending = u64::from(request.prompt_tokens()) + u64::from(predicted);
        let cost = f64::from(request.prompt_tokens()) * self.config.batch.seconds_per_prompt_token
            + f64::from(request.new_tokens) * self.config.batch.seconds_per_output_token;
        self.live.push_back(Some(Live { request, emitted: 0, pending, begun: false, cost, first: now, last: now }));
        let class = &self.classes[usize::from(request.class)];
        let class = Request {
            tenant: TenantId(request.tenant),
            priority: class.priority,
            deadline: class.deadline.map(|seconds| Time::from_secs_f64(now.as_secs_f64() + seconds)),
            predicted_new_tokens: Some(predicted),
            speculation: class.speculation,
            ..Request::new(id.0, tokens, request.new_tokens)
        };
        self.recorder.arrived(&request);
        let replica = &mut self.replicas[route.replica as usize];
        replica.pending += pending;
        if replica.began.is_some() {
            // A plan is under way; the request is taken in and planned after it.
            let plan = replica.scheduler.step([BatchEvent::Submit(class)], now);
            self.close(route.replica as usize, &plan, now);
        } else {
            self.step(route.replica as usize, vec![BatchEvent::Submit(class)], now);
            if self.replicas[route.replica as usize].began.is_none() {
                // It was refused. The report is a tick later, so that it covers what was sent just now.
                self.report(route.replica as usize, Time::from_micros(now.as_micros() + 1));
            }
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

    /// What a request will put out, as far as that can be known when it comes.
    fn predict(&mut self, request: &TraceRequest) -> u32 {
        let (sum, count) = &mut self.lengths[usize::from(request.class)];
        let predicted = match self.config.prediction {
            Some(sigma) => self.random.log_normal(f64::from(request.new_tokens), sigma),
            None => (*sum + 100.0) / (*count + 1.0),
        };
        *sum += f64::from(request.new_tokens);
        *count += 1.0;
        (predicted as u32).max(1)
    }

    fn hashes(&self, request: &TraceRequest, tokens: &[u32]) -> Vec<u64> {
        let mut hash = self.roots.root(Scope::of(TenantId(request.tenant), None, None));
        let mut hashes = Vec::with_capacity(tokens.len() / self.roots.block_size());
        for chunk in tokens.chunks_exact(self.roots.block_size()) {
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
        for item in &plan.items {
            let live =
                self.live[(item.sequence.request.0 - self.gone) as usize].as_mut().expect("what is planned is live");
            let class = &self.classes[usize::from(live.request.class)];
            let mut done = u64::from(item.tokens);
            if !std::mem::replace(&mut live.begun, true) {
                // What was cached is not to be computed.
                done += u64::from(item.start);
                let waited = began.secs_since(live.request.arrival);
                self.recorder.begun(&live.request, 1.0 + waited / live.cost);
            }
            let mut new = item.samples;
            if item.samples > 0 {
                while new <= item.speculative && self.random.chance(class.acceptance) {
                    new += 1;
                }
                tokens.extend((0..new).map(|at| live.request.output(live.emitted + at)));
                self.recorder.emitted(&live.request, live.emitted, new, live.last, now);
                if live.emitted == 0 {
                    live.first = now;
                }
                live.emitted += new;
                live.last = now;
                done += u64::from(new.saturating_sub(1));
            }
            outputs.push(Output { tokens: new, finished: live.emitted == live.request.new_tokens });
            let done = done.min(live.pending);
            live.pending -= done;
            replica.pending -= done;
        }
        replica.computed += plan.tokens() as u64;
        self.recorder.stepped(number, &plan, now.secs_since(began));
        let done = BatchEvent::Done { plan: plan.id.expect("a plan under way has a name"), outputs, tokens };
        replica.plan = plan;
        self.step(number, vec![done], now);
        let replica = &self.replicas[number];
        if now.secs_since(replica.reported) >= self.config.report_interval || replica.began.is_none() {
            self.report(number, now);
        }
        Ok(())
    }

    /// Gives events to a replica's scheduler and begins what it plans.
    fn step(&mut self, number: usize, events: Vec<BatchEvent>, now: Time) {
        let replica = &mut self.replicas[number];
        let mut plan = std::mem::take(&mut replica.plan);
        replica.scheduler.step_into(events, now, &mut plan);
        self.close(number, &plan, now);
        let replica = &mut self.replicas[number];
        if plan.id.is_some() {
            let mut load = StepLoad::default();
            for item in &plan.items {
                let new = f64::from(item.tokens + item.speculative);
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
    }

    /// Takes note of what ended or was refused.
    fn close(&mut self, number: usize, plan: &Plan, now: Time) {
        for finished in &plan.finished {
            if let Some(live) = self.live[(finished.sequence.request.0 - self.gone) as usize].take() {
                self.replicas[number].pending -= live.pending;
                self.recorder.finished(&live.request, live.emitted, live.first, now);
            }
        }
        for _ in &plan.rejected {
            // Each step submits one request at most, the latest.
            if let Some(live) = self.live.back_mut().and_then(Option::take) {
                self.replicas[number].pending -= live.pending;
                self.recorder.refused(&live.request);
            }
        }
        while let Some(None) = self.live.front() {
            self.live.pop_front();
            self.gone += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ModelConfig;
    use crate::simulate::Fitted;

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
            class: 0,
            tenant: 0,
            prefix_stream: 7,
            prefix: 0,
            body_stream: 1000 + number,
            body: prompt,
            new_tokens,
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
        let told = [200, 0, 1000, 4].map(|new_tokens| fleet.predict(&request(0, 0.0, 16, new_tokens)));
        assert_eq!(told, [100, 300 / 2, 300 / 3, 1300 / 4]);
        assert_eq!(fleet.predict(&TraceRequest { class: 1, ..request(0, 0.0, 16, 5) }), 100);
    }

    #[test]
    fn prompts_that_begin_alike_have_the_hashes_of_their_full_blocks_in_common() {
        let fleet = Fleet::new(config(), &[Class { tenants: 2, ..Class::default() }]).expect("a sound configuration");
        let hashes = |number, tenant| {
            let request = TraceRequest { prefix: 40, tenant, ..request(number, 0.0, 30, 1) };
            fleet.hashes(&request, &request.prompt())
        };
        let (one, two, other) = (hashes(0, 0), hashes(1, 0), hashes(0, 1));
        // Four of 16 tokens and a rest of six; the third block is in part the requests' own.
        assert_eq!((one.len(), two.len(), other.len()), (4, 4, 4));
        assert_eq!(one[..2], two[..2]);
        assert!((2..4).all(|at| one[at] != two[at]) && (0..4).all(|at| one[at] != other[at]));
        assert_eq!(one, hashes(0, 0));
    }
}
