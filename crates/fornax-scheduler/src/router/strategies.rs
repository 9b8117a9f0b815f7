//! How a replica is chosen: the strategies, and the list of them.

use std::fmt;

use super::{RouteRequest, View};
use crate::random::{GOLDEN, mix};
use crate::{PolicyOptions, Random, SchedulerError};

/// A way to choose a replica.
pub trait RoutingStrategy: fmt::Debug + Send {
    /// Its name in the list.
    fn name(&self) -> &'static str;

    /// Whether it looks at the prefixes that replicas have; otherwise requests need not bring their hashes.
    fn wants_prefix(&self) -> bool {
        false
    }

    /// One of `view.eligible`.
    fn choose(&mut self, request: &RouteRequest, view: &View) -> u32;

    /// The copy of it, in a box.
    fn boxed_clone(&self) -> Box<dyn RoutingStrategy>;
}

impl Clone for Box<dyn RoutingStrategy> {
    fn clone(&self) -> Self {
        (**self).boxed_clone()
    }
}

/// A strategy, or what its options refuse.
type Made = Result<Box<dyn RoutingStrategy>, SchedulerError>;

/// A strategy in the list.
#[derive(Debug)]
pub struct RoutingEntry {
    /// What it is asked for by.
    pub name: &'static str,
    /// What it does, in a line.
    pub summary: &'static str,
    /// Its options with their defaults.
    pub options: &'static [(&'static str, f64)],
    /// Makes it from its options and a seed.
    pub make: fn(&PolicyOptions, u64) -> Made,
}

/// Every strategy there is.
pub const ROUTING: &[RoutingEntry] = &[
    RoutingEntry {
        name: "round-robin",
        summary: "one after another",
        options: &[],
        make: |_, _| Ok(Box::new(RoundRobin::default())),
    },
    RoutingEntry {
        name: "least-loaded",
        summary: "the replica with the fewest tokens to compute",
        options: &[],
        make: |_, _| Ok(Box::new(LeastLoaded)),
    },
    RoutingEntry {
        name: "two-choices",
        summary: "the less loaded of two that are drawn",
        options: &[],
        make: |_, seed| Ok(Box::new(TwoChoices { random: Random::new(seed) })),
    },
    RoutingEntry {
        name: "prefix",
        summary: "a replica with the prompt's beginning and at most `epsilon` above the mean's work, or else the one with the least",
        options: &[("epsilon", PrefixAffine::EPSILON)],
        make: |options, _| Ok(Box::new(PrefixAffine { epsilon: options.not_negative("epsilon")? })),
    },
    RoutingEntry {
        name: "tenant",
        summary: "the same few replicas for a tenant, as long as they are not overloaded",
        options: &[],
        make: |_, seed| Ok(Box::new(TenantAffine { seed })),
    },
];

/// The strategy of this name, with options after a colon: `prefix:epsilon=0.1`.
///
/// # Errors
/// [`SchedulerError::UnknownRouting`] with the names there are; what its options refuse.
pub fn routing(name: &str, seed: u64) -> Result<Box<dyn RoutingStrategy>, SchedulerError> {
    let (name, options) = name.split_once(':').unwrap_or((name, ""));
    match ROUTING.iter().find(|entry| entry.name == name.trim()) {
        Some(entry) => (entry.make)(&PolicyOptions::parse(entry.options, options)?, seed),
        None => Err(SchedulerError::UnknownRouting {
            name: name.trim().to_owned(),
            known: ROUTING.iter().map(|entry| entry.name).collect(),
        }),
    }
}

/// One after another.
#[derive(Clone, Debug, Default)]
pub struct RoundRobin {
    turn: u32,
}

impl RoutingStrategy for RoundRobin {
    fn name(&self) -> &'static str {
        "round-robin"
    }

    fn choose(&mut self, _: &RouteRequest, view: &View) -> u32 {
        let at = view.eligible.partition_point(|&replica| replica < self.turn);
        let replica = view.eligible[at % view.eligible.len()];
        self.turn = replica + 1;
        replica
    }

    fn boxed_clone(&self) -> Box<dyn RoutingStrategy> {
        Box::new(self.clone())
    }
}

/// The replica with the fewest tokens to compute.
#[derive(Clone, Copy, Debug)]
pub struct LeastLoaded;

