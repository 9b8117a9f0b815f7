//! Rows of activations, rounded to bf16 once for all threads, in the orders that the kernels read.

use std::cell::RefCell;
use std::sync::{Mutex, PoisonError};

use super::BLOCK;
#[cfg(target_arch = "x86_64")]
use super::amx;
use super::lines::{Line, Lines};
use crate::{Isa, Pool};

/// Rows of a tile.
pub(super) const TILE_ROWS: usize = 16;

/// Steps of 32 columns after which other rows have their turn, so that two panels stay in the first cache.
pub(super) const DEPTH: usize = 16;

/// Rows that one pass over a panel takes outside of AMX.
pub(super) const GROUP: usize = 8;

/// Rows rounded to bf16, as numbers of 16 bits for tiles and as `f32` for the other kernels.
#[derive(Debug)]
pub struct FloatRows {
    rows: usize,
    in_features: usize,
    isa: Isa,
    /// Rows with an infinity or a NaN.
    infinite: Vec<usize>,
    /// `[blocks / DEPTH, rows / 16, DEPTH, 16, 32]` bf16 (the last of the first dimension as deep as there are blocks of
    /// 32 columns), filled up with zeros: what is multiplied together lies together, else the rows of a usual model
    /// would fight for a few places in the cache. Empty if no kernel of the level reads it.
    tiles: Lines,
    /// `[rows / 8, columns, 8]` (the last group as narrow as it has rows) `f32`, columns filled up with zeros to a
    /// multiple of 32. Empty if no kernel of the level reads it.
    wide: Vec<f32>,
}

impl FloatRows {
    /// Prepares `x: [rows, in_features]` for the kernels of a level.
    pub fn prepare(pool: &Pool, isa: Isa, x: &[f32], rows: usize, in_features: usize) -> Self {
        assert_eq!(x.len(), rows * in_features, "values of {rows} rows");
        assert!(isa.is_available(), "level {isa} on this processor");
        let (tiled, wide) = forms(isa, rows);
        let columns = in_features.next_multiple_of(BLOCK);
        let lines = if tiled { rows.next_multiple_of(TILE_ROWS) * columns / BLOCK } else { 0 };
        let mut tiles = SPARE.take();
        tiles.reserve(lines);
        let mut wides = Vec::with_capacity(if wide { rows * columns } else { 0 });
        let out =
            Out { tiles: tiles.as_mut_slice().as_mut_ptr(), wide: wides.as_mut_ptr(), tiled, has_wide: wide, rows };
        let infinite = Mutex::new(Vec::new());
        if in_features > 0 {
            pool.run(rows.div_ceil(TILE_ROWS), |task| {
                let first = task * TILE_ROWS;
                let x = &x[first * in_features..(first + TILE_ROWS).min(rows) * in_features];
                // SAFETY: there is room for what was asked for, and every task has other tiles and groups.
                let finite = unsafe { out.fill(isa, x, first, in_features) };
                if finite != u16::MAX {
                    let rows = (0..TILE_ROWS).filter(|&row| finite >> row & 1 == 0).map(|row| first + row);
                    infinite.lock().unwrap_or_else(PoisonError::into_inner).extend(rows);
                }
            });
            // SAFETY: the tasks have written all of it.
            unsafe { wides.set_len(if wide { rows * columns } else { 0 }) };
        }
        let infinite = infinite.into_inner().unwrap_or_else(PoisonError::into_inner);
        Self { rows, in_features, isa, infinite, tiles, wide: wides }
    }

    pub(super) fn rows(&self) -> usize {
        self.rows
    }

    pub(super) fn in_features(&self) -> usize {
        self.in_features
    }

    pub(super) fn isa(&self) -> Isa {
        self.isa
    }

    /// Steps of 32 columns.
    pub(super) fn blocks(&self) -> usize {
        self.in_features.div_ceil(BLOCK)
    }

    /// Rows with an infinity or a NaN.
    pub(super) fn infinite(&self) -> &[usize] {
        &self.infinite
    }

    /// The tile of block `block` of a tile row; those of the blocks up to the next multiple of [`DEPTH`] follow.
    #[cfg(target_arch = "x86_64")]
    pub(super) fn tile(&self, tile_row: usize, block: usize) -> *const u8 {
        self.tiles.as_slice().as_ptr().wrapping_add(tile_at(self.rows, self.blocks(), tile_row, block)).cast()
    }

    /// The `f32` form of group `group` of up to 8 rows, `[columns, rows of the group]`, and how many rows it has.
    pub(super) fn group(&self, group: usize) -> (&[f32], usize) {
        let first = group * GROUP;
        let width = GROUP.min(self.rows - first);
        let columns = self.blocks() * BLOCK;
        (&self.wide[first * columns..(first + width) * columns], width)
    }

