//! Earliest deadline first. Where all deadlines can be met one after another, this order meets them; beyond that it
//! makes many a little late. What to do with late tasks is not decided here.

use std::time::Duration;

use super::{Bound, Candidate, Policy, PolicyEntry, Span};
use crate::Time;

/// The list's line.
pub const ENTRY: PolicyEntry = PolicyEntry {
    name: "deadline",
    summary: "the earliest deadline first; a task without one is due `slack` seconds after it came",
    options: &[("slack", 60.0)],
    make: |options| Ok(Box::new(EarliestDeadline { slack: options.positive("slack")? })),
};

/// The earliest deadline first.
#[derive(Clone, Copy, Debug)]
pub struct EarliestDeadline {
    /// How many seconds after its arrival a task without a deadline is due.
    pub slack: f64,
}

impl Policy for EarliestDeadline {
    fn name(&self) -> &'static str {
        ENTRY.name
    }

    fn rank(&self, task: &Candidate, _: Time) -> f64 {
        if task.deadline == Time::NEVER {
            let slack = Duration::try_from_secs_f64(self.slack).unwrap_or(Duration::MAX);
            task.arrival.after(slack).as_secs_f64()
        } else {
            task.deadline.as_secs_f64()
        }
    }

    fn bound(&self) -> Bound {
        Bound::Overtaking(Span { fixed: self.slack, to_deadline: true, ..Span::default() })
    }
}
