//! Replicas behind a router, in made-up time: arrivals and finished steps, one after another.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::live::{Live, LiveRequests, ReplicaClient};
use super::{Class, FleetConfig, Report, StepLoad, TraceRequest};
use crate::kv::{KvMemory, Scope, block_hash};
use crate::{
    AdapterId, BatchEvent, BatchScheduler, Plan, Request, RequestId, RouteRequest, Router, RouterConfig, RouterEvent,
    SchedulerError, ServingLoop, TenantId, Time, policy, routing,
};

/// A replica in made-up time: the loop that an engine runs, whose plans are carried out when their time has passed.
#[derive(Debug)]
struct Replica {
    serving: ServingLoop,
    /// The plan under way, and when it began; none if there is none.
    under_way: Option<(Time, Plan)>,
    /// Tokens still to be computed, as the replica would report them.
    pending: u64,
    /// Tokens computed so far.
    computed: u64,
    reported: Time,
}

/// Replicas behind a router.
#[derive(Debug)]
pub struct Fleet {
    config: FleetConfig,
    replicas: Vec<Replica>,
    router: Router,
    requests: LiveRequests,
    /// Steps by when they end.
    ends: BinaryHeap<Reverse<(Time, u32)>>,
    /// Requests by when they are cancelled.
    cancels: BinaryHeap<Reverse<(Time, u64)>>,
    /// Which tenants the schedulers know.
    tenants: Vec<bool>,
    /// The root of each tenant's prefixes is asked of this one.
    roots: KvMemory,
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
            serving: ServingLoop::new(scheduler.clone()),
            under_way: None,
            pending: 0,
            computed: 0,
            reported: Time::ZERO,
        };
        let mut fleet = Self {
            replicas: (0..config.replicas).map(|_| replica()).collect(),
            router,
            requests: LiveRequests::new(&config, classes),
            ends: BinaryHeap::new(),
            cancels: BinaryHeap::new(),
            tenants: Vec::new(),
            roots: KvMemory::new(1, block_size, config.batch.hash_seed)?,
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
            replica.serving.declare_tenant(TenantId(tenant), weight)?;
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
                    let come = self.requests.come();
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
        let schedulers: Vec<&BatchScheduler> =
            self.replicas.iter().map(|replica| replica.serving.scheduler()).collect();
        for scheduler in &schedulers {
            scheduler.audit();
        }
        Ok(self.requests.recorder.report(&schedulers))
    }

    fn arrive(&mut self, mut request: TraceRequest) -> Result<(), SchedulerError> {
        let now = request.arrival;
        let id = RequestId(self.requests.come());
        self.declare(request.tenant)?;
        let class = self.requests.class(&request);
        // One that wants no output asks for none; any other is cut at what it asks for at most.
        let most = if request.new_tokens == 0 { 0 } else { request.max_tokens.unwrap_or(class.limit()) };
        let output = request.new_tokens.min(most);
        let after = |seconds: f64| Time::from_secs_f64(now.as_secs_f64() + seconds);
        let submitted = Request {
            tenant: TenantId(request.tenant),
            priority: request.priority.unwrap_or(class.priority),
            arrival: Some(now),
            deadline: request.deadline.or(class.deadline).map(after),
            // What puts out nothing is one sequence.
            sequences: if most == 0 { 1 } else { request.sequences },
            adapter: request.adapter.map(AdapterId),
            ..Request::new(id.0, request.prompt(), most)
        };
        if let Some(cancel) = request.cancel {
            self.cancels.push(Reverse((after(cancel), id.0)));
        }
        // The prompt's tokens are made; its recipe is not needed any more.
        request.blocks = Vec::new();
        let predicted = self.requests.predict(&request, output).min(most);
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
        self.requests.add(Live::new(request, route.replica, output, pending, cost));
        self.replicas[route.replica as usize].pending += pending;
        let submitted = Request { predicted_new_tokens: Some(predicted), ..submitted };
        self.tell(route.replica as usize, BatchEvent::Submit(submitted), now)
    }

    /// Ends a request that nobody wants any more, unless it has ended.
    fn cancel(&mut self, id: u64, now: Time) -> Result<(), SchedulerError> {
        let id = RequestId(id);
        let Some(replica) = self.requests.cancel(id, now) else { return Ok(()) };
        self.tell(replica as usize, BatchEvent::Cancel(id), now)
    }

    /// Gives a replica an event. It begins a step at once, or takes the event in when the step under way ends.
    fn tell(&mut self, number: usize, event: BatchEvent, now: Time) -> Result<(), SchedulerError> {
        self.replicas[number].serving.push(event);
        if self.replicas[number].under_way.is_some() {
            return Ok(());
        }
        self.begin_step(number, now)?;
        if self.replicas[number].under_way.is_none() {
            // It was refused.
            self.report(number, now);
        }
        Ok(())
    }

    /// Tells the router what a replica has to do.
    fn report(&mut self, number: usize, now: Time) {
        let replica = &mut self.replicas[number];
        // An idle replica sends no further report, so this one must cover requests sent and refused at this very time: it
        // is dated one tick later.
        let now = if replica.under_way.is_none() { Time::from_micros(now.as_micros() + 1) } else { now };
        replica.reported = now;
        let (tokens, computed) = (replica.pending, replica.computed);
        self.router.step([RouterEvent::Report { replica: number as u32, at: now, tokens, computed }], now);
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

    /// Gives a replica the results of its step, and lets it begin the next.
    fn finish_step(&mut self, number: usize, now: Time) -> Result<(), SchedulerError> {
        let replica = &mut self.replicas[number];
        let (began, plan) = replica.under_way.take().expect("a step that ends was under way");
        let (results, done) = self.requests.compute(&plan, began, now);
        replica.pending -= done;
        replica.computed += plan.tokens.len() as u64;
        self.requests.recorder.stepped(number, &plan, now.secs_since(began));
        replica.serving.finish(plan, results);
        self.begin_step(number, now)?;
        let replica = &self.replicas[number];
        if now.secs_since(replica.reported) >= self.config.report_interval || replica.under_way.is_none() {
            self.report(number, now);
        }
        Ok(())
    }

    /// Lets a replica's scheduler decide, and begins what it plans.
    fn begin_step(&mut self, number: usize, now: Time) -> Result<(), SchedulerError> {
        let replica = &mut self.replicas[number];
        let mut client =
            ReplicaClient { requests: &mut self.requests, pending: &mut replica.pending, now, fault: None };
        let plan = replica.serving.begin(now, &mut client);
        if let Some(fault) = client.fault {
            return Err(fault);
        }
        let Some(plan) = plan else { return Ok(()) };
        let mut load = StepLoad::default();
        for item in &plan.items {
            let new = f64::from(item.rows());
            let context = f64::from(item.start) + new;
            load.tokens += new;
            load.context += context;
            load.pairs += new * (f64::from(item.start) + new / 2.0);
        }
        let seconds = self.config.cost.seconds(&load).max(1e-6);
        replica.under_way = Some((now, plan));
        self.ends.push(Reverse((Time::from_secs_f64(now.as_secs_f64() + seconds), number as u32)));
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
    fn what_comes_while_a_step_runs_waits_for_its_end() {
        let mut fleet = Fleet::new(config(), &[Class::default()]).expect("a sound configuration");
        let accounts = |fleet: &Fleet| {
            let replica = &fleet.replicas[0];
            (replica.pending, fleet.router.load(0).expect("a replica"), replica.serving.scheduler().len())
        };
        fleet.arrive(request(0, 0.0, 32, 3)).expect("a replica");
        // The first is too long and refused, the second is cancelled at once, and the third is admitted.
        for (number, prompt) in [(1, 2000), (2, 16), (3, 20)] {
            fleet.arrive(request(number, 0.25, prompt, 2)).expect("a replica");
        }
        fleet.cancel(2, Time::from_secs_f64(0.5)).expect("it is there");
        assert_eq!(accounts(&fleet), (35 + 2002 + 18 + 22, 35 + 2002 + 18 + 22, 1));
        let Reverse((now, _)) = fleet.ends.pop().expect("a step runs");
        fleet.finish_step(0, now).expect("a replica");
        assert_eq!(accounts(&fleet), (3 + 22, 3 + 22, 2));
        assert_eq!((fleet.requests.come(), fleet.ends.len()), (4, 1));
        // One that comes just when the last step ends, and is refused, is no load of an idle replica.
        while let Some(Reverse((now, _))) = fleet.ends.pop() {
            if accounts(&fleet).0 == 2 + 2 {
                fleet.arrive(request(4, now.as_secs_f64(), 2000, 2)).expect("a replica");
            }
            fleet.finish_step(0, now).expect("a replica");
        }
        assert_eq!((fleet.requests.come(), accounts(&fleet)), (5, (0, 0, 0)));
    }

    #[test]
    fn without_predictions_a_class_is_told_the_mean_of_its_outputs_and_a_hundred() {
        let config = FleetConfig { prediction: None, ..config() };
        let classes = [Class { name: "a".into(), ..Class::default() }, Class { name: "b".into(), ..Class::default() }];
        let mut fleet = Fleet::new(config, &classes).expect("a sound configuration");
        let mut told = Vec::new();
        for (number, new_tokens) in [(0, 200), (1, 1), (2, 1000), (3, 4)] {
            told.push(fleet.requests.predict(&request(0, 0.0, 16, 1), 7777));
            // Only what has ended counts, and not what a scheduler refused.
            pending(&mut fleet, request(number, 10_000.0 * number as f64, 16, new_tokens));
            pending(&mut fleet, request(9, 10_000.0 * number as f64 + 5000.0, 2000, 5));
        }
        assert_eq!(told, [100, 300 / 2, 301 / 3, 1301 / 4]);
        assert_eq!(fleet.requests.predict(&TraceRequest { class: 1, ..request(0, 0.0, 16, 5) }, 5), 100);
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
