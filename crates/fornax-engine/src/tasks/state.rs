//! The runner's books: the scheduler, the tasks that have not ended, and what is still to be done about them.
//!
//! Nothing here runs, drops or wakes anything of a task's: that is put on a list of actions, which `shared.rs` carries out
//! when the books are closed.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use fornax_scheduler::{
    Candidate, SchedulerError, Task, TaskEvent, TaskId, TaskPlan, TaskScheduler, TenantId, Time, Units, Wait,
};
use tokio::sync::watch;

use super::run::Launch;
use super::snapshot::{ResourceUse, RunningTask, Snapshot, WaitingTask};
use super::{TaskError, TaskRequest, TaskState};

/// The least time between two checks of the order of the waiting tasks, as a check looks at all of them.
const LOOK_OVER: Duration = Duration::from_millis(10);

/// Why a task is to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stop {
    Cancelled,
    Expired,
}

impl From<Stop> for TaskError {
    fn from(stop: Stop) -> Self {
        match stop {
            Stop::Cancelled => Self::Cancelled,
            Stop::Expired => Self::Expired,
        }
    }
}

/// Whose tasks are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Gate {
    /// Anybody's.
    Open,
    /// Those of tasks that run.
    Draining,
    /// Nobody's.
    Shut,
}

/// What is to be done once the books are closed.
pub(super) enum Action {
    /// The task starts.
    Start { id: TaskId, name: Arc<str>, stop: watch::Receiver<Option<Stop>>, grace: Duration, launch: Launch },
    /// The task ends without having started.
    End(Launch, TaskError),
    /// The task is asked to stop.
    Stop(watch::Sender<Option<Stop>>, Stop),
    /// The task is forgotten; who listens to it is told.
    Forget(watch::Sender<Option<Stop>>),
    /// The alarm has to be set again.
    Ring,
}

/// A task that has not ended.
struct Record {
    name: Arc<str>,
    grace: Duration,
    /// The task as its policy sees it.
    candidate: Candidate,
    stop: watch::Sender<Option<Stop>>,
    /// While it waits.
    launch: Option<Launch>,
    started: Time,
    units: u32,
    /// The units that it is to shrink to.
    wanted: u32,
    cancelled: bool,
}

/// The books.
pub(super) struct State {
    pub(super) gate: Gate,
    pub(super) actions: VecDeque<Action>,
    /// Whether somebody carries out the actions.
    pub(super) carrying: bool,
    /// Tasks that have not answered.
    pub(super) live: usize,
    /// For when the alarm is set.
    pub(super) armed: Time,
    scheduler: TaskScheduler,
    now: Time,
    submitted: u64,
    records: BTreeMap<TaskId, Record>,
    deadlines: BTreeSet<(Time, TaskId)>,
    /// When to check the order of the waiting tasks, since time alone may have changed it.
    look_over: Time,
    /// The most that was in use, a resource.
    most: Vec<u64>,
}

impl State {
    pub(super) fn new(scheduler: TaskScheduler) -> Self {
        let most = vec![0; scheduler.machine().resources().len()];
        Self {
            gate: Gate::Open,
            actions: VecDeque::new(),
            carrying: false,
            live: 0,
            armed: Time::NEVER,
            scheduler,
            now: Time::ZERO,
            submitted: 0,
            records: BTreeMap::new(),
            deadlines: BTreeSet::new(),
            look_over: Time::NEVER,
            most,
        }
    }

    /// A number for a task to come.
    pub(super) fn next_id(&mut self) -> TaskId {
        let id = TaskId(self.submitted);
        self.submitted += 1;
        id
    }

    pub(super) fn submit(&mut self, id: TaskId, name: Arc<str>, request: TaskRequest, launch: Launch, now: Time) {
        self.now = self.now.max(now);
        let deadline = request.deadline.map(|after| self.now.after(after));
        let task = Task {
            id,
            tenant: request.tenant,
            demand: request.demand,
            cost: request.cost,
            priority: request.priority,
            deadline,
            least_units: request.least_units,
            most_units: request.most_units,
        };
        let machine = self.scheduler.machine();
        let demand = match machine.resolve(&task.demand) {
            Ok(unit) => machine.weigh(&unit.times(task.least_units)),
            Err(why) => return self.actions.push_back(Action::End(launch, TaskError::Refused { why })),
        };
        let candidate = Candidate {
            number: id.0,
            tenant: task.tenant,
            arrival: self.now,
            priority: task.priority,
            demand,
            cost: task.cost,
            deadline: deadline.unwrap_or(Time::NEVER),
        };
        let record = Record {
            name,
            grace: request.grace,
            candidate,
            stop: watch::Sender::new(None),
            launch: Some(launch),
            started: Time::NEVER,
            units: 0,
            wanted: 0,
            cancelled: false,
        };
        self.records.insert(id, record);
        self.deadlines.extend(deadline.map(|deadline| (deadline, id)));
        if let Err(why) = self.step([TaskEvent::Submit(task)], now) {
            self.end_waiting(id, TaskError::Refused { why });
        }
    }

