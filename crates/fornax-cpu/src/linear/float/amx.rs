//! The products with the tiles of AMX: 16 rows by 32 columns of the input times 32 columns by 16 of the weight in one
//! instruction. Two rows of tiles times two panels keep the tiles busy, in an order that keeps what comes back soon in the
//! caches.

use std::arch::x86_64::{_MM_HINT_T0, _MM_HINT_T1, _mm_prefetch};
use std::cell::RefCell;
use std::ops::Range;

use super::lines::{Line, Lines};
use super::rows::{DEPTH, TILE_ROWS};
use super::sums::{MAX_PANELS, MAX_ROWS, Sums};
use super::tiles::{Group, Tiles, begin, step, steps, store_sums, turn, zero_sums};
use super::{BLOCK_BYTES, FloatRows, Job, avx512};
use crate::packed::PANEL;

/// From this many rows on, tiles are faster than vectors.
pub const fn least_rows<const F16: bool>() -> usize {
    if F16 { 5 } else { 9 }
}

/// Up to this many rows a weight is read from memory faster than it is multiplied.
pub const FEW: usize = 2 * TILE_ROWS;

/// How far ahead of a panel's use its memory is asked for, when each panel is used once.
const AHEAD: usize = 4 * BLOCK_BYTES;

/// Lines of a tile, and of a block of a panel.
const LINES: usize = BLOCK_BYTES / 64;

thread_local! {
    /// Kept from call to call, as getting it costs more than a small product.
    static SCRATCH: RefCell<Lines> = const { RefCell::new(Lines::new()) };
    /// As above.
    static SUMS: RefCell<Sums> = const { RefCell::new(Sums::new()) };
}

/// # Safety
/// The processor has AMX and this process may use it, and the job's columns are the caller's.
pub unsafe fn multiply<const F16: bool>(job: &Job) {
    let rows = job.x.rows();
    if rows <= FEW {
        SCRATCH.with_borrow_mut(|scratch| {
            let tiles = Tiles::new();
            // SAFETY: the caller's promise.
            unsafe { if rows <= TILE_ROWS { few::<F16, false>(job, scratch) } else { few::<F16, true>(job, scratch) } };
            drop(tiles);
        });
        return;
    }
    SUMS.with_borrow_mut(|sums| {
        for first_row in (0..rows).step_by(MAX_ROWS) {
            let rows = first_row..(first_row + MAX_ROWS).min(rows);
            for first in (0..job.panels.len()).step_by(MAX_PANELS) {
                let panels: Vec<&[u8]> =
                    job.weight.chunks(job.panel_bytes().max(1)).skip(first).take(MAX_PANELS).collect();
                // Without columns there are no bytes either.
                let count = MAX_PANELS.min(job.panels.len() - first);
                sums.reset(rows.len(), count);
                // SAFETY: the caller's promise.
                unsafe { multiply_to::<F16>(job.x, rows.clone(), &panels, sums) };
                for row in rows.clone() {
                    let values = sums.row(row - first_row);
                    for (panel, values) in values.as_chunks().0.iter().enumerate() {
                        // SAFETY: the caller's promise, and the row is one of `x`.
                        unsafe { job.out.write(row, job.panels.start + first + panel, values) };
                    }
                }
            }
        }
    });
}

/// One tile row, or two if `PAIR`, times all panels, two at a time.
///
/// # Safety
/// As for [`multiply`]; the tiles are configured.
unsafe fn few<const F16: bool, const PAIR: bool>(job: &Job, scratch: &mut Lines) {
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
        // SAFETY: there is room for four tiles, and the columns are the caller's.
        unsafe {
            store_sums(sums.as_mut_ptr().cast());
            write(job, first..second + 1, sums);
        }
    }
}

/// Copies the sums of two tile rows and two panels to where they belong, as far as those rows and columns exist.
///
/// # Safety
/// The job's columns are the caller's.
unsafe fn write(job: &Job, panels: Range<usize>, sums: &[Line]) {
    for row in 0..job.x.rows() {
        for panel in panels.clone() {
            let line = &raw const sums[(row / TILE_ROWS * 2 + panel - panels.start) * LINES + row % TILE_ROWS];
            // SAFETY: a line is 16 numbers, and any bits are a number.
            let line = unsafe { &*line.cast::<[f32; PANEL]>() };
            // SAFETY: the caller's promise, and the row is one of `x`.
            unsafe { job.out.write(row, job.panels.start + panel, line) };
        }
    }
}

