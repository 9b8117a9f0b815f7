//! Thousands of tasks on several threads: never over budget, nothing leaked, every handle answered.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use fornax_engine::tasks::{TaskError, TaskRequest, TaskRunner};
use fornax_scheduler::{Demand, POLICIES, Random, TaskScheduler, TenantId, policy};

use super::{block_on, machine, memory, paused, runner, threads, used};

/// What tasks take by their own account, which is another than the runner's.
#[derive(Clone, Debug, Default)]
struct Account(Arc<[AtomicU64; 2]>);

/// A part of it, given back when dropped.
struct Taken {
    account: Account,
    amounts: [u64; 2],
}

impl Account {
    fn take(&self, amounts: [u64; 2]) -> Taken {
        for (at, most) in [4, 10].into_iter().enumerate() {
            let taken = self.0[at].fetch_add(amounts[at], Ordering::SeqCst) + amounts[at];
            assert!(taken <= most, "{taken} of {most} are taken");
        }
        Taken { account: self.clone(), amounts }
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        for (taken, amount) in self.account.0.iter().zip(self.amounts) {
            taken.fetch_sub(amount, Ordering::SeqCst);
        }
    }
}

fn amounts(random: &mut Random) -> [u64; 2] {
    [random.below(5), random.below(11)]
}

fn request(amounts: [u64; 2]) -> TaskRequest {
    TaskRequest::new("one of many", Demand::of("compute", amounts[0]).and("memory", amounts[1]))
}

#[test]
fn the_budget_holds_over_thousands_of_tasks() {
    let runtime = threads(4);
    block_on(&runtime, async {
        let runner = runner("aged-ratio");
        let account = Account::default();
        let mut random = Random::new(3);
        let mut handles = Vec::new();
        for number in 0..6_000u32 {
            let amounts = amounts(&mut random);
            let account = account.clone();
            let request = request(amounts).cost(0.1 + random.unit());
            let rounds = random.below(4);
            handles.push(if random.chance(0.2) {
                runner.submit_blocking(request, move |_| {
                    let _taken = account.take(amounts);
                    (0..rounds).for_each(|_| std::thread::yield_now());
                    number
                })
            } else {
                runner.submit(request, async move |_| {
                    let _taken = account.take(amounts);
                    for _ in 0..rounds {
                        tokio::task::yield_now().await;
                    }
                    number
                })
            });
        }
        for (number, handle) in handles.into_iter().enumerate() {
            assert_eq!(handle.await, Ok(number as u32));
        }
        for resource in runner.snapshot().resources {
            assert_eq!((resource.used, resource.most), (0, resource.capacity), "{}", resource.name);
        }
    });
}

/// Tasks end in every way there is, submitted and cancelled by several threads at once; what they took comes back.
#[test]
fn nothing_leaks_whatever_happens() {
    for (seed, entry) in POLICIES.iter().enumerate() {
        let runtime = threads(3);
        let (runner, account) = block_on(&runtime, async {
            let scheduler = TaskScheduler::new(machine(), policy(entry.name).expect("a policy"));
            let runner = TaskRunner::with_scheduler(scheduler.with_lookahead(seed as u32 % 3));
            (runner, Account::default())
        });
        runner.declare_tenant(TenantId(1), 2.0).expect("a good weight");
        std::thread::scope(|scope| {
            for thread in 0..3 {
                let (runner, account, runtime) = (&runner, &account, &runtime);
                scope.spawn(move || live(runner, account, runtime, (seed * 3 + thread) as u64));
            }
        });
        block_on(&runtime, runner.idle());
        let snapshot = runner.snapshot();
        assert!(snapshot.running.is_empty() && snapshot.waiting.is_empty(), "{}: {snapshot}", entry.name);
        assert!(snapshot.resources.iter().all(|resource| resource.used == 0), "{}: {snapshot}", entry.name);
        assert!(account.0.iter().all(|taken| taken.load(Ordering::SeqCst) == 0), "{}", entry.name);
    }
}

