//! Rows of activations, quantized to int8 in blocks of 32: `d = max|x| / 127`, `q = x · (127 / max|x|)` rounded to the
//! nearest integer, ties to even, all in `f32`; a block whose `d` would be denormal counts as zeros. The same numbers come
//! out at every level of instructions.
//!
//! Rows with values that are not finite, or beyond 2^100, are kept aside as they are.

use std::alloc::{self, Layout, handle_alloc_error};
use std::ptr::NonNull;
use std::sync::{Mutex, PoisonError};

use super::layout::BLOCK;
#[cfg(target_arch = "x86_64")]
use super::rows_avx512;
use crate::{Isa, Pool};

/// Rows of a tile: what the matrix kernels take at a time.
const TILE_ROWS: usize = 16;

/// Bytes of a chunk of a row: two blocks, a line of cache.
pub const CHUNK: usize = 2 * BLOCK;

/// Magnitudes (as bits) from which on a row is kept aside: 2^100.
pub const HUGE: u32 = 0x7180_0000;

/// Magnitudes (as bits) below which a block counts as zeros: 127 · 2^-126.
pub const TINY: u32 = 0x03fe_0000;

/// Rows quantized to int8 in blocks of 32.
///
/// The rows are kept in blocks of [`rows_per_block`](Self::rows_per_block) rows, filled up with zeros, and rows in chunks
/// of 64 values, also filled up. All arrays are `[row block, along the row, row in block]`.
#[derive(Debug)]
pub struct Int8Rows {
    rows: usize,
    in_features: usize,
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
    /// `d`, `[block of 32, row]`.
    pub scales: *const f32,
    /// Minus the sum of the quantized values, `[block of 32, row]`.
    pub sums: *const i32,
    /// The same of half blocks, `[half block, row]`.
    pub half_sums: *const i32,
    /// `d` times the sum of the quantized values, `[block of 32, row]`.
    pub scaled_sums: *const f32,
    /// The same of half blocks, `[half block, row]`.
    pub scaled_half_sums: *const f32,
}

impl Int8Rows {
    /// Quantizes `x: [rows, in_features]`.
    pub fn prepare(pool: &Pool, isa: Isa, x: &[f32], rows: usize, in_features: usize) -> Self {
        let rows_per_block = rows.next_power_of_two().clamp(1, TILE_ROWS);
        let chunks = in_features.div_ceil(CHUNK);
        let row_blocks = rows.div_ceil(rows_per_block);
        let padded = rows_per_block * row_blocks > rows || chunks * CHUNK > in_features;
        // A chunk has 64 values, and for each of its two blocks a scale and two sums, for each half two sums.
        let memory = Lines::new(row_blocks * chunks * rows_per_block * (CHUNK + 2 * 3 * 4 + 4 * 2 * 4), padded);
        let this = Self { rows, in_features, rows_per_block, chunks, memory, special: Vec::new() };
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
            };
            if rows * in_features < 1 << 15 {
                (0..rows).for_each(quantize);
            } else {
                let run = rows.div_ceil(8 * pool.threads());
                pool.run(rows.div_ceil(run), |task| (task * run..((task + 1) * run).min(rows)).for_each(quantize));
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
            return unsafe { rows_avx512::quantize(block, place, x) };
        } else if isa >= Isa::Avx2 {
            // SAFETY: as above.
            return unsafe { quantize_avx2(block, place, x) };
        }
        let _ = isa;
        // SAFETY: the row is the caller's.
        unsafe { quantize_from(block, place, 0, x) }
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
    }
}

/// # Safety
/// The processor has AVX2, and the row is the caller's.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn quantize_avx2(block: RowBlock, place: usize, x: &[f32]) -> bool {
    // SAFETY: the caller's promise.
    unsafe { quantize_from(block, place, 0, x) }
}

/// Quantizes a row, from its block `first` on, to `place` of a block of rows; `false` when it has a value that cannot be.
///
/// # Safety
/// The row is the caller's, and has room for `x`.
#[inline(always)]
pub unsafe fn quantize_from(block: RowBlock, place: usize, first: usize, x: &[f32]) -> bool {
    let mut largest = 0;
    for (index, x) in x.as_chunks::<BLOCK>().0.iter().enumerate() {
        // As integers, magnitudes are ordered as they are as floats, infinity and NaN above all.
        let magnitude = x.iter().fold(0, |max: i32, value| max.max((value.to_bits() & 0x7fff_ffff) as i32)) as u32;
        largest = largest.max(magnitude);
        let (scale, inverse) = if magnitude < TINY {
            (0.0, 0.0)
        } else {
            (f32::from_bits(magnitude) / 127.0, 127.0 / f32::from_bits(magnitude))
        };
        // Adding 1.5 · 2^23 rounds to an integer, which is then in the lowest bits.
        let mut values = [0; BLOCK];
        for (value, &x) in values.iter_mut().zip(x) {
            *value = (x * inverse + 12_582_912.0).to_bits() as i8;
        }
        // SAFETY: the caller's promise.
        unsafe { put(block, place, first + index, &values, scale) };
    }
    largest < HUGE
}

/// Writes a block of a row.
///
/// # Safety
/// The row is the caller's, and has such a block.
#[inline(always)]
unsafe fn put(block: RowBlock, place: usize, index: usize, values: &[i8; BLOCK], scale: f32) {
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
        block.scales.add(at).cast_mut().write(scale);
        block.sums.add(at).cast_mut().write(-sum);
        block.scaled_sums.add(at).cast_mut().write(scale * sum as f32);
        for (half, sum) in sums.into_iter().enumerate() {
            let at = (2 * index + half) * block.rows + place;
            block.half_sums.add(at).cast_mut().write(-sum);
            block.scaled_half_sums.add(at).cast_mut().write(scale * sum as f32);
        }
    }
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
