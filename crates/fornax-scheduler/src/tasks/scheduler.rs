//! The state machine of tasks: events in, plan out.

use std::collections::{BTreeMap, BTreeSet};

use super::{Rejected, Task, TaskEvent, TaskPlan, Units};
use crate::error::positive;
use crate::policy::{Candidate, Observation, Policy};
use crate::queue::Queue;
use crate::resources::{Allocation, Amounts};
use crate::tenants::Tenants;
use crate::{ResourceManager, SchedulerError, TaskId, TenantId, Time, Wait};

/// How many tasks are looked at behind a task that does not fit.
const LOOK: usize = 16;

/// Decides which tasks run on a machine.
///
/// ```
/// use fornax_scheduler::{Demand, ResourceManager, Task, TaskEvent, TaskId, TaskScheduler, Time, policy};
///
/// let machine = ResourceManager::new([("memory", 10)])?;
/// let mut scheduler = TaskScheduler::new(machine, policy("fcfs")?);
/// let submit = |id| TaskEvent::Submit(Task::new(id, Demand::of("memory", 6)));
/// let plan = scheduler.step([submit(1), submit(2)], Time::ZERO);
/// assert_eq!(plan.start[0].id, TaskId(1));
/// assert_eq!(plan.waiting[0].1.to_string(), "not enough memory: 6 needed, 4 free");
/// let plan = scheduler.step([TaskEvent::Ended(TaskId(1))], Time::from_secs_f64(0.5));
/// assert_eq!(plan.start[0].id, TaskId(2));
/// # Ok::<(), fornax_scheduler::SchedulerError>(())
/// ```
#[derive(Clone, Debug)]
pub struct TaskScheduler {
    machine: ResourceManager,
    policy: Box<dyn Policy>,
    tenants: Tenants,
    lookahead: u32,
    drop_late: bool,
    now: Time,
    submitted: u64,
    slots: Vec<Option<Entry>>,
    vacant: Vec<u32>,
    ids: BTreeMap<TaskId, u32>,
    queue: Queue,
    /// Those that run, in the order in which they started.
    running: BTreeMap<u64, u32>,
    started: u64,
    deadlines: BTreeSet<(Time, u32)>,
    waits: BTreeMap<TaskId, Wait>,
}

/// A task that has not ended.
#[derive(Clone, Debug)]
struct Entry {
    task: Task,
    candidate: Candidate,
    unit: Amounts,
    passed: u32,
    run: Option<Run>,
}

/// A task that runs.
#[derive(Clone, Copy, Debug)]
struct Run {
    order: u64,
    allocation: Allocation,
    units: u32,
    /// The units that it was asked to shrink to.
    wanted: u32,
    stopping: bool,
    waited: f64,
}

impl TaskScheduler {
    /// A scheduler of `machine`, which must be idle, in the order of `policy`. No task is passed over for lack of room,
    /// and late tasks are dropped.
    pub fn new(machine: ResourceManager, policy: Box<dyn Policy>) -> Self {
        let mut scheduler = Self {
            machine,
            policy,
            tenants: Tenants::default(),
            lookahead: 0,
            drop_late: true,
            now: Time::ZERO,
            submitted: 0,
            slots: Vec::new(),
            vacant: Vec::new(),
            ids: BTreeMap::new(),
            queue: Queue::default(),
            running: BTreeMap::new(),
            started: 0,
            deadlines: BTreeSet::new(),
            waits: BTreeMap::new(),
        };
        scheduler.policy.observe(&Observation::Tenant { tenant: TenantId::DEFAULT, weight: 1.0 });
        scheduler
    }

    /// The same, where a task that does not fit may be passed over `times` times by others that do. 0, the default,
    /// keeps strict order.
    #[must_use]
    pub fn with_lookahead(mut self, times: u32) -> Self {
        self.lookahead = times;
        self
    }

    /// The same, where tasks past their deadline run all the same.
    #[must_use]
    pub fn keep_late(mut self) -> Self {
        self.drop_late = false;
        self
    }

    /// Declares a tenant, or changes its weight: with a policy that shares, twice the weight gets twice as much.
    ///
    /// # Errors
    /// [`SchedulerError::InvalidNumber`] for a weight that is not above zero, [`SchedulerError::TenantTooLarge`].
    pub fn declare_tenant(&mut self, tenant: TenantId, weight: f64) -> Result<(), SchedulerError> {
        self.tenants.declare(tenant, weight)?;
        self.policy.observe(&Observation::Tenant { tenant, weight });
        self.queue.touch(tenant);
        Ok(())
    }

    /// The machine's account.
    pub fn machine(&self) -> &ResourceManager {
        &self.machine
    }

