//! Rows of activations, quantized to int8 in runs of 32 or 256: `d = max|x| / 127`, `q = x · (127 / max|x|)` rounded to the
//! nearest integer, ties to even, all in `f32`; a run whose `d` would be denormal counts as zeros. The same numbers come
//! out at every level of instructions.
//!
//! Runs are as long as the weights' own blocks. The K types have blocks of 256 that are divided by integers: with one `d`
//! for all of it, the parts are added up before anything is multiplied with `d`, once for 256 weights and not for 32 or
//! 16. The other types have a scale for 32 weights, and gain nothing from longer runs.
//!
//! Rows with values that are not finite, or beyond 2^100, are kept aside as they are.

use std::alloc::{self, Layout, handle_alloc_error};
use std::ptr::NonNull;
use std::sync::{Mutex, PoisonError};

use super::layout::{BLOCK, SUPER};
#[cfg(target_arch = "x86_64")]
use super::rows_avx512;
use crate::{Isa, Pool};

/// Rows of a tile: what the matrix kernels take at a time.
const TILE_ROWS: usize = 16;

/// Bytes of a chunk of a row: two blocks, a line of cache.
pub const CHUNK: usize = 2 * BLOCK;

/// Magnitudes (as bits) from which on a row is kept aside: 2^100.
pub const HUGE: u32 = 0x7180_0000;

/// Magnitudes (as bits) below which a run counts as zeros: 127 · 2^-126.
pub const TINY: u32 = 0x03fe_0000;

/// Rows quantized to int8 in runs of 32 or 256.
///
/// The rows are kept in blocks of [`rows_per_block`](Self::rows_per_block) rows, filled up with zeros, and rows in chunks
/// of 64 values, also filled up. All arrays are `[row block, along the row, row in block]`.
#[derive(Debug)]
pub struct Int8Rows {
    rows: usize,
    in_features: usize,
    run: usize,
    rows_per_block: usize,
    chunks: usize,
    memory: Lines,
    /// Rows kept aside, in ascending order.
    special: Vec<(usize, Vec<f32>)>,
}

/// Where the numbers of a block of rows begin.
#[derive(Debug, Clone, Copy)]
pub struct RowBlock {
    /// Rows it has room for: 1, 2, 4, 8 or 16.
    pub rows: usize,
    /// Quantized values, `[chunk, row, 64]`.
    pub values: *const i8,
    /// `d`, `[run, row]`.
    pub scales: *const f32,
    /// Minus the sum of the quantized values, `[block of 32, row]`.
    pub sums: *const i32,
    /// The same of half blocks, `[half block, row]`.
    pub half_sums: *const i32,
    /// The sum of the quantized values, `[block of 32, row]`; in runs of 32, `d` times that.
    pub scaled_sums: *const f32,
    /// The same of half blocks, `[half block, row]`.
    pub scaled_half_sums: *const f32,
    /// In runs of 256, and in blocks of 16 rows: the sums of blocks as two bf16 that add up to it, `[run, row, block]`.
    pub split_sums: *const u32,
    /// The same of half blocks, `[run, row, half block]`.
    pub split_half_sums: *const u32,
}

impl Int8Rows {
    /// Quantizes `x: [rows, in_features]` in runs of `run` values.
    ///
    /// # Panics
    /// When `run` is not 32 or 256, or does not divide the rows.
    pub(crate) fn prepare(pool: &Pool, isa: Isa, x: &[f32], rows: usize, in_features: usize, run: usize) -> Self {
        assert!(run == BLOCK || run == SUPER, "runs of {run}");
        assert_eq!(in_features % run, 0, "columns beyond the last run of {run}");
        let rows_per_block = rows.next_power_of_two().clamp(1, TILE_ROWS);
        let chunks = in_features.div_ceil(CHUNK);
        let row_blocks = rows.div_ceil(rows_per_block);
        let padded = rows_per_block * row_blocks > rows || chunks * CHUNK > in_features;
        // A chunk has 64 values, and for each of its two blocks a scale and two sums, for each half two sums; and both are
        // split.
        let bytes = CHUNK + 2 * 3 * 4 + 4 * 2 * 4 + (2 + 4) * 4;
        let memory = Lines::new(row_blocks * chunks * rows_per_block * bytes, padded);
        let this = Self { rows, in_features, run, rows_per_block, chunks, memory, special: Vec::new() };
        let special = Mutex::new(Vec::new());
        if in_features > 0 {
            let quantize = |row: usize| {
                let values = &x[row * in_features..(row + 1) * in_features];
                // SAFETY: each row is written by one task, and read by nobody before all are done.
                if !unsafe { this.quantize_row(isa, row, values) } {
                    // SAFETY: as above.
                    unsafe { this.clear_row(row) };
                    special.lock().unwrap_or_else(PoisonError::into_inner).push((row, values.to_vec()));
                }
                if run == SUPER && rows_per_block == TILE_ROWS {
                    let block = this.row_block(row / TILE_ROWS);
                    // SAFETY: as above.
                    unsafe { split_sums(block, row % TILE_ROWS, in_features / SUPER) };
                }
            };
            if rows * in_features < 1 << 15 {
                (0..rows).for_each(quantize);
            } else {
                let part = rows.div_ceil(8 * pool.threads());
                pool.run(rows.div_ceil(part), |task| (task * part..((task + 1) * part).min(rows)).for_each(quantize));
            }
        }
        let mut special = special.into_inner().unwrap_or_else(PoisonError::into_inner);
        special.sort_by_key(|&(row, _)| row);
        Self { special, ..this }
    }