/// Any number of rows, the first of them a tile's, times some panels.
///
/// For each [`DEPTH`] blocks of columns, each pair of panels is multiplied with all pairs of tile rows: the pair of panels
/// stays in the first cache for that, the columns' activations and the sums stay in the second for all panels. What binds
/// then is the number of lines a core can have on their way to its first cache: activations from the second take half of
/// them. So weights come from memory once for as many rows as the sums have room for.
///
/// # Safety
/// The processor has AMX and this process may use it; `sums` has room for these rows and panels.
pub unsafe fn multiply_to<const F16: bool>(x: &FloatRows, rows: Range<usize>, panels: &[&[u8]], sums: &mut Sums) {
    let blocks = x.blocks();
    if blocks == 0 || panels.is_empty() || rows.is_empty() {
        return sums.clear();
    }
    SCRATCH.with_borrow_mut(|scratch| {
        let (_, split) = reserve(scratch, 0, if F16 { 2 * SPLIT } else { 0 });
        let tile_rows = rows.start / TILE_ROWS..rows.end.div_ceil(TILE_ROWS);
        let (row_pairs, panel_pairs) = (tile_rows.len().div_ceil(2), panels.len().div_ceil(2));
        let stride = sums.stride();
        let most = if F16 { DEPTH / 2 } else { DEPTH };
        let product =
            Product { x, tile_rows, panels, most, split: split.as_mut_ptr().cast(), sums: sums.start(), stride };
        let tiles = Tiles::new();
        // SAFETY: all blocks of these rows and panels are there, and room for the sums.
        unsafe {
            if F16 {
                product.split(0, 0, 0).share(0, 1);
            }
            let mut group = product.group::<F16>(0, 0, 0, 0);
            begin(&group);
            zero_sums();
            let mut visit = 0;
            for from in (0..blocks).step_by(most) {
                for pair in 0..panel_pairs {
                    // What comes after these panels is made ready while they are multiplied: asked for, or for f16 split.
                    let (next_from, next_pair) =
                        if pair + 1 < panel_pairs { (from, pair + 1) } else { (from + most, 0) };
                    let next_weights = product.split(next_from, next_pair, visit + 1);
                    let count = row_pairs * group.depth;
                    for row in 0..row_pairs {
                        let next = if row + 1 < row_pairs {
                            product.group::<F16>(from, pair, row + 1, visit)
                        } else {
                            product.group::<F16>(next_from, next_pair, 0, visit + 1)
                        };
                        let first = row * group.depth;
                        steps::<F16>(&group, &next, stride, |step| {
                            let index = first + step;
                            if F16 { next_weights.share(index, count) } else { next_weights.ask(index, count) }
                        });
                        turn(&group, &next, stride);
                        group = next;
                    }
                    visit += 1;
                }
            }
        }
        drop(tiles);
    });
}

/// Some rows times some panels.
struct Product<'a> {
    x: &'a FloatRows,
    tile_rows: Range<usize>,
    panels: &'a [&'a [u8]],
    /// Blocks of a group at most.
    most: usize,
    /// Room for the parts of two pairs of f16 panels.
    split: *mut u8,
    sums: *mut u8,
    stride: usize,
}

impl Product<'_> {
    /// The group from block `from` on of a pair of panels and of a pair of tile rows; after the last block, some group.
    /// A last one without a second is its own second.
    fn group<const F16: bool>(&self, from: usize, pair: usize, row: usize, visit: usize) -> Group {
        let from = if from < self.x.blocks() { from } else { 0 };
        let first = self.tile_rows.start + 2 * row;
        let weights = if F16 {
            let split = self.split.wrapping_add(visit % 2 * SPLIT * 64);
            [split, split.wrapping_add(SPLIT / 2 * 64)].map(<*mut u8>::cast_const)
        } else {
            self.weights(from, pair)
        };
        Group {
            x: [first, (first + 1).min(self.tile_rows.end - 1)].map(|row| self.x.tile(row, from)),
            weights,
            sums: self.sums.wrapping_add(2 * row * TILE_ROWS * self.stride + 2 * pair * PANEL * 4),
            first: from == 0,
            depth: self.most.min(self.x.blocks() - from),
        }
    }

    /// The weights of a group as they come; none after the last block.
    fn split(&self, from: usize, pair: usize, visit: usize) -> Split {
        let depth = self.most.min(self.x.blocks().saturating_sub(from));
        let from = if depth > 0 { from } else { 0 };
        Split { from: self.weights(from, pair), depth, to: self.split.wrapping_add(visit % 2 * SPLIT * 64) }
    }

    /// Where block `from` and those after it are of a pair of panels.
    fn weights(&self, from: usize, pair: usize) -> [*const u8; 2] {
        [2 * pair, (2 * pair + 1).min(self.panels.len() - 1)]
            .map(|panel| self.panels[panel][from * BLOCK_BYTES..].as_ptr())
    }
}

/// Lines of the parts of some blocks of two f16 panels.
const SPLIT: usize = 2 * DEPTH * LINES;

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
fn reserve(scratch: &mut Lines, first: usize, second: usize) -> (&mut [Line], &mut [Line]) {
    scratch.reserve(first + second);
    scratch.as_mut_slice()[..first + second].split_at_mut(first)
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
