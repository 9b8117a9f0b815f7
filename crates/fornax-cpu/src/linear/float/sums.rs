//! Room for the sums of some rows and panels while they are added up, which stays in a core's second cache. Results lie
//! in rows as long as a model is wide, often a power of two apart: there, the lines of a few columns would fight for a few
//! places in the caches.

use super::rows::{Line, TILE_ROWS};
use crate::packed::PANEL;

/// Rows whose sums are kept at once.
pub const MAX_ROWS: usize = 512;

/// Panels whose sums are kept at once: with the rows, 1 MiB of sums, half of a core's second cache.
pub const MAX_PANELS: usize = 32;

/// Sums in rows.
#[derive(Debug)]
pub struct Sums {
    lines: Vec<Line>,
    /// Lines of a row; odd, so that rows do not fight for places in the caches.
    stride: usize,
    panels: usize,
}

impl Sums {
    /// No room.
    pub const fn new() -> Self {
        Self { lines: Vec::new(), stride: 1, panels: 0 }
    }

    /// Makes room for some rows of some panels; what is in them is of no matter.
    pub fn reset(&mut self, rows: usize, panels: usize) {
        self.panels = panels;
        self.stride = panels.next_multiple_of(2) + 1;
        let lines = rows.next_multiple_of(2 * TILE_ROWS) * self.stride;
        if self.lines.len() < lines {
            self.lines.resize(lines, Line([0; 64]));
        }
    }

    /// Sets all to zero.
    pub fn clear(&mut self) {
        self.lines.fill(Line([0; 64]));
    }

    /// The first of the sums; whole pairs of tile rows and of panels have room.
    pub fn start(&mut self) -> *mut u8 {
        self.lines.as_mut_ptr().cast()
    }

    /// Bytes from row to row.
    pub fn stride(&self) -> usize {
        self.stride * 64
    }

    /// The sums of a row, one panel after another.
    pub fn row(&mut self, row: usize) -> &mut [f32] {
        let lines = &mut self.lines[row * self.stride..][..self.panels];
        // SAFETY: a line is 16 numbers, any bits are a number, and it is aligned to more than a number.
        unsafe { std::slice::from_raw_parts_mut(lines.as_mut_ptr().cast(), self.panels * PANEL) }
    }
}