    /// The policy.
    pub fn policy(&self) -> &dyn Policy {
        self.policy.as_ref()
    }

    /// How many tasks wait.
    pub fn waiting(&self) -> usize {
        self.queue.len()
    }

    /// How many tasks run.
    pub fn running(&self) -> usize {
        self.running.len()
    }

    /// Whether a task runs.
    pub fn is_running(&self, id: TaskId) -> bool {
        self.ids.get(&id).is_some_and(|&slot| self.entry(slot).run.is_some())
    }

    /// Takes in what happened and says what to do. Time does not go back: an earlier `now` counts as the latest one, as does
    /// [`Time::NEVER`].
    pub fn step(&mut self, events: impl IntoIterator<Item = TaskEvent>, now: Time) -> TaskPlan {
        self.now.advance(now);
        let mut plan = TaskPlan::default();
        self.policy.observe(&Observation::Step { now: self.now });
        for (event, what) in events.into_iter().enumerate() {
            let outcome = match what {
                TaskEvent::Submit(task) => self.submit(task),
                TaskEvent::Ended(id) => self.ended(id),
                TaskEvent::Shrunk { id, units } => self.shrunk(id, units),
                TaskEvent::Cancel(id) => self.cancel(id, &mut plan),
            };
            plan.rejected.extend(outcome.err().map(|error| Rejected { event, error }));
        }
        self.expire(&mut plan);
        self.waits.clear();
        let blocked = self.start(&mut plan);
        match blocked {
            Some(slot) => self.ask_to_shrink(slot, &mut plan),
            // No task waits for the free resources.
            None => self.grow(&mut plan),
        }
        plan.waiting = self.waits.iter().map(|(id, wait)| (*id, wait.clone())).collect();
        plan
    }

    /// Why a task waits; none if it does not.
    pub fn why(&mut self, id: TaskId) -> Option<Wait> {
        let slot = *self.ids.get(&id)?;
        if !self.queue.contains(slot) {
            return None;
        }
        if let Some(wait) = self.waits.get(&id) {
            return Some(wait.clone());
        }
        let (_, first) = self.queue.first(self.policy.as_ref(), self.now)?;
        let tenant = self.entry(slot).task.tenant;
        let front = &self.entry(first).task;
        if first == slot {
            return Some(Wait::NextStep);
        }
        if self.policy.by_tenant() && front.tenant != tenant {
            let (used, least) = (self.policy.tenant_rank(tenant), self.policy.tenant_rank(front.tenant));
            if used > least {
                return Some(Wait::Share { tenant, used, first: front.tenant, least });
            }
        }
        Some(Wait::Behind { first: front.id.0, policy: self.policy.name() })
    }

    /// Holds the books against each other.
    ///
    /// # Panics
    /// If they do not balance, which is a fault of this crate.
    pub fn audit(&self) {
        self.machine.audit();
        assert_eq!(self.machine.held(), self.running.len(), "each running task has one allocation");
        assert_eq!(self.ids.len(), self.running.len() + self.queue.len(), "a task runs or waits");
        for (&order, &slot) in &self.running {
            let entry = self.entry(slot);
            let run = entry.run.expect("a running task runs");
            assert!(run.order == order && !self.queue.contains(slot), "a running task does not wait");
            assert!(run.units >= 1 && run.units <= entry.task.most_units, "a task has units within its bounds");
        }
    }

    fn submit(&mut self, task: Task) -> Result<(), SchedulerError> {
        if self.ids.contains_key(&task.id) {
            return Err(SchedulerError::DuplicateTask { id: task.id });
        }
        self.tenants.check(task.tenant)?;
        let cost = positive("the cost of a task", task.cost)?;
        if task.least_units == 0 || task.most_units < task.least_units {
            return Err(SchedulerError::InvalidNumber {
                what: "the units of a task",
                found: format!("{} to {}", task.least_units, task.most_units),
                expected: "at least one, and no more at least than at most",
            });
        }
        let unit = self.machine.resolve(&task.demand)?;
        let least = unit.times(task.least_units);
        self.machine.check_possible(&least)?;
        let candidate = Candidate {
            number: self.submitted,
            tenant: task.tenant,
            arrival: self.now,
            priority: task.priority,
            demand: self.machine.weigh(&least),
            cost,
            deadline: task.deadline.unwrap_or(Time::NEVER),
        };
        self.submitted += 1;
        let slot = self.vacant.pop().unwrap_or_else(|| {
            self.slots.push(None);
            self.slots.len() as u32 - 1
        });
        self.ids.insert(task.id, slot);
        if let Some(deadline) = task.deadline {
            self.deadlines.insert((deadline, slot));
        }
        let front = self.queue.front(self.policy.as_ref(), self.now);
        self.policy.observe(&Observation::Queued { task: candidate, front });
        self.queue.touch(task.tenant);
        self.slots[slot as usize] = Some(Entry { task, candidate, unit, passed: 0, run: None });
        self.queue.insert(slot, candidate, self.policy.as_ref(), self.now);
        Ok(())
    }

