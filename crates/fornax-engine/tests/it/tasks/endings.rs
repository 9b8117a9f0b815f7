//! How a task ends: by itself, by a panic, cancelled, late, refused, with its runner or with its runtime.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use fornax_engine::tasks::{TaskError, TaskRequest, TaskRunner, TaskState};
use fornax_scheduler::{Demand, SchedulerError, TaskScheduler, TenantId, policy};
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep};

use super::{Busy, Witness, block_on, machine, memory, paused, run, runner, threads, used};

#[test]
fn what_a_task_returns_its_handle_gives() {
    run(async {
        let runner = runner("fcfs");
        let first = runner.submit(memory("first", 10), async |context| context.name().len());
        let second = runner.submit_blocking(memory("second", 10), |context| context.id());
        let id = second.id();
        assert_eq!(first.await, Ok(5));
        assert_eq!(second.await, Ok(id));
        assert_eq!(used(&runner, "memory"), 0);
    });
}

#[test]
fn one_that_waits_is_cancelled_at_once() {
    run(async {
        let runner = runner("fcfs");
        let busy = Busy::new(&runner, memory("busy", 10));
        let witness = Witness::default();
        let captured = witness.clone();
        let waiting = runner.submit(memory("waiting", 1), async move |_| drop(captured));
        assert_eq!(waiting.state(), TaskState::Waiting);
        assert!(waiting.cancel());
        assert!(witness.is_alone(), "what it captured is gone");
        assert_eq!((waiting.state(), waiting.cancel(), waiting.reason()), (TaskState::Ended, false, None));
        assert_eq!(waiting.await, Err(TaskError::Cancelled));
        busy.end().await;
    });
}

#[test]
fn one_that_runs_is_dropped_where_it_awaits() {
    run(async {
        let runner = runner("fcfs");
        let witness = Witness::default();
        let captured = witness.clone();
        let running = runner.submit(memory("running", 10), async move |_| {
            std::future::pending::<()>().await;
            drop(captured);
        });
        let next = runner.submit(memory("next", 10), async |_| Instant::now());
        tokio::task::yield_now().await;
        assert!(runner.cancel(running.id()));
        assert_eq!(running.state(), TaskState::Running, "it holds what it has until it is gone");
        assert!(runner.snapshot().running[0].stopping);
        assert_eq!(running.await, Err(TaskError::Cancelled));
        assert!(witness.is_alone());
        next.await.expect("there is room");
    });
}

#[test]
fn one_that_never_ran_never_does() {
    // On one thread nothing is polled before the test awaits.
    run(async {
        let runner = runner("fcfs");
        let running = runner.submit(memory("a", 5), async |_| panic!("it was cancelled before"));
        running.cancel();
        assert_eq!(running.await, Err(TaskError::Cancelled));
    });
}

#[test]
fn one_that_is_asked_may_answer_with_what_it_has() {
    run(async {
        let runner = runner("fcfs");
        let asked = runner.submit(memory("asked", 5), async |context| {
            context.cancelled().await;
            7
        });
        let graceful = memory("graceful", 5).grace(Duration::from_secs(2));
        let slow = runner.submit(graceful.clone(), async |context| {
            context.cancelled().await;
            sleep(Duration::from_secs(1)).await;
            8
        });
        tokio::task::yield_now().await;
        let start = Instant::now();
        asked.cancel();
        slow.cancel();
        assert_eq!(asked.await, Ok(7));
        assert_eq!(slow.await, Ok(8));
        assert_eq!(start.elapsed().as_secs(), 1);
        let deaf = runner.submit(graceful, async |_| std::future::pending::<()>().await);
        tokio::task::yield_now().await;
        deaf.cancel();
        assert_eq!(deaf.await, Err(TaskError::Cancelled));
        assert_eq!(start.elapsed().as_secs(), 3);
    });
}

#[test]
fn a_blocking_one_is_asked_and_returns() {
    for runtime in [paused(), threads(2)] {
        block_on(&runtime, async {
            let runner = runner("fcfs");
            let (started, running) = oneshot::channel();
            let blocking = runner.submit_blocking(memory("blocking", 10), |context| {
                started.send(()).expect("the test listens");
                while !context.is_cancelled() {
                    std::thread::yield_now();
                }
                "stopped"
            });
            running.await.expect("it starts");
            assert!(blocking.cancel());
            assert_eq!(blocking.await, Ok("stopped"));
            assert_eq!(used(&runner, "memory"), 0);
        });
    }
}

#[test]
fn a_handle_that_is_dropped_lets_go_or_cancels() {
    run(async {
        let runner = runner("fcfs");
        let done = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&done);
        drop(runner.submit(memory("alone", 5), async move |_| flag.store(true, Ordering::Relaxed)));
        let kept = runner.submit(memory("kept", 5), async |_| std::future::pending::<()>().await).cancel_on_drop();
        runner.snapshot();
        drop(kept);
        runner.idle().await;
        assert!(done.load(Ordering::Relaxed));
    });
}

