//! How many threads the CPU's operations share: this project's kernels and burn's own, which have a pool each. Neither is
//! started here, but at first use.

use fornax_cpu::Pool;

/// Why the number of threads could not be set.
#[derive(Debug, thiserror::Error)]
pub enum ThreadsError {
    /// The number is outside what makes sense.
    #[error("threads: found {found}, expected 1 to {MAX_THREADS}")]
    OutOfRange {
        /// The number asked for.
        found: usize,
    },
    /// The pool is running already, with another number of threads.
    #[error("threads: {running} threads are running already; set the number before the first tensor is made")]
    AlreadyRunning {
        /// Threads of the pool that runs.
        running: usize,
    },
}

/// More threads than any machine has cores is surely a mistake in the call.
const MAX_THREADS: usize = 4096;

/// Sets the number of threads that CPU operations share, for the whole process.
///
/// Call it once, before the first tensor is made; without it, every core is used.
///
/// # Errors
/// [`ThreadsError::OutOfRange`] for 0 and for absurd numbers, [`ThreadsError::AlreadyRunning`] when the threads
/// were started before with another number.
pub fn set_threads(count: usize) -> Result<(), ThreadsError> {
    if count == 0 || count > MAX_THREADS {
        return Err(ThreadsError::OutOfRange { found: count });
    }
    match rayon::ThreadPoolBuilder::new().num_threads(count).build_global() {
        Ok(()) => {}
        Err(_) if threads() == count => {}
        Err(_) => return Err(ThreadsError::AlreadyRunning { running: threads() }),
    }
    fornax_cpu::set_threads(count).map_err(|_| ThreadsError::AlreadyRunning { running: Pool::global().threads() })
}

/// The number of threads that CPU operations share.
pub fn threads() -> usize {
    rayon::current_num_threads()
}
