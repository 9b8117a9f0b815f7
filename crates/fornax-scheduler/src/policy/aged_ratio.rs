//! The ratio with ageing, `P = R / (C + W) + ageing · W`, the largest first.
//!
//! A task that has just come has the plain ratio. Waiting adds to it, so that no task starves: the ratio is at most the
//! largest `R / C` there is, and the ageing term outweighs it after a time. R is a part of the machine, at most 1
//! whatever the units of resources, so `R / C` is at most one over the least cost. Among tasks of 2 seconds and more,
//! the default of 0.1 lets no task be overtaken by tasks that come more than 5 seconds later.

use super::{Bound, Candidate, Policy, PolicyEntry, Span, ratio};
use crate::Time;

/// The list's line.
pub const ENTRY: PolicyEntry = PolicyEntry {
    name: "aged-ratio",
    summary: "the largest R / (C + W) + ageing · W first: the ratio without its starvation",
    options: &[("ageing", 0.1)],
    make: |options| Ok(Box::new(AgedRatio { ageing: options.positive("ageing")? })),
};

/// The largest `R / (C + W) + ageing · W` first.
#[derive(Clone, Copy, Debug)]
pub struct AgedRatio {
    /// What a second of waiting adds; above zero.
    pub ageing: f64,
}

impl Policy for AgedRatio {
    fn name(&self) -> &'static str {
        ENTRY.name
    }

    fn rank(&self, task: &Candidate, now: Time) -> f64 {
        let waited = task.waited(now);
        -(ratio::Ratio::of(task.demand, task.cost, waited) + self.ageing * waited)
    }

    fn bound(&self) -> Bound {
        // A task that comes `s` later is ahead only while its ratio, at most the largest, exceeds `ageing · s`.
        Bound::Overtaking(Span { per_ratio: 1.0 / self.ageing, ..Span::default() })
    }

    fn changes(&self) -> bool {
        true
    }

    fn crossing(&self, ahead: &Candidate, behind: &Candidate, now: Time) -> Option<Time> {
        ratio::crossing(ahead, behind, now, self.ageing)
    }
}
