//! Memory that is read by the gigabyte: aligned to huge pages and asking for them, so that streaming through it does
//! not stop at every 4 KiB for the page table. It holds bytes; its users interpret them.

use std::ops::{Deref, DerefMut};

use bytes::Bytes;
use memmap2::MmapMut;

use crate::{CpuError, Result};

/// Size and alignment of a huge page.
pub(crate) const HUGE_PAGE: usize = 2 << 20;

/// Zeroed bytes, aligned to 64, and to 2 MiB on huge pages where they are that large and the system grants them.
#[derive(Debug)]
pub struct Buffer {
    map: MmapMut,
    start: usize,
    len: usize,
}

impl Buffer {
    /// `len` zeros. Memory is taken when it is first written.
    ///
    /// # Panics
    /// When the system has no address space left, as any allocation does.
    pub fn zeroed(len: usize) -> Self {
        Self::try_zeroed(len).expect("address space for a buffer")
    }

    /// As [`zeroed`](Self::zeroed), for sizes that come from a user.
    ///
    /// # Errors
    /// [`CpuError::NoMemory`] when the system has no address space left.
    pub fn try_zeroed(len: usize) -> Result<Self> {
        let huge = len >= HUGE_PAGE;
        let no_memory = CpuError::NoMemory { bytes: len };
        let Some(room) = (if huge { len.checked_add(HUGE_PAGE) } else { Some(len.max(1)) }) else {
            return Err(no_memory);
        };
        let map = MmapMut::map_anon(room).map_err(|_| no_memory)?;
        let start = if huge { map.as_ptr().align_offset(HUGE_PAGE) } else { 0 };
        #[cfg(target_os = "linux")]
        if huge {
            // Without huge pages all works, only slower.
            let _ = map.advise(memmap2::Advice::HugePage);
        }
        Ok(Self { map, start, len })
    }

    /// Shares the bytes, read-only from now on.
    pub fn freeze(self) -> Bytes {
        Bytes::from_owner(self)
    }
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.map[self.start..self.start + self.len]
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.map[self.start..self.start + self.len]
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_aligned_and_zero() {
        for len in [0, 1, 4096, HUGE_PAGE - 1, HUGE_PAGE, 3 * HUGE_PAGE + 5] {
            let mut buffer = Buffer::zeroed(len);
            assert_eq!(buffer.len(), len);
            assert_eq!(buffer.as_ptr() as usize % if len >= HUGE_PAGE { HUGE_PAGE } else { 64 }, 0);
            assert!(buffer.iter().all(|&byte| byte == 0));
            buffer.fill(7);
            assert!(buffer.freeze().iter().all(|&byte| byte == 7));
        }
    }
}
