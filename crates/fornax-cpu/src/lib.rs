//! What a language model computes, on the processor, over plain slices: linear maps with packed weights, norms, rotary
//! embeddings, attention over a cache; each at several levels of instruction sets, on a pool of threads made for
//! short parallel regions.
//!
//! The crate deliberately knows no tensors, no models and no files, and so builds in seconds.

pub mod attention;
pub mod cache;
pub mod dense;
mod error;
mod isa;
pub mod limits;
pub mod linear;
mod memory;
pub mod packed;
mod pool;
pub mod rows;
mod simd;

pub use error::{CpuError, Result};
pub use isa::Isa;
pub use memory::Buffer;
pub use packed::{PackedWeight, WeightType};
pub use pool::{MAX_THREADS, Pool, set_threads};

/// Runs `task` over chunks of `chunk` values (the last may be shorter), with their numbers, on all threads.
pub(crate) fn parallel_chunks<T: Send>(values: &mut [T], chunk: usize, task: impl Fn(usize, &mut [T]) + Sync) {
    /// A pointer that tasks may share, as each goes to its own chunk.
    struct Start<T>(*mut T);
    // SAFETY: no two tasks touch the same chunk, and `T: Send`.
    unsafe impl<T: Send> Sync for Start<T> {}
    impl<T> Start<T> {
        fn at(&self, offset: usize) -> *mut T {
            self.0.wrapping_add(offset)
        }
    }

    let len = values.len();
    let start = Start(values.as_mut_ptr());
    Pool::global().run(len.div_ceil(chunk), |index| {
        let from = index * chunk;
        // SAFETY: inside of `values`, which is borrowed until the end of the region, and this task's alone.
        let values = unsafe { std::slice::from_raw_parts_mut(start.at(from), chunk.min(len - from)) };
        task(index, values);
    });
}
