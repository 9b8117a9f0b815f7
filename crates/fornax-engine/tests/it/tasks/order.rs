//! The order in which tasks run: by policy, deadline, units and time; and the reasons why tasks wait.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use fornax_engine::tasks::{TaskRequest, TaskRunner, TaskState};
use fornax_scheduler::{Demand, ResourceManager, TaskScheduler, TenantId, policy};
use tokio::time::{Instant, advance};

use super::{Busy, machine, memory, run, runner};

/// Submits tasks one after another behind a task that holds the whole memory, lets them run one by one, and returns the
/// order in which they ran.
async fn order(runner: &TaskRunner, tasks: Vec<(f64, TaskRequest)>) -> Vec<String> {
    let busy = Busy::new(runner, memory("busy", 10));
    let ran = Arc::new(Mutex::new(Vec::new()));
    for (seconds, request) in tasks {
        advance(Duration::from_secs_f64(seconds)).await;
        let ran = Arc::clone(&ran);
        drop(runner.submit(request, async move |context| {
            ran.lock().expect("no panic").push(context.name().to_owned());
        }));
    }
    busy.end().await;
    runner.idle().await;
    Arc::into_inner(ran).expect("all have ended").into_inner().expect("no panic")
}

#[test]
fn the_ratio_runs_the_second_of_three_first() {
    run(async {
        let units = ResourceManager::new([("memory", 20)]).expect("a resource");
        let runner = TaskRunner::new(units, policy("ratio").expect("a policy"));
        let busy = Busy::new(&runner, memory("busy", 20));
        let ran = Arc::new(Mutex::new(Vec::new()));
        let submit = |name: &str, demand, cost| {
            let ran = Arc::clone(&ran);
            runner.submit(memory(name, demand).cost(cost), async move |context| {
                ran.lock().expect("no panic").push(context.name().to_owned());
            })
        };
        // R, C and W of 15, 6, 2, of 20, 8, 1 and of 10, 5, 0: the ratios are 1.875, 2.22 and 2.
        let third = submit("third", 15, 6.0);
        advance(Duration::from_secs(1)).await;
        let first = submit("first", 20, 8.0);
        advance(Duration::from_secs(1)).await;
        let second = submit("second", 10, 5.0);
        busy.end().await;
        runner.idle().await;
        assert_eq!(*ran.lock().expect("no panic"), ["first", "second", "third"]);
        drop((first, second, third));
    });
}

#[test]
fn each_policy_has_its_order() {
    let seconds = Duration::from_secs;
    let tasks = || {
        vec![
            (0.0, memory("a", 6).cost(3.0).deadline(seconds(90)).priority(1)),
            (1.0, memory("b", 6).cost(1.0).deadline(seconds(60)).priority(0)),
            (1.0, memory("c", 6).cost(2.0).deadline(seconds(70)).priority(2)),
        ]
    };
    for (name, expected) in [
        ("fcfs", ["a", "b", "c"]),
        ("priority", ["c", "a", "b"]),
        ("shortest", ["b", "c", "a"]),
        ("deadline", ["b", "c", "a"]),
    ] {
        run(async { assert_eq!(order(&runner(name), tasks()).await, expected, "{name}") });
    }
}

#[test]
fn tenants_share() {
    run(async {
        let runner = runner("vtc");
        runner.declare_tenant(TenantId(1), 1.0).expect("a good weight");
        assert!(runner.declare_tenant(TenantId(2), -1.0).is_err());
        let of = |name: &str, tenant| (0.0, memory(name, 6).tenant(TenantId(tenant)));
        let order = order(&runner, vec![of("a", 0), of("b", 0), of("c", 1), of("d", 1)]).await;
        assert_eq!(order, ["a", "c", "b", "d"]);
    });
}

#[test]
fn one_overtakes_by_the_passing_of_time_alone() {
    run(async {
        let runner = runner("ratio");
        let start = Instant::now();
        let _busy = Busy::new(&runner, TaskRequest::new("busy", Demand::of("compute", 4)));
        let front = TaskRequest::new("front", Demand::of("compute", 1)).cost(0.1);
        let front = runner.submit(front, async |_| ());
        assert_eq!(front.reason().as_deref(), Some("not enough compute: 1 needed, 0 free"));
        let other = runner.submit(memory("other", 8).cost(4.0), async |_| Instant::now());
        assert_eq!(other.reason().as_deref(), Some("front is first by ratio"));
        // As shares of the machine: (1/4) / (0.1 + W) = (8/10) / (4 + W) where W is 0.92 / 0.55.
        let waited = other.await.expect("it ran") - start;
        assert!((waited.as_secs_f64() - 0.92 / 0.55).abs() < 0.003, "{waited:?}");
        assert_eq!(front.state(), TaskState::Waiting);
    });
}

