//! The errors: why something from outside was refused, each with what to do next.

use crate::{RequestId, SequenceId, TaskId, TenantId};

/// Why an event, a task, a configuration or a scenario was refused. A refused event changes nothing.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum SchedulerError {
    /// A task with this id is known and has not ended.
    #[error("task {id} is there already; give each task that has not ended an id of its own")]
    DuplicateTask {
        /// The id.
        id: TaskId,
    },
    /// No task with this id is waiting or running.
    #[error("task {id} is not waiting or running; it has ended, or was never submitted")]
    UnknownTask {
        /// The id.
        id: TaskId,
    },
    /// A task that has not started was said to have ended.
    #[error("task {id} has not started; cancel it if it is not to run")]
    NotStarted {
        /// The id.
        id: TaskId,
    },
    /// A task was said to have more units than it was given, or none.
    #[error("task {id} has {held} units and was said to have shrunk to {found}; report between 1 and {held}")]
    WrongUnits {
        /// The task.
        id: TaskId,
        /// The units that it has.
        held: u32,
        /// The units that were reported.
        found: u32,
    },
    /// A request with this id is known and has not ended.
    #[error("request {id} is there already; give each request that has not ended an id of its own")]
    DuplicateRequest {
        /// The id.
        id: RequestId,
    },
    /// No request with this id is waiting or running.
    #[error("request {id} is not waiting or running; it has ended, or was never submitted")]
    UnknownRequest {
        /// The id.
        id: RequestId,
    },
    /// No such sequence is waiting or running.
    #[error("sequence {id} is not waiting or running; it has ended, or was never there")]
    UnknownSequence {
        /// The sequence.
        id: SequenceId,
    },
    /// A fork was to get an index that its request has in use.
    #[error("sequence {id} is there already; fork to an index that the request does not use")]
    DuplicateSequence {
        /// The sequence.
        id: SequenceId,
    },
    /// A sequence can be forked only between two steps, once its prompt is computed.
    #[error("sequence {id} cannot be forked now: {reason}")]
    CannotFork {
        /// The sequence.
        id: SequenceId,
        /// What stands against it.
        reason: &'static str,
    },
    /// Only a deferred sequence can be continued.
    #[error("sequence {id} is not deferred; after preemption its row is sampled again, continue it then")]
    NotDeferred {
        /// The sequence.
        id: SequenceId,
    },
    /// Draft tokens follow the last known token of a decoding sequence.
    #[error("sequence {id} cannot have draft tokens now; give them for a decoding sequence whose results are in")]
    CannotDraft {
        /// The sequence.
        id: SequenceId,
    },
    /// A request that was ready was said to have become so.
    #[error("request {id} is ready already; only a request that is submitted as not ready becomes so, once")]
    AlreadyReady {
        /// The id.
        id: RequestId,
    },
    /// A sequence was said to have lost its blocks in host memory, and has none there.
    #[error("sequence {id} is not swapped out; only a sequence whose blocks lie in host memory can lose them")]
    NotSwapped {
        /// The sequence.
        id: SequenceId,
    },
    /// A tenant that was not declared.
    #[error("tenant {id} is not declared; declare it with its weight first")]
    UnknownTenant {
        /// The tenant.
        id: TenantId,
    },
    /// A tenant's number is larger than the tables allow.
    #[error("tenant {id} is beyond the largest number of a tenant, {most}; number tenants from zero")]
    TenantTooLarge {
        /// The tenant.
        id: TenantId,
        /// The largest number.
        most: u32,
    },
    /// A resource that the machine does not have.
    #[error("there is no resource {name:?}; the machine has {}", known.join(", "))]
    UnknownResource {
        /// The name asked for.
        name: String,
        /// The names there are.
        known: Vec<String>,
    },
    /// A resource that was named twice.
    #[error("resource {name:?} is named twice; name each once")]
    DuplicateResource {
        /// The name.
        name: String,
    },
    /// A demand that could never be met.
    #[error("{needed} of {resource:?} are needed and the machine has {capacity} in all; ask for less")]
    NeverFits {
        /// The resource.
        resource: String,
        /// What is needed at least.
        needed: u64,
        /// All there is.
        capacity: u64,
    },
    /// A demand that cannot be met now.
    #[error("{needed} of {resource:?} are needed and {free} are free; wait until some are released")]
    NotEnough {
        /// The resource.
        resource: String,
        /// What is needed.
        needed: u64,
        /// What is free.
        free: u64,
    },
    /// An allocation that was released already, or never made.
    #[error("allocation {id} is not held; it was released already, or never made")]
    NotHeld {
        /// The allocation's number.
        id: u64,
    },
    /// A number that is not in its range.
    #[error("{what} is {found}; give {expected}")]
    InvalidNumber {
        /// What the number is.
        what: &'static str,
        /// The number as given.
        found: String,
        /// The range.
        expected: &'static str,
    },
    /// A request for a model that is not served.
    #[error("there is no model {found}; {models} are configured, numbered from zero")]
    UnknownModel {
        /// The number asked for.
        found: u16,
        /// How many there are.
        models: usize,
    },
    /// A request without a token to begin with.
    #[error("request {id} has no prompt; give at least one token, such as the beginning of the text")]
    EmptyPrompt {
        /// The request.
        id: RequestId,
    },
    /// The results of another plan than the oldest in flight.
    #[error("results of plan {found} came while {} is the oldest in flight; report each plan once, in order", expected.map_or("none".to_owned(), |plan| format!("plan {plan}")))]
    StalePlan {
        /// The oldest plan in flight.
        expected: Option<u64>,
        /// The plan reported.
        found: u64,
    },
    /// Results that do not match their plan. The plan stays in flight.
    #[error("the results of plan {plan} do not match it: {what}, expected {expected}, found {found}")]
    WrongOutputs {
        /// The plan.
        plan: u64,
        /// What does not match.
        what: &'static str,
        /// What the plan implies.
        expected: usize,
        /// What was reported.
        found: usize,
    },
    /// A policy that is not registered.
    #[error("there is no policy {name:?}; there are {}", known.join(", "))]
    UnknownPolicy {
        /// The name asked for.
        name: String,
        /// The names there are.
        known: Vec<&'static str>,
    },
    /// A routing strategy that is not registered.
    #[error("there is no routing {name:?}; there are {}", known.join(", "))]
    UnknownRouting {
        /// The name asked for.
        name: String,
        /// The names there are.
        known: Vec<&'static str>,
    },
    /// An option that a policy or a routing strategy does not have.
    #[error("there is no option {name:?}; {}", options(known))]
    UnknownOption {
        /// The name asked for.
        name: String,
        /// The names there are.
        known: Vec<&'static str>,
    },
    /// A configuration that contradicts itself, or lacks something.
    #[error("{field} is {found}: {reason}")]
    InvalidConfig {
        /// The field.
        field: &'static str,
        /// Its value.
        found: String,
        /// What would be right.
        reason: &'static str,
    },
    /// A replica that the router does not know.
    #[error("there is no replica {found}; {replicas} are there, numbered from zero")]
    UnknownReplica {
        /// The number.
        found: u32,
        /// How many there are.
        replicas: usize,
    },
    /// No replica may take a request.
    #[error("no replica takes requests: all are drained or lost; add one, or wait for a report")]
    NoReplica,
    /// A scenario or trace that cannot be read.
    #[error("{place}: {reason}")]
    Scenario {
        /// Where: a key of the scenario, or a line of the trace.
        place: String,
        /// What is wrong, and what would be right.
        reason: String,
    },
}

impl SchedulerError {
    /// A configuration's `field` with its value and what would be right.
    pub(crate) fn config(field: &'static str, found: impl ToString, reason: &'static str) -> Self {
        Self::InvalidConfig { field, found: found.to_string(), reason }
    }
}

/// The names of options, as a message lists them.
fn options(known: &[&str]) -> String {
    if known.is_empty() { "it has no options".into() } else { format!("there are {}", known.join(", ")) }
}

/// `value` if it is a finite number above zero.
pub(crate) fn positive(what: &'static str, value: f64) -> Result<f64, SchedulerError> {
    if value.is_finite() && value > 0.0 {
        Ok(value)
    } else {
        Err(SchedulerError::InvalidNumber { what, found: value.to_string(), expected: "a finite number above zero" })
    }
}
