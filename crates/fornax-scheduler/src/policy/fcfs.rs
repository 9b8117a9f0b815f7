//! First come, first served: no task is ever overtaken, and a long one holds up all behind it.

use super::{Bound, Candidate, Policy, PolicyEntry, Span};
use crate::Time;

/// The list's line.
pub const ENTRY: PolicyEntry =
    PolicyEntry { name: "fcfs", summary: "first come, first served", options: &[], make: |_| Ok(Box::new(FirstCome)) };

/// First come, first served.
#[derive(Clone, Copy, Debug, Default)]
pub struct FirstCome;

impl Policy for FirstCome {
    fn name(&self) -> &'static str {
        ENTRY.name
    }

    fn rank(&self, task: &Candidate, _: Time) -> f64 {
        task.arrival.as_secs_f64()
    }

    fn bound(&self) -> Bound {
        Bound::Overtaking(Span::default())
    }
}