/// Submits some hundred tasks, some of which panic, wait to be cancelled, come late, ask for too much or are forgotten.
fn live(runner: &TaskRunner, account: &Account, runtime: &tokio::runtime::Runtime, seed: u64) {
    let mut random = Random::new(seed);
    let mut handles = Vec::new();
    for _ in 0..300 {
        let mut amounts = amounts(&mut random);
        if random.chance(0.02) {
            amounts[1] = 11;
        }
        let mut request = request(amounts).tenant(TenantId(random.below(2) as u32)).priority(random.below(3) as i32);
        if random.chance(0.1) {
            request = request.deadline(Duration::from_micros(random.below(2_000)));
        }
        let (account, fate) = (account.clone(), random.below(10));
        let handle = if random.chance(0.3) {
            runner.submit_blocking(request, move |_| {
                let _taken = account.take(amounts);
                if fate == 0 {
                    std::panic::resume_unwind(Box::new("a task panics"));
                }
            })
        } else {
            runner.submit(request, async move |context| {
                let _taken = account.take(amounts);
                match fate {
                    0 => std::panic::resume_unwind(Box::new("a task panics")),
                    1 => context.cancelled().await,
                    2 => std::future::pending().await,
                    3 => {
                        let nested = context.submit(memory("nested", 1), async |_| ());
                        drop(nested.cancel_on_drop());
                    }
                    _ => tokio::task::yield_now().await,
                }
            })
        };
        if (1..4).contains(&fate) || random.chance(0.2) {
            handle.cancel();
        }
        handles.push(handle);
        if random.chance(0.3) {
            let handle = handles.swap_remove(random.below(handles.len() as u64) as usize);
            block_on(runtime, ends(handle));
        }
    }
    handles.into_iter().for_each(|handle| block_on(runtime, ends(handle)));
}

async fn ends(handle: fornax_engine::tasks::TaskHandle<()>) {
    match handle.await {
        Ok(()) | Err(TaskError::Cancelled | TaskError::Expired) => {}
        Err(TaskError::Panicked { message }) => assert_eq!(message, "a task panics"),
        Err(TaskError::Refused { why }) => assert!(why.to_string().contains("11 of \"memory\""), "{why}"),
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn a_task_submits_others_and_awaits_them() {
    for runtime in [paused(), threads(2)] {
        block_on(&runtime, async {
            let runner = runner("fcfs");
            let sum = runner.submit(memory("parent", 1), async |context| {
                let parts: Vec<_> = (0..50u64)
                    .map(|part| {
                        context.submit_blocking(memory("part", 4), move |_| (part * 20..part * 20 + 20).sum::<u64>())
                    })
                    .collect();
                let mut sum = 0;
                for part in parts {
                    sum += part.await?;
                }
                Ok::<u64, TaskError>(sum)
            });
            assert_eq!(sum.await, Ok(Ok(499_500)));
            // By a copy of the runner as well.
            let copy = runner.clone();
            let nested =
                runner.submit(memory("parent", 1), async move |_| copy.submit(memory("child", 9), async |_| 1).await);
            assert_eq!(nested.await, Ok(Ok(1)));
            assert_eq!(used(&runner, "memory"), 0);
        });
    }
}

#[test]
fn threads_outside_of_tokio_submit_and_cancel() {
    let runtime = threads(1);
    let runner = block_on(&runtime, async { runner("fcfs") });
    let handle = std::thread::scope(|scope| {
        let submitter = scope.spawn(|| runner.submit(memory("a", 10), async |_| std::future::pending::<()>().await));
        submitter.join().expect("no panic")
    });
    assert_eq!(used(&runner, "memory"), 10);
    std::thread::scope(|scope| {
        scope.spawn(|| assert!(handle.cancel()));
    });
    assert_eq!(block_on(&runtime, handle), Err(TaskError::Cancelled));
}
