//! What a task sees of its runner while it runs.

use std::fmt;
use std::future::Future;
use std::sync::Arc;

use fornax_scheduler::TaskId;
use tokio::sync::watch;

use super::shared::{Origin, Shared};
use super::state::Stop;
use super::{TaskHandle, TaskRequest};

/// Given to each task when it starts: whether it is to stop, how much it may use, and a way to submit others.
#[derive(Clone)]
pub struct TaskContext {
    pub(super) shared: Arc<Shared>,
    pub(super) id: TaskId,
    pub(super) name: Arc<str>,
    pub(super) stop: watch::Receiver<Option<Stop>>,
}

impl TaskContext {
    /// The task's number.
    pub fn id(&self) -> TaskId {
        self.id
    }

    /// The task's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether the task was asked to stop: cancelled, or past its deadline. True as well once it has ended, for those
    /// whom it gave its context to.
    pub fn is_cancelled(&self) -> bool {
        self.stop.borrow().is_some() || self.stop.has_changed().is_err()
    }

    /// Waits until [`is_cancelled`](Self::is_cancelled).
    pub async fn cancelled(&self) {
        // An error says that the task has ended.
        let _ = self.stop.clone().wait_for(Option::is_some).await;
    }

    /// How many units the task may use from now on; 0 once it has ended.
    ///
    /// The call says as well that it uses no more than these: units that the scheduler asked back are free for others
    /// after it. So call it between two rounds of work, and do the next round with what it gives.
    pub fn units(&self) -> u32 {
        self.shared.units(self.id)
    }

    /// Submits another task, also while the runner drains.
    ///
    /// It stands in line like any other, while this one keeps what it holds: a task that awaits another waits for ever if
    /// there is no room for both, or if one in front of the other waits for what this one holds. So let tasks that await
    /// others demand nothing themselves, or give the others a higher priority.
    pub fn submit<W, F>(&self, request: TaskRequest, work: W) -> TaskHandle<F::Output>
    where
        W: FnOnce(TaskContext) -> F + Send + 'static,
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        self.shared.submit(request, Origin::Task, |waiting| waiting.launch_future(work))
    }

    /// Submits another task of blocking work, also while the runner drains. See [`submit`](Self::submit).
    pub fn submit_blocking<W, T>(&self, request: TaskRequest, work: W) -> TaskHandle<T>
    where
        W: FnOnce(TaskContext) -> T + Send + 'static,
        T: Send + 'static,
    {
        self.shared.submit(request, Origin::Task, |waiting| waiting.launch_blocking(work))
    }
}

impl fmt::Debug for TaskContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TaskContext")
            .field("id", &self.id)
            .field("name", &self.name)
            .field("is_cancelled", &self.is_cancelled())
            .finish_non_exhaustive()
    }
}
