//! The ratio with ageing, `P = R / (C + W) + ageing · W`, the largest first.
//!
//! For those who have just come it is the ratio; waiting adds to it, so that nobody starves: the ratio's part is at most
//! the largest `R / C` there is, and `ageing` outweighs that after a time. Since R is a part of the machine, at most 1, that
//! is at most one over the least cost, whatever unit resources are counted in: among tasks of 2 seconds and more, the
//! default of 0.1 lets nobody be overtaken by those who come more than 5 seconds later.

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
        // One that comes `s` later is ahead only while its ratio, at most the largest, exceeds `ageing · s`.
        Bound::Overtaking(Span { per_ratio: 1.0 / self.ageing, ..Span::default() })
    }

    fn changes(&self) -> bool {
        true
    }

    fn crossing(&self, ahead: &Candidate, behind: &Candidate, now: Time) -> Option<Time> {
        ratio::crossing(ahead, behind, now, self.ageing)
    }
}
