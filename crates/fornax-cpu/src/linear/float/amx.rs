//! The products with the tiles of AMX: 16 rows by 32 columns of the input times 32 columns by 16 of the weight in one
//! instruction. Two rows of tiles times two panels keep the tiles busy, in blocks that stay in the caches.
//!
//! The tiles are programmed in assembly, as the compiler has no stable intrinsics for them. It knows nothing of them, so
//! that what is in them stays there from one `asm!` block to the next.

use std::arch::asm;
use std::arch::x86_64::{_MM_HINT_T0, _MM_HINT_T1, _mm_prefetch};
use std::cell::RefCell;
use std::ops::Range;

use super::rows::{DEPTH, Line, TILE_ROWS};
use super::{BLOCK_BYTES, Job, avx512};
use crate::packed::PANEL;

/// From this many rows on, tiles are faster than vectors.
pub const fn least_rows<const F16: bool>() -> usize {
    if F16 { 5 } else { 9 }
}

/// Up to this many tile rows a weight is read from memory faster than it is multiplied.
const FEW: usize = 2;

/// Tile rows whose sums are kept at once.
const MAX_TILE_ROWS: usize = 16;

/// Panels whose sums are kept at once: with the rows, 512 KiB of sums, a quarter of a core's second cache.
const MAX_PANELS: usize = 32;

/// How far ahead of a panel's use its memory is asked for, when each panel is used once.
const AHEAD: usize = 4 * BLOCK_BYTES;

/// Lines of a tile, and of a block of a panel.
const LINES: usize = BLOCK_BYTES / 64;

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
        unsafe {
            match job.x.rows().div_ceil(TILE_ROWS) {
                1 => few::<F16, false>(job, scratch),
                FEW => few::<F16, true>(job, scratch),
                tile_rows => many::<F16>(job, tile_rows, scratch),
            }
        }
        drop(tiles);
    });
}

/// One tile row, or two if `PAIR`, times all panels, two at a time.
///
/// # Safety
/// As for [`multiply`]; the tiles are configured.
unsafe fn few<const F16: bool, const PAIR: bool>(job: &Job, scratch: &mut Vec<Line>) {
    let count = job.panels.len();
    let (sums, split) = reserve(scratch, 4 * LINES, 8 * LINES);
    for first in (0..count).step_by(2) {
        let second = (first + 1).min(count - 1);
        let panels = [first, second].map(|panel| panel * job.panel_bytes());
        zero_sums();
        for block in 0..job.blocks {
            let mut weights = panels.map(|start| {
                let start = start + block * BLOCK_BYTES;
                job.weight[start..start + BLOCK_BYTES].as_ptr()
            });
            // Towards the end of these panels, memory is asked for the next ones.
            let skip = if block + AHEAD / BLOCK_BYTES < job.blocks { 0 } else { job.panel_bytes() };
            for (index, weight) in weights.iter_mut().enumerate() {
                for line in 0..LINES {
                    prefetch::<_MM_HINT_T0>(weight.wrapping_add(AHEAD + skip + line * 64));
                }
                if F16 {
                    // In turn in two places, so that one can be written while the other is read.
                    let at = (block % 2 * 2 + index) * 2 * LINES;
                    let split: *mut u8 = split[at..at + 2 * LINES].as_mut_ptr().cast();
                    // SAFETY: a block is there, and room for its two parts.
                    unsafe { avx512::split_blocks(*weight, 1, split) };
                    *weight = split;
                }
            }
            let x = [0, usize::from(PAIR)].map(|row| job.x.tile(row, block));
            // SAFETY: these are a block of two tile rows and of two panels.
            unsafe { step::<F16, PAIR>(x, weights) };
        }
        let block = Block { job, rows: 0..1 + usize::from(PAIR), panels: first..second + 1 };
        // SAFETY: there is room for four tiles, and the columns are the caller's.
        unsafe {
            store_sums(sums.as_mut_ptr().cast());
            block.write(0, 0, sums);
        }
    }
}

