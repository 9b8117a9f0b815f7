//! The runner: takes tasks, and ends them when it is dropped. How they run is not here.

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use fornax_scheduler::{Policy, ResourceManager, SchedulerError, TaskId, TaskScheduler, TenantId};

use super::alarm::alarm;
use super::shared::{Origin, Shared};
use super::state::Gate;
use super::{Snapshot, TaskContext, TaskHandle, TaskRequest};

/// Runs tasks on the tokio runtime that it was made on, as a scheduler decides. Copies are the same runner.
///
/// See the [module](super) for an example, and for what becomes of tasks.
#[derive(Clone)]
pub struct TaskRunner {
    owner: Arc<Owner>,
}

/// Cancels what is left when the last copy of a runner is dropped. Handles and tasks hold what it holds, not itself.
struct Owner(Arc<Shared>);

impl TaskRunner {
    /// A runner of `machine`, which must be idle, in the order of `policy`.
    ///
    /// # Panics
    /// Outside of a tokio runtime, or in one whose clock is not enabled.
    pub fn new(machine: ResourceManager, policy: Box<dyn Policy>) -> Self {
        Self::with_scheduler(TaskScheduler::new(machine, policy))
    }

    /// A runner with this scheduler, which must be idle; for a scheduler that looks ahead, or keeps late tasks.
    ///
    /// # Panics
    /// As [`new`](Self::new).
    pub fn with_scheduler(scheduler: TaskScheduler) -> Self {
        // Without a clock it fails here, where the caller sees it, and not at the first deadline.
        drop(tokio::time::sleep(Duration::ZERO));
        let shared = Arc::new(Shared::new(scheduler));
        tokio::spawn(alarm(Arc::downgrade(&shared), Arc::clone(&shared.bell)));
        Self { owner: Arc::new(Owner(shared)) }
    }

    /// Submits a task: a closure that is given its context and returns a future, such as `async move |context| { … }`.
    ///
    /// It starts before this returns if it is its turn and there is room. What is wrong with the request, the handle
    /// says when it is awaited. Work that keeps a thread busy, as every call to a model does, belongs to
    /// [`submit_blocking`](Self::submit_blocking).
    pub fn submit<W, F>(&self, request: TaskRequest, work: W) -> TaskHandle<F::Output>
    where
        W: FnOnce(TaskContext) -> F + Send + 'static,
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        self.shared().submit(request, Origin::User, |waiting| waiting.launch_future(work))
    }

    /// Submits a task of blocking work, which gets one of tokio's threads for that.
    pub fn submit_blocking<W, T>(&self, request: TaskRequest, work: W) -> TaskHandle<T>
    where
        W: FnOnce(TaskContext) -> T + Send + 'static,
        T: Send + 'static,
    {
        self.shared().submit(request, Origin::User, |waiting| waiting.launch_blocking(work))
    }

    /// Asks a task to stop, as [`TaskHandle::cancel`]. Returns false if it had ended.
    pub fn cancel(&self, id: TaskId) -> bool {
        self.shared().cancel(id)
    }

    /// Declares a tenant, or changes its weight: with a policy that shares, twice the weight gets twice as much.
    ///
    /// # Errors
    /// [`SchedulerError::InvalidNumber`] for a weight that is not above zero, [`SchedulerError::TenantTooLarge`].
    pub fn declare_tenant(&self, tenant: TenantId, weight: f64) -> Result<(), SchedulerError> {
        self.shared().declare_tenant(tenant, weight)
    }

    /// What runs, what waits and why, and what is in use.
    pub fn snapshot(&self) -> Snapshot {
        self.shared().snapshot()
    }

    /// Waits until every task has ended; others may be submitted meanwhile.
    pub async fn idle(&self) {
        self.shared().idle().await;
    }

    /// Takes no more tasks, except from tasks themselves, and waits until all have ended.
    pub async fn drain(&self) {
        self.shared().close(Gate::Draining);
        self.shared().idle().await;
    }

    /// Takes no more tasks, cancels all tasks, and waits until the running ones have ended.
    pub async fn shutdown(&self) {
        self.shared().close(Gate::Shut);
        self.shared().idle().await;
    }

    fn shared(&self) -> &Arc<Shared> {
        &self.owner.0
    }
}

impl fmt::Debug for TaskRunner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TaskRunner").finish_non_exhaustive()
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.0.close(Gate::Shut);
    }
}