impl RoutingStrategy for LeastLoaded {
    fn name(&self) -> &'static str {
        "least-loaded"
    }

    fn choose(&mut self, _: &RouteRequest, view: &View) -> u32 {
        least_loaded(view)
    }

    fn boxed_clone(&self) -> Box<dyn RoutingStrategy> {
        Box::new(*self)
    }
}

/// The less loaded of two that are drawn (Mitzenmacher, 2001, <https://doi.org/10.1109/71.963420>): nearly as even as the
/// least loaded, and many routers that do not know of each other do not all choose the same.
#[derive(Clone, Debug)]
pub struct TwoChoices {
    random: Random,
}

impl RoutingStrategy for TwoChoices {
    fn name(&self) -> &'static str {
        "two-choices"
    }

    fn choose(&mut self, _: &RouteRequest, view: &View) -> u32 {
        let mut draw = || view.eligible[self.random.below(view.eligible.len() as u64) as usize];
        let (one, two) = (draw(), draw());
        if view.loads[two as usize] < view.loads[one as usize] { two } else { one }
    }

    fn boxed_clone(&self) -> Box<dyn RoutingStrategy> {
        Box::new(self.clone())
    }
}

/// A replica that has the prompt's beginning, as long as its work is no more than `epsilon` above the mean.
///
/// A replica's work is the tokens that it computed recently and those that it has still to compute. A request goes to a
/// replica with its prefix if that replica's work is at most `(1 + epsilon) · mean` and a prompt, and its load
/// at most twice the mean and a prompt; of several such replicas, to the one with the least left to compute. Otherwise
/// the replica with the least work gets the request, and then has the prefix too. So a popular prefix comes to lie on
/// as many replicas as its traffic needs.
///
/// This is consistent hashing with bounded loads (Mirrokni et al., SODA 2018, <https://arxiv.org/abs/1608.01350>), with
/// the known caches in place of the hash. A smaller `epsilon` spreads the work more evenly and gives fewer hits. A
/// conversation that is a replica's only work stays there in any case, since its prompt repeats the tokens that were
/// computed for it.
#[derive(Clone, Copy, Debug)]
pub struct PrefixAffine {
    /// How far above the mean work a replica may be and still be sent more for its prefixes.
    pub epsilon: f64,
}

/// How many times the mean load a replica may have and still be sent more for its prefixes.
const BUSY: f64 = 2.0;

impl PrefixAffine {
    /// What `epsilon` is where nothing else is said.
    pub const EPSILON: f64 = 0.0;
}

impl Default for PrefixAffine {
    fn default() -> Self {
        Self { epsilon: Self::EPSILON }
    }
}

impl RoutingStrategy for PrefixAffine {
    fn name(&self) -> &'static str {
        "prefix"
    }

    fn wants_prefix(&self) -> bool {
        true
    }

    fn choose(&mut self, request: &RouteRequest, view: &View) -> u32 {
        let prompt = f64::from(request.prompt_tokens);
        let load = |replica: u32| view.loads[replica as usize];
        let work = |replica: u32| view.work[replica as usize];
        let mean = |of: &dyn Fn(u32) -> f64| {
            view.eligible.iter().map(|&replica| of(replica)).sum::<f64>() / view.eligible.len() as f64
        };
        let most_work = (1.0 + self.epsilon) * mean(&work) + prompt;
        let most_load = BUSY * mean(&|replica| load(replica) as f64) + prompt;
        let within = |replica: u32| work(replica) <= most_work && load(replica) as f64 <= most_load;
        let holders = view.matches.iter().filter(|(replica, _)| within(*replica));
        // The tokens that are not cached there count as load: prefer long prefixes and replicas with less to do.
        let left = |&(replica, matched): &(u32, u32)| {
            (load(replica).saturating_add(u64::from(request.prompt_tokens - matched)), replica)
        };
        let best = holders.map(left).min();
        best.map_or_else(|| least_worked(view), |(_, replica)| replica)
    }

    fn boxed_clone(&self) -> Box<dyn RoutingStrategy> {
        Box::new(*self)
    }
}

/// A tenant's replicas in an order of its own (rendezvous hashing), the first that is at most a quarter above the mean load
/// (consistent hashing with bounded loads: Mirrokni et al., SODA 2018, <https://arxiv.org/abs/1608.01350>).
#[derive(Clone, Copy, Debug)]
pub struct TenantAffine {
    seed: u64,
}

