//! Who goes first: one policy a file behind one trait, and the list of them.
//!
//! A policy sees what a task is ([`Candidate`]) and what happens ([`Observation`]), and gives ranks. It never sees
//! blocks, devices or queues, and it decides nothing but order: whether there is room is another part's concern.
//!
//! # How a policy is asked
//! The waiting tasks stand in lines: one for all, or one a tenant where [`Policy::by_tenant`] says so. The line with
//! the lowest [`Policy::tenant_rank`] comes first, and within it the task with the lowest [`Policy::rank`]; equal ranks
//! go by submission. The order within a line is kept, not sorted again at every step. So a rank is either *fixed*, which
//! means that of two tasks the same one is ahead at all times (linear ageing is fixed: what counts is the arrival), or
//! the policy says by [`Policy::crossing`] when two may change places.
//!
//! # Adding one
//! `cargo xtask new policy NAME` makes the file and its line in [`POLICIES`]. The tests in `tests/it/policies.rs` run
//! every policy of the list through the same worlds and hold it to the [`Bound`] that it states.

use std::fmt;

use crate::{SchedulerError, TenantId, Time};

pub mod aged_ratio;
pub mod bandit;
pub mod deadline;
pub mod drf;
pub mod fcfs;
pub mod options;
pub mod priority;
pub mod ratio;
pub mod shortest;
pub mod vtc;

pub use options::PolicyOptions;

/// A task as a policy sees it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Candidate {
    /// Counts submissions: the earlier of two that rank alike goes first.
    pub number: u64,
    /// Whose it is.
    pub tenant: TenantId,
    /// When it came.
    pub arrival: Time,
    /// The higher, the more urgent.
    pub priority: i32,
    /// R: the part of the machine that it asks for, as one number without a unit: its dominant share, between 0 and 1
    /// (if no resource of a machine weighs more than 1). For a request to a language model, that is the part of its
    /// model's KV blocks that all its sequences hold together when their outputs have the predicted length.
    pub demand: f64,
    /// C: the computing time still ahead of it by estimate, in seconds; above zero.
    pub cost: f64,
    /// When it is to be done; [`Time::NEVER`] if there is no such time.
    pub deadline: Time,
}

impl Candidate {
    /// W: how long it has waited, in seconds.
    pub fn waited(&self, now: Time) -> f64 {
        now.secs_since(self.arrival)
    }
}

/// What happens, as far as policies care.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum Observation {
    /// A tenant with its weight: twice the weight, twice the share.
    Tenant {
        /// The tenant.
        tenant: TenantId,
        /// Above zero.
        weight: f64,
    },
    /// A step begins.
    Step {
        /// The time.
        now: Time,
    },
    /// A task begins to wait, or waits again after it was preempted.
    Queued {
        /// The task.
        task: Candidate,
        /// The tenant at the front of the queue before this task came; none unless each tenant has a line of its own.
        front: Option<TenantId>,
    },
    /// A task no longer waits.
    Unqueued {
        /// The task.
        task: Candidate,
    },
    /// A task is taken on for the first time, and its input is paid for.
    Admitted {
        /// The task.
        task: Candidate,
        /// Tokens of its prompt; for a task without tokens its cost in seconds.
        input: f64,
    },
    /// A task got service.
    Served {
        /// Whose task.
        tenant: TenantId,
        /// Tokens put out.
        output: f64,
    },
    /// A tenant holds more of a resource, or less.
    Held {
        /// The tenant.
        tenant: TenantId,
        /// Which resource, numbered from zero.
        resource: usize,
        /// The change, as a part of the whole resource; negative when given back.
        share: f64,
    },
    /// A task has ended, well or not.
    Ended {
        /// The task.
        task: Candidate,
        /// Its computing time in seconds: the true time if that is known at the end, or else the estimate.
        cost: f64,
        /// How long it waited for its first result, in seconds.
        waited: f64,
    },
}

/// How long a policy lets a task be overtaken by tasks that came later.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Bound {
    /// Without end: others may go first as long as there are any.
    Unbounded,
    /// No task that comes later than a span after it overtakes it.
    Overtaking(Span),
    /// No tenant's service falls behind another's by more than a constant while both have work waiting; within a
    /// tenant it is first come first served.
    TenantShare,
}

