//! The products with the tiles of AMX: 16 rows by 32 columns of the input times 32 columns by 16 of the weight in one
//! instruction. Two rows of tiles times two panels keep the tiles busy, in blocks that stay in the caches.
//!
//! The tiles are programmed in assembly, as the compiler has no stable intrinsics for them. What they hold never leaves
//! an `asm!` block; only their configuration does.

use std::arch::asm;
use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
use std::cell::RefCell;

use super::rows::{Line, TILE_ROWS};
use super::{BLOCK_BYTES, Job, avx512};
use crate::packed::PANEL;

/// From this many rows on, tiles are faster than vectors.
pub const fn least_rows<const F16: bool>() -> usize {
    if F16 { 5 } else { 9 }
}

/// Bytes of a tile.
const TILE: usize = 1024;

/// Tile rows whose sums are kept at once.
const MAX_TILE_ROWS: usize = 32;

/// Panels whose sums are kept at once: with the rows, 1 MiB of sums, half of a core's second cache.
const MAX_PANELS: usize = 32;

/// Steps of 32 columns after which other rows have their turn, so that two panels stay in the first cache: 16 KiB, twice
/// that for the two parts of f16.
const DEPTH: usize = 8;

/// # Safety
/// The processor has AMX and this process may use it, and the job's columns are the caller's.
pub unsafe fn multiply<const F16: bool>(job: &Job) {
    thread_local! {
        /// Kept from call to call, as getting it costs more than a small product.
        static SCRATCH: RefCell<Vec<Line>> = const { RefCell::new(Vec::new()) };
    }
    SCRATCH.with_borrow_mut(|scratch| {
        let tiles = Tiles::new();
        // SAFETY: the caller's promise.
        unsafe { blocks::<F16>(job, scratch) };
        drop(tiles);
    });
}

/// Cuts the job into blocks whose sums stay in the second cache.
///
/// # Safety
/// As for [`multiply`]; the tiles are configured.
unsafe fn blocks<const F16: bool>(job: &Job, scratch: &mut Vec<Line>) {
    let tile_rows = job.x.rows().div_ceil(TILE_ROWS);
    let panels = job.panels.len();
    // With few rows nothing comes to use twice before all of a panel has.
    let depth = if tile_rows <= 2 { job.blocks } else { DEPTH };
    for first_row in (0..tile_rows).step_by(MAX_TILE_ROWS) {
        let rows = first_row..(first_row + MAX_TILE_ROWS).min(tile_rows);
        for first_panel in (0..panels).step_by(MAX_PANELS) {
            let panels = first_panel..(first_panel + MAX_PANELS).min(panels);
            let block = Block { job, rows: rows.clone(), panels, depth };
            // SAFETY: the caller's promise.
            unsafe { block.multiply::<F16>(scratch) };
        }
    }
}

/// Some rows times some panels.
struct Block<'a> {
    job: &'a Job<'a>,
    /// Of the tile rows.
    rows: std::ops::Range<usize>,
    /// Of the job's panels.
    panels: std::ops::Range<usize>,
    depth: usize,
}

