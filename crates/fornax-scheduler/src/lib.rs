//! Decides who runs next, with what, and why.

#![forbid(unsafe_code)]

mod batch;
mod error;
mod id;
pub mod kv;
mod policy;
mod queue;
mod random;
mod resources;
mod router;
pub mod simulate;
mod tasks;
mod tenants;
mod time;
mod tournament;
mod wait;

pub use batch::{
    Admission, BatchConfig, BatchEvent, BatchScheduler, BatchStats, CopyBlock, FinishReason, Finished, Item,
    ModelConfig, Output, Plan, Preempted, Preemption, Request, Swap, Token,
};
pub use error::SchedulerError;
pub use id::{AdapterId, BlockId, ModelId, PlanId, RequestId, SequenceId, TaskId, TenantId};
pub use policy::{
    Bound, Candidate, Observation, POLICIES, Policy, PolicyClone, PolicyEntry, PolicyOptions, Span, policy,
};
pub use random::Random;
pub use resources::{Allocation, Amounts, Demand, Resource, ResourceManager};
pub use router::{
    LeastLoaded, PrefixAffine, ROUTING, RoundRobin, Route, RouteRequest, Router, RouterConfig, RouterEvent,
    RoutingEntry, RoutingStrategy, TenantAffine, TwoChoices, View, routing,
};
pub use tasks::{Rejected, Task, TaskEvent, TaskPlan, TaskScheduler, Units};
pub use time::Time;
pub use wait::Wait;

/// The policies, one module each.
pub mod policies {
    pub use crate::policy::{aged_ratio, bandit, deadline, drf, fcfs, priority, ratio, shortest, vtc};
}