/// A span of time made up of parts that depend on the tasks: their sum is the span of [`Bound::Overtaking`].
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Span {
    /// Seconds, whatever the task.
    pub fixed: f64,
    /// Seconds for each second of the task's own cost.
    pub per_cost: f64,
    /// Seconds for each level of priority by which another task is above it.
    pub per_level: f64,
    /// Seconds for each unit of the largest `demand / cost` there is.
    pub per_ratio: f64,
    /// The time from its arrival to its deadline, if it has one (then without `fixed`).
    pub to_deadline: bool,
}

impl Span {
    /// The span of `task` in seconds, where no task is more than `levels` above it or has a larger ratio than `ratio`.
    pub fn seconds(&self, task: &Candidate, levels: f64, ratio: f64) -> f64 {
        let own = if self.to_deadline && task.deadline != Time::NEVER {
            task.deadline.secs_since(task.arrival)
        } else {
            self.fixed
        };
        own + self.per_cost * task.cost + self.per_level * levels + self.per_ratio * ratio
    }
}

/// An order among tasks.
pub trait Policy: fmt::Debug + Send + PolicyClone {
    /// Its name in the list.
    fn name(&self) -> &'static str;

    /// The rank of a task in its line; the lowest goes first. A finite number for every candidate.
    fn rank(&self, task: &Candidate, now: Time) -> f64;

    /// How long it lets a task be overtaken.
    fn bound(&self) -> Bound;

    /// Whether two tasks of a line may change places as time passes; then [`Policy::crossing`] says when.
    fn changes(&self) -> bool {
        false
    }

    /// When two tasks, `ahead` before `behind` at `now`, may change places: that time, or any time between `now` and
    /// then; none if they never do.
    fn crossing(&self, ahead: &Candidate, behind: &Candidate, now: Time) -> Option<Time> {
        let _ = (ahead, behind, now);
        None
    }

    /// Whether each tenant has a line of its own.
    fn by_tenant(&self) -> bool {
        false
    }

    /// The rank of a tenant's line; the lowest goes first. It changes only by an [`Observation`] about that tenant.
    fn tenant_rank(&self, tenant: TenantId) -> f64 {
        let _ = tenant;
        0.0
    }

    /// Takes note of what happened.
    fn observe(&mut self, observation: &Observation) {
        let _ = observation;
    }

    /// Whether it wants to hear of [`Observation::Served`], which comes for every token.
    fn wants_service(&self) -> bool {
        false
    }

    /// Whether it wants to hear of [`Observation::Held`], which comes for every block.
    fn wants_holdings(&self) -> bool {
        false
    }

    /// A number that changes whenever all ranks may have changed at once.
    fn revision(&self) -> u64 {
        0
    }

    /// The names of the policies that a learning policy chooses among; empty for all other policies.
    fn learns_from(&self) -> Vec<&'static str> {
        Vec::new()
    }

    /// What a policy that learns has done so far.
    fn epochs(&self) -> &[bandit::Epoch] {
        &[]
    }
}

/// Copies a boxed policy; implemented for every policy that is [`Clone`].
pub trait PolicyClone {
    /// The copy.
    fn boxed_clone(&self) -> Box<dyn Policy>;
}

impl<P: Policy + Clone + 'static> PolicyClone for P {
    fn boxed_clone(&self) -> Box<dyn Policy> {
        Box::new(self.clone())
    }
}

impl Clone for Box<dyn Policy> {
    fn clone(&self) -> Self {
        (**self).boxed_clone()
    }
}

/// A policy in the list.
#[derive(Debug)]
pub struct PolicyEntry {
    /// The name by which it is chosen.
    pub name: &'static str,
    /// What it does, in a line.
    pub summary: &'static str,
    /// Its options with their defaults.
    pub options: &'static [(&'static str, f64)],
    /// Makes it.
    pub make: fn(&PolicyOptions) -> Result<Box<dyn Policy>, SchedulerError>,
}

/// Every policy there is.
pub const POLICIES: &[&PolicyEntry] = &[
    &fcfs::ENTRY,
    &priority::ENTRY,
    &ratio::ENTRY,
    &aged_ratio::ENTRY,
    &shortest::ENTRY,
    &deadline::ENTRY,
    &vtc::ENTRY,
    &drf::ENTRY,
    &bandit::ENTRY,
    // cargo xtask new policy: one line above
];

