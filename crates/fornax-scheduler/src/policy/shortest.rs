//! The shortest predicted job first, with ageing: what is quick to serve goes first, what waits rises.
//!
//! The prediction is the caller's ([`Candidate::cost`], the work still ahead). With perfect predictions, without ageing
//! and with preemption it is shortest remaining time first, which no other order beats in mean response time.

use super::{Bound, Candidate, Policy, PolicyEntry, Span};
use crate::Time;

/// The list's line.
pub const ENTRY: PolicyEntry = PolicyEntry {
    name: "shortest",
    summary: "the least predicted work first; `ageing` seconds of work forgiven a second of waiting (0: none)",
    options: &[("ageing", 0.1)],
    make: |options| Ok(Box::new(Shortest { ageing: options.not_negative("ageing")? })),
};

/// The least `cost - ageing · waiting` first.
#[derive(Clone, Copy, Debug)]
pub struct Shortest {
    /// How many seconds of work a second of waiting makes up for; 0 is plain shortest job first, which starves the long.
    pub ageing: f64,
}

impl Policy for Shortest {
    fn name(&self) -> &'static str {
        ENTRY.name
    }

    fn rank(&self, task: &Candidate, _: Time) -> f64 {
        // `now` is the same for all, so that the order never changes and only the arrival counts.
        task.cost + self.ageing * task.arrival.as_secs_f64()
    }

    fn bound(&self) -> Bound {
        if self.ageing > 0.0 {
            Bound::Overtaking(Span { per_cost: 1.0 / self.ageing, ..Span::default() })
        } else {
            Bound::Unbounded
        }
    }
}
