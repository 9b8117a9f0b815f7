//! Which replica serves a request: by load, by the prefixes it has, or by tenant.
//!
//! The router knows replicas by their reports, which are always a little old. What it sent since a report counts as
//! load until a later report includes it. A replica whose report is overdue for longer than `max_staleness` gets no
//! requests as long as another replica is fresh. An idle replica owes no report: after it reported no load, its silence
//! counts from the next request that is sent to it. The router knows prefixes from the requests that it sent; if a
//! replica has evicted one since, that costs a miss and nothing else.
//!
//! It decides, and carries nothing: connections, retries and health checks are the caller's.

mod strategies;

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

pub use strategies::{
    LeastLoaded, PrefixAffine, ROUTING, RoundRobin, RoutingEntry, RoutingStrategy, TenantAffine, TwoChoices, routing,
};

use crate::tasks::Rejected;
use crate::{RequestId, SchedulerError, TenantId, Time};

/// A request as the router sees it.
#[derive(Clone, Debug, PartialEq)]
pub struct RouteRequest {
    /// Its name.
    pub id: RequestId,
    /// Whose it is.
    pub tenant: TenantId,
    /// Tokens of its prompt.
    pub prompt_tokens: u32,
    /// Tokens that it will put out, by estimate.
    pub new_tokens: u32,
    /// The hashes of its prompt's full blocks, each over all that comes before it ([`block_hash`](crate::kv::block_hash)).
    pub prefix: Vec<u64>,
}

/// What happened since the last step.
#[derive(Clone, Debug, PartialEq)]
pub enum RouterEvent {
    /// A request is to be sent somewhere.
    Request(RouteRequest),
    /// The work of a replica at a time. A replica reports while it has work, and once more when it has none left; from
    /// then until the next request it may be silent.
    Report {
        /// The replica.
        replica: u32,
        /// When that was, by the router's clock.
        at: Time,
        /// Tokens that it still has to compute, of prompts and by estimate of outputs.
        tokens: u64,
        /// Tokens that it has computed in all since it was there: a counter, which only grows.
        computed: u64,
    },
    /// A replica gets nothing more: it is being drained, or is gone.
    Remove(u32),
    /// A replica is there (again), with nothing to do and nothing cached.
    Add(u32),
}

/// Where a request goes, and why.
#[derive(Clone, Debug, PartialEq)]
pub struct Route {
    /// The request.
    pub request: RequestId,
    /// The replica.
    pub replica: u32,
    /// Tokens of its prompt that the replica was sent before.
    pub matched: u32,
    /// The replica's load in tokens, as known.
    pub load: u64,
}

/// What can be chosen about routing.
#[derive(Clone, Debug, PartialEq)]
pub struct RouterConfig {
    /// How many replicas there are, numbered from zero.
    pub replicas: usize,
    /// Tokens in a block, as the replicas have it.
    pub block_size: usize,
    /// How old the latest report of a replica with work may be.
    pub max_staleness: Duration,
    /// How many blocks are remembered for each replica, the latest used: as many as it can keep.
    pub prefixes: usize,
}

impl Default for RouterConfig {
    fn default() -> Self {
        Self { replicas: 1, block_size: 16, max_staleness: Duration::from_secs(10), prefixes: 1024 }
    }
}

/// What is known of a replica.
#[derive(Clone, Debug)]
struct Replica {
    present: bool,
    reported: u64,
    computed: u64,
    at: Time,
    /// What was sent since: when, and how many tokens.
    sent: VecDeque<(Time, u64)>,
    sent_tokens: u64,
    /// The blocks that it was sent, with when they were used; those used again since stand there again.
    blocks: VecDeque<(u64, u64)>,
    /// How many blocks it is thought to have.
    kept: usize,
}

impl Replica {
    /// One that has nothing to do, from `now` on.
    fn idle(now: Time) -> Self {
        Self {
            present: true,
            reported: 0,
            computed: 0,
            at: now,
            sent: VecDeque::new(),
            sent_tokens: 0,
            blocks: VecDeque::new(),
            kept: 0,
        }
    }

    /// Since when it owes a report: since its last report if that told of work, or else since the first request that
    /// was sent after that report; none while it is idle.
    fn silent_since(&self) -> Option<Time> {
        if self.reported > 0 { Some(self.at) } else { self.sent.front().map(|&(when, _)| when) }
    }
}