impl RoutingStrategy for TenantAffine {
    fn name(&self) -> &'static str {
        "tenant"
    }

    fn choose(&mut self, request: &RouteRequest, view: &View) -> u32 {
        let load = |replica: &u32| u128::from(view.loads[*replica as usize]);
        let work = u128::from(request.prompt_tokens) + u128::from(request.new_tokens);
        let total: u128 = view.eligible.iter().map(load).sum::<u128>() + work;
        // load + work ≤ 1.25 · mean, in whole numbers; one of average load always passes if the work is small.
        let fits = |replica: &u32| (load(replica) + work) * 4 * view.eligible.len() as u128 <= total * 5;
        let score = |replica: &u32| {
            mix(self.seed ^ mix(u64::from(request.tenant.0) ^ u64::from(*replica).wrapping_mul(GOLDEN)))
        };
        let best = view.eligible.iter().copied().filter(|replica| fits(replica)).max_by_key(score);
        best.unwrap_or_else(|| least_loaded(view))
    }

    fn boxed_clone(&self) -> Box<dyn RoutingStrategy> {
        Box::new(*self)
    }
}

/// Who did the least lately and has the least to do.
fn least_worked(view: &View) -> u32 {
    let least = view.eligible.iter().copied().min_by_key(|&replica| crate::policy::key(view.work[replica as usize]));
    least.expect("a view has an eligible replica")
}

