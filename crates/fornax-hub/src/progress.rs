//! What a download reports while it runs. Nothing is drawn here: the caller draws, or ignores it.

use std::time::Duration;

/// One step of a download. Several files are fetched at once, so that events of different files interleave.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event<'a> {
    /// What the next files amount to. Comes once for the configuration and tokenizer files and once for the weights.
    Plan {
        /// How many files are to be fetched; those in the cache are not counted.
        files: usize,
        /// Their bytes altogether, as far as the server states them.
        bytes: u64,
    },
    /// A file's transfer begins, or it continues a partial file of an earlier run.
    Started {
        /// The file's name in the repository.
        file: &'a str,
        /// Its length in bytes, if the server states it.
        total: Option<u64>,
        /// Bytes that an earlier run has left.
        resumed: u64,
    },
    /// Bytes have come. A server that cannot continue a file makes `bytes` fall back to 0.
    Advanced {
        /// The file's name in the repository.
        file: &'a str,
        /// Bytes on disk so far, with those of an earlier run.
        bytes: u64,
    },
    /// A file is whole, verified, and in its place.
    Finished {
        /// The file's name in the repository.
        file: &'a str,
        /// Its length in bytes.
        bytes: u64,
    },
    /// A request has failed and is made again.
    Retrying {
        /// What is fetched: a file's name, or the repository's.
        what: &'a str,
        /// Why the last attempt failed.
        reason: &'a str,
        /// The pause before the next one.
        pause: Duration,
    },
    /// Another process is fetching the same file; this one waits for it.
    Waiting {
        /// The file's name in the repository.
        file: &'a str,
    },
    /// The hub gave no answer, and the complete copy in the cache is used in its place.
    UsingCache {
        /// The repository.
        repo: &'a str,
        /// Why the hub gave none.
        reason: &'a str,
    },
}

/// Receives the events of a download, from several threads. Closures `Fn(&Event)` are receivers too.
///
/// ```
/// use fornax_hub::{Event, Progress};
/// use std::sync::atomic::{AtomicU64, Ordering};
///
/// let finished = AtomicU64::new(0);
/// let progress = |event: &Event<'_>| {
///     if let Event::Finished { bytes, .. } = event {
///         finished.fetch_add(*bytes, Ordering::Relaxed);
///     }
/// };
/// progress.event(&Event::Finished { file: "config.json", bytes: 519 });
/// assert_eq!(finished.into_inner(), 519);
/// ```
pub trait Progress: Sync {
    /// Called for every event; it should return at once.
    fn event(&self, event: &Event<'_>);
}

impl<F: Fn(&Event<'_>) + Sync> Progress for F {
    fn event(&self, event: &Event<'_>) {
        self(event);
    }
}

/// A [`Progress`] that ignores everything.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Progress for Silent {
    fn event(&self, _: &Event<'_>) {}
}
