//! How fast threads read memory that is in no cache.

use std::hint::black_box;

use super::best_rate;
use crate::{Buffer, Isa, Pool};

/// Rates of reading memory, in bytes a second.
#[derive(Debug, Clone, PartialEq)]
pub struct MemoryLimit {
    /// Of one thread.
    pub one_thread: f64,
    /// Of all threads together.
    pub all_threads: f64,
    /// How many places each thread read at a time when it was fastest.
    pub streams: usize,
    /// Bytes that were read from end to end.
    pub bytes: usize,
    /// Bytes of the largest cache, as the operating system tells. A virtual machine often shares it with others.
    pub caches: Option<usize>,
    /// Whether the bytes were flushed from every cache before each reading, so that no cache, however large, can
    /// have held them. Otherwise only their number speaks for it.
    pub flushed: bool,
}

/// Larger than most caches; and where it is not, the flushes make up for it.
const BYTES: usize = 1 << 30;

/// What a small machine can spare.
const LEAST_BYTES: usize = 64 << 20;

/// Each of these is tried, as the best number differs between processors.
const STREAMS: [usize; 3] = [2, 4, 8];

/// How far ahead of the reading the prefetch runs.
const AHEAD: usize = 2048;

const LINE: usize = 64;

pub(super) fn measure(isa: Isa, one: &Pool, all: &Pool) -> MemoryLimit {
    let bytes = available_memory().map_or(BYTES, |free| (free / 4).clamp(LEAST_BYTES, BYTES)) & !(LEAST_BYTES - 1);
    let mut buffer = Buffer::zeroed(bytes);
    // Memory that was never written is one page of zeros, which is in every cache.
    // Each thread writes a part, so that with several memories each has some of it.
    let part = bytes.div_ceil(all.threads());
    std::thread::scope(|scope| {
        for part in buffer.chunks_mut(part) {
            scope.spawn(|| part.fill(1));
        }
    });
    let mut flushed = true;
    let mut rate = |pool: &Pool, streams: usize, runs: usize| {
        let rates = (0..runs).map(|_| {
            flushed &= flush(&buffer, all);
            best_rate(1, bytes as f64, || read(&buffer, isa, pool, streams))
        });
        rates.fold(0.0, f64::max)
    };
    let (mut all_threads, mut streams) = (0.0, STREAMS[0]);
    for tried in STREAMS {
        let found = rate(all, tried, 3);
        if found > all_threads {
            (all_threads, streams) = (found, tried);
        }
    }
    let one_thread = rate(one, streams, 2);
    if all.threads() == 1 {
        all_threads = one_thread.max(all_threads);
    }
    MemoryLimit { one_thread, all_threads, streams, bytes, caches: largest_cache(), flushed }
}

/// Reads all of `bytes`, each thread at `streams` places at a time.
fn read(bytes: &[u8], isa: Isa, pool: &Pool, streams: usize) {
    // Several tasks a thread, so that an interrupted task does not delay the end.
    let tasks = 16 * pool.threads();
    let chunk = (bytes.len() / tasks) & !(STREAMS[STREAMS.len() - 1] * LINE - 1);
    pool.run(tasks, |task| {
        let from = task * chunk;
        let to = if task + 1 == tasks { bytes.len() } else { from + chunk };
        let bytes = &bytes[from..to];
        black_box(match streams {
            2 => fold::<2>(bytes, isa),
            4 => fold::<4>(bytes, isa),
            _ => fold::<8>(bytes, isa),
        });
    });
}