/// What a strategy sees.
#[derive(Clone, Debug, Default)]
pub struct View {
    /// The replicas that may be chosen, in order; never empty.
    pub eligible: Vec<u32>,
    /// Load in tokens by replica, eligible or not.
    pub loads: Vec<u64>,
    /// Each replica's work in tokens: the tokens that it computed by its reports, halved for every half minute since,
    /// and its load.
    pub work: Vec<f64>,
    /// Replicas that were sent the beginning of the prompt before, with how many tokens of it.
    pub matches: Vec<(u32, u32)>,
}

/// Spreads requests over replicas.
///
/// ```
/// use fornax_scheduler::{RouteRequest, Router, RouterConfig, RouterEvent, RequestId, TenantId, Time, routing};
///
/// let mut router = Router::new(RouterConfig { replicas: 3, ..Default::default() }, routing("prefix", 1)?)?;
/// let request = |id| RouteRequest {
///     id: RequestId(id), tenant: TenantId::DEFAULT, prompt_tokens: 640, new_tokens: 100, prefix: vec![7; 40],
/// };
/// let first = router.step([RouterEvent::Request(request(1))], Time::ZERO).0.remove(0);
/// let later = Time::from_secs_f64(2.0);
/// let report = RouterEvent::Report { replica: first.replica, at: later, tokens: 50, computed: 690 };
/// let second = router.step([report, RouterEvent::Request(request(2))], later).0.remove(0);
/// assert_eq!((second.replica, second.matched), (first.replica, 640)); // it finds the first's prefix there
/// # Ok::<(), fornax_scheduler::SchedulerError>(())
/// ```
#[derive(Clone, Debug)]
pub struct Router {
    config: RouterConfig,
    strategy: Box<dyn RoutingStrategy>,
    replicas: Vec<Replica>,
    now: Time,
    /// The replicas that were sent a prefix, and when last. Never iterated, so that its order does not matter.
    holders: HashMap<u64, Vec<(u32, u64)>>,
    /// Counts uses of blocks.
    uses: u64,
    /// What each replica computed by its reports, the older the less.
    done: Vec<f64>,
    /// When that was brought up to date the last time.
    faded: Time,
    view: View,
}

/// Seconds until what was computed counts half.
const HALF_LIFE: f64 = 30.0;
/// Seconds after which what was computed is brought up to date: a part of the half-life so small that it makes no difference.
const FADING: f64 = 0.1;

impl Router {
    /// A router of idle replicas.
    ///
    /// # Errors
    /// [`SchedulerError::InvalidConfig`] without replicas, or for blocks of no size.
    pub fn new(config: RouterConfig, strategy: Box<dyn RoutingStrategy>) -> Result<Self, SchedulerError> {
        if config.replicas == 0 || config.replicas > u32::MAX as usize {
            return Err(SchedulerError::config("replicas", config.replicas, "give at least one replica"));
        }
        if config.block_size == 0 {
            return Err(SchedulerError::config("block_size", 0, "give the replicas' block size"));
        }
        let replicas = vec![Replica::idle(Time::ZERO); config.replicas];
        Ok(Self {
            config,
            strategy,
            done: vec![0.0; replicas.len()],
            faded: Time::ZERO,
            replicas,
            now: Time::ZERO,
            holders: HashMap::new(),
            uses: 0,
            view: View::default(),
        })
    }

    /// Takes in what happened and says where requests go, in order, and which events were refused. Time does not go back.
    pub fn step(&mut self, events: impl IntoIterator<Item = RouterEvent>, now: Time) -> (Vec<Route>, Vec<Rejected>) {
        self.now.advance(now);
        let (mut routes, mut rejected) = (Vec::new(), Vec::new());
        for (event, what) in events.into_iter().enumerate() {
            let outcome = match what {
                RouterEvent::Request(request) => self.route(&request).map(|route| routes.push(route)),
                RouterEvent::Report { replica, at, tokens, computed } => self.report(replica, at, tokens, computed),
                RouterEvent::Remove(replica) => self.replica(replica).map(|replica| replica.present = false),
                RouterEvent::Add(replica) => self.add(replica),
            };
            rejected.extend(outcome.err().map(|error| Rejected { event, error }));
        }
        (routes, rejected)
    }