    /// How many groups there are.
    pub(super) fn groups(&self) -> usize {
        self.rows.div_ceil(GROUP)
    }

    /// One rounded value.
    pub(super) fn value(&self, row: usize, column: usize) -> f32 {
        if self.wide.is_empty() {
            let (block, within) = (column / BLOCK, column % BLOCK);
            let line =
                &self.tiles.as_slice()[tile_at(self.rows, self.blocks(), row / TILE_ROWS, block) + row % TILE_ROWS].0;
            return f32::from_bits(u32::from(u16::from_ne_bytes([line[2 * within], line[2 * within + 1]])) << 16);
        }
        let (group, width) = self.group(row / GROUP);
        group[column * width + row % GROUP]
    }
}

/// In which line the tile of a tile row and block begins.
#[inline(always)]
fn tile_at(rows: usize, blocks: usize, tile_row: usize, block: usize) -> usize {
    let whole = block / DEPTH * DEPTH;
    let depth = DEPTH.min(blocks.saturating_sub(whole));
    (whole * rows.div_ceil(TILE_ROWS) + tile_row * depth + block - whole) * TILE_ROWS
}

/// Whether the kernels of a level read tiles, and whether they read `f32`.
fn forms(isa: Isa, rows: usize) -> (bool, bool) {
    #[cfg(target_arch = "x86_64")]
    if isa == Isa::Amx {
        let (bf16, f16) = (amx::least_rows::<false>(), amx::least_rows::<true>());
        return (rows >= bf16.min(f16), rows < bf16.max(f16));
    }
    let _ = (isa, rows);
    (false, true)
}

thread_local! {
    /// The tiles that were used last, as new memory costs more time than what is done with it.
    static SPARE: RefCell<Lines> = const { RefCell::new(Lines::new()) };
}

/// The most lines that are kept for the next rows: 16 MiB.
const MAX_SPARE: usize = 16 << 14;

impl Drop for FloatRows {
    fn drop(&mut self) {
        let tiles = std::mem::take(&mut self.tiles);
        // A thread that ends has no use for it.
        let _ = SPARE.try_with(|spare| {
            let mut spare = spare.borrow_mut();
            if tiles.len() > spare.len() && tiles.len() <= MAX_SPARE {
                *spare = tiles;
            }
        });
    }
}

/// Where rounded rows go.
struct Out {
    tiles: *mut Line,
    wide: *mut f32,
    tiled: bool,
    has_wide: bool,
    rows: usize,
}

// SAFETY: tasks write to different places.
unsafe impl Sync for Out {}

impl Out {
    /// Rounds the rows of one tile row, and returns which of them are finite, as bits.
    ///
    /// # Safety
    /// The processor has the level. There is room for the tiles and groups of these rows, and nobody else uses it.
    unsafe fn fill(&self, isa: Isa, x: &[f32], first: usize, in_features: usize) -> u16 {
        // SAFETY: the caller's promise.
        unsafe {
            match isa {
                #[cfg(target_arch = "x86_64")]
                Isa::Avx2 => self.fill_avx2(x, first, in_features),
                #[cfg(target_arch = "x86_64")]
                Isa::Amx if !self.has_wide => self.fill_tiles_avx512(x, first, in_features),
                #[cfg(target_arch = "x86_64")]
                Isa::Avx512 | Isa::Amx => self.fill_avx512(x, first, in_features),
                _ => self.fill_as(x, first, in_features, round_block),
            }
        }
    }

    /// # Safety
    /// As for [`fill`](Self::fill).
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2")]
    unsafe fn fill_avx512(&self, x: &[f32], first: usize, in_features: usize) -> u16 {
        // SAFETY: the caller's promise.
        unsafe { self.fill_as(x, first, in_features, |values| round_block_avx512(values)) }
    }

    /// Tiles alone. A few rows at a time: one alone is read more slowly, and many, a power of two apart, would fight for a
    /// few places in the first cache.
    ///
    /// # Safety
    /// As for [`fill`](Self::fill).
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2")]
    unsafe fn fill_tiles_avx512(&self, x: &[f32], first: usize, in_features: usize) -> u16 {
        const TOGETHER: usize = 4;
        let rows = x.len() / in_features;
        let mut finite = u16::MAX;
        // SAFETY: the caller's promise.
        unsafe {
            let whole = rows / TOGETHER * TOGETHER;
            for row in (0..whole).step_by(TOGETHER) {
                finite &= self.fill_rows_avx512::<TOGETHER>(x, first, row, in_features);
            }
            for row in whole..rows {
                finite &= self.fill_rows_avx512::<1>(x, first, row, in_features);
            }
            self.fill_up(rows, first, in_features);
        }
        finite
    }