impl Block<'_> {
    /// # Safety
    /// As for [`blocks`].
    unsafe fn multiply<const F16: bool>(&self, scratch: &mut Vec<Line>) {
        let job = self.job;
        let sum_lines = self.rows.len().next_multiple_of(2) * self.panels.len().next_multiple_of(2) * TILE_ROWS;
        let split_lines = if F16 { 2 * 2 * self.depth * BLOCK_BYTES / 64 } else { 0 };
        if scratch.len() < sum_lines + split_lines {
            scratch.resize(sum_lines + split_lines, Line([0; 64]));
        }
        let (sums, split) = scratch.split_at_mut(sum_lines);
        let mut from = 0;
        // At least once, also when there are no columns.
        loop {
            let depth = self.depth.min(job.blocks - from);
            for pair in (self.panels.start..self.panels.end).step_by(2) {
                let second = if pair + 1 < self.panels.end { pair + 1 } else { pair };
                let mut weights = [pair, second].map(|panel| {
                    let start = panel * job.panel_bytes() + from * BLOCK_BYTES;
                    job.weight[start..start + depth * BLOCK_BYTES].as_ptr()
                });
                if F16 {
                    for (weight, split) in weights.iter_mut().zip(split.chunks_exact_mut(self.depth * 2 * TILE_ROWS)) {
                        // SAFETY: `depth` blocks are in the weight, and the scratch has room for both parts of them.
                        unsafe { avx512::split_blocks(*weight, depth, split.as_mut_ptr().cast()) };
                        *weight = split.as_ptr().cast();
                    }
                }
                for row in (self.rows.start..self.rows.end).step_by(2) {
                    let second = if row + 1 < self.rows.end { row + 1 } else { row };
                    let x = [row, second].map(|row| job.x.tiles(row)[from * TILE_ROWS..].as_ptr().cast::<u8>());
                    let at =
                        (pair - self.panels.start) * self.rows.len().next_multiple_of(2) + 2 * (row - self.rows.start);
                    let sums = sums[at * TILE_ROWS..(at + 4) * TILE_ROWS].as_mut_ptr().cast::<u8>();
                    // SAFETY: there are `depth` blocks of both weights and both rows, and four tiles of sums.
                    unsafe { four_tiles::<F16>(x, weights, sums, depth, from == 0) };
                }
            }
            from += depth;
            if from >= job.blocks {
                break;
            }
        }
        // SAFETY: the caller's promise.
        unsafe { self.write(sums) };
    }

    /// Copies the sums to their rows.
    ///
    /// # Safety
    /// The block's columns are the caller's.
    unsafe fn write(&self, sums: &[Line]) {
        let job = self.job;
        let tile_rows = self.rows.len().next_multiple_of(2);
        for row in self.rows.start * TILE_ROWS..(self.rows.end * TILE_ROWS).min(job.x.rows()) {
            let (tile_row, within) = (row / TILE_ROWS - self.rows.start, row % TILE_ROWS);
            for panel in self.panels.clone() {
                let (column, of_pair) = ((panel - self.panels.start) / 2 * 2, (panel - self.panels.start) % 2);
                let tile = column * tile_rows + tile_row / 2 * 4 + tile_row % 2 * 2 + of_pair;
                // SAFETY: a line is 16 numbers, and any bits are a number.
                let line = unsafe { &*(&raw const sums[tile * TILE_ROWS + within]).cast::<[f32; PANEL]>() };
                // SAFETY: the caller's promise, and the row is one of `x`.
                unsafe { job.out.write(row, job.panels.start + panel, line) };
            }
        }
    }
}

