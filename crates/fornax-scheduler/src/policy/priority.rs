//! Strict priority, with ageing if wanted: without it, the lowest waits as long as there is anything higher.

use super::{Bound, Candidate, Policy, PolicyEntry, Span};
use crate::Time;

/// The list's line.
pub const ENTRY: PolicyEntry = PolicyEntry {
    name: "priority",
    summary: "the highest priority first; `ageing` levels a second of waiting (0: strict)",
    options: &[("ageing", 0.0)],
    make: |options| Ok(Box::new(Priority { ageing: options.not_negative("ageing")? })),
};

/// The highest priority first, then by arrival.
#[derive(Clone, Copy, Debug, Default)]
pub struct Priority {
    /// How many levels a task rises in a second of waiting; 0 is strict priority.
    pub ageing: f64,
}

impl Policy for Priority {
    fn name(&self) -> &'static str {
        ENTRY.name
    }

    fn rank(&self, task: &Candidate, _: Time) -> f64 {
        // `priority + ageing · (now - arrival)`: `now` is the same for all, so that the order never changes. Of equal
        // ranks the earlier submission goes first.
        self.ageing * task.arrival.as_secs_f64() - f64::from(task.priority)
    }

    fn bound(&self) -> Bound {
        if self.ageing > 0.0 {
            Bound::Overtaking(Span { per_level: 1.0 / self.ageing, ..Span::default() })
        } else {
            Bound::Unbounded
        }
    }
}
