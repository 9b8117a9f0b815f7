//! Threads for many short parallel regions. A model's step is a few hundred regions of some microseconds, so waiting
//! threads spin for a while before they sleep, and a region ends as soon as its tasks are done, whether or not every
//! thread came to help. It has no queues and no work stealing: long or nested work needs another pool.

use std::any::Any;
use std::cell::UnsafeCell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError, TryLockError};
use std::time::{Duration, Instant};

use crate::{CpuError, Result};

/// More threads than any machine has cores is surely a mistake in the call.
pub const MAX_THREADS: usize = 4096;

/// How long a thread without work looks out for more before it sleeps. Longer than the serial stretch between two
/// regions of a model's step, and too short to be noticed as load.
const SPIN: Duration = Duration::from_micros(100);

/// Some threads that run the tasks of one region at a time, the caller being one of them.
///
/// ```
/// use std::sync::atomic::{AtomicUsize, Ordering};
///
/// let sum = AtomicUsize::new(0);
/// fornax_cpu::Pool::new(3).run(100, |task| {
///     sum.fetch_add(task, Ordering::Relaxed);
/// });
/// assert_eq!(sum.into_inner(), 4950);
/// ```
#[derive(Debug)]
pub struct Pool {
    shared: Arc<Shared>,
    threads: usize,
}

impl Pool {
    /// Starts `threads - 1` threads; with the caller of [`run`](Self::run) that makes `threads`. A thread that the
    /// system refuses to start is done without.
    pub fn new(threads: usize) -> Self {
        let shared = Arc::new(Shared::default());
        // With more threads than processors, a spinning thread keeps a working thread from running.
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let spin = if threads <= cores { SPIN } else { Duration::ZERO };
        let started = (1..threads).map_while(|index| {
            let shared = Arc::clone(&shared);
            let name = format!("fornax-cpu-{index}");
            std::thread::Builder::new().name(name).spawn(move || shared.work(spin)).ok()
        });
        let threads = 1 + started.count();
        Self { shared, threads }
    }

    /// The pool that operations share. It has as many threads as the machine has processors, unless
    /// [`set_threads`] came first.
    pub fn global() -> &'static Pool {
        GLOBAL.get_or_init(|| Pool::new(std::thread::available_parallelism().map_or(1, usize::from)))
    }

    /// Threads that a region has at most, the caller's included.
    pub fn threads(&self) -> usize {
        self.threads
    }

    /// Runs `task(0)` to `task(tasks - 1)`, each once, on any thread and in any order, and returns when all are done.
    ///
    /// While another thread's region runs, or inside of a task, the calling thread runs them alone.
    ///
    /// # Panics
    /// When a task panics. Where several threads run them the remaining tasks still run before the panic goes on in the
    /// caller.
    pub fn run(&self, tasks: usize, task: impl Fn(usize) + Sync) {
        if tasks <= 1 || self.threads == 1 {
            (0..tasks).for_each(task);
            return;
        }
        let _region = match self.shared.region.try_lock() {
            Ok(region) => region,
            // A task panicked once, and the region that it was in was ended in good order before that went on.
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => {
                (0..tasks).for_each(task);
                return;
            }
        };
        self.shared.run(tasks, &task);
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.state.fetch_or(CLOSED, Ordering::SeqCst);
        drop(lock(&self.shared.asleep));
        self.shared.wake.notify_all();
    }
}

/// Sets the number of threads of [`Pool::global`], before its first use.
///
/// # Errors
/// [`CpuError::ThreadsOutOfRange`] for 0 and for more than [`MAX_THREADS`], [`CpuError::ThreadsRunning`] when another
/// number runs already.
pub fn set_threads(threads: usize) -> Result<()> {
    if threads == 0 || threads > MAX_THREADS {
        return Err(CpuError::ThreadsOutOfRange { found: threads, max: MAX_THREADS });
    }
    let mut made = false;
    let running = GLOBAL
        .get_or_init(|| {
            made = true;
            Pool::new(threads)
        })
        .threads();
    // Fewer may have been made than were asked for, where the system has no more.
    if made || running == threads { Ok(()) } else { Err(CpuError::ThreadsRunning { running }) }
}