    /// Rounds rows `row` and on of a tile row into its tiles, and returns which are finite, as bits.
    ///
    /// # Safety
    /// As for [`fill`](Self::fill); these rows are there.
    #[cfg(target_arch = "x86_64")]
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2")]
    unsafe fn fill_rows_avx512<const ROWS: usize>(
        &self,
        x: &[f32],
        first: usize,
        row: usize,
        in_features: usize,
    ) -> u16 {
        use std::arch::x86_64::*;

        /// How far ahead of its use a row is asked for, in blocks.
        const AHEAD: usize = 16;

        let blocks = in_features.div_ceil(BLOCK);
        let x = x[row * in_features..(row + ROWS) * in_features].as_ptr();
        let mut largest = [_mm512_setzero_si512(); ROWS];
        for block in 0..blocks {
            let at = block * BLOCK;
            let there = (in_features - at).min(BLOCK);
            let mask = if there == BLOCK { u32::MAX } else { (1 << there) - 1 };
            // SAFETY: the caller's promise; what the mask leaves out is not read, and a prefetch may have any address.
            unsafe {
                let tile = self.tiles.add(tile_at(self.rows, blocks, first / TILE_ROWS, block) + row);
                for (index, largest) in largest.iter_mut().enumerate() {
                    let x = x.wrapping_add(index * in_features + at);
                    let lower = _mm512_maskz_loadu_ps(mask as u16, x);
                    let upper = _mm512_maskz_loadu_ps((mask >> 16) as u16, x.wrapping_add(BLOCK / 2));
                    prefetch(x.wrapping_add(AHEAD * BLOCK));
                    let rounded = round_avx512(lower, upper);
                    *largest = _mm512_max_epu16(*largest, _mm512_and_si512(rounded, _mm512_set1_epi16(0x7fff)));
                    _mm512_store_si512(tile.add(index).cast(), rounded);
                }
            }
        }
        let mut finite = u16::MAX;
        for (index, &largest) in largest.iter().enumerate() {
            let infinite = _mm512_cmpge_epu16_mask(largest, _mm512_set1_epi16(0x7f80)) != 0;
            finite &= !(u16::from(infinite) << (row + index));
        }
        finite
    }

    /// # Safety
    /// As for [`fill`](Self::fill).
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2")]
    unsafe fn fill_avx2(&self, x: &[f32], first: usize, in_features: usize) -> u16 {
        // SAFETY: the caller's promise.
        unsafe { self.fill_as(x, first, in_features, round_block) }
    }

    /// What the compiler makes of it for the function around it.
    ///
    /// # Safety
    /// As for [`fill`](Self::fill).
    #[inline(always)]
    unsafe fn fill_as(
        &self,
        x: &[f32],
        first: usize,
        in_features: usize,
        round: impl Fn(&[f32; BLOCK]) -> ([u16; BLOCK], bool),
    ) -> u16 {
        let blocks = in_features.div_ceil(BLOCK);
        let tile_row = first / TILE_ROWS;
        let mut finite = u16::MAX;
        // A few blocks of every row in turn, so that what is written stays together.
        for part in (0..blocks).step_by(PART) {
            for (index, values) in x.chunks_exact(in_features).enumerate() {
                let row = first + index;
                let group = row / GROUP * GROUP;
                let width = GROUP.min(self.rows - group);
                for block in part..(part + PART).min(blocks) {
                    let from = block * BLOCK;
                    let (rounded, is_finite) = match values[from..].first_chunk() {
                        Some(values) => round(values),
                        None => {
                            let mut filled = [0.0; BLOCK];
                            filled[..in_features - from].copy_from_slice(&values[from..]);
                            round(&filled)
                        }
                    };
                    prefetch(values.as_ptr().wrapping_add(from + PART * BLOCK));
                    finite &= !(u16::from(!is_finite) << index);
                    // SAFETY: the caller's promise.
                    unsafe {
                        if self.tiled {
                            let line = self.tiles.add(tile_at(self.rows, blocks, tile_row, block) + index);
                            line.cast::<[u16; BLOCK]>().write(rounded);
                        }
                        if self.has_wide {
                            let out = self.wide.add(group * blocks * BLOCK + from * width + row - group);
                            write_wide(out, width, &rounded);
                        }
                    }
                }
            }
        }
        if self.tiled {
            // SAFETY: the caller's promise.
            unsafe { self.fill_up(x.len() / in_features, first, in_features) };
        }
        finite
    }