/// Adds the products of two tile rows and two panels, `depth` steps deep, to four tiles of sums; they start at zero if
/// `first`.
///
/// # Safety
/// The tiles are configured. Each of `x` and `weights` has `depth` tiles (for f16 twice as many weights, the two parts in
/// turn), `sums` four.
#[inline]
unsafe fn four_tiles<const F16: bool>(
    x: [*const u8; 2],
    weights: [*const u8; 2],
    sums: *mut u8,
    depth: usize,
    first: bool,
) {
    if first {
        // SAFETY: it changes tiles only.
        unsafe { asm!("tilezero tmm0", "tilezero tmm1", "tilezero tmm2", "tilezero tmm3", options(nomem, nostack)) };
    } else {
        // SAFETY: the caller's promise.
        unsafe {
            asm!(
                "tileloadd tmm0, [{sums} + {line}]",
                "tileloadd tmm1, [{sums} + {line} + 1024]",
                "tileloadd tmm2, [{sums} + {line} + 2048]",
                "tileloadd tmm3, [{sums} + {line} + 3072]",
                sums = in(reg) sums,
                line = in(reg) 64usize,
                options(readonly, nostack)
            );
        }
    }
    // SAFETY: the caller's promise.
    unsafe {
        if F16 {
            asm!(
                "test {depth}, {depth}",
                "jz 3f",
                "2:",
                "tileloadd tmm4, [{x0} + {line}]",
                "tileloadd tmm6, [{w0} + {line}]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tileloadd tmm7, [{w1} + {line}]",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "tileloadd tmm5, [{x1} + {line}]",
                "tdpbf16ps tmm2, tmm5, tmm6",
                "tileloadd tmm6, [{w0} + {line} + 1024]",
                "tdpbf16ps tmm3, tmm5, tmm7",
                "tileloadd tmm7, [{w1} + {line} + 1024]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "tdpbf16ps tmm2, tmm5, tmm6",
                "tdpbf16ps tmm3, tmm5, tmm7",
                "add {x0}, 1024",
                "add {x1}, 1024",
                "add {w0}, 2048",
                "add {w1}, 2048",
                "dec {depth}",
                "jnz 2b",
                "3:",
                x0 = inout(reg) x[0] => _,
                x1 = inout(reg) x[1] => _,
                w0 = inout(reg) weights[0] => _,
                w1 = inout(reg) weights[1] => _,
                depth = inout(reg) depth => _,
                line = in(reg) 64usize,
                options(readonly, nostack)
            );
        } else {
            asm!(
                "test {depth}, {depth}",
                "jz 3f",
                "2:",
                "tileloadd tmm4, [{x0} + {line}]",
                "tileloadd tmm6, [{w0} + {line}]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tileloadd tmm7, [{w1} + {line}]",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "tileloadd tmm5, [{x1} + {line}]",
                "tdpbf16ps tmm2, tmm5, tmm6",
                "tdpbf16ps tmm3, tmm5, tmm7",
                "add {x0}, 1024",
                "add {x1}, 1024",
                "add {w0}, 1024",
                "add {w1}, 1024",
                "dec {depth}",
                "jnz 2b",
                "3:",
                x0 = inout(reg) x[0] => _,
                x1 = inout(reg) x[1] => _,
                w0 = inout(reg) weights[0] => _,
                w1 = inout(reg) weights[1] => _,
                depth = inout(reg) depth => _,
                line = in(reg) 64usize,
                options(readonly, nostack)
            );
        }
        asm!(
            "tilestored [{sums} + {line}], tmm0",
            "tilestored [{sums} + {line} + 1024], tmm1",
            "tilestored [{sums} + {line} + 2048], tmm2",
            "tilestored [{sums} + {line} + 3072], tmm3",
            sums = in(reg) sums,
            line = in(reg) 64usize,
            options(nostack)
        );
    }
}

/// The tiles of this thread, ready; given back when dropped.
struct Tiles;

impl Tiles {
    fn new() -> Self {
        /// Eight tiles of 16 lines, by the processor's first (and only) palette.
        #[repr(C, align(64))]
        struct Configuration {
            palette: u8,
            start_row: u8,
            reserved: [u8; 14],
            line_bytes: [u16; 16],
            lines: [u8; 16],
        }
        static CONFIGURATION: Configuration = Configuration {
            palette: 1,
            start_row: 0,
            reserved: [0; 14],
            line_bytes: [64, 64, 64, 64, 64, 64, 64, 64, 0, 0, 0, 0, 0, 0, 0, 0],
            lines: [16, 16, 16, 16, 16, 16, 16, 16, 0, 0, 0, 0, 0, 0, 0, 0],
        };
        // SAFETY: the level is chosen only where the processor has tiles and the system lets this process use them.
        unsafe { asm!("ldtilecfg [{}]", in(reg) &raw const CONFIGURATION, options(nostack)) };
        Self
    }
}

impl Drop for Tiles {
    fn drop(&mut self) {
        // SAFETY: as in `new`; no tile is in use.
        unsafe { asm!("tilerelease", options(nostack)) };
    }
}
