//! Runs tasks on tokio as the scheduler decides: closures go in with what they need, and start when there is room and
//! their turn has come.
//!
//! Who goes first is `fornax-scheduler`'s matter, and what a task computes is the caller's. A demand is a promise, not a
//! fence: the runner counts what tasks say they need, it does not measure what they take.
//!
//! ```
//! use fornax_engine::tasks::{TaskRequest, TaskRunner};
//! use fornax_scheduler::{Demand, ResourceManager, policy};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # tokio::runtime::Builder::new_current_thread().enable_time().build()?.block_on(async {
//! let machine = ResourceManager::new([("memory", 8_000)])?;
//! let runner = TaskRunner::new(machine, policy("aged-ratio")?);
//!
//! let long = TaskRequest::new("translate", Demand::of("memory", 6_000)).cost(2.0);
//! let long = runner.submit(long, async |_| "a book");
//! let short = TaskRequest::new("count", Demand::of("memory", 4_000)).cost(0.1);
//! let short = runner.submit_blocking(short, |context| (0..1_000_000).take_while(|_| !context.is_cancelled()).count());
//!
//! println!("count waits: {:?}", short.reason()); // Some("not enough memory: 4000 needed, 2000 free")
//! assert_eq!(long.await?, "a book");
//! assert_eq!(short.await?, 1_000_000);
//! # Ok(())
//! # })
//! # }
//! ```
//!
//! # How a task ends
//! Its handle gives what the closure returned, or a [`TaskError`]: cancelled, too late, refused, panicked. Whatever the
//! way, what the task held is given back first, and what it captured is dropped before that. So it is when the runtime
//! ends under it.
//!
//! # How a task is cancelled
//! One that waits never starts. One that runs is asked to stop: [`TaskContext::is_cancelled`] says so from then on. A
//! future is polled once more, so that it can answer with what it has, and dropped at that await, or after
//! [`TaskRequest::grace`]. A blocking closure cannot be stopped from outside: it should look now and then, and holds
//! what it has until it returns. A task that returns in spite of it all has returned: its handle gives the value.
//!
//! # Who cancels
//! Dropping a handle does not: work that was submitted is done, as with threads and tokio's own tasks, unless the handle
//! was made to by [`TaskHandle::cancel_on_drop`]. Dropping the last [`TaskRunner`] cancels everything that it was given,
//! for nobody could ask it to any more; [`TaskRunner::drain`] waits for it instead.

mod alarm;
mod context;
mod handle;
mod request;
mod run;
mod runner;
mod shared;
mod snapshot;
mod state;

use fornax_scheduler::SchedulerError;

pub use context::TaskContext;
pub use handle::{TaskHandle, TaskState};
pub use request::TaskRequest;
pub use runner::TaskRunner;
pub use snapshot::{ResourceUse, RunningTask, Snapshot, WaitingTask};

/// Why a task gave no value.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum TaskError {
    /// It was cancelled before it ended by itself.
    #[error("the task was cancelled")]
    Cancelled,
    /// Its deadline passed while it waited or ran.
    #[error("the task was not done by its deadline; give it more time, a higher priority, or less to wait for")]
    Expired,
    /// It panicked; no other task is touched.
    #[error("the task panicked: {message}")]
    Panicked {
        /// What the panic said.
        message: String,
    },
    /// The scheduler did not take it.
    #[error("the task was refused: {why}")]
    Refused {
        /// Why.
        why: SchedulerError,
    },
    /// The runner drains, was shut down or dropped.
    #[error("the runner takes no more tasks; submit before it is drained, shut down or dropped")]
    Closed,
    /// The tokio runtime ended before the task did.
    #[error("the runtime ended before the task; drain the runner before the runtime is dropped")]
    RuntimeEnded,
}
