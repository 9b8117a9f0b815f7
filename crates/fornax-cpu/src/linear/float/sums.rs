//! Room for the sums of some rows and panels while they are added up, which stays in a core's second cache. Results lie
//! in rows as long as a model is wide, often a power of two apart: there, the lines of a few columns would fight for a few
//! places in the caches.

use super::lines::{Line, Lines};
use super::rows::TILE_ROWS;
use crate::packed::PANEL;

/// Rows whose sums are kept at once.
pub const MAX_ROWS: usize = 512;

/// Panels whose sums are kept at once: with the rows, 1 MiB of sums, half of a core's second cache.
pub const MAX_PANELS: usize = 32;

/// Sums in rows.
#[derive(Debug)]
pub struct Sums {
    lines: Lines,
    /// Lines of a row; odd, so that rows do not fight for places in the caches.
    stride: usize,
    panels: usize,
}

impl Sums {
    /// No room.
    pub const fn new() -> Self {
        Self { lines: Lines::new(), stride: 1, panels: 0 }
    }

    /// Makes room for some rows of some panels; what is in them is of no matter.
    pub fn reset(&mut self, rows: usize, panels: usize) {
        self.panels = panels;
        self.stride = panels.next_multiple_of(2) + 1;
        self.lines.reserve(rows.next_multiple_of(2 * TILE_ROWS) * self.stride);
    }

    /// Sets all to zero.
    pub fn clear(&mut self) {
        self.lines.as_mut_slice().fill(Line([0; 64]));
    }

    /// The first of the sums; whole pairs of tile rows and of panels have room.
    pub fn start(&mut self) -> *mut u8 {
        self.lines.as_mut_slice().as_mut_ptr().cast()
    }

    /// Bytes from row to row.
    pub fn stride(&self) -> usize {
        self.stride * 64
    }

    /// The sums of a row, one panel after another.
    pub fn row(&mut self, row: usize) -> &mut [f32] {
        let lines = &mut self.lines.as_mut_slice()[row * self.stride..][..self.panels];
        // SAFETY: a line is 16 numbers, any bits are a number, and it is aligned to more than a number.
        unsafe { std::slice::from_raw_parts_mut(lines.as_mut_ptr().cast(), self.panels * PANEL) }
    }
}

/// From this size on a result is written past the caches: no second cache would hold it.
const LARGE: usize = 4 << 20;

/// Copies finished values to where they belong in a result of `size` bytes. One that no second cache holds goes past the
/// caches, which then need not read first what is overwritten, and keep the activations.
///
/// # Safety
/// The processor has AVX-512.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
pub unsafe fn put(values: &[f32], out: &mut [f32], size: usize) {
    use std::arch::x86_64::{_mm_sfence, _mm512_loadu_ps, _mm512_stream_ps};

    if size < LARGE {
        return out.copy_from_slice(values);
    }
    assert_eq!(values.len(), out.len(), "values of a row");
    let head = out.as_ptr().align_offset(64).min(out.len());
    let (first, aligned) = out.split_at_mut(head);
    first.copy_from_slice(&values[..head]);
    let mut lines = aligned.chunks_exact_mut(PANEL);
    let mut rest = values[head..].chunks_exact(PANEL);
    for (line, values) in lines.by_ref().zip(rest.by_ref()) {
        // SAFETY: both are 16 numbers, and the line is aligned.
        unsafe { _mm512_stream_ps(line.as_mut_ptr(), _mm512_loadu_ps(values.as_ptr())) };
    }
    lines.into_remainder().copy_from_slice(rest.remainder());
    // Whoever is told that the result is there finds it.
    _mm_sfence();
}