/// Combines all lines of `bytes`, with the widest loads there are.
fn fold<const STREAMS: usize>(bytes: &[u8], isa: Isa) -> u64 {
    match isa {
        // SAFETY: the processor has this level, or `isa` would not be available.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 | Isa::Amx => unsafe { fold_avx512::<STREAMS>(bytes) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => unsafe { fold_avx2::<STREAMS>(bytes) },
        _ => fold_lines::<STREAMS>(bytes),
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
fn fold_avx512<const STREAMS: usize>(bytes: &[u8]) -> u64 {
    fold_lines::<STREAMS>(bytes)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn fold_avx2<const STREAMS: usize>(bytes: &[u8]) -> u64 {
    fold_lines::<STREAMS>(bytes)
}

/// The body of the levels: the compiler makes of a line what the level has.
#[inline(always)]
fn fold_lines<const STREAMS: usize>(bytes: &[u8]) -> u64 {
    let (lines, _) = bytes.as_chunks::<LINE>();
    let length = lines.len() / STREAMS;
    let streams: [&[[u8; LINE]]; STREAMS] = std::array::from_fn(|stream| &lines[stream * length..][..length]);
    let mut sums = [[0u64; LINE / 8]; STREAMS];
    for line in 0..length {
        for (sum, stream) in sums.iter_mut().zip(streams) {
            prefetch(stream[line].as_ptr().wrapping_add(AHEAD));
            let (words, _) = stream[line].as_chunks::<8>();
            for (sum, word) in sum.iter_mut().zip(words) {
                *sum ^= u64::from_ne_bytes(*word);
            }
        }
    }
    // What is left of a division by the streams is a few lines.
    sums.as_flattened().iter().fold(0, |all, sum| all ^ sum)
}

#[inline(always)]
fn prefetch(at: *const u8) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch reads nothing that the program sees, and an address that is not there is no fault.
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(at.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = at;
}

/// Takes `bytes` out of the caches of all processors, where there is an instruction for it.
fn flush(bytes: &[u8], pool: &Pool) -> bool {
    #[cfg(target_arch = "x86_64")]
    {
        // CPUID leaf 7: bit 23 of ebx is CLFLUSHOPT, which unlike CLFLUSH does not wait for each line.
        let quick = std::arch::x86_64::__cpuid_count(7, 0).ebx >> 23 & 1 == 1;
        let tasks = 4 * pool.threads();
        let chunk = bytes.len().div_ceil(tasks);
        pool.run(tasks, |task| {
            let Some(bytes) = bytes.get(task * chunk..((task + 1) * chunk).min(bytes.len())) else { return };
            for line in bytes.chunks(LINE) {
                // SAFETY: the address is of memory that we hold, and a flush changes no value.
                unsafe {
                    if quick {
                        std::arch::asm!("clflushopt [{}]", in(reg) line.as_ptr(), options(nostack, preserves_flags));
                    } else {
                        std::arch::x86_64::_mm_clflush(line.as_ptr());
                    }
                }
            }
            // SAFETY: SSE2 is part of x86-64. The flushes are done before the reading begins.
            unsafe { std::arch::x86_64::_mm_mfence() };
        });
        true
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        let _ = (bytes, pool);
        false
    }
}

/// Bytes that the operating system could give without swapping.
fn available_memory() -> Option<usize> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<usize>().ok()?.checked_mul(1024)
}

/// The largest of the first processor's caches.
fn largest_cache() -> Option<usize> {
    let caches = std::fs::read_dir("/sys/devices/system/cpu/cpu0/cache").ok()?;
    let sizes = caches.flatten().filter_map(|cache| {
        let text = std::fs::read_to_string(cache.path().join("size")).ok()?;
        cache_size(text.trim())
    });
    sizes.max()
}

/// Bytes of `48K` or `105M`.
fn cache_size(text: &str) -> Option<usize> {
    let (number, unit) = match text.strip_suffix('K') {
        Some(number) => (number, 1 << 10),
        None => (text.strip_suffix('M')?, 1 << 20),
    };
    number.parse::<usize>().ok()?.checked_mul(unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_is_read_at_every_level() {
        let mut bytes = vec![0u8; 64 * LINE];
        for line in 0..64 {
            // Its own bit for each line, so that a line left out is seen.
            bytes[line * LINE + line / 8] = 1 << (line % 8);
        }
        let expected = bytes.as_chunks::<8>().0.iter().fold(0, |all, word| all ^ u64::from_ne_bytes(*word));
        assert_ne!(expected, 0);
        for isa in Isa::available() {
            assert_eq!(fold::<2>(&bytes, isa), expected, "{isa}");
            assert_eq!(fold::<4>(&bytes, isa), expected, "{isa}");
            assert_eq!(fold::<8>(&bytes, isa), expected, "{isa}");
        }
    }

    #[test]
    fn a_flush_changes_nothing() {
        let bytes: Vec<u8> = (0..10_000).map(|index| index as u8).collect();
        let copy = bytes.clone();
        for threads in [1, 3] {
            flush(&bytes, &Pool::new(threads));
            read(&bytes, Isa::best(), &Pool::new(threads), 4);
        }
        assert_eq!(bytes, copy);
        flush(&[], &Pool::new(2));
    }

    #[test]
    fn sizes_of_caches_parse() {
        assert_eq!(cache_size("48K"), Some(48 << 10));
        assert_eq!(cache_size("105M"), Some(105 << 20));
        assert_eq!(cache_size("many"), None);
        assert_eq!(cache_size("K"), None);
    }
}