/// Any number of tile rows, in blocks whose sums stay in the second cache.
///
/// # Safety
/// As for [`multiply`]; the tiles are configured.
unsafe fn many<const F16: bool>(job: &Job, tile_rows: usize, scratch: &mut Vec<Line>) {
    let panels = job.panels.len();
    for first_row in (0..tile_rows).step_by(MAX_TILE_ROWS) {
        let rows = first_row..(first_row + MAX_TILE_ROWS).min(tile_rows);
        for first_panel in (0..panels).step_by(MAX_PANELS) {
            let panels = first_panel..(first_panel + MAX_PANELS).min(panels);
            let block = Block { job, rows: rows.clone(), panels };
            // SAFETY: the caller's promise.
            unsafe { block.multiply::<F16>(scratch) };
        }
    }
}

/// Some rows times some panels.
struct Block<'a> {
    job: &'a Job<'a>,
    /// Of the tile rows.
    rows: Range<usize>,
    /// Of the job's panels.
    panels: Range<usize>,
}

impl Block<'_> {
    /// # Safety
    /// As for [`multiply`]; the tiles are configured.
    unsafe fn multiply<const F16: bool>(&self, scratch: &mut Vec<Line>) {
        let blocks = self.job.blocks;
        let (row_pairs, panel_pairs) = (self.rows.len().div_ceil(2), self.panels.len().div_ceil(2));
        let (sums, split) = reserve(scratch, row_pairs * panel_pairs * 4 * LINES, 2 * SPLIT);
        let split = split.as_mut_ptr().cast::<u8>();
        let mut turn = 0;
        if F16 {
            let first = Split { from: self.weights(0, 0), depth: DEPTH.min(blocks), to: split };
            // SAFETY: the blocks are there, and room for their parts.
            unsafe { first.share(0, 1) };
        }
        let mut from = 0;
        // At least once, also when there are no columns.
        loop {
            let depth = DEPTH.min(blocks - from);
            for pair in 0..panel_pairs {
                // What comes after these panels is made ready while they are multiplied: asked for, or for f16 split.
                let (next_pair, next_from) = if pair + 1 < panel_pairs { (pair + 1, from) } else { (0, from + depth) };
                turn = 1 - turn;
                let next = Split {
                    from: self.weights(next_pair, next_from),
                    depth: DEPTH.min(blocks - next_from),
                    to: split.wrapping_add(turn * SPLIT * 64),
                };
                let weights = if F16 {
                    let split = split.wrapping_add((1 - turn) * SPLIT * 64);
                    [split, split.wrapping_add(SPLIT / 2 * 64)].map(<*mut u8>::cast_const)
                } else {
                    self.weights(pair, from)
                };
                for row in 0..row_pairs {
                    let x = self.x(row, from);
                    for x in self.x(row, from + depth) {
                        share::<_MM_HINT_T1>(x, depth * LINES, pair, panel_pairs);
                    }
                    let at = (pair * row_pairs + row) * 4 * LINES;
                    let sums = sums[at..at + 4 * LINES].as_mut_ptr().cast::<u8>();
                    // SAFETY: there are `depth` blocks of both rows and both panels, four tiles of sums, and room for
                    // the parts of the next panels.
                    unsafe {
                        if from == 0 {
                            zero_sums()
                        } else {
                            load_sums(sums)
                        }
                        steps::<F16>(x, weights, depth, |step| {
                            let (index, count) = (row * depth + step, row_pairs * depth);
                            if F16 { next.share(index, count) } else { next.ask(index, count) }
                        });
                        match self.whole(row, pair) {
                            Some(out) if from + depth == blocks => store_sums_to(out, self.job.out.stride * 4),
                            _ => store_sums(sums),
                        }
                    }
                }
            }
            from += depth;
            if from >= blocks {
                break;
            }
        }
        for pair in 0..panel_pairs {
            for row in (0..row_pairs).filter(|&row| self.whole(row, pair).is_none()) {
                let at = (pair * row_pairs + row) * 4 * LINES;
                // SAFETY: the caller's promise.
                unsafe { self.write(row, pair, &sums[at..at + 4 * LINES]) };
            }
        }
    }

    /// Where the sums of two tile rows and two panels belong, if all of those rows and columns exist.
    fn whole(&self, row_pair: usize, panel_pair: usize) -> Option<*mut f32> {
        let (row, panel) = ((self.rows.start + 2 * row_pair) * TILE_ROWS, self.panels.start + 2 * panel_pair);
        let exist = row + 2 * TILE_ROWS <= self.job.x.rows() && panel + 2 <= self.panels.end;
        let first = self.job.panels.start + panel;
        if exist { self.job.out.whole(row, first + 1).and(self.job.out.whole(row, first)) } else { None }
    }

    /// Where block `from` and those after it are of two panels; the last one, without a second, is its own.
    fn weights(&self, pair: usize, from: usize) -> [*const u8; 2] {
        let first = self.panels.start + 2 * pair;
        [first, (first + 1).min(self.panels.end - 1)]
            .map(|panel| self.job.weight.as_ptr().wrapping_add(panel * self.job.panel_bytes() + from * BLOCK_BYTES))
    }

    /// Where block `from` and those after it are of two tile rows; the last one, without a second, is its own.
    fn x(&self, pair: usize, from: usize) -> [*const u8; 2] {
        let first = self.rows.start + 2 * pair;
        [first, (first + 1).min(self.rows.end - 1)].map(|row| self.job.x.tile(row, from))
    }

    /// Copies the sums of two tile rows and two panels to where they belong, as far as those rows and columns exist.
    ///
    /// # Safety
    /// The block's columns are the caller's.
    unsafe fn write(&self, row_pair: usize, panel_pair: usize, sums: &[Line]) {
        let (first_row, first_panel) = (self.rows.start + 2 * row_pair, self.panels.start + 2 * panel_pair);
        for row in first_row * TILE_ROWS..((first_row + 2) * TILE_ROWS).min(self.job.x.rows()) {
            for panel in first_panel..(first_panel + 2).min(self.panels.end) {
                let (tile_row, within) = (row / TILE_ROWS - first_row, row % TILE_ROWS);
                let line = &raw const sums[(tile_row * 2 + panel - first_panel) * LINES + within];
                // SAFETY: a line is 16 numbers, and any bits are a number.
                let line = unsafe { &*line.cast::<[f32; PANEL]>() };
                let panel = self.job.panels.start + panel;
                // SAFETY: the caller's promise, and the row is one of `x`.
                unsafe {
                    match self.job.out.whole(row, panel) {
                        Some(out) => out.cast::<[f32; PANEL]>().write_unaligned(*line),
                        None => self.job.out.write(row, panel, line),
                    }
                }
            }
        }
    }
}