fn least_loaded(view: &View) -> u32 {
    // Of equally loaded replicas, which are mostly idle ones, the replica with the least recent work.
    let key = |replica: &u32| (view.loads[*replica as usize], crate::policy::key(view.work[*replica as usize]));
    let least = view.eligible.iter().copied().min_by_key(key);
    least.expect("a view has an eligible replica")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{RequestId, TenantId};

    fn request(tenant: u32) -> RouteRequest {
        let id = RequestId(0);
        RouteRequest { id, tenant: TenantId(tenant), prompt_tokens: 100, new_tokens: 0, prefix: Vec::new() }
    }

    fn view(loads: &[u64], matches: &[(u32, u32)]) -> View {
        let eligible = (0..loads.len() as u32).collect();
        let work = loads.iter().map(|&load| load as f64).collect();
        View { eligible, loads: loads.to_vec(), work, matches: matches.to_vec() }
    }

    #[test]
    fn turns_go_round_and_pass_over_who_is_missing() {
        let mut strategy = RoundRobin::default();
        let mut seen = view(&[0; 4], &[]);
        let mut turns = |view: &View| (0..5).map(|_| strategy.choose(&request(0), view)).collect::<Vec<u32>>();
        assert_eq!(turns(&seen), [0, 1, 2, 3, 0]);
        seen.eligible = vec![0, 2, 3];
        assert_eq!(turns(&seen), [2, 3, 0, 2, 3]);
    }

    #[test]
    fn a_prefix_draws_as_long_as_its_replica_did_no_more_than_the_mean_and_a_prompt() {
        let mut strategy = PrefixAffine::default();
        let mut seen = view(&[0; 4], &[(1, 80)]);
        assert_eq!(strategy.choose(&request(0), &seen), 1);
        seen.work = vec![1000.0, 1100.0, 900.0, 1000.0];
        assert_eq!(strategy.choose(&request(0), &seen), 1, "a prompt of 100 above the mean");
        seen.work[1] = 1140.0;
        assert_eq!(strategy.choose(&request(0), &seen), 2, "the mean is 1010; who did the least gets it");
        let mut loose = PrefixAffine { epsilon: 0.03 };
        assert_eq!(loose.choose(&request(0), &seen), 1);
        // Drained replicas do not count.
        seen.eligible = vec![0, 1, 3];
        seen.work[1] = 1100.0;
        assert_eq!(strategy.choose(&request(0), &seen), 1);
    }

    #[test]
    fn a_prefix_draws_nobody_into_a_queue() {
        let mut seen = view(&[0, 500, 100, 100], &[(1, 80)]);
        seen.work = vec![1000.0; 4];
        // Twice the mean load is 350, and a prompt more 450.
        assert_eq!(PrefixAffine::default().choose(&request(0), &seen), 0);
        seen.loads[1] = 400;
        assert_eq!(PrefixAffine::default().choose(&request(0), &seen), 1);
    }

    #[test]
    fn of_several_that_have_a_prefix_the_one_with_the_least_left_is_taken() {
        let mut strategy = PrefixAffine::default();
        let mut with = |loads: &[u64], matches: &[(u32, u32)]| {
            let seen = View { work: vec![1.0; loads.len()], ..view(loads, matches) };
            strategy.choose(&request(0), &seen)
        };
        assert_eq!(with(&[50, 79, 60], &[(0, 20), (1, 80)]), 1);
        assert_eq!(with(&[50, 179, 160], &[(0, 20), (1, 80)]), 0);
        assert_eq!(with(&[u64::MAX, u64::MAX], &[(0, 20), (1, 80)]), 0, "loads saturate");
    }

    #[test]
    fn options_are_checked() {
        assert_eq!(routing("prefix:epsilon=0.5", 1).expect("an option").name(), "prefix");
        for entry in ROUTING {
            let wants = routing(entry.name, 1).expect("a strategy").wants_prefix();
            assert_eq!(wants, entry.name == "prefix", "{}", entry.name);
        }
        for bad in ["prefix:epsilon=-1", "prefix:epsilon=nan", "prefix:slack=1", "round-robin:epsilon=1", "", "nearest"]
        {
            assert!(routing(bad, 1).is_err(), "{bad}");
        }
        for entry in ROUTING {
            assert_eq!(routing(entry.name, 1).expect("in the list").name(), entry.name);
        }
    }

    #[test]
    fn two_choices_avoid_the_busiest() {
        let mut strategy = routing("two-choices", 1).expect("a strategy");
        let seen = view(&[900, 0, 0, 0], &[]);
        let busy = (0..4000).filter(|_| strategy.choose(&request(0), &seen) == 0).count();
        assert!((150..350).contains(&busy), "one in sixteen draws it twice: {busy}");
    }

    #[test]
    fn tenants_are_spread_whatever_the_seed_and_otherwise_with_each() {
        let homes = [0, 1, 5, u64::MAX - 1, u64::MAX].map(|seed| {
            let even = view(&[10_000; 4], &[]);
            (0..400).map(|tenant| TenantAffine { seed }.choose(&request(tenant), &even)).collect::<Vec<u32>>()
        });
        for (at, one) in homes.iter().enumerate() {
            for replica in 0..4 {
                let count = one.iter().filter(|&&home| home == replica).count();
                assert!((60..140).contains(&count), "{count} of 400");
            }
            assert!(homes[..at].iter().all(|other| other != one));
        }
    }

    #[test]
    fn a_tenant_stays_until_its_replica_is_overloaded() {
        let mut strategy = TenantAffine { seed: 5 };
        let even = view(&[10_000; 8], &[]);
        let homes: Vec<u32> = (0..50).map(|tenant| strategy.choose(&request(tenant), &even)).collect();
        assert_eq!(homes, (0..50).map(|tenant| strategy.choose(&request(tenant), &even)).collect::<Vec<u32>>());
        assert!((0..8).all(|replica| homes.contains(&replica)), "{homes:?}");
        let mut uneven = even.clone();
        uneven.loads[homes[0] as usize] = 40_000;
        let other = strategy.choose(&request(0), &uneven);
        assert_ne!(other, homes[0]);
        // The request itself counts for the mean too: 200 more on one of four replicas with 1000 is just below the
        // bound.
        let heavy = RouteRequest { new_tokens: 100, ..request(0) };
        let mut chosen: Vec<u32> = (0..50)
            .map(|tenant| {
                strategy.choose(&RouteRequest { tenant: TenantId(tenant), ..heavy.clone() }, &view(&[1000; 4], &[]))
            })
            .collect();
        chosen.sort_unstable();
        chosen.dedup();
        assert_eq!(chosen, [0, 1, 2, 3]);
        // Of prompt and output together, 363 more are within a quarter above the mean, and 364 are not.
        let seen = View { work: vec![3.0, 2.0, 1.0, 2.0], ..view(&[1000; 4], &[]) };
        let mut homes = |new_tokens| {
            let of = |tenant| RouteRequest { prompt_tokens: 300, new_tokens, ..request(tenant) };
            (0..50).map(|tenant| strategy.choose(&of(tenant), &seen)).collect::<std::collections::BTreeSet<u32>>().len()
        };
        assert_eq!([63, 64].map(&mut homes), [4, 1]);
        // Where none is below the bound, the least loaded is taken.
        assert_eq!(strategy.choose(&request(0), &view(&[1, 0], &[])), 1);
    }
}
