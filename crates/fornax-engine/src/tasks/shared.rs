//! What the runner, its handles and its tasks share: the books behind a lock, and the carrying out of what they say.
//!
//! A thread with an event updates the books at once, under the lock. It then carries out the actions without the lock,
//! unless another thread is doing so already. So actions are carried out one after the other, in the order of the
//! plans; code of tasks never runs under the lock; and a task that ends while another is started makes no recursion.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use fornax_scheduler::{SchedulerError, TaskId, TaskScheduler, TenantId, Time};
use tokio::runtime::Handle;
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

use super::run::{Fate, Launch, Running, Settled, Waiting};
use super::state::{Action, Gate, State};
use super::{Snapshot, TaskContext, TaskError, TaskHandle, TaskRequest, TaskState};

/// Who submits a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    /// Somebody outside.
    User,
    /// A task that runs.
    Task,
}

/// What is shared.
pub(super) struct Shared {
    runtime: Handle,
    start: Instant,
    /// Rung when the alarm has to be set again.
    pub(super) bell: Arc<Notify>,
    /// Told when the last task has answered.
    quiet: Notify,
    state: Mutex<State>,
}

impl Shared {
    /// # Panics
    /// Outside of a tokio runtime.
    pub(super) fn new(scheduler: TaskScheduler) -> Self {
        Self {
            runtime: Handle::current(),
            start: Instant::now(),
            bell: Arc::default(),
            quiet: Notify::new(),
            state: Mutex::new(State::new(scheduler)),
        }
    }

    pub(super) fn submit<T: Send + 'static>(
        self: &Arc<Self>,
        request: TaskRequest,
        origin: Origin,
        launch: impl FnOnce(Waiting<T>) -> Launch,
    ) -> TaskHandle<T> {
        let (sender, outcome) = oneshot::channel();
        let name: Arc<str> = request.name.as_str().into();
        let now = self.now();
        let mut state = self.lock();
        state.live += 1;
        let launch = launch(Waiting { outcome: sender, settled: Settled::new(Arc::clone(self)) });
        let id = state.next_id();
        let open = match origin {
            Origin::User => state.gate == Gate::Open,
            Origin::Task => state.gate <= Gate::Draining,
        };
        if open {
            state.submit(id, Arc::clone(&name), request, launch, now);
        } else {
            state.actions.push_back(Action::End(launch, TaskError::Closed));
        }
        self.carry_out(state);
        TaskHandle { shared: Arc::clone(self), id, name, outcome, cancel_on_drop: false }
    }

    pub(super) fn cancel(self: &Arc<Self>, id: TaskId) -> bool {
        self.cancel_at(id, self.now())
    }

    /// The same where a destructor calls, which may run when there is no clock any more.
    pub(super) fn cancel_without_clock(self: &Arc<Self>, id: TaskId) -> bool {
        self.cancel_at(id, Time::ZERO)
    }

    /// Closes the gate so far; shut means that all that is inside is cancelled.
    pub(super) fn close(self: &Arc<Self>, gate: Gate) {
        let mut state = self.lock();
        state.gate = state.gate.max(gate);
        if gate == Gate::Shut {
            // It may be a destructor that calls, when there is no clock any more.
            state.cancel_all(Time::ZERO);
            state.actions.push_back(Action::Ring);
        }
        self.carry_out(state);
    }

    /// Waits until every task has answered.
    pub(super) async fn idle(&self) {
        loop {
            let mut quiet = pin!(self.quiet.notified());
            quiet.as_mut().enable();
            if self.lock().live == 0 {
                return;
            }
            quiet.await;
        }
    }

    /// A task that ran has ended.
    pub(super) fn ended(self: &Arc<Self>, id: TaskId, has_clock: bool) {
        let now = if has_clock { self.now() } else { Time::ZERO };
        let mut state = self.lock();
        state.ended(id, now);
        self.carry_out(state);
    }

    /// A task has answered.
    pub(super) fn settle(&self) {
        let mut state = self.lock();
        state.live -= 1;
        if state.live == 0 {
            drop(state);
            self.quiet.notify_waiters();
        }
    }

    pub(super) fn units(self: &Arc<Self>, id: TaskId) -> u32 {
        let now = self.now();
        let mut state = self.lock();
        let units = state.units(id, now);
        self.carry_out(state);
        units
    }

    /// Asks the scheduler again if it is time; gives when to do so next, which is never for [`Time::NEVER`], or none
    /// where no task will come any more.
    pub(super) fn wake(self: &Arc<Self>) -> Option<Time> {
        let now = self.now();
        let mut state = self.lock();
        if state.gate == Gate::Shut {
            return None;
        }
        if state.next_step() <= now {
            // Without an event nothing can be refused.
            let _ = state.step([], now);
        }
        let next = state.next_step();
        state.armed = next;
        self.carry_out(state);
        Some(next)
    }

    /// `time` on tokio's clock; none if it lies beyond it.
    pub(super) fn instant(&self, time: Time) -> Option<Instant> {
        (time != Time::NEVER).then(|| self.start.checked_add(time.since(Time::ZERO))).flatten()
    }

    pub(super) fn declare_tenant(&self, tenant: TenantId, weight: f64) -> Result<(), SchedulerError> {
        self.lock().declare_tenant(tenant, weight)
    }

    pub(super) fn task_state(&self, id: TaskId) -> TaskState {
        self.lock().task_state(id)
    }

    pub(super) fn reason(&self, id: TaskId) -> Option<String> {
        self.lock().reason(id)
    }

    pub(super) fn snapshot(&self) -> Snapshot {
        let now = self.now();
        let mut state = self.lock();
        state.pass_time(now);
        state.snapshot()
    }

    fn cancel_at(self: &Arc<Self>, id: TaskId, now: Time) -> bool {
        let mut state = self.lock();
        let was_there = state.cancel(id, now);
        self.carry_out(state);
        was_there
    }

    /// Carries out the actions, unless somebody does.
    fn carry_out<'a>(self: &'a Arc<Self>, mut state: MutexGuard<'a, State>) {
        if state.carrying {
            return;
        }
        state.carrying = true;
        while let Some(action) = state.actions.pop_front() {
            drop(state);
            // What panics here is a destructor of something that a task captured; the others are to go on.
            let _ = catch_unwind(AssertUnwindSafe(|| self.perform(action)));
            state = self.lock();
        }
        state.carrying = false;
    }

    fn perform(self: &Arc<Self>, action: Action) {
        match action {
            Action::Start { id, name, stop, grace, launch } => {
                let context = TaskContext { shared: Arc::clone(self), id, name, stop };
                let running = Running::new(Arc::clone(self), id);
                launch(Fate::Start { runtime: self.runtime.clone(), context, running, grace });
            }
            Action::End(launch, error) => launch(Fate::End(error)),
            Action::Stop(sender, stop) => sender.send_modify(|asked| {
                asked.get_or_insert(stop);
            }),
            Action::Forget(sender) => drop(sender),
            Action::Ring => self.bell.notify_one(),
        }
    }

    /// Tokio's time, which tests may have stopped.
    fn now(&self) -> Time {
        let _runtime = self.runtime.enter();
        Time::ZERO.after(Instant::now() - self.start)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // The books are changed by the scheduler, which checks before it does; a policy that panics leaves them whole
        // enough to give back what is held.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
