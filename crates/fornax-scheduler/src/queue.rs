//! The waiting tasks, kept in the order of a policy: the first is known at once, and a change costs `O(log n)`.
//!
//! It knows neither the tasks' demands nor whether there is room; it is asked for the first task, and told of changes.

use std::collections::{BTreeMap, BTreeSet};

use crate::policy::{self, Candidate, Policy};
use crate::tournament::Tournament;
use crate::{TenantId, Time};

/// A task's place in the order of a policy: the lowest goes first. Keys from different queues with one policy can be
/// compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Key {
    tenant: u64,
    rank: u64,
    number: u64,
}

impl Key {
    /// A key before the keys of all ranks.
    pub(crate) fn before_ranks(number: u64) -> Self {
        Self { tenant: 0, rank: 0, number }
    }
}

/// The key of `task` now.
pub(crate) fn key(policy: &dyn Policy, task: &Candidate, now: Time) -> Key {
    let tenant = if policy.by_tenant() { policy::key(policy.tenant_rank(task.tenant)) } else { 0 };
    Key { tenant, rank: policy::key(policy.rank(task, now)), number: task.number }
}

/// Tasks by a number that their owner chose, small and dense.
#[derive(Clone, Debug, Default)]
pub(crate) struct Queue {
    tasks: Vec<Option<(Candidate, u64)>>,
    lines: BTreeMap<TenantId, Line>,
    /// The lines by rank. Lines of tenants in `stale` have to be ranked again.
    order: BTreeSet<(u64, TenantId)>,
    stale: Vec<TenantId>,
    len: usize,
    revision: u64,
}

/// The tasks of one line.
#[derive(Clone, Debug)]
struct Line {
    tasks: Order,
    rank: u64,
    stale: bool,
}

/// The order within a line.
#[derive(Clone, Debug)]
enum Order {
    /// No two tasks change places.
    Fixed(BTreeSet<(u64, u64, u32)>),
    /// Tasks change places as time passes.
    Changing(Box<Tournament>),
}

impl Queue {
    /// How many tasks there are.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Whether task `slot` is in it.
    pub(crate) fn contains(&self, slot: u32) -> bool {
        self.tasks.get(slot as usize).is_some_and(Option::is_some)
    }

    /// Puts task `slot` in its place.
    pub(crate) fn insert(&mut self, slot: u32, task: Candidate, policy: &dyn Policy, now: Time) {
        self.follow(policy, now);
        let at = slot as usize;
        if at >= self.tasks.len() {
            self.tasks.resize(at + 1, None);
        }
        assert!(self.tasks[at].is_none(), "task {slot} waits already");
        let rank = policy::key(policy.rank(&task, now));
        self.tasks[at] = Some((task, rank));
        self.len += 1;
        self.enter(slot, &task, rank, policy, now);
    }

    /// Takes task `slot` out, if it is in.
    pub(crate) fn remove(&mut self, slot: u32, policy: &dyn Policy, now: Time) -> Option<Candidate> {
        self.follow(policy, now);
        let (task, rank) = self.tasks.get_mut(slot as usize)?.take()?;
        self.len -= 1;
        let name = line_of(&task, policy);
        let line = self.lines.get_mut(&name).expect("a task that waits has a line");
        let empty = match &mut line.tasks {
            Order::Fixed(tasks) => {
                assert!(tasks.remove(&(rank, task.number, slot)), "task {slot} is not where it was put");
                tasks.is_empty()
            }
            Order::Changing(tournament) => {
                tournament.remove(slot, policy, now);
                tournament.is_empty()
            }
        };
        if empty {
            self.order.remove(&(line.rank, name));
            self.lines.remove(&name);
        }
        Some(task)
    }

    /// The first task with its key.
    pub(crate) fn first(&mut self, policy: &dyn Policy, now: Time) -> Option<(Key, u32)> {
        self.follow(policy, now);
        let &(tenant, name) = self.order.first()?;
        let line = self.lines.get_mut(&name).expect("a line in the order is there");
        let (rank, number, slot) = match &mut line.tasks {
            Order::Fixed(tasks) => *tasks.first().expect("a line holds a task"),
            Order::Changing(tournament) => {
                let slot = tournament.first(policy, now).expect("a line holds a task");
                let (task, _) = self.tasks[slot as usize].as_ref().expect("a task in a line is there");
                (policy::key(policy.rank(task, now)), task.number, slot)
            }
        };
        Some((Key { tenant: if policy.by_tenant() { tenant } else { 0 }, rank, number }, slot))
    }

    /// The tenant at the front, if tenants have lines of their own.
    pub(crate) fn front(&mut self, policy: &dyn Policy, now: Time) -> Option<TenantId> {
        self.follow(policy, now);
        self.order.first().map(|&(_, name)| name).filter(|_| policy.by_tenant())
    }

    /// Records that a tenant's rank may have changed.
    pub(crate) fn touch(&mut self, tenant: TenantId) {
        if let Some(line) = self.lines.get_mut(&tenant)
            && !line.stale
        {
            line.stale = true;
            self.stale.push(tenant);
        }
    }

    /// The tasks' numbers, in no order that means anything.
    pub(crate) fn slots(&self) -> impl Iterator<Item = u32> {
        self.lines.values().flat_map(|line| {
            let (fixed, changing) = match &line.tasks {
                Order::Fixed(tasks) => (Some(tasks), None),
                Order::Changing(tournament) => (None, Some(tournament)),
            };
            let fixed = fixed.into_iter().flatten().map(|&(_, _, slot)| slot);
            fixed.chain(changing.into_iter().flat_map(|tournament| tournament.slots()))
        })
    }

