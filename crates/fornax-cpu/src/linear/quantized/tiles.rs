//! What the kernels on AMX's tiles share: the tiles' shapes, which part of which panel comes next, and where results are while
//! parts of them are added. It multiplies nothing.

use std::arch::asm;
use std::arch::x86_64::*;
use std::cell::RefCell;
use std::ops::Range;

use super::layout::{LINE, Layout};
use super::rows::Int8Rows;
use crate::linear::OutRows;
use crate::packed::{PANEL, PackedWeight};

/// Rows of a tile, and of the blocks of activations that tiles are made of.
pub const TILE: usize = 16;

/// Numbers of a tile of sums.
pub const NUMBERS: usize = TILE * PANEL;

/// Rows that are held against one panel after another, so that their values stay in the second cache.
const ROWS: usize = 1024;

/// Results of 16 rows and columns, row by row.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(64))]
pub struct Results(pub [f32; NUMBERS]);

thread_local! {
    /// Results of all panels and rows of a task, kept together where a usual model's rows would fight for a few places in
    /// the cache.
    static RESULTS: RefCell<Vec<Results>> = const { RefCell::new(Vec::new()) };
}

/// A part of a panel, and the rows to multiply it with.
pub struct Part<'a> {
    /// Supers of the panel.
    pub supers: Range<usize>,
    /// Where the first of them is.
    pub source: *const u8,
    /// Blocks of rows.
    pub blocks: Range<usize>,
    /// What each block's products are added to.
    pub results: &'a mut [Results],
    /// The part that comes next.
    pub next: Next,
}

/// Calls `multiply` for every part of `depth` supers of some panels, and brings the results to where they belong. The tiles
/// are configured meanwhile for `tile_depth` weights.
///
/// # Safety
/// The processor has AMX and this process may use it; the columns of `panels` in `out` are the caller's to write.
pub unsafe fn for_each_part(
    x: &Int8Rows,
    weight: &PackedWeight,
    panels: Range<usize>,
    out: OutRows,
    layout: Layout,
    [depth, tile_depth]: [usize; 2],
    mut multiply: impl FnMut(Part<'_>),
) {
    assert_eq!(x.rows_per_block(), TILE, "rows of a tile");
    let supers = layout.supers(weight.in_features());
    RESULTS.with_borrow_mut(|results| {
        configure(tile_depth);
        for from_row in (0..x.rows()).step_by(ROWS) {
            let rows = from_row..x.rows().min(from_row + ROWS);
            let blocks = from_row / TILE..rows.end.div_ceil(TILE);
            results.clear();
            results.resize(panels.len() * blocks.len(), Results([0.0; NUMBERS]));
            let parts = supers.div_ceil(depth);
            for turn in 0..parts * panels.len() {
                // Rows of one block read a panel to its end, as memory has it. More of them are held against a part of
                // each panel, so that what belongs to the part stays in the cache.
                let (part, panel) = if blocks.len() == 1 {
                    (turn % parts, turn / parts)
                } else {
                    (turn / panels.len(), turn % panels.len())
                };
                let supers = part * depth..(part * depth + depth).min(supers);
                let bytes = supers.start * layout.super_bytes()..supers.end * layout.super_bytes();
                let results = &mut results[panel * blocks.len()..][..blocks.len()];
                let panel = weight.panel(panels.start + panel);
                let source = panel[bytes.clone()].as_ptr();
                let ahead = if blocks.len() == 1 { bytes.len() } else { panel.len() };
                let next = Next { from: source.wrapping_add(ahead), lines: bytes.len() / LINE, per_step: 0 };
                multiply(Part { supers, source, blocks: blocks.clone(), results, next });
            }
            // SAFETY: the caller's promise; there are results for all of these rows and panels.
            unsafe { write(results, rows, panels.clone(), blocks.start, out) };
        }
        release();
    });
}

/// Brings results to where they belong, a row after the other: pages and lines of memory are written once.
///
/// # Safety
/// The processor has AVX-512; the columns of `panels` in `out` are the caller's; the results begin with block `first`.
#[target_feature(enable = "avx512f")]
unsafe fn write(results: &[Results], rows: Range<usize>, panels: Range<usize>, first: usize, out: OutRows) {
    let blocks = results.len() / panels.len().max(1);
    for row in rows {
        for (panel, results) in panels.clone().zip(results.chunks_exact(blocks)) {
            let result = &results[row / TILE - first].0[row % TILE * PANEL..];
            let result = result.first_chunk::<PANEL>().expect("a row of a tile");
            // SAFETY: the row exists, the panel is the caller's.
            unsafe {
                match out.whole(row, panel) {
                    // As one line: in parts it would take more of what waits to be written.
                    Some(out) => _mm512_storeu_ps(out, _mm512_loadu_ps(result.as_ptr())),
                    None => out.write(row, panel, result),
                }
            }
        }
    }
}

/// Lines that will be read soon.
#[derive(Debug, Clone, Copy)]
pub struct Next {
    from: *const u8,
    lines: usize,
    /// Lines that a step asks for.
    per_step: usize,
}

impl Next {
    /// Asks for the lines in this many steps.
    pub fn in_steps(self, steps: usize) -> Self {
        Self { per_step: self.lines.div_ceil(steps.max(1)), ..self }
    }

    /// Takes a step.
    #[inline(always)]
    pub fn ask(&mut self) {
        let lines = self.per_step.min(self.lines);
        for line in 0..lines {
            // SAFETY: a prefetch of any address is allowed.
            unsafe { _mm_prefetch::<_MM_HINT_T1>(self.from.wrapping_add(line * LINE).cast()) };
        }
        self.from = self.from.wrapping_add(lines * LINE);
        self.lines -= lines;
    }
}

/// Sets the tiles up: 0 to 3 for sums, 4 and 5 for activations, 6 and 7 for `depth` weights of each column.
fn configure(depth: usize) {
    /// The operand of `ldtilecfg`.
    #[repr(C, align(64))]
    struct Config {
        palette: u8,
        start_row: u8,
        reserved: [u8; 14],
        row_bytes: [u16; 16],
        rows: [u8; 16],
    }
    let mut config = Config { palette: 1, start_row: 0, reserved: [0; 14], row_bytes: [0; 16], rows: [0; 16] };
    for tile in 0..8 {
        let (row_bytes, rows) = match tile {
            0..4 => (LINE, TILE),
            4 | 5 => (depth, TILE),
            _ => (LINE, depth / 4),
        };
        config.row_bytes[tile] = row_bytes as u16;
        config.rows[tile] = rows as u8;
    }
    // SAFETY: a valid configuration of palette 1; the caller of `for_each_part` promises that tiles may be used.
    unsafe { asm!("ldtilecfg [{}]", in(reg) &raw const config, options(nostack, readonly)) };
}

/// Lets go of the tiles' state, which the system would otherwise keep and restore for this thread.
fn release() {
    // SAFETY: no tile is in use any more.
    unsafe { asm!("tilerelease", options(nostack, nomem)) };
}