#[test]
fn one_who_comes_later_overtakes_in_time_too() {
    run(async {
        let runner = runner("ratio");
        let _busy = Busy::new(&runner, TaskRequest::new("busy", Demand::of("compute", 4)));
        let compute = |name: &str| TaskRequest::new(name, Demand::of("compute", 1)).cost(0.1);
        let _front = runner.submit(compute("front"), async |_| ());
        let _second = runner.submit(compute("second").cost(100.0), async |_| ());
        advance(Duration::from_millis(100)).await;
        let start = Instant::now();
        let other = runner.submit(memory("other", 8).cost(4.0), async |_| Instant::now());
        // (1/4) / (0.2 + y) = (8/10) / (4 + y) where y is 0.84 / 0.55.
        let waited = other.await.expect("it ran") - start;
        assert!((waited.as_secs_f64() - 0.84 / 0.55).abs() < 0.003, "{waited:?}");
    });
}

#[test]
fn one_that_does_not_fit_is_passed_over_if_the_scheduler_may() {
    run(async {
        let scheduler = TaskScheduler::new(machine(), policy("fcfs").expect("a policy")).with_lookahead(1);
        let runner = TaskRunner::with_scheduler(scheduler);
        let busy = Busy::new(&runner, memory("busy", 6));
        let large = runner.submit(memory("large", 10), async |_| ());
        let small = Busy::new(&runner, memory("small", 2));
        let smaller = runner.submit(memory("smaller", 1), async |_| ());
        assert_eq!((large.state(), small.handle.state()), (TaskState::Waiting, TaskState::Running));
        assert_eq!(smaller.state(), TaskState::Waiting, "once was enough");
        busy.end().await;
        small.end().await;
        assert_eq!(large.await, Ok(()));
        assert_eq!(smaller.await, Ok(()));
    });
}

#[test]
fn units_grow_into_what_is_free_and_are_given_back() {
    run(async {
        let runner = runner("fcfs");
        let (rounds, mut seen) = tokio::sync::mpsc::unbounded_channel();
        let elastic = memory("elastic", 2).units(1, 9).grace(Duration::from_secs(1));
        let elastic = runner.submit(elastic, async move |context| {
            let mut last = 0;
            while !context.is_cancelled() {
                let units = context.units();
                if units != last {
                    last = units;
                    rounds.send(units).expect("the test listens");
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            context
        });
        assert_eq!(seen.recv().await, Some(5));
        let other = Busy::new(&runner, memory("other", 7));
        assert_eq!(other.handle.reason().as_deref(), Some("not enough memory: 7 needed, 0 free"));
        assert_eq!(seen.recv().await, Some(1), "it is asked for what it has more than the least");
        assert_eq!(other.handle.state(), TaskState::Running);
        other.end().await;
        assert_eq!(seen.recv().await, Some(5));
        elastic.cancel();
        let context = elastic.await.expect("it ended by itself");
        assert_eq!((context.units(), context.is_cancelled()), (0, true));
        context.cancelled().await;
    });
}

#[test]
fn a_snapshot_tells_what_runs_and_why_others_wait() {
    run(async {
        let runner = runner("fcfs");
        let _long = Busy::new(&runner, memory("long", 8));
        advance(Duration::from_millis(1500)).await;
        let _short = Busy::new(&runner, memory("short", 3));
        let last = Busy::new(&runner, memory("last", 1));
        advance(Duration::from_millis(500)).await;
        let snapshot = runner.snapshot();
        assert_eq!((snapshot.running.len(), snapshot.waiting.len()), (1, 2));
        assert_eq!(snapshot.waiting[1].id, last.handle.id());
        let text = "compute: 0 of 4 in use, 0 at most so far\n\
                    memory: 8 of 10 in use, 8 at most so far\n\
                    0 long: runs for 2.000 s\n\
                    1 short: waits for 0.500 s, not enough memory: 3 needed, 2 free\n\
                    2 last: waits for 0.500 s, short is first by fcfs\n";
        assert_eq!(snapshot.to_string(), text);
        assert_eq!(snapshot.resource("disk"), None);
    });
}