    fn ended(&mut self, id: TaskId) -> Result<(), SchedulerError> {
        let slot = *self.ids.get(&id).ok_or(SchedulerError::UnknownTask { id })?;
        let entry = self.entry(slot);
        let run = entry.run.ok_or(SchedulerError::NotStarted { id })?;
        let (candidate, unit) = (entry.candidate, entry.unit.clone());
        self.machine.release(run.allocation).expect("a running task holds its allocation");
        self.tell_holdings(candidate.tenant, &unit, -f64::from(run.units));
        self.running.remove(&run.order);
        self.forget(slot);
        self.policy.observe(&Observation::Ended { task: candidate, cost: candidate.cost, waited: run.waited });
        Ok(())
    }

    fn shrunk(&mut self, id: TaskId, units: u32) -> Result<(), SchedulerError> {
        let slot = *self.ids.get(&id).ok_or(SchedulerError::UnknownTask { id })?;
        let entry = self.entry(slot);
        let run = entry.run.ok_or(SchedulerError::NotStarted { id })?;
        if units == 0 || units > run.units {
            return Err(SchedulerError::WrongUnits { id, held: run.units, found: units });
        }
        let (tenant, unit) = (entry.task.tenant, entry.unit.clone());
        self.machine.resize(run.allocation, &unit.times(units)).expect("less than it holds always fits");
        self.tell_holdings(tenant, &unit, -f64::from(run.units - units));
        let run = self.run_mut(slot);
        run.units = units;
        run.wanted = run.wanted.min(units);
        Ok(())
    }

    fn cancel(&mut self, id: TaskId, plan: &mut TaskPlan) -> Result<(), SchedulerError> {
        let slot = *self.ids.get(&id).ok_or(SchedulerError::UnknownTask { id })?;
        if self.queue.contains(slot) {
            self.leave_queue(slot);
            self.forget(slot);
            plan.cancelled.push(id);
        } else {
            self.stop(slot, plan);
        }
        Ok(())
    }

    fn expire(&mut self, plan: &mut TaskPlan) {
        if !self.drop_late {
            return;
        }
        while let Some(&(deadline, slot)) = self.deadlines.first()
            && deadline < self.now
        {
            self.deadlines.remove(&(deadline, slot));
            if self.queue.contains(slot) {
                plan.expired.push(self.entry(slot).task.id);
                self.leave_queue(slot);
                self.forget(slot);
            } else {
                self.stop(slot, plan);
            }
        }
    }

    fn stop(&mut self, slot: u32, plan: &mut TaskPlan) {
        let id = self.entry(slot).task.id;
        let run = self.run_mut(slot);
        if !std::mem::replace(&mut run.stopping, true) {
            plan.stop.push(id);
        }
    }

    /// Starts what fits, in order; gives the first that did not.
    fn start(&mut self, plan: &mut TaskPlan) -> Option<u32> {
        let mut blocked: Vec<(u32, Candidate)> = Vec::new();
        while let Some((_, slot)) = self.queue.first(self.policy.as_ref(), self.now) {
            let entry = self.entry(slot);
            let (id, candidate, unit, least) =
                (entry.task.id, entry.candidate, entry.unit.clone(), entry.task.least_units);
            match self.machine.allocate(&unit.times(least)) {
                Ok(allocation) => {
                    self.leave_queue(slot);
                    let waited = candidate.waited(self.now);
                    let order = self.started;
                    self.started += 1;
                    self.running.insert(order, slot);
                    self.entry_mut(slot).run =
                        Some(Run { order, allocation, units: least, wanted: least, stopping: false, waited });
                    self.policy.observe(&Observation::Admitted { task: candidate, input: candidate.cost });
                    self.tell_holdings(candidate.tenant, &unit, f64::from(least));
                    plan.start.push(Units { id, units: least });
                    for (passed, _) in &blocked {
                        self.entry_mut(*passed).passed += 1;
                    }
                }
                Err(SchedulerError::NotEnough { resource, needed, free }) => {
                    self.waits.insert(id, Wait::Resource { resource, needed, free });
                    // Taken out for the time being, to see the next; its tenant is not told.
                    self.queue.remove(slot, self.policy.as_ref(), self.now);
                    blocked.push((slot, candidate));
                }
                Err(error) => unreachable!("an allocation fails for want of room alone: {error}"),
            }
            // One that was passed over often enough is waited for.
            if blocked.len() > LOOK || blocked.iter().any(|(slot, _)| self.entry(*slot).passed >= self.lookahead) {
                break;
            }
        }
        for &(slot, candidate) in &blocked {
            self.queue.insert(slot, candidate, self.policy.as_ref(), self.now);
        }
        blocked.first().map(|(slot, _)| *slot)
    }