    /// Zeros for the rows of a tile row that are not there, from `rows` on.
    ///
    /// # Safety
    /// As for [`fill`](Self::fill).
    unsafe fn fill_up(&self, rows: usize, first: usize, in_features: usize) {
        let blocks = in_features.div_ceil(BLOCK);
        for index in rows..TILE_ROWS {
            for block in 0..blocks {
                let at = tile_at(self.rows, blocks, first / TILE_ROWS, block) + index;
                // SAFETY: the caller's promise.
                unsafe { self.tiles.add(at).write(Line([0; 64])) };
            }
        }
    }
}

/// Blocks of a row that are rounded at once.
const PART: usize = 4;

/// Rounds a block, and says whether it is finite.
#[inline(always)]
fn round_block(values: &[f32; BLOCK]) -> ([u16; BLOCK], bool) {
    let mut rounded = [0; BLOCK];
    let mut largest = 0;
    for (rounded, &value) in rounded.iter_mut().zip(values) {
        *rounded = round_to_bf16(value);
        largest = largest.max(*rounded & 0x7fff);
    }
    (rounded, largest < 0x7f80)
}

/// As [`round_block`].
#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2")]
fn round_block_avx512(values: &[f32; BLOCK]) -> ([u16; BLOCK], bool) {
    use std::arch::x86_64::*;

    // SAFETY: two times 16 numbers are there.
    let rounded = unsafe {
        let values = values.as_ptr();
        round_avx512(_mm512_loadu_ps(values), _mm512_loadu_ps(values.add(BLOCK / 2)))
    };
    let size = _mm512_and_si512(rounded, _mm512_set1_epi16(0x7fff));
    let finite = _mm512_cmpge_epu16_mask(size, _mm512_set1_epi16(0x7f80)) == 0;
    // SAFETY: both are 64 bytes of numbers.
    (unsafe { std::mem::transmute::<__m512i, [u16; BLOCK]>(rounded) }, finite)
}

/// Rounds the lower and the upper half of a block.
#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2")]
fn round_avx512(lower: std::arch::x86_64::__m512, upper: std::arch::x86_64::__m512) -> std::arch::x86_64::__m512i {
    use std::arch::x86_64::*;

    /// The upper 16 bits of each number, those of the first vector first.
    static UPPER: [u16; BLOCK] = {
        let mut upper = [0; BLOCK];
        let mut index = 0;
        while index < BLOCK {
            upper[index] = 2 * index as u16 + 1;
            index += 1;
        }
        upper
    };
    let mut halves = [_mm512_castps_si512(lower), _mm512_castps_si512(upper)];
    for (bits, values) in halves.iter_mut().zip([lower, upper]) {
        let odd = _mm512_and_si512(_mm512_srli_epi32::<16>(*bits), _mm512_set1_epi32(1));
        let nearest = _mm512_add_epi32(_mm512_add_epi32(*bits, _mm512_set1_epi32(0x7fff)), odd);
        let nan = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(values, values);
        *bits = _mm512_mask_or_epi32(nearest, nan, *bits, _mm512_set1_epi32(0x40_0000));
    }
    // SAFETY: 32 numbers of 16 bits are there.
    let upper = unsafe { _mm512_loadu_si512(UPPER.as_ptr().cast()) };
    _mm512_permutex2var_epi16(halves[0], upper, halves[1])
}

/// Asks for the two lines of a block.
#[inline(always)]
fn prefetch(_block: *const f32) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch may have any address.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(_block.cast());
        _mm_prefetch::<_MM_HINT_T0>(_block.wrapping_add(16).cast());
    }
}

/// Writes a block of a row of a group of `width` rows as `f32`.
///
/// # Safety
/// There is room for `BLOCK` columns of the group from `out` on.
#[inline(always)]
unsafe fn write_wide(out: *mut f32, width: usize, rounded: &[u16; BLOCK]) {
    let mut wide = [0.0; BLOCK];
    for (wide, &value) in wide.iter_mut().zip(rounded) {
        *wide = f32::from_bits(u32::from(value) << 16);
    }
    // SAFETY: the caller's promise.
    unsafe {
        if width == 1 {
            out.cast::<[f32; BLOCK]>().write_unaligned(wide);
        } else {
            for (k, value) in wide.into_iter().enumerate() {
                out.add(k * width).write(value);
            }
        }
    }
}

/// The bits of the bf16 nearest to `value`, ties to even; a NaN stays one.
#[inline(always)]
pub(super) fn round_to_bf16(value: f32) -> u16 {
    let bits = value.to_bits();
    // As a number without sign, the sum of an infinity or less does not overflow, nor reach the NaNs.
    let nearest = bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16;
    let quiet = bits >> 16 | 0x40;
    (if value.is_nan() { quiet } else { nearest }) as u16
}
