//! The kernel for many rows, on AMX's tiles: 16 rows against the 16 columns of a panel, one block of weights with a
//! common scale at a time. The integer sums go from the tile through memory into vectors, where they are scaled and added
//! up in exactly the order of the kernel for few rows (`rowwise`). The K types have a faster kernel, in `supers_amx`.

use std::arch::asm;
use std::arch::x86_64::*;
use std::ops::Range;

use super::avx512::{Avx512, settle};
use super::layout::{BLOCK, ForFormat, Format, LINE, for_format};
use super::rows::{CHUNK, Int8Rows, RowBlock};
use super::rowwise::{quad_of, scale_and_min};
use super::supers_amx;
use super::tiles::{NUMBERS, Next, Results, TILE, for_each_part};
use crate::linear::OutRows;
use crate::packed::{PANEL, PackedWeight};

/// Rows from which on tiles are faster.
pub const MIN_ROWS: usize = 9;

/// Weights of a column that are unpacked at a time, about: as many as fit into the nearest cache.
const DEPTH: usize = 512;
/// The most weights of a column that are unpacked at a time. A column is cut into equal parts near `DEPTH`: a short part at
/// its end would hardly be begun when it ends.
const MOST_DEPTH: usize = DEPTH / 2 * 3;
/// The same two numbers for weights of 8 bits, of which only the scales are unpacked.
const BYTES_DEPTH: usize = 2048;
const MOST_BYTES_DEPTH: usize = BYTES_DEPTH / 2 * 3;

/// Blocks whose sums have left the tiles and are not added yet, at most.
const SUMS: usize = 4;

/// A part of a panel, as the tiles want it.
#[repr(C, align(64))]
struct Unpacked {
    /// Signed weights, unless they can be taken from the panel.
    lines: [u8; MOST_DEPTH * PANEL],
    /// For each block and column.
    scales: [f32; MOST_BYTES_DEPTH / BLOCK * PANEL],
    /// For each block and column.
    mins: [f32; MOST_BYTES_DEPTH / BLOCK * PANEL],
    /// What comes out of the tiles, of some blocks in turn.
    sums: [[i32; NUMBERS]; SUMS],
}

/// Multiplies all rows with some panels.
///
/// # Safety
/// The processor has AMX and this process may use it; the columns of `panels` in `out` are the caller's to write. `x` has
/// at least `MIN_ROWS`.
pub unsafe fn multiply(x: &Int8Rows, weight: &PackedWeight, panels: Range<usize>, out: OutRows) {
    struct Task<'a>(&'a Int8Rows, &'a PackedWeight, Range<usize>, OutRows);
    impl ForFormat for Task<'_> {
        fn with<F: Format>(self) {
            // SAFETY: the promise to `multiply`.
            unsafe {
                if F::LAYOUT.by_super() {
                    supers_amx::multiply::<F>(self.0, self.1, self.2, self.3);
                } else {
                    multiply_blocks::<F>(self.0, self.1, self.2, self.3);
                }
            }
        }
    }
    for_format(weight.weight_type(), Task(x, weight, panels, out));
}

/// # Safety
/// As for `multiply`.
unsafe fn multiply_blocks<F: Format>(x: &Int8Rows, weight: &PackedWeight, panels: Range<usize>, out: OutRows) {
    let mut unpacked = std::mem::MaybeUninit::<Unpacked>::uninit();
    let unpacked = unpacked.as_mut_ptr();
    let supers = F::LAYOUT.supers(weight.in_features());
    let depth = if F::LAYOUT.bits == 8 { BYTES_DEPTH } else { DEPTH };
    let parts = (supers * F::LAYOUT.super_len() + depth / 2) / depth;
    let depth = supers.div_ceil(parts.max(1)).max(1);
    // SAFETY: the caller's promise; a part is in its panel and fits, and the rows are the block's.
    unsafe {
        for_each_part(x, weight, panels, out, F::LAYOUT, [depth, BLOCK], |part| {
            let mut next = part.next.in_steps(part.blocks.len() * part.supers.len() * F::LAYOUT.super_len() / BLOCK);
            for (index, (block, results)) in part.blocks.clone().zip(part.results).enumerate() {
                let rows = x.row_block(block);
                let supers = part.supers.clone();
                // The first rows unpack the part for the others.
                if index == 0 {
                    tile_rows::<F, true>(&rows, supers, part.source, unpacked, results, &mut next);
                } else {
                    tile_rows::<F, false>(&rows, supers, part.source, unpacked, results, &mut next);
                }
            }
        });
    }
}

