//! What this processor and its memory can give at most, measured: the rates that a kernel's time is held against. The
//! kernels measured here compute nothing; they read memory, or multiply in registers, as fast as it goes.
//!
//! It measures processors. What a GPU can give is not its matter.

mod memory;
mod peaks;

use std::time::Instant;

pub use memory::MemoryLimit;
pub use peaks::{Arithmetic, Peak};

use crate::{Isa, Pool};

/// The limits of a processor, with a number of threads.
///
/// ```no_run
/// use fornax_cpu::limits::{Arithmetic, Limits};
///
/// let limits = Limits::measure(2);
/// println!("{:.1} GB/s", limits.memory.all_threads / 1e9);
/// println!("{:.2} TFLOP/s", limits.peak(Arithmetic::F32) / 1e12);
/// // No kernel that reads 600 MB and computes 2 GFLOP is done sooner:
/// println!("{:.1} ms", 1e3 * limits.least_seconds(600_000_000, 2_000_000_000, Arithmetic::F32));
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Limits {
    /// The highest level of instructions that was measured.
    pub isa: Isa,
    /// How many threads "all threads" are.
    pub threads: usize,
    /// Reading from memory.
    pub memory: MemoryLimit,
    /// Arithmetic in registers, a row for each kind of instruction that there is.
    pub peaks: Vec<Peak>,
}

impl Limits {
    /// Measures for some seconds, with one thread and with `threads` (at least one), on a pool of its own.
    ///
    /// Another program that runs meanwhile makes the limits look lower than they are.
    pub fn measure(threads: usize) -> Self {
        let threads = threads.max(1);
        let (one, all) = (Pool::new(1), Pool::new(threads));
        let isa = Isa::best();
        Self { isa, threads, memory: memory::measure(isa, &one, &all), peaks: peaks::measure(isa, &one, &all) }
    }

    /// Operations a second of all threads with the best instructions for this arithmetic; that of `f32` where there
    /// are none.
    pub fn peak(&self, arithmetic: Arithmetic) -> f64 {
        let best = |arithmetic| {
            let of_this = self.peaks.iter().filter(|peak| peak.arithmetic == arithmetic);
            of_this.map(|peak| peak.all_threads).fold(0.0, f64::max)
        };
        best(arithmetic).max(best(Arithmetic::F32))
    }

    /// The seconds below which nothing that moves `bytes` of memory and computes `operations` can be: the roofline
    /// (Williams et al., 2009, <https://doi.org/10.1145/1498765.1498785>).
    pub fn least_seconds(&self, bytes: u64, operations: u64, arithmetic: Arithmetic) -> f64 {
        (bytes as f64 / self.memory.all_threads).max(operations as f64 / self.peak(arithmetic))
    }
}

/// The best rate of several runs of something that does `amount` of work in each.
///
/// The best, not the median: a limit is what the machine can do, and whatever disturbs makes it less.
fn best_rate(runs: usize, amount: f64, mut run: impl FnMut()) -> f64 {
    let rates = (0..runs).map(|_| {
        let start = Instant::now();
        run();
        amount / start.elapsed().as_secs_f64()
    });
    rates.fold(0.0, f64::max)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits() -> Limits {
        let peak = |arithmetic, all_threads| Peak { arithmetic, instruction: "none", one_thread: 1.0, all_threads };
        Limits {
            isa: Isa::Portable,
            threads: 2,
            memory: MemoryLimit {
                one_thread: 5.0,
                all_threads: 10.0,
                streams: 4,
                bytes: 1,
                caches: None,
                flushed: true,
            },
            peaks: vec![peak(Arithmetic::F32, 100.0), peak(Arithmetic::Int8, 300.0), peak(Arithmetic::Int8, 400.0)],
        }
    }

    #[test]
    fn the_best_instructions_count_and_f32_stands_in() {
        let limits = limits();
        assert_eq!(limits.peak(Arithmetic::F32), 100.0);
        assert_eq!(limits.peak(Arithmetic::Int8), 400.0);
        assert_eq!(limits.peak(Arithmetic::Bf16), 100.0);
    }

    #[test]
    fn the_slower_of_memory_and_arithmetic_decides() {
        let limits = limits();
        assert_eq!(limits.least_seconds(20, 100, Arithmetic::F32), 2.0);
        assert_eq!(limits.least_seconds(20, 800, Arithmetic::F32), 8.0);
        assert_eq!(limits.least_seconds(20, 800, Arithmetic::Int8), 2.0);
    }

    #[test]
    fn the_best_run_counts() {
        let mut runs = 0;
        assert!(best_rate(3, 1.0, || runs += 1) > 0.0);
        assert_eq!(runs, 3);
    }
}