    /// Every task with its number, in no order that means anything.
    #[cfg(test)]
    fn iter(&self) -> impl Iterator<Item = (u32, &Candidate)> {
        self.tasks.iter().enumerate().filter_map(|(at, task)| Some((at as u32, &task.as_ref()?.0)))
    }

    /// Brings the order up to date with the policy's ranks.
    fn follow(&mut self, policy: &dyn Policy, now: Time) {
        if self.revision != policy.revision() {
            self.revision = policy.revision();
            self.rebuild(policy, now);
        }
        while let Some(name) = self.stale.pop() {
            let Some(line) = self.lines.get_mut(&name) else { continue };
            if !std::mem::take(&mut line.stale) {
                continue;
            }
            let rank = if policy.by_tenant() { policy::key(policy.tenant_rank(name)) } else { 0 };
            if rank != line.rank {
                self.order.remove(&(line.rank, name));
                self.order.insert((rank, name));
                line.rank = rank;
            }
        }
    }

    fn rebuild(&mut self, policy: &dyn Policy, now: Time) {
        self.lines.clear();
        self.order.clear();
        self.stale.clear();
        let mut tasks = std::mem::take(&mut self.tasks);
        for (slot, entry) in tasks.iter_mut().enumerate() {
            if let Some((task, rank)) = entry {
                *rank = policy::key(policy.rank(task, now));
                self.tasks.push(Some((*task, *rank)));
                self.enter(slot as u32, task, *rank, policy, now);
            } else {
                self.tasks.push(None);
            }
        }
    }

    fn enter(&mut self, slot: u32, task: &Candidate, rank: u64, policy: &dyn Policy, now: Time) {
        let name = line_of(task, policy);
        let line = self.lines.entry(name).or_insert_with(|| {
            let line_rank = if policy.by_tenant() { policy::key(policy.tenant_rank(name)) } else { 0 };
            self.order.insert((line_rank, name));
            let tasks = if policy.changes() { Order::Changing(Box::default()) } else { Order::Fixed(BTreeSet::new()) };
            Line { tasks, rank: line_rank, stale: false }
        });
        match &mut line.tasks {
            Order::Fixed(tasks) => {
                tasks.insert((rank, task.number, slot));
            }
            Order::Changing(tournament) => tournament.insert(slot, *task, policy, now),
        }
    }
}

/// The line that a task stands in.
fn line_of(task: &Candidate, policy: &dyn Policy) -> TenantId {
    if policy.by_tenant() { task.tenant } else { TenantId::DEFAULT }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Random;
    use crate::policy::Observation;

    fn random_task(random: &mut Random, number: u64, now: Time) -> Candidate {
        Candidate {
            number,
            tenant: TenantId(random.below(4) as u32),
            arrival: now,
            priority: random.below(3) as i32,
            demand: 1.0 + random.below(9) as f64,
            cost: 0.1 + random.unit() * 3.0,
            deadline: if random.chance(0.5) { Time::NEVER } else { Time::from_secs_f64(random.unit() * 90.0) },
        }
    }

    /// Whatever the policy and whatever happens, the first of the queue is the least of all keys.
    #[test]
    fn the_first_is_the_least_of_all() {
        for entry in policy::POLICIES {
            for seed in 0..20 {
                let mut random = Random::new(seed);
                let mut policy = policy::policy(entry.name).expect("a policy of the list");
                let mut queue = Queue::default();
                let mut now = Time::ZERO;
                let mut number = 0;
                for _ in 0..400 {
                    now = now.after(std::time::Duration::from_millis(random.below(300)));
                    let slot = random.below(40) as u32;
                    match random.below(5) {
                        0 | 1 if !queue.contains(slot) => {
                            let task = random_task(&mut random, number, now);
                            number += 1;
                            queue.insert(slot, task, policy.as_ref(), now);
                        }
                        2 => {
                            let was_there = queue.contains(slot);
                            assert_eq!(queue.remove(slot, policy.as_ref(), now).is_some(), was_there);
                        }
                        3 => {
                            let tenant = TenantId(random.below(4) as u32);
                            policy.observe(&Observation::Served { tenant, output: random.unit() });
                            policy.observe(&Observation::Held { tenant, resource: 0, share: random.unit() - 0.5 });
                            let task = random_task(&mut random, 0, now);
                            policy.observe(&Observation::Ended { task, cost: 1.0, waited: random.unit() });
                            policy.observe(&Observation::Step { now });
                            queue.touch(tenant);
                        }
                        _ => {}
                    }
                    let least = queue.iter().map(|(slot, task)| (key(policy.as_ref(), task, now), slot)).min();
                    let first = queue.first(policy.as_ref(), now);
                    // Lines of equal rank go by tenant; in all else the first is the least.
                    let (Some((least, _)), Some((first, slot))) = (least, first) else {
                        assert_eq!((least, queue.len()), (None, 0), "{}", entry.name);
                        continue;
                    };
                    assert_eq!(first.tenant, least.tenant, "{} seed {seed}", entry.name);
                    let tenant = queue.tasks[slot as usize].as_ref().expect("it waits").0.tenant;
                    let of_line = queue
                        .iter()
                        .filter(|(_, task)| !policy.by_tenant() || task.tenant == tenant)
                        .map(|(slot, task)| (key(policy.as_ref(), task, now), slot))
                        .min();
                    assert_eq!(of_line, Some((first, slot)), "{} seed {seed}", entry.name);
                }
            }
        }
    }
}