static GLOBAL: OnceLock<Pool> = OnceLock::new();

/// `state` is a region's number in the upper half, then two flags, then how many helpers are inside of the region.
const REGION: u64 = 1 << 32;
const OPEN: u64 = 1 << 31;
const CLOSED: u64 = 1 << 30;
const INSIDE: u64 = CLOSED - 1;

#[derive(Debug, Default)]
struct Shared {
    /// Held while a region runs.
    region: Mutex<()>,
    state: AtomicU64,
    job: Job,
    next: AtomicUsize,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
    /// How many threads sleep; changed under the lock, read without it.
    sleepers: AtomicUsize,
    asleep: Mutex<()>,
    wake: Condvar,
}

/// What a region does with each of its tasks' numbers.
type Task = *const (dyn Fn(usize) + Sync);

/// The open region's task, and how many there are.
#[derive(Default)]
struct Job(UnsafeCell<Option<(Task, usize)>>);

impl std::fmt::Debug for Job {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Job")
    }
}

// SAFETY: it is written only by the holder of `region` while no helper is inside, and read only by helpers inside.
unsafe impl Sync for Job {}
// SAFETY: the pointer is to something `Sync` that outlives the region.
unsafe impl Send for Job {}

impl Shared {
    /// The caller's side of a region; it holds `region`.
    fn run(&self, tasks: usize, task: &(dyn Fn(usize) + Sync)) {
        // SAFETY: the lifetime is forgotten, and kept by this function: it returns only after the region is closed to
        // helpers and the last of them is outside.
        let forgotten = unsafe {
            std::mem::transmute::<*const (dyn Fn(usize) + Sync + '_), *const (dyn Fn(usize) + Sync + 'static)>(task)
        };
        // SAFETY: no region is open, so nobody reads.
        unsafe { *self.job.0.get() = Some((forgotten, tasks)) };
        self.next.store(0, Ordering::Relaxed);
        let before = self.state.load(Ordering::Relaxed);
        // SeqCst against the sleeper's count: either we see the sleeper, or it sees the region.
        self.state.store((before & CLOSED) | ((before & !(REGION - 1)).wrapping_add(REGION)) | OPEN, Ordering::SeqCst);
        if self.sleepers.load(Ordering::SeqCst) > 0 {
            drop(lock(&self.asleep));
            self.wake.notify_all();
        }
        self.claim(task, tasks);
        self.state.fetch_and(!OPEN, Ordering::AcqRel);
        let mut waited = 0u32;
        while self.state.load(Ordering::Acquire) & INSIDE != 0 {
            waited += 1;
            // A helper that lost its processor in the middle of a task needs ours perhaps.
            if waited.is_multiple_of(1 << 14) { std::thread::yield_now() } else { std::hint::spin_loop() }
        }
        let panic = self.panic.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(panic) = panic {
            resume_unwind(panic);
        }
    }

    /// Runs tasks as long as there are any.
    fn claim(&self, task: &(dyn Fn(usize) + Sync), tasks: usize) {
        loop {
            let index = self.next.fetch_add(1, Ordering::Relaxed);
            if index >= tasks {
                return;
            }
            if let Err(panic) = catch_unwind(AssertUnwindSafe(|| task(index))) {
                let mut first = lock(&self.panic);
                match *first {
                    // Dropping what a panic carries could panic again, in the middle of the region.
                    Some(_) => std::mem::forget(panic),
                    None => *first = Some(panic),
                }
            }
        }
    }

    /// A helper's life.
    fn work(&self, spin: Duration) {
        let mut last = 0;
        while let Some(region) = self.wait(last, spin) {
            last = region;
            // SAFETY: this thread is counted inside of the region, so the job stays until it leaves.
            let job = unsafe { *self.job.0.get() };
            let (task, tasks) = job.expect("an open region has its job");
            // SAFETY: as above, the task outlives the region.
            self.claim(unsafe { &*task }, tasks);
            self.state.fetch_sub(1, Ordering::Release);
        }
    }