/// Lines of the parts of two f16 panels.
const SPLIT: usize = 4 * DEPTH * LINES;

/// Panels that come next.
struct Split {
    from: [*const u8; 2],
    depth: usize,
    /// Room for the parts of f16.
    to: *mut u8,
}

impl Split {
    /// Does share `index` of `count` of splitting f16 weights.
    ///
    /// # Safety
    /// The blocks are there, and room for their parts.
    #[inline(always)]
    unsafe fn share(&self, index: usize, count: usize) {
        for block in 2 * self.depth * index / count..2 * self.depth * (index + 1) / count {
            let (panel, block) = (block / self.depth, block % self.depth);
            // SAFETY: the caller's promise.
            unsafe {
                let to = self.to.add(panel * SPLIT / 2 * 64 + block * 2 * BLOCK_BYTES);
                avx512::split_blocks(self.from[panel].add(block * BLOCK_BYTES), 1, to);
            }
        }
    }

    /// Does share `index` of `count` of asking for them.
    #[inline(always)]
    fn ask(&self, index: usize, count: usize) {
        for weight in self.from {
            share::<_MM_HINT_T1>(weight, self.depth * LINES, index, count);
        }
    }
}

/// Room for two purposes.
fn reserve(scratch: &mut Vec<Line>, first: usize, second: usize) -> (&mut [Line], &mut [Line]) {
    if scratch.len() < first + second {
        scratch.resize(first + second, Line([0; 64]));
    }
    scratch[..first + second].split_at_mut(first)
}

