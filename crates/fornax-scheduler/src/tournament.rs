//! A tournament over tasks whose ranks change with time: the winner is known at once, and only those matches are played
//! again whose outcome may have changed.
//!
//! It is the kinetic tournament of Basch, Guibas and Hershberger (1999, <https://doi.org/10.1006/jagm.1998.0988>): each
//! match keeps the time until which its outcome is sure. It serves [`Queue`](crate::queue) and nothing else.

use std::collections::BTreeMap;

use crate::Time;
use crate::policy::{Candidate, Policy};

/// No task.
const NOBODY: u32 = u32::MAX;

/// Tasks in the leaves of a binary tree, each inner node a match.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tournament {
    /// The tasks by leaf.
    leaves: Vec<Option<(u32, Candidate)>>,
    /// The leaf of each task.
    places: BTreeMap<u32, u32>,
    vacant: Vec<u32>,
    /// The winner's leaf of each match; the root is 1, and the children of `n` are `2n` and `2n + 1`.
    winners: Vec<u32>,
    /// Until when the matches below and at a node are sure.
    sure: Vec<Time>,
}

impl Tournament {
    /// Whether there is no task.
    pub(crate) fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// Those that take part.
    pub(crate) fn slots(&self) -> impl Iterator<Item = u32> {
        self.places.keys().copied()
    }

    /// Lets task `slot` take part.
    pub(crate) fn insert(&mut self, slot: u32, task: Candidate, policy: &dyn Policy, now: Time) {
        let leaf = match self.vacant.pop() {
            Some(leaf) => leaf,
            None => {
                self.grow(policy, now);
                self.vacant.pop().expect("a larger tree has vacant leaves")
            }
        };
        self.leaves[leaf as usize] = Some((slot, task));
        self.places.insert(slot, leaf);
        self.replay(leaf, policy, now);
    }

    /// Takes task `slot` out.
    pub(crate) fn remove(&mut self, slot: u32, policy: &dyn Policy, now: Time) {
        let leaf = self.places.remove(&slot).expect("the task takes part");
        self.leaves[leaf as usize] = None;
        self.vacant.push(leaf);
        self.replay(leaf, policy, now);
    }

    /// The task that is first now.
    pub(crate) fn first(&mut self, policy: &dyn Policy, now: Time) -> Option<u32> {
        if self.is_empty() {
            return None;
        }
        self.advance(1, policy, now);
        let leaf = self.winners[1];
        self.leaves[leaf as usize].map(|(slot, _)| slot)
    }

    /// Plays again what is no longer sure at or below `node`.
    fn advance(&mut self, node: usize, policy: &dyn Policy, now: Time) {
        if self.sure[node] > now {
            return;
        }
        self.advance(2 * node, policy, now);
        self.advance(2 * node + 1, policy, now);
        self.play(node, policy, now);
    }

    /// Plays the matches on the way from `leaf` to the root.
    fn replay(&mut self, leaf: u32, policy: &dyn Policy, now: Time) {
        let mut node = self.leaves.len() + leaf as usize;
        self.winners[node] = if self.leaves[leaf as usize].is_some() { leaf } else { NOBODY };
        while node > 1 {
            node /= 2;
            // Another match below may no longer be sure; then neither is this one, and it is played again when asked for.
            self.play(node, policy, now);
        }
    }

    fn play(&mut self, node: usize, policy: &dyn Policy, now: Time) {
        let (left, right) = (self.winners[2 * node], self.winners[2 * node + 1]);
        let below = self.sure[2 * node].min(self.sure[2 * node + 1]);
        if left == NOBODY || right == NOBODY {
            self.winners[node] = left.min(right);
            self.sure[node] = below;
            return;
        }
        let task = |leaf: u32| &self.leaves[leaf as usize].as_ref().expect("a winner is there").1;
        let key = |task: &Candidate| (crate::policy::key(policy.rank(task, now)), task.number);
        let (ahead, behind) = if key(task(left)) <= key(task(right)) { (left, right) } else { (right, left) };
        let sure = policy.crossing(task(ahead), task(behind), now).unwrap_or(Time::NEVER);
        // A time that is not ahead would be asked for again at once, for ever.
        let sure = sure.max(Time::from_micros(now.as_micros().saturating_add(1)));
        self.winners[node] = ahead;
        self.sure[node] = below.min(sure);
    }

    /// Makes the tree twice as large.
    fn grow(&mut self, policy: &dyn Policy, now: Time) {
        let before = self.leaves.len();
        let leaves = (before * 2).max(4);
        self.leaves.resize(leaves, None);
        self.vacant.extend((before as u32..leaves as u32).rev());
        self.winners = vec![NOBODY; 2 * leaves];
        self.sure = vec![Time::NEVER; 2 * leaves];
        for leaf in 0..leaves {
            if self.leaves[leaf].is_some() {
                self.winners[leaves + leaf] = leaf as u32;
            }
        }
        for node in (1..leaves).rev() {
            self.play(node, policy, now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Bound, Random, TenantId};

    /// The last microsecond that is looked at.
    const END: u64 = 400;

    /// Ranks that fall with time, each at the pace of its task's priority. When two change places is found by trying all
    /// times, so that it is right to the microsecond.
    #[derive(Clone, Debug)]
    struct Falling;

    impl Policy for Falling {
        fn name(&self) -> &'static str {
            "falling"
        }

        fn rank(&self, task: &Candidate, now: Time) -> f64 {
            task.cost - f64::from(task.priority) * now.as_micros() as f64
        }

        fn bound(&self) -> Bound {
            Bound::Unbounded
        }

        fn changes(&self) -> bool {
            true
        }

        fn crossing(&self, ahead: &Candidate, behind: &Candidate, now: Time) -> Option<Time> {
            let changed = |at: &Time| key(ahead, *at) > key(behind, *at);
            (now.as_micros() + 1..=END).map(Time::from_micros).find(changed)
        }
    }

    fn key(task: &Candidate, now: Time) -> (u64, u64) {
        (crate::policy::key(Falling.rank(task, now)), task.number)
    }

    #[test]
    fn the_first_is_the_least_at_every_time_also_when_it_changes() {
        let mut changes = 0;
        for seed in 0..20 {
            let mut random = Random::new(seed);
            let mut tournament = Tournament::default();
            let mut tasks: BTreeMap<u32, Candidate> = BTreeMap::new();
            let mut last = None;
            for micros in 0..=END {
                let now = Time::from_micros(micros);
                let slot = random.below(30) as u32;
                if random.chance(0.1) {
                    if tasks.remove(&slot).is_some() {
                        tournament.remove(slot, &Falling, now);
                    } else {
                        // The faster a rank falls the higher it begins, so that many come to be first in turn.
                        let priority = random.below(100) as i32;
                        let task = Candidate {
                            number: micros,
                            tenant: TenantId::DEFAULT,
                            arrival: now,
                            priority,
                            demand: 1.0,
                            cost: f64::from(2 * priority * priority) + random.below(50) as f64,
                            deadline: Time::NEVER,
                        };
                        tasks.insert(slot, task);
                        tournament.insert(slot, task, &Falling, now);
                    }
                    last = None;
                }
                let least = tasks.iter().min_by_key(|(_, task)| key(task, now)).map(|(slot, _)| *slot);
                let first = tournament.first(&Falling, now);
                assert_eq!(first, least, "seed {seed}, at {micros}");
                changes += u32::from(last.is_some_and(|last| last != first));
                last = Some(first);
            }
            assert_eq!(tournament.is_empty(), tasks.is_empty());
        }
        // The order changes with time, not only as tasks come and go.
        assert!(changes > 100, "{changes}");
    }
}