    /// Asks a task to stop; false if it has ended.
    pub(super) fn cancel(&mut self, id: TaskId, now: Time) -> bool {
        let Some(record) = self.records.get_mut(&id) else { return false };
        record.cancelled = true;
        self.step([TaskEvent::Cancel(id)], now).is_ok()
    }

    pub(super) fn cancel_all(&mut self, now: Time) {
        self.records.values_mut().for_each(|record| record.cancelled = true);
        let events: Vec<TaskEvent> = self.records.keys().map(|&id| TaskEvent::Cancel(id)).collect();
        // All in one step, so that none starts in the place of another. Each is known, so none is refused.
        let _ = self.step(events, now);
    }

    /// A task that ran has ended.
    pub(super) fn ended(&mut self, id: TaskId, now: Time) {
        self.forget(id);
        // It ran, so the scheduler knows it.
        let _ = self.step([TaskEvent::Ended(id)], now);
    }

    /// The units that a task may use. Units that it was asked to give back are given back by this call.
    pub(super) fn units(&mut self, id: TaskId, now: Time) -> u32 {
        let Some(record) = self.records.get_mut(&id) else { return 0 };
        if record.wanted < record.units {
            record.units = record.wanted;
            let shrunk = TaskEvent::Shrunk { id, units: record.units };
            // It has more than it was asked to keep, so it can shrink to that.
            let _ = self.step([shrunk], now);
        }
        self.records.get(&id).map_or(0, |record| record.units)
    }

    /// Lets the scheduler take in what happened, and writes down what it says.
    ///
    /// # Errors
    /// Why it refused an event, the first of them.
    pub(super) fn step(
        &mut self,
        events: impl IntoIterator<Item = TaskEvent>,
        now: Time,
    ) -> Result<(), SchedulerError> {
        self.now = self.now.max(now);
        let plan = self.scheduler.step(events, self.now);
        for &Units { id, units } in &plan.start {
            self.start(id, units);
        }
        for &id in &plan.stop {
            if let Some(record) = self.records.get(&id) {
                let stop = if record.cancelled { Stop::Cancelled } else { Stop::Expired };
                self.actions.push_back(Action::Stop(record.stop.clone(), stop));
            }
        }
        for &Units { id, units } in &plan.grow {
            if let Some(record) = self.records.get_mut(&id) {
                (record.units, record.wanted) = (units, units);
            }
        }
        for &Units { id, units } in &plan.shrink {
            if let Some(record) = self.records.get_mut(&id) {
                record.wanted = units;
            }
        }
        for &id in &plan.cancelled {
            self.end_waiting(id, TaskError::Cancelled);
        }
        for &id in &plan.expired {
            self.end_waiting(id, TaskError::Expired);
        }
        while self.deadlines.first().is_some_and(|&(deadline, _)| deadline < self.now) {
            self.deadlines.pop_first();
        }
        self.watch_order(&plan);
        let machine = self.scheduler.machine();
        for (most, resource) in self.most.iter_mut().zip(machine.resources()) {
            *most = (*most).max(resource.capacity - machine.free(&resource.name).unwrap_or(0));
        }
        if self.next_step() < self.armed {
            self.armed = self.next_step();
            self.actions.push_back(Action::Ring);
        }
        plan.rejected.into_iter().next().map_or(Ok(()), |rejected| Err(rejected.error))
    }

    /// When the scheduler is to be asked again even if nothing happens.
    pub(super) fn next_step(&self) -> Time {
        // At its deadline a task is not late yet.
        let late = self.deadlines.first().map_or(Time::NEVER, |(deadline, _)| deadline.after(Duration::from_micros(1)));
        late.min(self.look_over)
    }

    /// # Errors
    /// Those of [`TaskScheduler::declare_tenant`].
    pub(super) fn declare_tenant(&mut self, tenant: TenantId, weight: f64) -> Result<(), SchedulerError> {
        self.scheduler.declare_tenant(tenant, weight)
    }

