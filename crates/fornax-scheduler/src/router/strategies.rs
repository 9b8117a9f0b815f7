//! How a replica is chosen: the strategies, and the list of them.

use std::fmt;

use super::{RouteRequest, View};
use crate::random::{GOLDEN, mix};
use crate::{Random, SchedulerError};

/// A way to choose a replica.
pub trait RoutingStrategy: fmt::Debug + Send {
    /// Its name in the list.
    fn name(&self) -> &'static str;

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

/// A strategy in the list.
#[derive(Debug)]
pub struct RoutingEntry {
    /// What it is asked for by.
    pub name: &'static str,
    /// What it does, in a line.
    pub summary: &'static str,
    /// Makes it, with a seed.
    pub make: fn(u64) -> Box<dyn RoutingStrategy>,
}

/// Every strategy there is.
pub const ROUTING: &[RoutingEntry] = &[
    RoutingEntry { name: "round-robin", summary: "one after another", make: |_| Box::new(RoundRobin::default()) },
    RoutingEntry {
        name: "least-loaded",
        summary: "who has the fewest tokens to compute",
        make: |_| Box::new(LeastLoaded),
    },
    RoutingEntry {
        name: "two-choices",
        summary: "the less loaded of two that are drawn",
        make: |seed| Box::new(TwoChoices { random: Random::new(seed) }),
    },
    RoutingEntry {
        name: "prefix",
        summary: "who is done first: load, and what of the prompt is not there yet",
        make: |_| Box::new(PrefixAffine),
    },
    RoutingEntry {
        name: "tenant",
        summary: "the same few replicas for a tenant, as long as they are not overloaded",
        make: |seed| Box::new(TenantAffine { seed }),
    },
];

/// The strategy of this name.
///
/// # Errors
/// [`SchedulerError::UnknownPolicy`] with the names there are.
pub fn routing(name: &str, seed: u64) -> Result<Box<dyn RoutingStrategy>, SchedulerError> {
    match ROUTING.iter().find(|entry| entry.name == name) {
        Some(entry) => Ok((entry.make)(seed)),
        None => Err(SchedulerError::UnknownPolicy {
            name: name.to_owned(),
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

/// Who has the fewest tokens to compute.
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

/// Who is done first: the least sum of load and of the prompt's tokens that are not there yet. Where a replica with the
/// prefix is busier than computing the prefix anew costs, or was sent more than its part lately, another gets it, and then
/// has it too.
#[derive(Clone, Copy, Debug)]
pub struct PrefixAffine;

impl RoutingStrategy for PrefixAffine {
    fn name(&self) -> &'static str {
        "prefix"
    }

    fn choose(&mut self, request: &RouteRequest, view: &View) -> u32 {
        let prompt = u64::from(request.prompt_tokens);
        let idle = least_loaded(view);
        let mut best = (view.loads[idle as usize] + prompt, idle);
        let assigned = |replica: u32| view.assigned[replica as usize];
        let mean = view.eligible.iter().map(|&replica| assigned(replica)).sum::<f64>() / view.eligible.len() as f64;
        let matches = view.matches.iter().filter(|(replica, _)| assigned(*replica) <= 1.02 * mean + prompt as f64);
        for &(replica, matched) in matches {
            best = best.min((view.loads[replica as usize] + prompt - u64::from(matched), replica));
        }
        best.1
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

fn least_loaded(view: &View) -> u32 {
    // Of those that are equally loaded, mostly idle ones, the one that was sent the least lately.
    let key = |replica: &u32| (view.loads[*replica as usize], crate::policy::key(view.assigned[*replica as usize]));
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
        View { eligible, loads: loads.to_vec(), assigned: vec![0.0; loads.len()], matches: matches.to_vec() }
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
    fn a_prefix_draws_as_much_as_it_saves() {
        let mut strategy = PrefixAffine;
        assert_eq!(strategy.choose(&request(0), &view(&[0, 79], &[(1, 80)])), 1);
        assert_eq!(strategy.choose(&request(0), &view(&[0, 81], &[(1, 80)])), 0);
        assert_eq!(strategy.choose(&request(0), &view(&[5, 40, 40], &[(1, 40), (2, 80)])), 2);
    }

    #[test]
    fn a_prefix_draws_no_more_than_a_fair_part() {
        let mut seen = view(&[0, 0, 0, 0], &[(1, 80)]);
        assert_eq!(PrefixAffine.choose(&request(0), &seen), 1);
        seen.assigned = vec![1000.0, 1150.0, 900.0, 1000.0];
        assert_eq!(PrefixAffine.choose(&request(0), &seen), 2, "equally loaded, and sent the least");
        seen.assigned[1] = 1100.0;
        assert_eq!(PrefixAffine.choose(&request(0), &seen), 1);
    }

    #[test]
    fn two_choices_avoid_the_busiest() {
        let mut strategy = routing("two-choices", 1).expect("a strategy");
        let seen = view(&[900, 0, 0, 0], &[]);
        let busy = (0..4000).filter(|_| strategy.choose(&request(0), &seen) == 0).count();
        assert!((150..350).contains(&busy), "one in sixteen draws it twice: {busy}");
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
        // Where none is below the bound, the least loaded is taken.
        assert_eq!(strategy.choose(&request(0), &view(&[1, 0], &[])), 1);
    }
}