    /// Whether the strategy looks at the hashes of a request's prefix; otherwise they need not be computed.
    pub fn wants_prefix(&self) -> bool {
        self.strategy.wants_prefix()
    }

    /// A replica's load in tokens as the router knows it.
    pub fn load(&self, replica: u32) -> Option<u64> {
        self.replicas.get(replica as usize).map(|replica| replica.reported.saturating_add(replica.sent_tokens))
    }

    fn replica(&mut self, number: u32) -> Result<&mut Replica, SchedulerError> {
        let replicas = self.replicas.len();
        self.replicas.get_mut(number as usize).ok_or(SchedulerError::UnknownReplica { found: number, replicas })
    }

    fn add(&mut self, number: u32) -> Result<(), SchedulerError> {
        let now = self.now;
        self.replica(number)?;
        // Neither the others' past nor its own is its to make up for.
        self.done[number as usize] = self.done.iter().sum::<f64>() / self.done.len() as f64;
        *self.replica(number)? = Replica::idle(now);
        // What it had is gone; that it is still listed would draw requests that find nothing.
        self.holders.values_mut().for_each(|holders| holders.retain(|&(holder, _)| holder != number));
        Ok(())
    }

    fn report(&mut self, number: u32, at: Time, tokens: u64, computed: u64) -> Result<(), SchedulerError> {
        let now = self.now;
        self.fade();
        let replica = self.replica(number)?;
        // A report from before the last one says nothing, and none comes from later than now.
        let at = at.min(now);
        if at < replica.at {
            return Ok(());
        }
        replica.at = at;
        replica.reported = tokens;
        // A counter that went back means that the replica was restarted.
        let more = if computed < replica.computed { computed } else { computed - replica.computed };
        replica.computed = computed;
        while let Some(&(when, sent)) = replica.sent.front()
            && when < at
        {
            replica.sent.pop_front();
            replica.sent_tokens -= sent;
        }
        self.done[number as usize] += more as f64;
        Ok(())
    }

    /// Lets what was computed count less as it becomes older.
    fn fade(&mut self) {
        let age = self.now.secs_since(self.faded);
        if age >= FADING {
            self.faded = self.now;
            let factor = 0.5f64.powf(age / HALF_LIFE);
            self.done.iter_mut().for_each(|tokens| *tokens *= factor);
        }
    }

    fn route(&mut self, request: &RouteRequest) -> Result<Route, SchedulerError> {
        self.look()?;
        self.find_matches(request);
        let replica = self.strategy.choose(request, &self.view);
        let load = self.view.loads[replica as usize];
        let matched = self.view.matches.iter().find(|(other, _)| *other == replica).map_or(0, |(_, tokens)| *tokens);
        let tokens = u64::from(request.prompt_tokens - matched) + u64::from(request.new_tokens);
        let chosen = &mut self.replicas[replica as usize];
        chosen.sent.push_back((self.now, tokens));
        chosen.sent_tokens += tokens;
        self.remember(request, replica);
        Ok(Route { request: request.id, replica, matched, load })
    }

    /// Brings loads up to date and finds the eligible replicas: the present and fresh ones, or if none is fresh, all
    /// present.
    fn look(&mut self) -> Result<(), SchedulerError> {
        self.fade();
        let view = &mut self.view;
        view.eligible.clear();
        view.loads.clear();
        view.work.clear();
        let mut fresh = false;
        for (number, replica) in self.replicas.iter().enumerate() {
            let load = replica.reported.saturating_add(replica.sent_tokens);
            view.loads.push(load);
            view.work.push(self.done[number] + load as f64);
            if !replica.present {
                continue;
            }
            let now = self.now;
            let recent = replica.silent_since().is_none_or(|since| now.since(since) <= self.config.max_staleness);
            if recent && !fresh {
                view.eligible.clear();
                fresh = true;
            }
            if recent == fresh {
                view.eligible.push(number as u32);
            }
        }
        if view.eligible.is_empty() { Err(SchedulerError::NoReplica) } else { Ok(()) }
    }

