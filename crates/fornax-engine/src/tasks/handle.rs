//! The handle of a submitted task.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use fornax_scheduler::TaskId;
use tokio::sync::oneshot;

use super::TaskError;
use super::shared::Shared;

/// Where a task stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TaskState {
    /// It has not started.
    Waiting,
    /// It holds what it asked for.
    Running,
    /// It holds nothing any more.
    Ended,
}

/// A task that was submitted; awaiting it gives what the task returned.
///
/// Dropping it lets the task go on, unseen. To await it and keep it, await `&mut handle`. Outside of tokio,
/// `runtime.block_on(handle)` waits for it.
pub struct TaskHandle<T> {
    pub(super) shared: Arc<Shared>,
    pub(super) id: TaskId,
    pub(super) name: Arc<str>,
    pub(super) outcome: oneshot::Receiver<Result<T, TaskError>>,
    pub(super) cancel_on_drop: bool,
}

impl<T> TaskHandle<T> {
    /// The task's number, unique within its runner. [`TaskRunner::cancel`](super::TaskRunner::cancel) takes it.
    pub fn id(&self) -> TaskId {
        self.id
    }

    /// The task's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Asks the task to stop; the module's documentation says how. Returns false if it had ended.
    pub fn cancel(&self) -> bool {
        self.shared.cancel(self.id)
    }

    /// The same handle, which cancels the task when it is dropped.
    #[must_use]
    pub fn cancel_on_drop(mut self) -> Self {
        self.cancel_on_drop = true;
        self
    }

    /// Where the task stands.
    pub fn state(&self) -> TaskState {
        self.shared.task_state(self.id)
    }

    /// Why the task waits, in words; none if it does not.
    pub fn reason(&self) -> Option<String> {
        self.shared.reason(self.id)
    }
}

impl<T> Future for TaskHandle<T> {
    type Output = Result<T, TaskError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        // A task that sends nothing was dropped by the runtime.
        Pin::new(&mut self.outcome).poll(context).map(|outcome| outcome.unwrap_or(Err(TaskError::RuntimeEnded)))
    }
}

impl<T> Drop for TaskHandle<T> {
    fn drop(&mut self) {
        if self.cancel_on_drop {
            self.shared.cancel_without_clock(self.id);
        }
    }
}

impl<T> fmt::Debug for TaskHandle<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TaskHandle")
            .field("id", &self.id)
            .field("name", &self.name)
            .field("state", &self.state())
            .finish_non_exhaustive()
    }
}