#[test]
fn a_panic_ends_its_task_alone() {
    for runtime in [paused(), threads(2)] {
        block_on(&runtime, async {
            let runner = runner("fcfs");
            let busy = Busy::new(&runner, memory("busy", 5));
            let says = |message: &str| Err(TaskError::Panicked { message: message.to_owned() });
            let number = 3;
            let text = runner.submit(memory("a", 5), async |_| panic!("plain"));
            assert_eq!(text.await, says("plain"));
            let formatted = runner.submit(memory("b", 5), async move |_| {
                tokio::task::yield_now().await;
                panic!("number {number}")
            });
            assert_eq!(formatted.await, says("number 3"));
            let early = |_| -> std::future::Ready<()> { panic!("before there is a future") };
            assert_eq!(runner.submit(memory("c", 5), early).await, says("before there is a future"));
            let blocking = runner.submit_blocking(memory("d", 5), |_| panic!("on another thread"));
            assert_eq!(blocking.await, says("on another thread"));
            let odd = runner.submit_blocking(memory("e", 5), |_| std::panic::panic_any(7u8));
            assert_eq!(odd.await, says("without a message"));
            assert_eq!((used(&runner, "memory"), busy.handle.state()), (5, TaskState::Running));
            busy.end().await;
        });
    }
}

/// Panics when it is dropped.
struct Grudge;

impl Drop for Grudge {
    fn drop(&mut self) {
        panic!("a destructor panics");
    }
}

#[test]
fn a_destructor_that_panics_harms_nobody_else() {
    run(async {
        let runner = runner("fcfs");
        let busy = Busy::new(&runner, memory("busy", 10));
        let grudge = Grudge;
        let waiting = runner.submit(memory("waiting", 10), async move |_| drop(grudge));
        let next = runner.submit(memory("next", 10), async |_| ());
        waiting.cancel();
        let says = Err(TaskError::Panicked { message: "a destructor panics".to_owned() });
        assert_eq!(waiting.await, says);
        busy.end().await;
        next.await.expect("it runs");
        let grudge = Grudge;
        let running = runner.submit(memory("running", 10), async move |_| {
            std::future::pending::<()>().await;
            drop(grudge);
        });
        tokio::task::yield_now().await;
        running.cancel();
        assert_eq!(running.await, says);
        assert_eq!(used(&runner, "memory"), 0);
    });
}

#[test]
fn what_makes_no_sense_is_refused() {
    run(async {
        let runner = runner("fcfs");
        let disk = TaskRequest::new("disk", Demand::of("disk", 1));
        let bad = [
            memory("large", 11),
            disk,
            memory("free", 1).cost(0.0),
            memory("endless", 1).cost(f64::NAN),
            memory("whose", 1).tenant(TenantId(3)),
            memory("none", 1).units(0, 1),
            memory("many", 3).units(4, 9),
        ];
        let never = SchedulerError::NeverFits { resource: "memory".into(), needed: 11, capacity: 10 };
        for (at, request) in bad.into_iter().enumerate() {
            let name = request.name.clone();
            let handle = runner.submit(request, async |_| panic!("it was refused"));
            assert_eq!(handle.state(), TaskState::Ended, "{name}");
            let Err(TaskError::Refused { why }) = handle.await else { panic!("{name} was not refused") };
            match at {
                0 => assert_eq!(why, never),
                1 => assert!(why.to_string().contains("compute, memory"), "{why}"),
                _ => {}
            }
        }
        let error = TaskError::Refused { why: never };
        assert!(error.to_string().starts_with("the task was refused: 11 of \"memory\" are needed"), "{error}");
        runner.idle().await;
    });
}

#[test]
fn the_late_are_dropped_or_stopped() {
    run(async {
        let runner = runner("fcfs");
        let start = Instant::now();
        let late = |name: &str, seconds| memory(name, 10).deadline(Duration::from_secs(seconds));
        let running = runner.submit(late("running", 3), async |_| std::future::pending::<()>().await);
        let waiting = runner.submit(late("waiting", 1), async |_| ());
        let never = runner.submit(memory("never", 10).deadline(Duration::MAX), async |_| ());
        assert_eq!(waiting.await, Err(TaskError::Expired));
        // At the deadline it is not late, and tokio's timers count milliseconds.
        assert_eq!(start.elapsed(), Duration::from_millis(1001));
        assert_eq!(running.await, Err(TaskError::Expired));
        assert_eq!(start.elapsed(), Duration::from_millis(3001));
        assert_eq!(never.await, Ok(()));
        let (started, begins) = oneshot::channel();
        let blocking = runner.submit_blocking(late("blocking", 1), |context| {
            started.send(()).expect("the test listens");
            while !context.is_cancelled() {
                std::thread::yield_now();
            }
        });
        begins.await.expect("it starts");
        // A clock that is stopped does not go on by itself while a thread is busy.
        tokio::time::advance(Duration::from_secs(2)).await;
        assert_eq!(blocking.await, Ok(()));
        let first = runner.submit(late("first", 5), async |context| {
            context.cancelled().await;
            "in time"
        });
        assert_eq!(first.await, Ok("in time"));
    });
}

