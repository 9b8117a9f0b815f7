//! Decides who runs next, with what, and why: for tasks on named resources, for requests to language models, and for
//! replicas behind a router. And simulates what such decisions do.
//!
//! Everything here is a state machine of one shape, `step(events, now) -> plan`: events go in as plain data, a plan
//! comes out as plain data. There is no clock, no thread, no I/O, no model, and every random number is seeded. So the
//! same events always give the same plans, and all of it can be tested exhaustively. Another crate carries the plans
//! out.
//!
//! * [`TaskScheduler`] runs tasks of any kind on a machine whose [`ResourceManager`] knows compute, memory, storage or
//!   any other resource that the user names.
//! * [`BatchScheduler`] batches language-model requests: continuous batching, chunked prompts, paged KV memory with shared
//!   prefixes, forks, preemption, draft tokens.
//! * [`ServingLoop`] is the loop around it: events in, a client told, one plan after another.
//! * [`Router`] spreads requests over replicas.
//! * [`policy()`] gives the order of waiting tasks and requests; [`POLICIES`] lists all policies.
//! * [`simulate`] runs traffic through them in simulated time.
//!
//! # What holds
//! * A refused event changes nothing: it is answered by a [`SchedulerError`] in the plan.
//! * Time does not go back: a step with an earlier time counts as at the latest time.
//! * Every waiting task or request has a reason to wait: a [`Wait`], as data and in words.
//! * Books balance: nothing is over-committed, leaked or released twice, and no shared block is written to. Cheap
//!   checks run after every step, in release builds too; `audit` recounts everything.
//! * No task is overtaken for longer than the policy's [`Bound`] says, unless a scheduler is allowed to look ahead.
//!
//! # How it is built
//! Waiting work stands in a queue (`queue.rs`) that keeps a policy's order at `O(log n)` a change, also for ranks that
//! change with time (`tournament.rs`). So the cost of a step depends on the sequences that it touches, not on the
//! length of the queue. The caller chooses the ids; hash maps are looked up and never iterated. Amounts are whole
//! numbers.
//!
//! A policy is one file in `policy/` and one line in its list: `cargo xtask new policy NAME`.

#![forbid(unsafe_code)]

mod batch;
mod error;
mod hash;
mod id;
pub mod kv;
pub mod policy;
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
    Admission, BatchConfig, BatchEvent, BatchScheduler, BatchStats, Client, CopyBlock, EndReason, Finished, Item,
    ModelConfig, Output, OutputStatus, PENDING, Plan, PlanResults, PlanStatus, Preempted, Preemption, Request,
    ServingLoop, Swap, Token,
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
