//! Lines of the cache, for what kernels write and read again: on huge pages where they are many, as a tile touches as many
//! pages as it has rows.

use crate::Buffer;

/// A line of the cache.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(64))]
pub struct Line(pub [u8; 64]);

/// From this much on a huge page is taken.
const LARGE: usize = 256 << 10;

/// Size of a huge page.
const HUGE_PAGE: usize = 2 << 20;

/// Room for some lines.
#[derive(Debug, Default)]
pub struct Lines(Option<Buffer>);

impl Lines {
    /// No room.
    pub const fn new() -> Self {
        Self(None)
    }

    /// Makes room for as many lines. What is in them is of no matter, but initialised.
    pub fn reserve(&mut self, lines: usize) {
        if self.len() < lines {
            let bytes = lines * size_of::<Line>();
            self.0 = Some(Buffer::zeroed(if bytes >= LARGE { bytes.next_multiple_of(HUGE_PAGE) } else { bytes }));
        }
    }

    /// How many lines have room.
    pub fn len(&self) -> usize {
        self.as_slice().len()
    }

    /// All that have room.
    pub fn as_slice(&self) -> &[Line] {
        let bytes = self.0.as_deref().unwrap_or(&[]);
        // SAFETY: buffers are aligned to a line, any bytes are one, and these are whole ones.
        unsafe { std::slice::from_raw_parts(start(bytes.as_ptr()), bytes.len() / size_of::<Line>()) }
    }

    /// As above.
    pub fn as_mut_slice(&mut self) -> &mut [Line] {
        let bytes = self.0.as_deref_mut().unwrap_or(&mut []);
        // SAFETY: as above.
        unsafe { std::slice::from_raw_parts_mut(start(bytes.as_ptr()).cast_mut(), bytes.len() / size_of::<Line>()) }
    }
}

/// No bytes are aligned to nothing.
fn start(bytes: *const u8) -> *const Line {
    if bytes.cast::<Line>().is_aligned() { bytes.cast() } else { std::ptr::NonNull::dangling().as_ptr() }
}