    /// How many rows there are.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Values of a row.
    pub fn in_features(&self) -> usize {
        self.in_features
    }

    /// Values with a common scale: 32 or 256.
    pub fn run(&self) -> usize {
        self.run
    }

    /// Rows of a block: the next power of two of the rows, at most 16.
    pub fn rows_per_block(&self) -> usize {
        self.rows_per_block
    }

    /// Rows kept aside with their values. Their quantized values are zeros.
    pub fn special(&self) -> &[(usize, Vec<f32>)] {
        &self.special
    }

    /// Where the numbers of a block of rows begin.
    pub fn row_block(&self, index: usize) -> RowBlock {
        let (rows, blocks) = (self.rows_per_block, 2 * self.chunks);
        let row_blocks = self.rows.div_ceil(rows);
        assert!(index < row_blocks, "block {index} of {row_blocks}");
        let mut at = 0;
        let mut array = |bytes: usize| {
            let start = self.memory.start.as_ptr().wrapping_add(at + index * bytes);
            at += row_blocks * bytes;
            start.cast_const()
        };
        RowBlock {
            rows,
            values: array(blocks * rows * BLOCK).cast(),
            scales: array(blocks * rows * 4).cast(),
            sums: array(blocks * rows * 4).cast(),
            half_sums: array(2 * blocks * rows * 4).cast(),
            scaled_sums: array(blocks * rows * 4).cast(),
            scaled_half_sums: array(2 * blocks * rows * 4).cast(),
            split_sums: array(blocks * rows * 4).cast(),
            split_half_sums: array(2 * blocks * rows * 4).cast(),
        }
    }

    /// Quantizes one row; whether that can be done.
    ///
    /// # Safety
    /// Nobody else reads or writes this row.
    unsafe fn quantize_row(&self, isa: Isa, row: usize, x: &[f32]) -> bool {
        let block = self.row_block(row / self.rows_per_block);
        let place = row % self.rows_per_block;
        #[cfg(target_arch = "x86_64")]
        if isa >= Isa::Avx512 {
            // SAFETY: the processor has the level's instructions, and the row is the caller's.
            return unsafe {
                if self.run == SUPER {
                    rows_avx512::quantize_supers(block, place, x)
                } else {
                    rows_avx512::quantize_blocks(block, place, x)
                }
            };
        } else if isa >= Isa::Avx2 {
            // SAFETY: as above.
            return unsafe { quantize_avx2(block, place, self.run, x) };
        }
        let _ = isa;
        // SAFETY: the row is the caller's.
        unsafe { quantize(block, place, self.run, x) }
    }

    /// Makes zeros of a row.
    ///
    /// # Safety
    /// As for `quantize_row`.
    unsafe fn clear_row(&self, row: usize) {
        let block = self.row_block(row / self.rows_per_block);
        for index in 0..self.in_features / BLOCK {
            // SAFETY: the row is the caller's.
            unsafe { put(block, row % self.rows_per_block, index, &[0; BLOCK], 0.0) };
        }
        for run in 0..self.in_features / self.run {
            // SAFETY: as above.
            unsafe { block.scales.add(run * block.rows + row % block.rows).cast_mut().write(0.0) };
        }
    }
}

/// # Safety
/// The processor has AVX2, and the row is the caller's.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn quantize_avx2(block: RowBlock, place: usize, run: usize, x: &[f32]) -> bool {
    // SAFETY: the caller's promise.
    unsafe { quantize(block, place, run, x) }
}

/// Quantizes a row to `place` of a block of rows; `false` when it has a value that cannot be.
///
/// # Safety
/// The row is the caller's, and has room for `x`.
#[inline(always)]
unsafe fn quantize(block: RowBlock, place: usize, run: usize, x: &[f32]) -> bool {
    // SAFETY: the caller's promise.
    unsafe {
        if run == SUPER {
            quantize_from::<SUPER>(block, place, 0, x)
        } else {
            quantize_from::<BLOCK>(block, place, 0, x)
        }
    }
}