/// Unpacks a block of weights of a part that begins at `source`.
///
/// # Safety
/// As for `multiply`; it can be read, and fits.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,fma,f16c,gfni")]
#[inline]
unsafe fn unpack<F: Format>(source: *const u8, block: usize, to: *mut Unpacked) {
    let layout = F::LAYOUT;
    let per_super = layout.super_len() / BLOCK;
    // SAFETY: the caller's promise.
    unsafe {
        let bytes = source.add(block / per_super * layout.super_bytes());
        let from = bytes.add(block % per_super * layout.block_bytes());
        let lines = (&raw mut (*to).lines).cast::<u8>().add(block * 8 * LINE);
        if layout.bits == 4 && layout.bias() == 8 {
            for line in 0..4 {
                let both = _mm512_loadu_si512(from.add(line * LINE).cast());
                // A number of 4 bits less 8: its lower three bits, and above them the opposite of the fourth.
                let low = _mm512_gf2p8affine_epi64_epi8::<0xf8>(both, _mm512_set1_epi64(0x0102_0408_0808_0808));
                let high =
                    _mm512_gf2p8affine_epi64_epi8::<0xf8>(both, _mm512_set1_epi64(0x1020_4080_8080_8080_u64 as i64));
                _mm512_store_si512(lines.add(line * LINE).cast(), low);
                _mm512_store_si512(lines.add((line + 4) * LINE).cast(), high);
            }
        } else if layout.bits != 8 {
            let bias = _mm512_set1_epi8(layout.bias() as i8);
            for quad in 0..8 {
                let line = quad_of::<Avx512>(layout, from, quad);
                _mm512_store_si512(lines.add(quad * LINE).cast(), _mm512_sub_epi8(line, bias));
            }
        }
        let (scale, min) = scale_and_min::<Avx512>(layout, bytes, block % per_super);
        _mm512_store_ps((&raw mut (*to).scales).cast::<f32>().add(block * PANEL), scale);
        if layout.has_min() {
            _mm512_store_ps((&raw mut (*to).mins).cast::<f32>().add(block * PANEL), min);
        }
    }
}

/// Starts the product of a tile of activations with a tile of weights.
macro_rules! start {
    (($sums:literal, $rows:literal, $weights:literal), $a:expr, $b:expr) => {
        asm!(
            concat!("tileloadd tmm", $rows, ", [{a} + {stride}]"),
            concat!("tileloadd tmm", $weights, ", [{b} + {stride}]"),
            concat!("tilezero tmm", $sums),
            concat!("tdpbssd tmm", $sums, ", tmm", $rows, ", tmm", $weights),
            a = in(reg) $a,
            b = in(reg) $b,
            stride = in(reg) LINE,
            options(nostack, readonly)
        )
    };
}

/// Brings a product to memory.
macro_rules! finish {
    ($sums:literal, $to:expr) => {
        asm!(
            concat!("tilestored [{to} + {stride}], tmm", $sums),
            to = in(reg) $to,
            stride = in(reg) LINE,
            options(nostack)
        )
    };
}

