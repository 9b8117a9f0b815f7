//! The task runner: order, budget, endings of every kind. The clock is tokio's, stopped, so that no test waits for it.

mod endings;
mod lives;
mod order;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use fornax_engine::tasks::{TaskHandle, TaskRequest, TaskRunner};
use fornax_scheduler::{Demand, ResourceManager, policy};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::Semaphore;

/// One thread, and a clock that goes on by itself when nothing else does.
fn paused() -> Runtime {
    Builder::new_current_thread().enable_time().start_paused(true).build().expect("a runtime")
}

fn threads(count: usize) -> Runtime {
    Builder::new_multi_thread().worker_threads(count).enable_time().build().expect("a runtime")
}

fn machine() -> ResourceManager {
    ResourceManager::new([("compute", 4), ("memory", 10)]).expect("two resources")
}

/// A runner on the present runtime, with 4 of compute and 10 of memory.
fn runner(name: &str) -> TaskRunner {
    TaskRunner::new(machine(), policy(name).expect("a policy"))
}

fn memory(name: &str, amount: u64) -> TaskRequest {
    TaskRequest::new(name, Demand::of("memory", amount))
}

/// A task that runs until it is let go.
struct Busy {
    door: Arc<Semaphore>,
    handle: TaskHandle<()>,
}

impl Busy {
    fn new(runner: &TaskRunner, request: TaskRequest) -> Self {
        let door = Arc::new(Semaphore::new(0));
        let inside = Arc::clone(&door);
        let handle = runner.submit(request, async move |_| drop(inside.acquire().await));
        Self { door, handle }
    }

    async fn end(self) {
        self.door.add_permits(1);
        self.handle.await.expect("it was let go");
    }
}

fn used(runner: &TaskRunner, resource: &str) -> u64 {
    runner.snapshot().resource(resource).expect("a resource").used
}

/// Something whose end can be seen.
#[derive(Clone, Debug, Default)]
struct Witness(Arc<()>);

impl Witness {
    /// Whether every copy but this one is gone.
    fn is_alone(&self) -> bool {
        Arc::strong_count(&self.0) == 1
    }
}

/// Runs a test on one thread with a clock that is stopped.
fn run(test: impl Future<Output = ()>) {
    block_on(&paused(), test);
}

/// Boxed, for tokio's machinery is compiled for every future that it is given.
fn block_on<T>(runtime: &Runtime, test: impl Future<Output = T>) -> T {
    let test: Pin<Box<dyn Future<Output = T> + '_>> = Box::pin(test);
    runtime.block_on(test)
}
