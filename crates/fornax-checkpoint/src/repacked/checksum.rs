//! Checksums of several places at once. One XXH3 runs through cached bytes at 25 GB/s and through memory at a quarter of
//! that, because it waits; four that take turns, each asking for its next bytes ahead of time, read at the speed of the
//! memory. It deliberately knows nothing of files.

use rayon::prelude::*;
use xxhash_rust::xxh3::{Xxh3, xxh3_64};

/// The bytes under one checksum.
pub(crate) const CHUNK: usize = 1 << 20;
/// How many checksums are made at once.
pub(crate) const STREAMS: usize = 4;
/// How many bytes of a stream are read before the next stream's turn. The next turn of as many is prefetched.
const TURN: usize = 1024;

/// The XXH3 of 64 bits.
pub(crate) fn checksum(bytes: &[u8]) -> u64 {
    xxh3_64(bytes)
}

/// The checksum of each part; parts may differ in length.
pub(crate) fn checksums_at_once(parts: [&[u8]; STREAMS]) -> [u64; STREAMS] {
    // The common length, over which the streams are read in turn. The longer parts are then read one after the other.
    let common = parts.iter().map(|part| part.len()).min().unwrap_or(0) / TURN * TURN;
    let mut states = [const { Xxh3::new() }; STREAMS];
    for at in (0..common).step_by(TURN) {
        for (state, part) in states.iter_mut().zip(parts) {
            prefetch(&part[at + TURN..][..(part.len() - at - TURN).min(TURN)]);
            state.update(&part[at..at + TURN]);
        }
    }
    let mut sums = [0; STREAMS];
    for ((sum, state), part) in sums.iter_mut().zip(&mut states).zip(parts) {
        state.update(&part[common..]);
        *sum = state.digest();
    }
    sums
}

/// The checksum of each [`CHUNK`] of `bytes`, on all threads of the pool.
pub(crate) fn checksums(bytes: &[u8]) -> Vec<u64> {
    let group = |group: &[u8]| {
        let mut chunks = group.chunks(CHUNK);
        let parts = [(); STREAMS].map(|()| chunks.next().unwrap_or_default());
        checksums_at_once(parts).into_iter().take(group.len().div_ceil(CHUNK)).collect::<Vec<_>>()
    };
    bytes.par_chunks(STREAMS * CHUNK).flat_map_iter(group).collect()
}

/// Has the bytes brought from memory while other work goes on.
#[inline(always)]
fn prefetch(bytes: &[u8]) {
    #[cfg(target_arch = "x86_64")]
    for line in bytes.chunks(64) {
        // SAFETY: a prefetch is a hint: it changes no state that a program sees, and cannot fault. Every x86-64
        // processor has it.
        unsafe { std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(line.as_ptr().cast()) };
    }
    // Elsewhere the processor's own guess has to do.
    #[cfg(not(target_arch = "x86_64"))]
    let _ = bytes;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_at_once_are_the_same_as_one_by_one() {
        let bytes: Vec<u8> = (0..5 * CHUNK + 777).map(|at| (at * at / 128) as u8).collect();
        for lengths in [[0, 0, 0, 0], [1, 2, 3, 4], [1024, 1023, 1025, 4096], [5000, 9, 1 << 20, 0], [1 << 20; 4]] {
            let parts = [0, 1, 2, 3].map(|at| &bytes[at * 1001..][..lengths[at]]);
            assert_eq!(checksums_at_once(parts), parts.map(checksum), "{lengths:?}");
        }
        for length in [0, 1, CHUNK, CHUNK + 1, 4 * CHUNK, 4 * CHUNK + 1, bytes.len()] {
            let expected: Vec<u64> = bytes[..length].chunks(CHUNK).map(checksum).collect();
            assert_eq!(checksums(&bytes[..length]), expected, "{length}");
        }
    }
}