#[inline(always)]
fn prefetch<const HINT: i32>(address: *const u8) {
    // SAFETY: a prefetch may have any address.
    unsafe { _mm_prefetch::<HINT>(address.cast()) };
}

/// Asks for share `index` of `count` of some lines.
#[inline(always)]
fn share<const HINT: i32>(start: *const u8, lines: usize, index: usize, count: usize) {
    for line in lines * index / count..lines * (index + 1) / count {
        prefetch::<HINT>(start.wrapping_add(line * 64));
    }
}

/// Sets the four tiles of sums to zero.
#[inline(always)]
fn zero_sums() {
    // SAFETY: it changes nothing but tiles, which are configured where kernels run.
    unsafe { asm!("tilezero tmm0", "tilezero tmm1", "tilezero tmm2", "tilezero tmm3", options(nomem, nostack)) };
}

/// Takes the four tiles of sums up again.
///
/// # Safety
/// The tiles are configured, and four are at `sums`.
#[inline(always)]
unsafe fn load_sums(sums: *const u8) {
    // SAFETY: the caller's promise.
    unsafe {
        asm!(
            "tileloaddt1 tmm0, [{sums} + {line}]",
            "tileloaddt1 tmm1, [{sums} + {line} + 1024]",
            "tileloaddt1 tmm2, [{sums} + {line} + 2048]",
            "tileloaddt1 tmm3, [{sums} + {line} + 3072]",
            sums = in(reg) sums,
            line = in(reg) 64usize,
            options(readonly, nostack)
        );
    }
}