/// The policy that `text` names, with its options: `fcfs`, `shortest:ageing=0.1`, `vtc:input=1,output=2`.
///
/// # Errors
/// [`SchedulerError::UnknownPolicy`] with the names there are; [`SchedulerError::UnknownOption`],
/// [`SchedulerError::InvalidConfig`] or [`SchedulerError::InvalidNumber`] for an option.
///
/// ```
/// let policy = fornax_scheduler::policy("shortest:ageing=0.5")?;
/// assert_eq!(policy.name(), "shortest");
/// assert!(fornax_scheduler::policy("fairest").is_err());
/// # Ok::<(), fornax_scheduler::SchedulerError>(())
/// ```
pub fn policy(text: &str) -> Result<Box<dyn Policy>, SchedulerError> {
    let (name, rest) = text.split_once(':').unwrap_or((text, ""));
    let Some(entry) = POLICIES.iter().find(|entry| entry.name == name.trim()) else {
        let known = POLICIES.iter().map(|entry| entry.name).collect();
        return Err(SchedulerError::UnknownPolicy { name: name.trim().to_owned(), known });
    };
    (entry.make)(&PolicyOptions::parse(entry.options, rest)?)
}

/// A rank as a number whose order is that of the ranks; a NaN goes last.
pub(crate) fn key(rank: f64) -> u64 {
    if rank.is_nan() {
        return u64::MAX;
    }
    // Adding zero makes the two zeros one.
    let bits = (rank + 0.0).to_bits();
    if bits >> 63 == 1 { !bits } else { bits | (1 << 63) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_have_the_order_of_ranks() {
        let ranks = [f64::NEG_INFINITY, -2.0, -1e-300, 0.0, 1e-300, 0.5, 2.0, f64::INFINITY, f64::NAN];
        assert!(ranks.windows(2).all(|pair| key(pair[0]) < key(pair[1])));
        assert_eq!(key(0.0), key(-0.0));
    }

    #[test]
    fn every_entry_makes_the_policy_of_its_name() {
        for entry in POLICIES {
            let policy = policy(entry.name).expect("the defaults are good");
            assert_eq!(policy.name(), entry.name);
            assert!(!entry.summary.is_empty());
        }
        let mut names: Vec<&str> = POLICIES.iter().map(|entry| entry.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), POLICIES.len());
    }

    #[test]
    fn a_policy_that_is_not_there_is_answered_with_those_that_are() {
        let error = policy("fair:x=1").expect_err("no such policy");
        assert!(error.to_string().contains("fcfs, priority"), "{error}");
    }

    #[test]
    fn a_policy_needs_no_more_than_a_name_a_rank_and_a_bound() {
        #[derive(Clone, Debug)]
        struct Plain;

        impl Policy for Plain {
            fn name(&self) -> &'static str {
                "plain"
            }

            fn rank(&self, task: &Candidate, _: Time) -> f64 {
                task.cost
            }

            fn bound(&self) -> Bound {
                Bound::Unbounded
            }
        }

        let task = Candidate {
            number: 0,
            tenant: TenantId::DEFAULT,
            arrival: Time::ZERO,
            priority: 0,
            demand: 1.0,
            cost: 2.0,
            deadline: Time::NEVER,
        };
        let mut policy: Box<dyn Policy> = Box::new(Plain);
        policy.observe(&Observation::Step { now: Time::ZERO });
        // Its order does not change, there is one line, and it wants to hear of nothing that comes often.
        assert!(!policy.changes() && !policy.by_tenant() && !policy.wants_service() && !policy.wants_holdings());
        assert_eq!(policy.crossing(&task, &task, Time::ZERO), None);
        assert_eq!((policy.tenant_rank(TenantId(3)), policy.revision()), (0.0, 0));
        assert!(policy.epochs().is_empty() && policy.learns_from().is_empty());
        assert_eq!(policy.clone().rank(&task, Time::ZERO), 2.0);
    }

    #[test]
    fn names_and_options_may_stand_among_spaces() {
        let policy = policy(" shortest : ageing = 0.5 ").expect("a policy");
        assert_eq!(policy.bound(), Bound::Overtaking(Span { per_cost: 2.0, ..Span::default() }));
        assert_eq!(super::policy("shortest:").expect("defaults").name(), "shortest");
    }
}
