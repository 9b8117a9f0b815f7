//! How one task runs: its closure, watched for panics and for being asked to stop, and what happens when it ends.
//!
//! What a task holds is given back by the destructor of [`Running`], so that no way of ending leaks it.

use std::any::Any;
use std::future::{Future, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use fornax_scheduler::TaskId;
use tokio::runtime::Handle;
use tokio::sync::oneshot;

use super::shared::Shared;
use super::state::Stop;
use super::{TaskContext, TaskError};

/// Starts a task that waited, or ends it; the closure is in it.
pub(super) type Launch = Box<dyn FnOnce(Fate) + Send>;

/// What becomes of a task that waited.
pub(super) enum Fate {
    /// It starts on this runtime.
    Start { runtime: Handle, context: TaskContext, running: Running, grace: Duration },
    /// It ends without having started.
    End(TaskError),
}

/// What a task that waits will answer by.
pub(super) struct Waiting<T> {
    pub(super) outcome: oneshot::Sender<Result<T, TaskError>>,
    pub(super) settled: Settled,
}

/// What a task does. Boxed, so that what is around it is compiled once for all closures that return the same.
enum Work<T> {
    Future(FutureWork<T>),
    Blocking(BlockingWork<T>),
}

type FutureWork<T> = Box<dyn FnOnce(TaskContext) -> Pin<Box<dyn Future<Output = T> + Send>> + Send>;
type BlockingWork<T> = Box<dyn FnOnce(TaskContext) -> T + Send>;

/// A task that runs. It is dropped in this order: the work, what it holds, and its answer.
struct Live<W, T> {
    work: W,
    running: Running,
    outcome: oneshot::Sender<Result<T, TaskError>>,
    settled: Settled,
}

/// Gives back what a task holds when it is dropped.
pub(super) struct Running {
    shared: Arc<Shared>,
    id: TaskId,
    /// Whether the clock may be asked: a destructor may run where there is no runtime any more.
    has_clock: bool,
}

/// Counts a task until it has answered.
pub(super) struct Settled(Arc<Shared>);

impl<T: Send + 'static> Waiting<T> {
    /// The launch of a future.
    pub(super) fn launch_future<W, F>(self, work: W) -> Launch
    where
        W: FnOnce(TaskContext) -> F + Send + 'static,
        F: Future<Output = T> + Send + 'static,
    {
        self.launch(Work::Future(Box::new(|context| Box::pin(work(context)))))
    }

    /// The launch of a blocking closure.
    pub(super) fn launch_blocking<W>(self, work: W) -> Launch
    where
        W: FnOnce(TaskContext) -> T + Send + 'static,
    {
        self.launch(Work::Blocking(Box::new(work)))
    }

    fn launch(self, work: Work<T>) -> Launch {
        let Self { outcome, settled } = self;
        Box::new(move |fate| match (fate, work) {
            (Fate::End(error), work) => {
                let error = discard(work).unwrap_or(error);
                // Nobody may be there to hear it.
                let _ = outcome.send(Err(error));
                drop(settled);
            }
            (Fate::Start { runtime, context, running, grace }, Work::Future(work)) => {
                // Boxed as well: tokio compiles a task's life for each type of future.
                let live = Live { work, running, outcome, settled };
                let life: Pin<Box<dyn Future<Output = ()> + Send>> = Box::pin(run_future(live, context, grace));
                runtime.spawn(life);
            }
            (Fate::Start { runtime, context, running, .. }, Work::Blocking(work)) => {
                let live = Live { work, running, outcome, settled };
                let life: Box<dyn FnOnce() + Send> = Box::new(move || run_blocking(live, context));
                runtime.spawn_blocking(life);
            }
        })
    }
}

impl Running {
    pub(super) fn new(shared: Arc<Shared>, id: TaskId) -> Self {
        Self { shared, id, has_clock: false }
    }

    /// The task has ended, within its runtime.
    fn end(mut self) {
        self.has_clock = true;
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.shared.ended(self.id, self.has_clock);
    }
}

impl Settled {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self(shared)
    }
}

impl Drop for Settled {
    fn drop(&mut self) {
        self.0.settle();
    }
}

async fn run_future<T>(live: Live<FutureWork<T>, T>, context: TaskContext, grace: Duration) {
    // A runtime that ends drops these in the opposite order, after the work.
    let Live { work, running, outcome, settled } = live;
    let (settled, outcome, running) = (settled, outcome, running);
    let result = supervise(work, context, grace).await;
    answer(result, running, outcome, settled);
}

fn run_blocking<T>(live: Live<BlockingWork<T>, T>, context: TaskContext) {
    let Live { work, running, outcome, settled } = live;
    let asked = *context.stop.borrow();
    let result = match asked {
        // It may have been cancelled while it waited for a thread.
        Some(stop) => Err(discard(work).unwrap_or(stop.into())),
        None => catch_unwind(AssertUnwindSafe(move || work(context))).map_err(panicked),
    };
    answer(result, running, outcome, settled);
}

/// Gives back what the task holds, and then tells of its end.
fn answer<T>(
    result: Result<T, TaskError>,
    running: Running,
    outcome: oneshot::Sender<Result<T, TaskError>>,
    settled: Settled,
) {
    running.end();
    // Nobody may be there to hear it.
    let _ = outcome.send(result);
    drop(settled);
}

/// Polls the work to its end, or until it is to stop and its grace has passed.
async fn supervise<T>(work: FutureWork<T>, context: TaskContext, grace: Duration) -> Result<T, TaskError> {
    let mut asked = context.stop.clone();
    let before = *asked.borrow();
    if let Some(stop) = before {
        return Err(discard(work).unwrap_or(stop.into()));
    }
    let mut stopped = pin!(async move {
        let stop = asked.wait_for(Option::is_some).await.ok().and_then(|stop| *stop);
        if !grace.is_zero() {
            tokio::time::sleep(grace).await;
        }
        stop.unwrap_or(Stop::Cancelled)
    });
    let mut work = match catch_unwind(AssertUnwindSafe(move || work(context))) {
        Ok(work) => work,
        Err(panic) => return Err(panicked(panic)),
    };
    let result = poll_fn(|context| {
        match catch_unwind(AssertUnwindSafe(|| work.as_mut().poll(context))) {
            Ok(Poll::Ready(value)) => return Poll::Ready(Ok(value)),
            Ok(Poll::Pending) => {}
            Err(panic) => return Poll::Ready(Err(panicked(panic))),
        }
        stopped.as_mut().poll(context).map(|stop| Err(stop.into()))
    })
    .await;
    match (result, discard(work)) {
        (Err(TaskError::Cancelled | TaskError::Expired), Some(panic)) => Err(panic),
        (result, _) => result,
    }
}

/// Drops what a task brought along; gives its panic, if that panics.
fn discard(work: impl Sized) -> Option<TaskError> {
    catch_unwind(AssertUnwindSafe(move || drop(work))).err().map(panicked)
}

fn panicked(panic: Box<dyn Any + Send>) -> TaskError {
    let message = match panic.downcast::<String>() {
        Ok(text) => *text,
        Err(panic) => panic.downcast_ref::<&str>().map_or("without a message", |text| text).to_owned(),
    };
    TaskError::Panicked { message }
}