/// Quantizes a row, from its run `first` on, to `place` of a block of rows; `false` when it has a value that cannot be.
///
/// # Safety
/// The row is the caller's, and has room for `x`.
#[inline(always)]
pub unsafe fn quantize_from<const RUN: usize>(block: RowBlock, place: usize, first: usize, x: &[f32]) -> bool {
    let mut largest = 0;
    for (index, x) in x.as_chunks::<RUN>().0.iter().enumerate() {
        // As integers, magnitudes are ordered as they are as floats, infinity and NaN above all.
        let magnitude = x.iter().fold(0, |max: i32, value| max.max((value.to_bits() & 0x7fff_ffff) as i32)) as u32;
        largest = largest.max(magnitude);
        let (scale, inverse) = if magnitude < TINY {
            (0.0, 0.0)
        } else {
            (f32::from_bits(magnitude) / 127.0, 127.0 / f32::from_bits(magnitude))
        };
        let factor = if RUN == BLOCK { scale } else { 1.0 };
        // SAFETY: the caller's promise.
        unsafe { block.scales.add((first + index) * block.rows + place).cast_mut().write(scale) };
        for (in_run, x) in x.as_chunks::<BLOCK>().0.iter().enumerate() {
            // Adding 1.5 · 2^23 rounds to an integer, which is then in the lowest bits.
            let mut values = [0; BLOCK];
            for (value, &x) in values.iter_mut().zip(x) {
                *value = (x * inverse + 12_582_912.0).to_bits() as i8;
            }
            // SAFETY: the caller's promise.
            unsafe { put(block, place, (first + index) * (RUN / BLOCK) + in_run, &values, factor) };
        }
    }
    largest < HUGE
}

/// Writes a block of a row, with its sums and `factor` times them.
///
/// # Safety
/// The row is the caller's, and has such a block.
#[inline(always)]
unsafe fn put(block: RowBlock, place: usize, index: usize, values: &[i8; BLOCK], factor: f32) {
    let mut sums = [0; 2];
    for (sum, half) in sums.iter_mut().zip(values.as_chunks::<16>().0) {
        *sum = half.iter().map(|&value| i32::from(value)).sum();
    }
    let sum = sums[0] + sums[1];
    let at = index * block.rows + place;
    let value = index / 2 * CHUNK * block.rows + CHUNK * place + index % 2 * BLOCK;
    // SAFETY: the caller's promise; the arrays' shapes are those of `RowBlock`.
    unsafe {
        block.values.add(value).cast_mut().cast::<[i8; BLOCK]>().write(*values);
        block.sums.add(at).cast_mut().write(-sum);
        block.scaled_sums.add(at).cast_mut().write(factor * sum as f32);
        for (half, sum) in sums.into_iter().enumerate() {
            let at = (2 * index + half) * block.rows + place;
            block.half_sums.add(at).cast_mut().write(-sum);
            block.scaled_half_sums.add(at).cast_mut().write(factor * sum as f32);
        }
    }
}

/// Splits the sums of a row of `supers` runs of 256.
///
/// # Safety
/// The row is the caller's, is quantized, and has so many runs.
unsafe fn split_sums(block: RowBlock, place: usize, supers: usize) {
    // SAFETY: the caller's promise; the arrays' shapes are those of `RowBlock`.
    unsafe {
        for index in 0..supers {
            let at = index * block.rows + place;
            let (wholes, halves) = (block.split_sums.add(8 * at), block.split_half_sums.add(16 * at));
            for part in 0..8 {
                let sum = -block.sums.add((8 * index + part) * block.rows + place).read();
                wholes.add(part).cast_mut().write(split(sum));
            }
            for part in 0..16 {
                let sum = -block.half_sums.add((16 * index + part) * block.rows + place).read();
                halves.add(part).cast_mut().write(split(sum));
            }
        }
    }
}

/// A sum of at most 13 bits as two bf16: bf16 has 8, so the lowest 8 are one, and the others the other.
fn split(sum: i32) -> u32 {
    let low = sum & 255;
    (low as f32).to_bits() & 0xffff_0000 | ((sum - low) as f32).to_bits() >> 16
}

/// Memory aligned to lines of cache.
#[derive(Debug)]
struct Lines {
    start: NonNull<u8>,
    layout: Layout,
}

// SAFETY: plain memory that it owns.
unsafe impl Send for Lines {}
// SAFETY: plain memory; who writes to it keeps others from it.
unsafe impl Sync for Lines {}

impl Lines {
    /// `len` bytes, zeros if so wished.
    fn new(len: usize, zeroed: bool) -> Self {
        let layout = Layout::from_size_align(len.max(1), 64).expect("less than half of the address space");
        // SAFETY: the size is not zero.
        let start = unsafe { if zeroed { alloc::alloc_zeroed(layout) } else { alloc::alloc(layout) } };
        Self { start: NonNull::new(start).unwrap_or_else(|| handle_alloc_error(layout)), layout }
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        // SAFETY: allocated with this layout.
        unsafe { alloc::dealloc(self.start.as_ptr(), self.layout) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn split_sums_add_up() {
        for sum in -127 * 32..=127 * 32 {
            let pair = split(sum);
            let parts = [pair & 0xffff_0000, pair << 16].map(f32::from_bits);
            assert_eq!(parts[0] + parts[1], sum as f32, "{parts:?}");
        }
    }
}
