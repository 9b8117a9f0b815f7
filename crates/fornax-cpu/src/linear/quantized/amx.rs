//! The kernel for many rows, on AMX's tiles: 16 rows against the 16 columns of a panel, one block of weights with a
//! common scale at a time. The integer sums go from the tile through memory into vectors, where they are scaled and added
//! up in exactly the order of the kernel for few rows (`rowwise`). The K types have a faster kernel, in `supers_amx`.

use std::arch::asm;
use std::arch::x86_64::*;
use std::ops::Range;

use super::avx512::Avx512;
use super::layout::{BLOCK, ForFormat, Format, LINE, for_format};
use super::rows::{CHUNK, Int8Rows, RowBlock};
use super::rowwise::{quad_of, scale_and_min};
use super::supers_amx;
use super::tiles::{Results, TILE, for_each_part};
use crate::linear::OutRows;
use crate::packed::{PANEL, PackedWeight};

/// Rows from which on tiles are faster.
pub const MIN_ROWS: usize = 9;

/// Weights of a column that are unpacked at a time: as many as fit into the nearest cache.
const DEPTH: usize = 2048;

/// A part of a panel, as the tiles want it.
#[repr(C, align(64))]
struct Unpacked {
    /// Signed weights, unless they can be taken from the panel.
    lines: [u8; DEPTH * PANEL],
    /// For each block and column.
    scales: [f32; DEPTH / BLOCK * PANEL],
    /// For each block and column.
    mins: [f32; DEPTH / BLOCK * PANEL],
    /// What comes out of the tiles, of two blocks in turn.
    sums: [[i32; 16 * PANEL]; 2],
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
    let depth = DEPTH / F::LAYOUT.super_len();
    // SAFETY: the caller's promise; a part is in its panel and fits, and the rows are the block's.
    unsafe {
        for_each_part(x, weight, panels, out, F::LAYOUT, [depth, BLOCK], |part| {
            unpack::<F>(part.source, part.supers.len(), unpacked);
            for (index, (block, results)) in part.blocks.clone().zip(part.results).enumerate() {
                tile_rows::<F>(&x.row_block(block), part.supers.clone(), part.source, unpacked, results);
                part.next.ask(index, part.blocks.len());
            }
        });
    }
}

/// Unpacks some supers.
///
/// # Safety
/// As for `multiply`; they can be read, and fit.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,fma,f16c")]
unsafe fn unpack<F: Format>(source: *const u8, supers: usize, to: *mut Unpacked) {
    let layout = F::LAYOUT;
    let blocks = layout.super_len() / BLOCK;
    // SAFETY: the caller's promise.
    unsafe {
        let (lines, scales, mins) = (&raw mut (*to).lines, &raw mut (*to).scales, &raw mut (*to).mins);
        let bias = _mm512_set1_epi8(layout.bias() as i8);
        for index in 0..supers {
            let bytes = source.add(index * layout.super_bytes());
            for block in 0..blocks {
                let number = index * blocks + block;
                if layout.bits != 8 {
                    for quad in 0..8 {
                        let line = quad_of::<Avx512>(layout, bytes.add(block * layout.block_bytes()), quad);
                        let at = lines.cast::<u8>().add((number * 8 + quad) * LINE);
                        _mm512_store_si512(at.cast(), _mm512_sub_epi8(line, bias));
                    }
                }
                let (scale, min) = scale_and_min::<Avx512>(layout, bytes, block);
                _mm512_store_ps(scales.cast::<f32>().add(number * PANEL), scale);
                if layout.has_min() {
                    _mm512_store_ps(mins.cast::<f32>().add(number * PANEL), min);
                }
            }
        }
    }
}

/// Starts the product of a tile of activations with a tile of weights.
macro_rules! start {
    ($sums:literal, $rows:literal, $weights:literal, $a:expr, $b:expr) => {
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
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,fma,f16c")]
unsafe fn tile_rows<F: Format>(
    rows_block: &RowBlock,
    supers: Range<usize>,
    source: *const u8,
    unpacked: *mut Unpacked,
    results: &mut Results,
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
        let sums = [0, 1].map(|index| (&raw mut (*unpacked).sums).cast::<i32>().add(index * 16 * PANEL));
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
                    let [a, b, c, d, e, f, g, h] = total;
                    asm!(
                        "/* {} {} {} {} {} {} {} {} */",
                        inout(zmm_reg) * a,
                        inout(zmm_reg) * b,
                        inout(zmm_reg) * c,
                        inout(zmm_reg) * d,
                        inout(zmm_reg) * e,
                        inout(zmm_reg) * f,
                        inout(zmm_reg) * g,
                        inout(zmm_reg) * h,
                        options(nomem, nostack, preserves_flags)
                    );
                }
            }};
        }
        // The vectors are three blocks behind the start of a product and one behind its end, as it takes that long.
        let at = |count: usize| (rows.add(rows_after(count)), lines.add(lines_after(count)));
        start!("0", "4", "6", at(0).0, at(0).1);
        start!("1", "5", "7", at(1).0, at(1).1);
        if blocks > 2 {
            start!("2", "4", "6", at(2).0, at(2).1);
        }
        finish!("0", sums[0]);
        let mut next = 0;
        while next + 7 <= blocks {
            let (rows, lines) = at(next);
            let at = |count: usize| (rows.add(rows_after(count)), lines.add(lines_after(count)));
            start!("3", "5", "7", at(3).0, at(3).1);
            finish!("1", sums[1]);
            add!(next, sums[0]);
            start!("0", "4", "6", at(4).0, at(4).1);
            finish!("2", sums[0]);
            add!(next + 1, sums[1]);
            start!("1", "5", "7", at(5).0, at(5).1);
            finish!("3", sums[1]);
            add!(next + 2, sums[0]);
            start!("2", "4", "6", at(6).0, at(6).1);
            finish!("0", sums[0]);
            add!(next + 3, sums[1]);
            next += 4;
        }
        // Three blocks of what is left are started already, or two; and there are two, four or six, as they come in pairs.
        let left = blocks - next;
        if left > 3 {
            start!("3", "5", "7", at(next + 3).0, at(next + 3).1);
        }
        finish!("1", sums[1]);
        add!(next, sums[0]);
        if left > 4 {
            start!("0", "4", "6", at(next + 4).0, at(next + 4).1);
        }
        if left > 2 {
            finish!("2", sums[0]);
        }
        add!(next + 1, sums[1]);
        if left > 2 {
            if left > 4 {
                start!("1", "5", "7", at(next + 5).0, at(next + 5).1);
            }
            finish!("3", sums[1]);
            add!(next + 2, sums[0]);
            if left > 4 {
                finish!("0", sums[0]);
            }
            add!(next + 3, sums[1]);
        }
        if left > 4 {
            finish!("1", sums[1]);
            add!(next + 4, sums[0]);
            add!(next + 5, sums[1]);
        }
        for (row, total) in total.into_iter().enumerate() {
            _mm512_store_ps(results.0.as_mut_ptr().add(row * PANEL), total);
        }
    }
}
