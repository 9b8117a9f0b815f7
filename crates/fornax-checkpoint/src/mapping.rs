//! A file mapped into memory, read-only, as `Bytes` that keep the mapping alive. It deliberately knows nothing of what
//! is in the file. But for a hint to the processor, the crate's only `unsafe`
//! stands here.

use std::{
    fs::{self, File},
    path::Path,
    sync::Arc,
};

use bytes::Bytes;
use memmap2::Mmap;

use crate::error::{Blame, Result};

/// A mapped file.
#[derive(Debug)]
pub(crate) struct Mapping {
    map: Arc<Mmap>,
    bytes: Bytes,
}

/// The size of most machines' pages; of advice about larger ones the system makes what it can.
#[cfg(unix)]
const PAGE: usize = 4096;

/// What the `Bytes` own. A second handle stays with the [`Mapping`], for advice to the system. The file is there where
/// a lock on it is to last as long as the mapping.
struct Owner(Arc<Mmap>, #[expect(dead_code, reason = "closing the file gives its lock back")] Option<Arc<File>>);

impl AsRef<[u8]> for Owner {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Mapping {
    /// Maps the whole of a regular file.
    pub fn open(path: &Path) -> Result<Self> {
        let blame = Blame { path };
        // Asked before it is opened, for opening a pipe waits until somebody writes to it.
        if !fs::metadata(path).map_err(|error| blame.io("open", error))?.is_file() {
            return Err(blame.unsupported("the kind of file", "a regular file, which can be mapped", "something else"));
        }
        let file = File::open(path).map_err(|error| blame.io("open", error))?;
        Self::of_file(&file, None, path)
    }

    /// Maps the whole of an open file. `kept` is closed when the last of the mapping's `Bytes` is gone.
    pub fn of_file(file: &File, kept: Option<Arc<File>>, path: &Path) -> Result<Self> {
        let blame = Blame { path };
        let metadata = file.metadata().map_err(|error| blame.io("read the size of", error))?;
        let length = metadata.len();
        let mapped = usize::try_from(length).map_err(|_| blame.limit("bytes to map", usize::MAX, length))?;
        if mapped < 8 {
            return Err(blame.truncated("the file", 0, 8, mapped));
        }
        // SAFETY: the memory is read only through shared slices, and no one in this process writes to it. That another
        // process does not change or shorten the file meanwhile cannot be ensured by any program; the documentation
        // of `Checkpoint::open` asks the caller for it, and this crate's writer replaces files instead of changing
        // them.
        let map =
            unsafe { memmap2::MmapOptions::new().len(mapped).map(file) }.map_err(|error| blame.io("map", error))?;
        // Had the file been cut while it was being mapped, reading past its new end would end the process.
        let now = file.metadata().map_err(|error| blame.io("read the size of", error))?.len();
        if now < length {
            return Err(blame.truncated("the file, shortened while it was opened,", 0, length, now as usize));
        }
        let map = Arc::new(map);
        Ok(Self { bytes: Bytes::from_owner(Owner(map.clone(), kept)), map })
    }

    /// The whole file.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// Asks for huge pages, which are read from the disk and mapped at once. To be called before anything is read.
    pub fn prefer_huge_pages(&self) {
        // Systems and file systems without them refuse, which costs time only.
        #[cfg(target_os = "linux")]
        let _ = self.map.advise(memmap2::Advice::HugePage);
    }

    /// Maps the pages that hold the bytes from `start` to `end` in one go, where the system can; elsewhere they are
    /// mapped one after the other when they are read.
    pub fn populate(&self, start: usize, end: usize) {
        #[cfg(target_os = "linux")]
        if start < end && end <= self.map.len() {
            let start = start / PAGE * PAGE;
            // Kernels before 5.14 refuse, which costs time only.
            let _ = self.map.advise_range(memmap2::Advice::PopulateRead, start, end - start);
        }
        #[cfg(not(target_os = "linux"))]
        let _ = (start, end);
    }

    /// Tells the system that the pages under `part` are not needed for now; false where `part` lies elsewhere.
    pub fn release(&self, part: &[u8]) -> bool {
        let (base, start) = (self.map.as_ptr() as usize, part.as_ptr() as usize);
        let Some(offset) = start.checked_sub(base).filter(|offset| offset + part.len() <= self.map.len()) else {
            return false;
        };
        #[cfg(unix)]
        {
            // Only whole pages go: a page shared with a neighbour may be in use by it.
            let first = offset.next_multiple_of(PAGE);
            let end = (offset + part.len()) / PAGE * PAGE;
            if first < end {
                // SAFETY: the mapping is a read-only one of a file, so dropping its pages loses nothing: the next
                // access reads the same bytes from the file again. The range lies within the mapping (checked above).
                // A refusal by the system costs memory only, so that it is not an error.
                let _ =
                    unsafe { self.map.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, first, end - first) };
            }
        }
        #[cfg(not(unix))]
        let _ = offset;
        true
    }
}