/// Adds the products of a block of rows with some supers of a panel, which are unpacked, to the results.
///
/// # Safety
/// As for `multiply`; the tiles are configured for blocks of weights and `TILE` rows.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,fma,f16c,gfni")]
unsafe fn tile_rows<F: Format, const UNPACK: bool>(
    rows_block: &RowBlock,
    supers: Range<usize>,
    source: *const u8,
    unpacked: *mut Unpacked,
    results: &mut Results,
    next_part: &mut Next,
) {
    let layout = F::LAYOUT;
    let per_super = layout.super_len() / BLOCK;
    let (from, blocks) = (supers.start * per_super, supers.len() * per_super);
    // Bytes from one block's activations, and weights, to those of the block `count` later, from a multiple of 4 on.
    let rows_after = |count: usize| {
        let k = count * BLOCK;
        k / CHUNK * CHUNK * TILE + k % CHUNK
    };
    let lines_after = |count: usize| match layout.bits {
        // Of 8 bits there are two blocks in a super, and they are taken from there.
        8 => count / 2 * layout.super_bytes() + count % 2 * layout.block_bytes(),
        _ => count * BLOCK * PANEL,
    };
    // SAFETY: the caller's promise; all blocks are in the panel and in the rows.
    unsafe {
        let rows = rows_block.values.add(rows_after(from));
        let lines = if layout.bits == 8 { source } else { (&raw const (*unpacked).lines).cast() };
        let scales = (&raw const (*unpacked).scales).cast::<f32>();
        let mins = (&raw const (*unpacked).mins).cast::<f32>();
        let d = rows_block.scales.add(from * TILE);
        let scaled_sums = rows_block.scaled_sums.add(from * TILE);
        let sums: [*mut i32; SUMS] = std::array::from_fn(|index| (&raw mut (*unpacked).sums[index]).cast());
        let mut total = [_mm512_setzero_ps(); TILE];
        // All loops over the totals have a constant number of steps, as otherwise they would be kept in memory.
        for (row, total) in total.iter_mut().enumerate() {
            *total = _mm512_load_ps(results.0.as_ptr().add(row * PANEL));
        }
        // Scales the integers of a block and adds them to the totals. A macro, as a function of its own would not be
        // inlined.
        macro_rules! add {
            ($block:expr, $sums:expr) => {{
                let (block, sums): (usize, *const i32) = ($block, $sums);
                let scale = _mm512_load_ps(scales.add(block * PANEL));
                let d = d.add(block * TILE);
                for (row, total) in total.iter_mut().enumerate() {
                    let dot = _mm512_cvtepi32_ps(_mm512_load_si512(sums.add(row * PANEL).cast()));
                    let scale = _mm512_mul_ps(scale, _mm512_set1_ps(*d.add(row)));
                    *total = _mm512_fmadd_ps(dot, scale, *total);
                }
                if layout.has_min() {
                    let min = _mm512_load_ps(mins.add(block * PANEL));
                    for (row, total) in total.iter_mut().enumerate() {
                        *total = _mm512_fmadd_ps(min, _mm512_set1_ps(*scaled_sums.add(block * TILE + row)), *total);
                    }
                }
                // Done here and not later: left to itself, the compiler puts it off across the tiles' work, and runs
                // out of registers.
                for total in total.as_chunks_mut::<8>().0 {
                    settle!(total);
                }
            }};
        }
        // What leaves a tile reaches the vectors only once it is in the cache, so the vectors are three blocks behind the end
        // of a product and five behind its start.
        let at = |count: usize| (rows.add(rows_after(count)), lines.add(lines_after(count)));
        // What is unpacked reaches the tiles in the same way.
        let lead = if UNPACK { 4 } else { 0 };
        macro_rules! step {
            ($number:expr, $started:tt, $finished:literal) => {{
                let number: usize = $number;
                next_part.ask();
                if UNPACK && number < blocks {
                    unpack::<F>(source, number, unpacked);
                }
                if (lead..blocks + lead).contains(&number) {
                    let (rows, lines) = at(number - lead);
                    start!($started, rows, lines);
                }
                if (lead + 2..blocks + lead + 2).contains(&number) {
                    finish!($finished, sums[(number - lead - 2) % SUMS]);
                }
                if (lead + 5..blocks + lead + 5).contains(&number) {
                    add!(number - lead - 5, sums[(number - lead - 5) % SUMS]);
                }
            }};
        }
        for next in (0..blocks + lead + 5).step_by(4) {
            step!(next, ("0", "4", "6"), "2");
            step!(next + 1, ("1", "5", "7"), "3");
            step!(next + 2, ("2", "4", "6"), "0");
            step!(next + 3, ("3", "5", "7"), "1");
        }
        for (row, total) in total.into_iter().enumerate() {
            _mm512_store_ps(results.0.as_mut_ptr().add(row * PANEL), total);
        }
    }
}
