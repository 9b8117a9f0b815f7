//! Tasks of any kind on named resources: what is submitted, what happened, and the plan that follows.
//!
//! The state machine itself is in `scheduler.rs`. Nothing here runs a task; who does carries out the plan and reports.

mod scheduler;

pub use scheduler::TaskScheduler;

use crate::{Demand, SchedulerError, TaskId, TenantId, Time, Wait};

/// Something to be run.
#[derive(Clone, Debug, PartialEq)]
pub struct Task {
    /// Its name while it has not ended.
    pub id: TaskId,
    /// Whose it is.
    pub tenant: TenantId,
    /// What one unit of it needs while it runs.
    pub demand: Demand,
    /// How long it will compute by estimate, in seconds: finite and above zero.
    pub cost: f64,
    /// The higher, the more urgent.
    pub priority: i32,
    /// When it is to be done, if ever.
    pub deadline: Option<Time>,
    /// The fewest units it runs with, at least 1.
    pub least_units: u32,
    /// The most units it can use: it gets more than the least while nothing else waits.
    pub most_units: u32,
}

impl Task {
    /// A task of one unit and a second, without priority or deadline, of the default tenant.
    pub fn new(id: u64, demand: Demand) -> Self {
        Self {
            id: TaskId(id),
            tenant: TenantId::DEFAULT,
            demand,
            cost: 1.0,
            priority: 0,
            deadline: None,
            least_units: 1,
            most_units: 1,
        }
    }

    /// The same with another estimate of its cost, in seconds.
    #[must_use]
    pub fn cost(mut self, seconds: f64) -> Self {
        self.cost = seconds;
        self
    }

    /// The same with another priority.
    #[must_use]
    pub fn priority(mut self, priority: i32) -> Self {
        self.priority = priority;
        self
    }

    /// The same of another tenant.
    #[must_use]
    pub fn tenant(mut self, tenant: TenantId) -> Self {
        self.tenant = tenant;
        self
    }

    /// The same with a deadline.
    #[must_use]
    pub fn deadline(mut self, deadline: Time) -> Self {
        self.deadline = Some(deadline);
        self
    }

    /// The same with `least` to `most` units.
    #[must_use]
    pub fn units(mut self, least: u32, most: u32) -> Self {
        self.least_units = least;
        self.most_units = most;
        self
    }
}

/// What happened since the last step.
#[derive(Clone, Debug, PartialEq)]
pub enum TaskEvent {
    /// A task came.
    Submit(Task),
    /// A running task ended: done, failed, or stopped as the plan said. Its resources are free again.
    Ended(TaskId),
    /// A running task gave up units, as the plan asked, and has this many left.
    Shrunk {
        /// The task.
        id: TaskId,
        /// The units that it still has.
        units: u32,
    },
    /// A task is no longer wanted. A waiting task is gone at once. A running task is named in [`TaskPlan::stop`], and
    /// keeps its resources until it is said to have ended.
    Cancel(TaskId),
}

/// A task and a number of units.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Units {
    /// The task.
    pub id: TaskId,
    /// How many units it is to have.
    pub units: u32,
}

/// An event that was refused; it changed nothing.
#[derive(Clone, Debug, PartialEq)]
pub struct Rejected {
    /// Its place among the events of the step, counted from zero.
    pub event: usize,
    /// Why.
    pub error: SchedulerError,
}

/// What to do now.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TaskPlan {
    /// Tasks to start, in this order.
    pub start: Vec<Units>,
    /// Running tasks to stop: cancelled, or past their deadlines.
    pub stop: Vec<TaskId>,
    /// Running tasks that may use more units from now on.
    pub grow: Vec<Units>,
    /// Running tasks that are to give up units, and say so by [`TaskEvent::Shrunk`].
    pub shrink: Vec<Units>,
    /// Waiting tasks that were cancelled.
    pub cancelled: Vec<TaskId>,
    /// Waiting tasks whose deadline has passed; they are gone.
    pub expired: Vec<TaskId>,
    /// Why the tasks wait that the step looked at. [`TaskScheduler::why`] answers for every task.
    pub waiting: Vec<(TaskId, Wait)>,
    /// Events that were refused.
    pub rejected: Vec<Rejected>,
}