#[test]
fn the_late_may_be_kept() {
    run(async {
        let scheduler = TaskScheduler::new(machine(), policy("deadline").expect("a policy")).keep_late();
        let runner = TaskRunner::with_scheduler(scheduler);
        let request = memory("late", 10).deadline(Duration::from_secs(1));
        let late = runner.submit(request, async |_| sleep(Duration::from_secs(2)).await);
        assert_eq!(late.await, Ok(()));
    });
}

#[test]
fn a_runner_that_is_dropped_cancels_its_tasks() {
    for runtime in [paused(), threads(2)] {
        block_on(&runtime, async {
            let runner = runner("fcfs");
            let witness = Witness::default();
            let [one, two] = [witness.clone(), witness.clone()];
            let running = runner.submit(memory("running", 10), async move |_| {
                std::future::pending::<()>().await;
                drop(one);
            });
            let waiting = runner.submit(memory("waiting", 1), async move |_| drop(two));
            let copy = runner.clone();
            drop(runner);
            assert_eq!((running.state(), waiting.state()), (TaskState::Running, TaskState::Waiting));
            drop(copy);
            assert_eq!(waiting.state(), TaskState::Ended);
            assert_eq!(running.await, Err(TaskError::Cancelled));
            assert_eq!(waiting.await, Err(TaskError::Cancelled));
            assert!(witness.is_alone());
        });
    }
}

#[test]
fn a_runtime_that_is_dropped_leaks_nothing() {
    for runtime in [paused(), threads(2)] {
        let witness = Witness::default();
        let (runner, handles) = block_on(&runtime, async {
            let runner = runner("fcfs");
            // So many that ending one by another would not fit a stack.
            let submit = |_| {
                let captured = witness.clone();
                runner.submit(memory("pending", 10), async move |_| {
                    std::future::pending::<()>().await;
                    drop(captured);
                })
            };
            let handles: Vec<_> = (0..20_000).map(submit).collect();
            tokio::task::yield_now().await;
            assert_eq!(used(&runner, "memory"), 10);
            (runner, handles)
        });
        drop(runtime);
        assert_eq!(used(&runner, "memory"), 0);
        assert!(witness.is_alone());
        let late = runner.submit(memory("late", 10), async |_| ());
        let later = runner.submit_blocking(memory("later", 10), |_| ());
        assert_eq!((late.state(), later.state()), (TaskState::Ended, TaskState::Ended));
        let outside = paused();
        for handle in handles.into_iter().chain([late, later]) {
            assert_eq!(block_on(&outside, handle), Err(TaskError::RuntimeEnded));
        }
        block_on(&outside, runner.shutdown());
    }
}

#[test]
fn a_runner_drains_or_shuts_down() {
    run(async {
        let runner = runner("priority");
        let parent = runner.submit(memory("parent", 5), async |context| {
            sleep(Duration::from_secs(1)).await;
            let child = context.submit_blocking(memory("child", 5).priority(1), |_| 3);
            child.await
        });
        let waiting = runner.submit(memory("waiting", 10), async |_| 4);
        let copy = runner.clone();
        let draining = tokio::spawn(async move { copy.drain().await });
        tokio::task::yield_now().await;
        let refused = runner.submit(memory("refused", 1), async |_| 5);
        assert_eq!(refused.await, Err(TaskError::Closed));
        draining.await.expect("no panic");
        assert_eq!(parent.await, Ok(Ok(3)), "a task may submit while its runner drains");
        assert_eq!(waiting.await, Ok(4));
    });
    run(async {
        let runner = runner("fcfs");
        let parent = runner.submit(memory("parent", 5), async |context| {
            context.cancelled().await;
            context.submit(memory("child", 5), async |_| 3).await
        });
        let waiting = runner.submit(memory("waiting", 10), async |_| 4);
        // The child ends at once, so that one poll is enough for the parent.
        tokio::task::yield_now().await;
        runner.shutdown().await;
        assert_eq!(parent.await, Ok(Err(TaskError::Closed)));
        assert_eq!(waiting.await, Err(TaskError::Cancelled));
    });
}

#[test]
fn where_tokio_has_no_clock_the_constructor_says_so() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    assert!(std::panic::catch_unwind(|| block_on(&runtime, async { runner("fcfs") })).is_err());
    assert!(std::panic::catch_unwind(|| runner("fcfs")).is_err());
}