    /// Gives free resources to running tasks that can use more units, the longest running first.
    fn grow(&mut self, plan: &mut TaskPlan) {
        let running: Vec<u32> = self.running.values().copied().collect();
        for slot in running {
            let entry = self.entry(slot);
            let run = entry.run.expect("a running task runs");
            // A task that was asked to shrink still holds the units that it has to give up.
            if run.stopping || run.wanted < run.units {
                continue;
            }
            let (id, tenant, unit, most) =
                (entry.task.id, entry.task.tenant, entry.unit.clone(), entry.task.most_units);
            // The largest number of units that the free resources allow, by bisection.
            let (mut fits, mut fails) = (run.units, most.saturating_add(1));
            while fails - fits > 1 {
                let units = fits + (fails - fits) / 2;
                let more = unit.times(units - run.units);
                if self.machine.check_free(&more).is_ok() { fits = units } else { fails = units }
            }
            if fits == run.units {
                continue;
            }
            self.machine.resize(run.allocation, &unit.times(fits)).expect("what is free was looked at");
            self.tell_holdings(tenant, &unit, f64::from(fits - run.units));
            let state = self.run_mut(slot);
            (state.units, state.wanted) = (fits, fits);
            match plan.start.iter_mut().find(|start| start.id == id) {
                Some(start) => start.units = fits,
                None => plan.grow.push(Units { id, units: fits }),
            }
        }
    }

    /// Asks running tasks to give up units beyond their least, the last started first, until `slot` has enough.
    fn ask_to_shrink(&mut self, slot: u32, plan: &mut TaskPlan) {
        let entry = self.entry(slot);
        let needed = entry.unit.times(entry.task.least_units);
        let mut free: Vec<u64> =
            self.machine.resources().iter().map(|resource| self.machine.free(&resource.name).unwrap_or(0)).collect();
        let running: Vec<u32> = self.running.values().rev().copied().collect();
        // What was asked for before comes back in any case.
        for &slot in &running {
            let entry = self.entry(slot);
            let run = entry.run.expect("a running task runs");
            add(&mut free, &entry.unit, run.units - run.wanted);
        }
        for slot in running {
            if free.iter().zip(needed.as_slice()).all(|(free, needed)| free >= needed) {
                return;
            }
            let entry = self.entry(slot);
            let run = entry.run.expect("a running task runs");
            let (id, least) = (entry.task.id, entry.task.least_units);
            if run.stopping || run.wanted <= least {
                continue;
            }
            add(&mut free, &entry.unit.clone(), run.wanted - least);
            self.run_mut(slot).wanted = least;
            plan.shrink.push(Units { id, units: least });
        }
    }

    fn leave_queue(&mut self, slot: u32) {
        let task = self.queue.remove(slot, self.policy.as_ref(), self.now).expect("the task waits");
        self.policy.observe(&Observation::Unqueued { task });
        self.queue.touch(task.tenant);
    }

    fn forget(&mut self, slot: u32) {
        let entry = self.slots[slot as usize].take().expect("a task that has not ended");
        self.ids.remove(&entry.task.id);
        if let Some(deadline) = entry.task.deadline {
            self.deadlines.remove(&(deadline, slot));
        }
        self.vacant.push(slot);
    }

    fn tell_holdings(&mut self, tenant: TenantId, unit: &Amounts, units: f64) {
        for (resource, &amount) in unit.as_slice().iter().enumerate() {
            if amount > 0 {
                let share = amount as f64 * units / self.machine.resources()[resource].capacity as f64;
                self.policy.observe(&Observation::Held { tenant, resource, share });
            }
        }
        self.queue.touch(tenant);
    }

    fn entry(&self, slot: u32) -> &Entry {
        self.slots[slot as usize].as_ref().expect("a slot in use")
    }

    fn entry_mut(&mut self, slot: u32) -> &mut Entry {
        self.slots[slot as usize].as_mut().expect("a slot in use")
    }

    fn run_mut(&mut self, slot: u32) -> &mut Run {
        self.entry_mut(slot).run.as_mut().expect("a running task")
    }
}

/// Adds `units` of `unit` to `free`.
fn add(free: &mut [u64], unit: &Amounts, units: u32) {
    for (free, amount) in free.iter_mut().zip(unit.as_slice()) {
        *free += amount * u64::from(units);
    }
}