/// Puts the four tiles of sums down.
///
/// # Safety
/// The tiles are configured, and there is room for four at `sums`.
#[inline(always)]
unsafe fn store_sums(sums: *mut u8) {
    // SAFETY: the caller's promise.
    unsafe {
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

/// Puts the four tiles of sums where they belong, in rows that are `stride` bytes apart.
///
/// # Safety
/// The tiles are configured, and there is room for 32 rows of 32 sums.
#[inline(always)]
unsafe fn store_sums_to(out: *mut f32, stride: usize) {
    // SAFETY: the caller's promise.
    unsafe {
        asm!(
            "tilestored [{upper} + {stride}], tmm0",
            "tilestored [{upper} + {stride} + 64], tmm1",
            "tilestored [{lower} + {stride}], tmm2",
            "tilestored [{lower} + {stride} + 64], tmm3",
            upper = in(reg) out,
            lower = in(reg) out.byte_add(TILE_ROWS * stride),
            stride = in(reg) stride,
            options(nostack)
        );
    }
}

/// Adds the products of `depth` blocks of two tile rows and two panels to the sums, and calls `beside` with the number of
/// each block, for what can be done while the tiles are busy. A block of f16 is that of the upper parts and that of the
/// rests.
///
/// What a block needs is loaded among the products of the one before, so that they need not wait for it.
///
/// # Safety
/// The tiles are configured, and the blocks are there.
#[inline(always)]
unsafe fn steps<const F16: bool>(
    x: [*const u8; 2],
    weights: [*const u8; 2],
    depth: usize,
    mut beside: impl FnMut(usize),
) {
    if depth == 0 {
        return;
    }
    let ([mut x0, mut x1], [mut w0, mut w1]) = (x, weights);
    // SAFETY: the caller's promise.
    unsafe {
        asm!(
            "tileloaddt1 tmm4, [{x0} + {line}]",
            "tileloadd tmm6, [{w0} + {line}]",
            "tileloadd tmm7, [{w1} + {line}]",
            "tileloaddt1 tmm5, [{x1} + {line}]",
            x0 = in(reg) x0,
            x1 = in(reg) x1,
            w0 = in(reg) w0,
            w1 = in(reg) w1,
            line = in(reg) 64usize,
            options(readonly, nostack)
        );
        for block in 0..depth {
            if F16 {
                asm!(
                    "tdpbf16ps tmm0, tmm4, tmm6",
                    "tdpbf16ps tmm2, tmm5, tmm6",
                    "tileloadd tmm6, [{w0} + {line} + 1024]",
                    "tdpbf16ps tmm1, tmm4, tmm7",
                    "tdpbf16ps tmm3, tmm5, tmm7",
                    "tileloadd tmm7, [{w1} + {line} + 1024]",
                    w0 = in(reg) w0,
                    w1 = in(reg) w1,
                    line = in(reg) 64usize,
                    options(readonly, nostack)
                );
            }
            if block + 1 < depth {
                (x0, x1) = (x0.add(BLOCK_BYTES), x1.add(BLOCK_BYTES));
                let part = if F16 { 2 * BLOCK_BYTES } else { BLOCK_BYTES };
                (w0, w1) = (w0.add(part), w1.add(part));
                asm!(
                    "tdpbf16ps tmm0, tmm4, tmm6",
                    "tdpbf16ps tmm1, tmm4, tmm7",
                    "tileloaddt1 tmm4, [{x0} + {line}]",
                    "tdpbf16ps tmm2, tmm5, tmm6",
                    "tileloadd tmm6, [{w0} + {line}]",
                    "tdpbf16ps tmm3, tmm5, tmm7",
                    "tileloadd tmm7, [{w1} + {line}]",
                    "tileloaddt1 tmm5, [{x1} + {line}]",
                    x0 = in(reg) x0,
                    x1 = in(reg) x1,
                    w0 = in(reg) w0,
                    w1 = in(reg) w1,
                    line = in(reg) 64usize,
                    options(readonly, nostack)
                );
            } else {
                asm!(
                    "tdpbf16ps tmm0, tmm4, tmm6",
                    "tdpbf16ps tmm1, tmm4, tmm7",
                    "tdpbf16ps tmm2, tmm5, tmm6",
                    "tdpbf16ps tmm3, tmm5, tmm7",
                    options(nomem, nostack)
                );
            }
            beside(block);
        }
    }
}

/// Adds the products of a block of two tile rows (of the first only, unless `PAIR`) and two panels to the sums. A block of
/// f16 is that of the upper parts and that of the rests.
///
/// # Safety
/// The tiles are configured, and the blocks are there.
#[inline(always)]
unsafe fn step<const F16: bool, const PAIR: bool>(x: [*const u8; 2], weights: [*const u8; 2]) {
    // SAFETY: the caller's promise.
    unsafe {
        asm!(
            "tileloadd tmm4, [{x0} + {line}]",
            "tileloadd tmm6, [{w0} + {line}]",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tileloadd tmm7, [{w1} + {line}]",
            "tdpbf16ps tmm1, tmm4, tmm7",
            x0 = in(reg) x[0],
            w0 = in(reg) weights[0],
            w1 = in(reg) weights[1],
            line = in(reg) 64usize,
            options(readonly, nostack)
        );
        if PAIR {
            asm!(
                "tileloadd tmm5, [{x1} + {line}]",
                "tdpbf16ps tmm2, tmm5, tmm6",
                "tdpbf16ps tmm3, tmm5, tmm7",
                x1 = in(reg) x[1],
                line = in(reg) 64usize,
                options(readonly, nostack)
            );
        }
        if F16 {
            asm!(
                "tileloadd tmm6, [{w0} + {line} + 1024]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tileloadd tmm7, [{w1} + {line} + 1024]",
                "tdpbf16ps tmm1, tmm4, tmm7",
                w0 = in(reg) weights[0],
                w1 = in(reg) weights[1],
                line = in(reg) 64usize,
                options(readonly, nostack)
            );
            if PAIR {
                asm!("tdpbf16ps tmm2, tmm5, tmm6", "tdpbf16ps tmm3, tmm5, tmm7", options(nomem, nostack));
            }
        }
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