    fn find_matches(&mut self, request: &RouteRequest) {
        let view = &mut self.view;
        view.matches.clear();
        for (at, hash) in request.prefix.iter().enumerate() {
            let Some(holders) = self.holders.get(hash) else { break };
            let tokens = (((at + 1) * self.config.block_size) as u32).min(request.prompt_tokens);
            let mut any = false;
            for &(holder, _) in holders {
                match view.matches.iter_mut().find(|(replica, _)| *replica == holder) {
                    Some((_, longest)) => {
                        *longest = tokens;
                        any = true;
                    }
                    None if at == 0 && view.eligible.binary_search(&holder).is_ok() => {
                        view.matches.push((holder, tokens));
                        any = true;
                    }
                    None => {}
                }
            }
            if !any {
                break;
            }
        }
    }

    /// Takes note that `replica` has the request's prefix from now on, and of what makes room there.
    fn remember(&mut self, request: &RouteRequest, replica: u32) {
        let Replica { blocks, kept, .. } = &mut self.replicas[replica as usize];
        for &hash in &request.prefix {
            self.uses += 1;
            let holders = self.holders.entry(hash).or_default();
            match holders.iter_mut().find(|(holder, _)| *holder == replica) {
                Some((_, used)) => *used = self.uses,
                None => {
                    holders.push((replica, self.uses));
                    *kept += 1;
                }
            }
            blocks.push_back((hash, self.uses));
        }
        // What stands there again further on is passed over; the rest goes, the longest unused first.
        while let Some(&(hash, used)) = blocks.front() {
            let holders = self.holders.get_mut(&hash);
            let latest = holders.and_then(|holders| {
                let at = holders.iter().position(|&holder| holder == (replica, used))?;
                Some((holders, at))
            });
            match latest {
                Some(_) if *kept <= self.config.prefixes => break,
                Some((holders, at)) => {
                    holders.remove(at);
                    *kept -= 1;
                    if holders.is_empty() {
                        self.holders.remove(&hash);
                    }
                }
                None => {}
            }
            blocks.pop_front();
        }
        if blocks.len() > 4 * self.config.prefixes.max(1024) {
            let holders = &self.holders;
            blocks.retain(|&(hash, used)| holders.get(&hash).is_some_and(|holders| holders.contains(&(replica, used))));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn router(name: &str, replicas: usize) -> Router {
        let config = RouterConfig { replicas, prefixes: 64, ..RouterConfig::default() };
        Router::new(config, routing(name, 3).expect("a strategy")).expect("a sound configuration")
    }

    fn request(id: u64, prefix: &[u64]) -> RouteRequest {
        let prompt_tokens = 16 * prefix.len() as u32 + 4;
        RouteRequest {
            id: RequestId(id),
            tenant: TenantId(id as u32 % 3),
            prompt_tokens,
            new_tokens: 10,
            prefix: prefix.to_vec(),
        }
    }

    fn send(router: &mut Router, id: u64, prefix: &[u64], now: Time) -> Route {
        router.step([RouterEvent::Request(request(id, prefix))], now).0.remove(0)
    }

    #[test]
    fn what_was_sent_counts_until_it_is_reported() {
        let mut router = router("least-loaded", 2);
        let second = |at| Time::from_secs_f64(at);
        assert_eq!(send(&mut router, 1, &[1], second(1.0)).replica, 0);
        assert_eq!(router.load(0), Some(30));
        assert_eq!(send(&mut router, 2, &[2], second(2.0)).replica, 1);
        // The report is older than what was sent last, so that both count.
        send(&mut router, 3, &[3], second(3.0));
        router.step([RouterEvent::Report { replica: 0, at: second(2.5), tokens: 5, computed: 0 }], second(3.5));
        assert_eq!(router.load(0), Some(35));
        router.step([RouterEvent::Report { replica: 0, at: second(3.2), tokens: 7, computed: 0 }], second(3.6));
        assert_eq!(router.load(0), Some(7));
        // An older report changes nothing.
        router.step([RouterEvent::Report { replica: 0, at: second(3.0), tokens: 900, computed: 0 }], second(3.7));
        assert_eq!(router.load(0), Some(7));
        assert_eq!(router.load(2), None);
    }

    #[test]
    fn a_report_includes_what_was_sent_before_it_and_the_latest_of_one_time_counts() {
        let mut router = router("least-loaded", 1);
        let report = |tokens, at| [RouterEvent::Report { replica: 0, at, tokens, computed: 0 }];
        let second = Time::from_secs_f64(1.0);
        send(&mut router, 1, &[1], second);
        router.step(report(5, second), second);
        assert_eq!(router.load(0), Some(5 + 30), "what is sent at the time of a report may have come after it");
        router.step(report(8, second), second);
        assert_eq!(router.load(0), Some(8 + 30));
        let later = Time::from_micros(1_000_001);
        router.step(report(9, later), later);
        assert_eq!(router.load(0), Some(9));
    }

    #[test]
    fn prefixes_are_asked_for_by_the_strategies_that_look_at_them() {
        for entry in ROUTING {
            assert_eq!(router(entry.name, 1).wants_prefix(), entry.name == "prefix", "{}", entry.name);
        }
    }

    #[test]
    fn a_prefix_on_a_replica_that_was_removed_draws_nobody() {
        let mut router = router("prefix", 2);
        assert_eq!(send(&mut router, 1, &[1, 2, 3], Time::ZERO).replica, 0);
        // It has ended there, so that nothing but its being gone speaks against the replica.
        let later = Time::from_secs_f64(1.0);
        let report = RouterEvent::Report { replica: 0, at: later, tokens: 0, computed: 0 };
        router.step([report, RouterEvent::Remove(0)], later);
        let route = send(&mut router, 2, &[1, 2, 3], later);
        assert_eq!((route.replica, route.matched), (1, 0));
    }

    #[test]
    fn several_replicas_may_have_a_prefix() {
        let mut router = router("round-robin", 2);
        let found = [1, 2, 3, 4].map(|id| {
            let route = send(&mut router, id, &[7, 8], Time::ZERO);
            (route.replica, route.matched)
        });
        assert_eq!(found, [(0, 0), (1, 0), (0, 32), (1, 32)]);
    }

    #[test]
    fn a_prefix_whose_beginning_is_gone_is_not_found() {
        let config = RouterConfig { replicas: 2, prefixes: 2, ..RouterConfig::default() };
        let strategy = routing("round-robin", 3).expect("a strategy");
        let mut router = Router::new(config, strategy).expect("a sound configuration");
        // The first replica has room for the last two of three blocks, the second has the first of them.
        assert_eq!(send(&mut router, 1, &[1, 2, 3], Time::ZERO).replica, 0);
        assert_eq!(send(&mut router, 2, &[1], Time::ZERO).replica, 1);
        let route = send(&mut router, 3, &[1, 2, 3], Time::ZERO);
        assert_eq!((route.replica, route.matched), (0, 0));
    }

    #[test]
    fn uses_of_the_same_blocks_take_no_more_and_more_room() {
        let mut router = router("prefix", 1);
        send(&mut router, 0, &[1], Time::ZERO);
        for id in 1..10_000 {
            assert_eq!(send(&mut router, id, &[2, 3], Time::ZERO).matched, if id == 1 { 0 } else { 32 });
            assert!(router.replicas[0].blocks.len() <= 4 * 1024 + 2, "{id}");
        }
        assert_eq!(send(&mut router, 10_000, &[1], Time::ZERO).matched, 16);
    }

    #[test]
    fn one_that_is_silent_gets_nothing_while_another_is_fresh() {
        let mut router = router("least-loaded", 2);
        assert_eq!(send(&mut router, 0, &[], Time::ZERO).replica, 0);
        let late = Time::from_secs_f64(60.0);
        router.step([RouterEvent::Report { replica: 1, at: late, tokens: 500, computed: 0 }], late);
        assert_eq!(send(&mut router, 1, &[], late).replica, 1, "the first owes a report for a minute");
        let later = Time::from_secs_f64(600.0);
        assert_eq!(send(&mut router, 2, &[], later).replica, 0, "all are silent: the least loaded");
    }

    #[test]
    fn an_idle_replica_owes_no_report_until_something_is_sent_to_it() {
        let mut router = router("least-loaded", 2);
        let second = |at| Time::from_secs_f64(at);
        let report = |replica, at, tokens| [RouterEvent::Report { replica, at: second(at), tokens, computed: 0 }];
        // The first reports that it has nothing left, the second goes on reporting.
        send(&mut router, 0, &[], Time::ZERO);
        router.step(report(0, 1.0, 0), second(1.0));
        router.step(report(1, 100.0, 500), second(100.0));
        assert_eq!(send(&mut router, 1, &[], second(100.0)).replica, 0, "it is idle, not lost");
        // Its silence counts from that request: it gets more for ten seconds, and then nothing until it reports.
        router.step(report(1, 109.0, 500), second(109.0));
        assert_eq!(send(&mut router, 2, &[], second(109.0)).replica, 0);
        router.step(report(1, 111.0, 500), second(111.0));
        assert_eq!(send(&mut router, 3, &[], second(111.0)).replica, 1);
        router.step(report(0, 111.5, 20), second(111.5));
        assert_eq!(send(&mut router, 4, &[], second(111.5)).replica, 0);
        // A replica that told of work owes reports from then on.
        router.step(report(1, 122.0, 500), second(122.0));
        assert_eq!(send(&mut router, 5, &[], second(122.0)).replica, 1);
    }

    #[test]
    fn removed_replicas_get_nothing_and_none_is_an_error() {
        let mut router = router("prefix", 2);
        assert_eq!(send(&mut router, 1, &[1, 2, 3], Time::ZERO).replica, 0);
        router.step([RouterEvent::Remove(0)], Time::ZERO);
        assert_eq!(send(&mut router, 2, &[1, 2, 3], Time::ZERO).replica, 1);
        let (routes, rejected) = router
            .step([RouterEvent::Remove(1), RouterEvent::Request(request(3, &[])), RouterEvent::Remove(7)], Time::ZERO);
        assert!(routes.is_empty());
        assert_eq!((rejected[0].event, &rejected[0].error), (1, &SchedulerError::NoReplica));
        assert_eq!(rejected[1].error, SchedulerError::UnknownReplica { found: 7, replicas: 2 });
        // A replica that comes back has lost its prefixes.
        router.step([RouterEvent::Add(0)], Time::ZERO);
        let route = send(&mut router, 4, &[1, 2, 3], Time::ZERO);
        assert_eq!((route.replica, route.matched, route.load), (0, 0, 0));
    }

    #[test]
    fn prefixes_are_forgotten_when_there_are_too_many() {
        let mut router = router("prefix", 2);
        send(&mut router, 0, &[1000, 1001], Time::ZERO);
        for id in 1..200 {
            send(&mut router, id, &[id], Time::ZERO);
        }
        assert!(router.holders.len() <= 128 && router.replicas.iter().all(|replica| replica.kept <= 64));
        assert_eq!(send(&mut router, 200, &[1000, 1001], Time::ZERO).matched, 0);
        assert_eq!(send(&mut router, 201, &[1000, 1001], Time::ZERO).matched, 32);
    }

    #[test]
    fn work_is_what_was_computed_lately_and_what_is_left() {
        let mut router = router("prefix", 2);
        let second = |at| Time::from_secs_f64(at);
        let report =
            |replica, at: f64, tokens, computed| [RouterEvent::Report { replica, at: second(at), tokens, computed }];
        router.step(report(0, 1.0, 10, 1000), second(1.0));
        router.step(report(1, 1.0, 30, 900), second(1.0));
        assert_eq!(send(&mut router, 1, &[1], second(1.0)).replica, 1, "1010 and 930");
        assert_eq!(router.view.work, [1010.0, 930.0]);
        // Half a minute later, work counts half. A counter that went back is that of a restarted replica.
        router.step(report(0, 31.0, 0, 1000), second(31.0));
        router.step(report(1, 31.0, 0, 50), second(31.0));
        assert_eq!(send(&mut router, 2, &[2], second(31.0)).replica, 0);
        assert!((router.view.work[0] - 500.0).abs() < 1e-6 && (router.view.work[1] - 500.0).abs() < 1e-6);
        // One that comes back has the others' mean to its name, so that it is not flooded.
        router.step([RouterEvent::Remove(0), RouterEvent::Add(0)], second(31.0));
        assert!((router.done[0] - 500.0).abs() < 1e-6, "{:?}", router.done);
    }

    #[test]
    fn configurations_are_checked() {
        let strategy = || routing("round-robin", 0).expect("a strategy");
        assert!(Router::new(RouterConfig { replicas: 0, ..Default::default() }, strategy()).is_err());
        assert!(Router::new(RouterConfig { block_size: 0, ..Default::default() }, strategy()).is_err());
        assert!(routing("nearest", 0).is_err());
    }
}
