//! NewPolicy: say here in one sentence who goes first and why, with the paper if there is one, and what it does not do.

use super::{Bound, Candidate, Policy, PolicyEntry, Span};
use crate::Time;

/// The list's line.
pub const ENTRY: PolicyEntry = PolicyEntry {
    name: "new-policy",
    summary: "the least work first; `ageing` seconds of work forgiven a second of waiting",
    options: &[("ageing", 0.1)],
    make: |options| Ok(Box::new(NewPolicy { ageing: options.positive("ageing")? })),
};

/// Say here what the rank is.
#[derive(Clone, Copy, Debug)]
pub struct NewPolicy {
    /// How many seconds of work a second of waiting makes up for.
    pub ageing: f64,
}

impl Policy for NewPolicy {
    fn name(&self) -> &'static str {
        ENTRY.name
    }

    fn rank(&self, task: &Candidate, _: Time) -> f64 {
        // The lowest goes first. A rank that keeps its order as time passes is the cheap kind: what every task gains
        // alike by waiting can be left out, so that only the arrival counts. Otherwise see `changes` and `crossing`.
        task.cost + self.ageing * task.arrival.as_secs_f64()
    }

    fn bound(&self) -> Bound {
        // How long a task may be overtaken by later ones; the tests hold the policy to it.
        Bound::Overtaking(Span { per_cost: 1.0 / self.ageing, ..Span::default() })
    }
}