    /// Enters the next region after `last` that is open; `None` when the pool is closed.
    fn wait(&self, last: u64, spin: Duration) -> Option<u64> {
        loop {
            let since = Instant::now();
            let mut looked = 0u32;
            loop {
                let state = self.state.load(Ordering::Acquire);
                if state & CLOSED != 0 {
                    return None;
                }
                let region = state & !(REGION - 1);
                if state & OPEN != 0 && region != last {
                    let entered =
                        self.state.compare_exchange_weak(state, state + 1, Ordering::AcqRel, Ordering::Relaxed);
                    if entered.is_ok() {
                        return Some(region);
                    }
                    continue;
                }
                looked += 1;
                if looked.is_multiple_of(64) && since.elapsed() >= spin {
                    break;
                }
                std::hint::spin_loop();
            }
            self.sleep(last);
        }
    }

    /// Sleeps until a region may be open.
    fn sleep(&self, last: u64) {
        let mut guard = lock(&self.asleep);
        self.sleepers.fetch_add(1, Ordering::SeqCst);
        loop {
            let state = self.state.load(Ordering::SeqCst);
            if state & CLOSED != 0 || (state & OPEN != 0 && state & !(REGION - 1) != last) {
                break;
            }
            guard = self.wake.wait(guard).unwrap_or_else(PoisonError::into_inner);
        }
        self.sleepers.fetch_sub(1, Ordering::SeqCst);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Tasks run outside of every lock, so a poisoned one holds nothing half done.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_task_runs_once() {
        for threads in [1, 2, 3, 8] {
            let pool = Pool::new(threads);
            for tasks in (0..40).chain([1000]) {
                let counts: Vec<AtomicUsize> = (0..tasks).map(|_| AtomicUsize::new(0)).collect();
                pool.run(tasks, |task| {
                    counts[task].fetch_add(1, Ordering::Relaxed);
                });
                assert!(counts.iter().all(|count| count.load(Ordering::Relaxed) == 1), "{tasks} on {threads}");
            }
        }
    }

    #[test]
    fn many_short_regions() {
        let pool = Pool::new(4);
        let sum = AtomicUsize::new(0);
        for _ in 0..20_000 {
            pool.run(3, |task| {
                sum.fetch_add(task, Ordering::Relaxed);
            });
        }
        assert_eq!(sum.into_inner(), 60_000);
    }

    #[test]
    fn nested_and_concurrent_regions_run() {
        let pool = Pool::new(3);
        let count = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    for _ in 0..200 {
                        pool.run(4, |_| {
                            pool.run(2, |_| {
                                count.fetch_add(1, Ordering::Relaxed);
                            });
                        });
                    }
                });
            }
        });
        assert_eq!(count.into_inner(), 3 * 200 * 8);
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_pool_lives_on() {
        let pool = Pool::new(2);
        let ran = AtomicUsize::new(0);
        let result = catch_unwind(AssertUnwindSafe(|| {
            pool.run(8, |task| {
                ran.fetch_add(1, Ordering::Relaxed);
                assert_ne!(task, 3, "three");
            });
        }));
        assert!(result.is_err());
        assert_eq!(ran.load(Ordering::Relaxed), 8);
        pool.run(8, |_| {
            ran.fetch_add(1, Ordering::Relaxed);
        });
        assert_eq!(ran.into_inner(), 16);
        // And with both threads: each of two tasks waits until the other has begun.
        let begun = AtomicUsize::new(0);
        let since = Instant::now();
        pool.run(2, |_| {
            begun.fetch_add(1, Ordering::SeqCst);
            while begun.load(Ordering::SeqCst) < 2 {
                assert!(since.elapsed() < Duration::from_secs(60), "one thread alone ran the region");
                std::thread::yield_now();
            }
        });
    }

    #[test]
    fn senseless_numbers_are_refused() {
        assert!(matches!(set_threads(0), Err(CpuError::ThreadsOutOfRange { .. })));
        assert!(matches!(set_threads(MAX_THREADS + 1), Err(CpuError::ThreadsOutOfRange { .. })));
    }
}
