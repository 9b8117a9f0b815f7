//! Why a task or request waits, as data and in words.

use std::fmt;

use crate::{AdapterId, TenantId};

/// Why a waiting task or request does not run.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Wait {
    /// There is not enough of a named resource.
    Resource {
        /// Its name.
        resource: String,
        /// The amount needed.
        needed: u64,
        /// The amount free.
        free: u64,
    },
    /// There are not enough KV blocks.
    Blocks {
        /// How many are needed.
        needed: usize,
        /// How many are free or cached, less the blocks that are set aside.
        free: usize,
    },
    /// There are not enough free running slots.
    Slots {
        /// How many running slots are needed.
        needed: usize,
        /// How many there are in all.
        most: usize,
    },
    /// Other sequences use up the step's tokens.
    Tokens {
        /// How many are needed.
        needed: usize,
        /// How many are left.
        left: usize,
    },
    /// The most adapters are in use, and not this one.
    Adapters {
        /// The adapter wanted.
        adapter: AdapterId,
        /// How many may be in use.
        most: usize,
    },
    /// Another task or request is first by the policy.
    Behind {
        /// Its id.
        first: u64,
        /// The policy.
        policy: &'static str,
    },
    /// The tenant has had more than another tenant that waits.
    Share {
        /// The tenant.
        tenant: TenantId,
        /// Its rank by the policy: service or share, by weight.
        used: f64,
        /// The tenant that is first.
        first: TenantId,
        /// Its rank.
        least: f64,
    },
    /// It was submitted as not ready.
    NotReady,
    /// Its row was sampled without a token: it waits to be continued, forked or stopped.
    Deferred,
    /// It was preempted in this step.
    Preempted,
    /// No plan is made until the results of all plans in flight are in, since a sequence in flight has to be preempted.
    Draining,
    /// It is looked at again when the results of the plans in flight are in.
    NextStep,
}

impl fmt::Display for Wait {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Resource { resource, needed, free } => {
                write!(f, "not enough {resource}: {needed} needed, {free} free")
            }
            Self::Blocks { needed, free } => write!(f, "no free KV block: {needed} needed, {free} free"),
            Self::Slots { needed, most } => write!(f, "no free running slot: {needed} needed, {most} may run"),
            Self::Tokens { needed, left } => write!(f, "the step is full: {needed} tokens needed, {left} left"),
            Self::Adapters { adapter, most } => write!(f, "no room for adapter {adapter}: {most} others are in use"),
            Self::Behind { first, policy } => write!(f, "{first} is first by {policy}"),
            Self::Share { tenant, used, first, least } => {
                write!(f, "tenant {tenant} is over its share: it has had {used:.3}, tenant {first} {least:.3}")
            }
            Self::NotReady => f.write_str("it is not ready"),
            Self::Deferred => f.write_str("it is deferred: no token was chosen for it yet"),
            Self::Preempted => f.write_str("it made room for others in this step"),
            Self::Draining => {
                f.write_str("no plan is made until all results are in: a sequence in flight has to make room")
            }
            Self::NextStep => f.write_str("it is looked at when the step under way is done"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_read_as_sentences() {
        let cases = [
            (Wait::Blocks { needed: 3, free: 1 }, "no free KV block: 3 needed, 1 free"),
            (Wait::Resource { resource: "memory".into(), needed: 3, free: 1 }, "not enough memory: 3 needed, 1 free"),
            (Wait::Slots { needed: 2, most: 8 }, "no free running slot: 2 needed, 8 may run"),
            (Wait::Tokens { needed: 9, left: 1 }, "the step is full: 9 tokens needed, 1 left"),
            (Wait::Adapters { adapter: AdapterId(4), most: 2 }, "no room for adapter 4: 2 others are in use"),
            (Wait::Behind { first: 7, policy: "fcfs" }, "7 is first by fcfs"),
            (
                Wait::Share { tenant: TenantId(1), used: 0.5, first: TenantId(2), least: 0.25 },
                "tenant 1 is over its share: it has had 0.500, tenant 2 0.250",
            ),
            (Wait::NotReady, "it is not ready"),
            (Wait::Deferred, "it is deferred: no token was chosen for it yet"),
            (Wait::Preempted, "it made room for others in this step"),
            (Wait::Draining, "no plan is made until all results are in: a sequence in flight has to make room"),
            (Wait::NextStep, "it is looked at when the step under way is done"),
        ];
        for (wait, text) in cases {
            assert_eq!(wait.to_string(), text);
        }
    }
}
