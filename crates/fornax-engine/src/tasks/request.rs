//! What is said of a task when it is submitted. What it does is the closure beside it.

use std::time::Duration;

use fornax_scheduler::{Demand, TenantId};

/// A task's name, what it needs, and how much it matters.
#[derive(Clone, Debug, PartialEq)]
pub struct TaskRequest {
    /// What people call it; need not be unique.
    pub name: String,
    /// What one unit of it needs while it runs.
    pub demand: Demand,
    /// Whose it is.
    pub tenant: TenantId,
    /// The higher, the more urgent.
    pub priority: i32,
    /// How long it will compute by estimate, in seconds: finite and above zero.
    pub cost: f64,
    /// How long after its submission it is to be done, if it matters.
    pub deadline: Option<Duration>,
    /// The fewest units it runs with, at least 1.
    pub least_units: u32,
    /// The most units it can use: it gets more than the least while nothing else waits.
    pub most_units: u32,
    /// How long a future that was asked to stop may go on. Blocking closures go on until they return.
    pub grace: Duration,
}

impl TaskRequest {
    /// A task of one unit and a second, without priority, deadline or grace, of the default tenant.
    pub fn new(name: impl Into<String>, demand: Demand) -> Self {
        Self {
            name: name.into(),
            demand,
            tenant: TenantId::DEFAULT,
            priority: 0,
            cost: 1.0,
            deadline: None,
            least_units: 1,
            most_units: 1,
            grace: Duration::ZERO,
        }
    }

    /// The same request of another tenant, which
    /// [`TaskRunner::declare_tenant`](super::TaskRunner::declare_tenant) has declared.
    #[must_use]
    pub fn tenant(mut self, tenant: TenantId) -> Self {
        self.tenant = tenant;
        self
    }

    /// The same with another priority.
    #[must_use]
    pub fn priority(mut self, priority: i32) -> Self {
        self.priority = priority;
        self
    }

    /// The same with another estimate of its cost, in seconds.
    #[must_use]
    pub fn cost(mut self, seconds: f64) -> Self {
        self.cost = seconds;
        self
    }

    /// The same, to be done this long after its submission. Later it is dropped, or stopped if it runs by then.
    #[must_use]
    pub fn deadline(mut self, after_submission: Duration) -> Self {
        self.deadline = Some(after_submission);
        self
    }

    /// The same with `least` to `most` units; [`TaskContext::units`](super::TaskContext::units) says how many it has.
    #[must_use]
    pub fn units(mut self, least: u32, most: u32) -> Self {
        self.least_units = least;
        self.most_units = most;
        self
    }

    /// The same, where the future may go on this long after it was asked to stop.
    #[must_use]
    pub fn grace(mut self, grace: Duration) -> Self {
        self.grace = grace;
        self
    }
}