    pub(super) fn task_state(&self, id: TaskId) -> TaskState {
        match self.records.get(&id) {
            None => TaskState::Ended,
            Some(record) if record.waits() => TaskState::Waiting,
            Some(_) => TaskState::Running,
        }
    }

    /// Why a task waits, in words.
    pub(super) fn reason(&mut self, id: TaskId) -> Option<String> {
        let wait = self.scheduler.why(id)?;
        Some(match &wait {
            Wait::Behind { first, policy } => match self.records.get(&TaskId(*first)) {
                Some(record) => format!("{} is first by {policy}", record.name),
                None => wait.to_string(),
            },
            _ => wait.to_string(),
        })
    }

    pub(super) fn snapshot(&mut self) -> Snapshot {
        let machine = self.scheduler.machine();
        let resources = machine.resources().iter().zip(&self.most).map(|(resource, &most)| ResourceUse {
            name: resource.name.clone(),
            capacity: resource.capacity,
            used: resource.capacity - machine.free(&resource.name).unwrap_or(0),
            most,
        });
        let mut snapshot = Snapshot { resources: resources.collect(), running: Vec::new(), waiting: Vec::new() };
        let ids: Vec<TaskId> = self.records.keys().copied().collect();
        for id in ids {
            let reason = self.reason(id);
            let Some(record) = self.records.get(&id) else { continue };
            let (name, tenant) = (record.name.to_string(), record.candidate.tenant);
            if record.waits() {
                let waited = self.now.since(record.candidate.arrival);
                snapshot.waiting.push(WaitingTask { id, name, tenant, waited, reason: reason.unwrap_or_default() });
            } else {
                let ran = self.now.since(record.started);
                let stopping = record.stop.borrow().is_some();
                snapshot.running.push(RunningTask { id, name, tenant, units: record.units, ran, stopping });
            }
        }
        snapshot
    }

    /// Takes note of the time.
    pub(super) fn pass_time(&mut self, now: Time) {
        self.now = self.now.max(now);
    }

    fn start(&mut self, id: TaskId, units: u32) {
        let Some(record) = self.records.get_mut(&id) else { return };
        record.started = self.now;
        (record.units, record.wanted) = (units, units);
        if let Some(launch) = record.launch.take() {
            let (name, stop) = (Arc::clone(&record.name), record.stop.subscribe());
            self.actions.push_back(Action::Start { id, name, stop, grace: record.grace, launch });
        }
    }

    fn end_waiting(&mut self, id: TaskId, error: TaskError) {
        let launch = self.records.get_mut(&id).and_then(|record| record.launch.take());
        self.forget(id);
        self.actions.extend(launch.map(|launch| Action::End(launch, error)));
    }

    fn forget(&mut self, id: TaskId) {
        if let Some(record) = self.records.remove(&id) {
            self.deadlines.remove(&(record.candidate.deadline, id));
            self.actions.push_back(Action::Forget(record.stop));
        }
    }

    /// Finds out when time alone may move a task that the step did not look at before a task that did not fit. No event
    /// comes then, and the task at the front may fit.
    fn watch_order(&mut self, plan: &TaskPlan) {
        let policy = self.scheduler.policy();
        if !policy.changes() || plan.waiting.len() == self.scheduler.waiting() {
            self.look_over = Time::NEVER;
            return;
        }
        let soon = self.now.after(LOOK_OVER);
        if self.now < self.look_over {
            // While much happens, there is no need to look at everybody each time.
            self.look_over = self.look_over.min(soon);
            return;
        }
        let looked_at = |id: &TaskId| plan.waiting.iter().any(|(ahead, _)| ahead == id);
        let front: Vec<&Record> = plan.waiting.iter().filter_map(|(id, _)| self.records.get(id)).collect();
        let mut next = Time::NEVER;
        for (_, behind) in self.records.iter().filter(|(id, record)| record.waits() && !looked_at(id)) {
            for ahead in &front {
                if policy.by_tenant() && ahead.candidate.tenant != behind.candidate.tenant {
                    continue;
                }
                let crossing = policy.crossing(&ahead.candidate, &behind.candidate, self.now);
                next = next.min(crossing.unwrap_or(Time::NEVER));
            }
        }
        self.look_over = if next == Time::NEVER { next } else { next.max(soon) };
    }
}

impl Record {
    fn waits(&self) -> bool {
        self.launch.is_some()
    }
}
