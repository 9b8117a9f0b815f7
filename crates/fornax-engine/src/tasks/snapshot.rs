//! What a runner does at one moment, for people and for metrics.

use std::fmt;
use std::time::Duration;

use fornax_scheduler::{TaskId, TenantId};

/// What runs, what waits and why, and what is in use; its text is one line for each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// The machine's resources.
    pub resources: Vec<ResourceUse>,
    /// The tasks that run, by submission.
    pub running: Vec<RunningTask>,
    /// The tasks that wait, by submission.
    pub waiting: Vec<WaitingTask>,
}

/// How much of a resource is in use, in its own units.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResourceUse {
    /// The resource's name.
    pub name: String,
    /// How much there is.
    pub capacity: u64,
    /// How much is held by the tasks that run.
    pub used: u64,
    /// The most that was ever held.
    pub most: u64,
}

/// A task that runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunningTask {
    /// Its number.
    pub id: TaskId,
    /// Its name.
    pub name: String,
    /// Whose it is.
    pub tenant: TenantId,
    /// How many units it holds.
    pub units: u32,
    /// How long it has run.
    pub ran: Duration,
    /// Whether it was asked to stop.
    pub stopping: bool,
}

/// A task that waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WaitingTask {
    /// Its number.
    pub id: TaskId,
    /// Its name.
    pub name: String,
    /// Whose it is.
    pub tenant: TenantId,
    /// How long it has waited.
    pub waited: Duration,
    /// Why, in words.
    pub reason: String,
}

impl Snapshot {
    /// The resource of this name, if there is one.
    pub fn resource(&self, name: &str) -> Option<&ResourceUse> {
        self.resources.iter().find(|resource| resource.name == name)
    }
}

impl fmt::Display for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for ResourceUse { name, capacity, used, most } in &self.resources {
            writeln!(f, "{name}: {used} of {capacity} in use, {most} at most so far")?;
        }
        for RunningTask { id, name, units, ran, stopping, .. } in &self.running {
            let stopping = if *stopping { ", is to stop" } else { "" };
            let units = if *units == 1 { String::new() } else { format!(" with {units} units") };
            writeln!(f, "{id} {name}: runs for {:.3} s{units}{stopping}", ran.as_secs_f64())?;
        }
        for WaitingTask { id, name, waited, reason, .. } in &self.waiting {
            writeln!(f, "{id} {name}: waits for {:.3} s, {reason}", waited.as_secs_f64())?;
        }
        Ok(())
    }
}
