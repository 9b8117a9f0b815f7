//! The kernel for many rows, on AMX's tiles: 16 rows against the 16 columns of a panel, one group of weights with a
//! common scale at a time. The integer sums go from the tile through memory into vectors, where they are scaled and added
//! up in exactly the order of the kernel for few rows (`rowwise`). The minima of the K types are a product of their own, of
//! bf16 numbers that hold them exactly: one for a whole super, where vectors would take an instruction for each group.

use std::arch::asm;
use std::arch::x86_64::*;
use std::ops::Range;

use super::avx512::Avx512;
use super::layout::{BLOCK, ForFormat, Format, LINE, SUPER, Scales, for_format};
use super::rows::{CHUNK, Int8Rows, RowBlock};
use super::rowwise::{quad_of, scale_and_min};
use super::vector::Vector;
use crate::linear::OutRows;
use crate::packed::{PANEL, PackedWeight};

/// Rows from which on tiles are faster.
pub const MIN_ROWS: usize = 9;

/// Rows of a tile, and of the blocks of `MIN_ROWS` rows and more.
const TILE: usize = 16;

/// Weights of a column that are unpacked at a time: as many as leave room in the nearest cache.
const DEPTH: usize = 1024;

/// Rows that are held against one panel after another, so that their values stay in the second cache.
const ROWS: usize = 1024;

/// A part of a panel, as the tiles want it.
#[repr(C, align(64))]
struct Unpacked {
    /// Signed weights, unless they can be taken from the panel.
    lines: [u8; DEPTH * PANEL],
    /// For each group and column.
    scales: [f32; DEPTH / (BLOCK / 2) * PANEL],
    /// For each group and column; of K types, twice the number as bf16.
    mins: [f32; DEPTH / (BLOCK / 2) * PANEL],
    /// What the minima of a K type's super are multiplied with, with its sign, for each column.
    min_factors: [f32; DEPTH / SUPER * PANEL],
    /// The sums of the minima of each super, from the tiles.
    min_sums: [[f32; 16 * PANEL]; DEPTH / SUPER],
    /// The results of a block of rows, while it is computed.
    y: [f32; 16 * PANEL],
    /// What comes out of the tiles, of two groups in turn.
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
            unsafe { multiply_format::<F>(self.0, self.1, self.2, self.3) };
        }
    }
    for_format(weight.weight_type(), Task(x, weight, panels, out));
}

/// # Safety
/// As for `multiply`.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,fma,f16c")]
unsafe fn multiply_format<F: Format>(x: &Int8Rows, weight: &PackedWeight, panels: Range<usize>, out: OutRows) {
    assert_eq!(x.rows_per_block(), TILE, "rows of a tile");
    let layout = F::LAYOUT;
    let mut unpacked = std::mem::MaybeUninit::<Unpacked>::uninit();
    let unpacked = unpacked.as_mut_ptr();
    let supers = layout.supers(weight.in_features());
    let at_once = DEPTH / layout.super_len();
    configure(layout.group(), TILE);
    for from_row in (0..x.rows()).step_by(ROWS) {
        let row_blocks = from_row / TILE..x.rows().min(from_row + ROWS).div_ceil(TILE);
        for first in (0..supers).step_by(at_once) {
            let part = first..(first + at_once).min(supers);
            let bytes = first * layout.super_bytes()..part.end * layout.super_bytes();
            for panel in panels.clone() {
                let source = weight.panel(panel)[bytes.clone()].as_ptr();
                // SAFETY: the part is in the panel and fits.
                unsafe { unpack::<F>(source, part.len(), unpacked) };
                for row_block in row_blocks.clone() {
                    let row = row_block * TILE;
                    let y = Results {
                        start: out.start.wrapping_add(row * out.stride + panel * PANEL),
                        stride: out.stride,
                        rows: TILE.min(x.rows() - row),
                        columns: ((1u32 << (out.columns - panel * PANEL).min(PANEL)) - 1) as u16,
                    };
                    let block = x.row_block(row_block);
                    // Everything of the next panel's part is asked for while the first rows are computed.
                    let ahead = if row_block == row_blocks.start { weight.panel(panel).len() } else { 0 };
                    // SAFETY: the rows are the block's, the columns the panel's and the caller's.
                    unsafe { tile_rows::<F>(&block, part.clone(), source, ahead, unpacked, y) };
                }
            }
        }
    }
    release();
}

/// Where a tile's results go.
#[derive(Clone, Copy)]
struct Results {
    start: *mut f32,
    stride: usize,
    rows: usize,
    /// A bit for each column that exists.
    columns: u16,
}

/// Sets the tiles up: 0 to 3 for sums, 4 and 5 for activations, 6 and 7 for weights.
fn configure(group: usize, rows: usize) {
    let mut config = Config { palette: 1, start_row: 0, reserved: [0; 14], row_bytes: [0; 16], rows: [0; 16] };
    for tile in 0..8 {
        let (row_bytes, rows) = match tile {
            0..4 => (LINE, rows),
            4 | 5 => (group, rows),
            _ => (LINE, group / 4),
        };
        config.row_bytes[tile] = row_bytes as u16;
        config.rows[tile] = rows as u8;
    }
    // SAFETY: a valid configuration of palette 1; the caller of `multiply` promises that tiles may be used.
    unsafe { asm!("ldtilecfg [{}]", in(reg) &raw const config, options(nostack, readonly)) };
}

/// The operand of `ldtilecfg`.
#[repr(C, align(64))]
struct Config {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

/// Lets go of the tiles' state, which the system would otherwise keep and restore for this thread.
fn release() {
    // SAFETY: no tile is in use any more.
    unsafe { asm!("tilerelease", options(nostack, nomem)) };
}

/// Unpacks some supers.
///
/// # Safety
/// As for `multiply`; they can be read, and fit.
#[inline(always)]
unsafe fn unpack<F: Format>(source: *const u8, supers: usize, to: *mut Unpacked) {
    let layout = F::LAYOUT;
    let blocks = layout.super_len() / BLOCK;
    let groups = layout.super_len() / layout.group();
    // SAFETY: the caller's promise.
    unsafe {
        let (lines, scales, mins) = (&raw mut (*to).lines, &raw mut (*to).scales, &raw mut (*to).mins);
        let bias = _mm512_set1_epi8(layout.bias() as i8);
        for index in 0..supers {
            let bytes = source.add(index * layout.super_bytes());
            if layout.bits != 8 {
                for block in 0..blocks {
                    for quad in 0..8 {
                        let line = quad_of::<Avx512>(layout, bytes.add(block * layout.block_bytes()), quad);
                        let at = ((index * blocks + block) * 8 + quad) * LINE;
                        _mm512_store_si512(lines.cast::<u8>().add(at).cast(), _mm512_sub_epi8(line, bias));
                    }
                }
            }
            let factors = match layout.scales {
                Scales::Half | Scales::HalfMin => [_mm512_setzero_ps(); 2],
                Scales::ByteMin | Scales::Byte | Scales::NibbleMin => [
                    Avx512::halves(bytes.add(layout.factors_at())),
                    Avx512::halves(bytes.add(layout.factors_at() + 32)),
                ],
            };
            for group in 0..groups {
                let (scale, min) = scale_and_min::<Avx512>(layout, bytes, factors, group);
                let at = (index * groups + group) * PANEL;
                _mm512_store_ps(scales.cast::<f32>().add(at), scale);
                if layout.has_min() && layout.by_super() {
                    // Integers of 6 bits, which are the same in the upper half of their bits: bf16.
                    let bits = _mm512_castps_si512(min);
                    let pair = _mm512_or_si512(bits, _mm512_srli_epi32::<16>(bits));
                    _mm512_store_si512(mins.cast::<f32>().add(at).cast(), pair);
                } else if layout.has_min() {
                    _mm512_store_ps(mins.cast::<f32>().add(at), min);
                }
            }
            if layout.has_min() && layout.by_super() {
                let to = (&raw mut (*to).min_factors).cast::<f32>().add(index * PANEL);
                _mm512_store_ps(to, Avx512::neg(factors[1]));
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

/// Computes the sum of the minima of a super times the activations' sums, `[row, 16]`, in parts as long as a tile.
///
/// # Safety
/// The tiles are configured, for groups of `group` bytes; there are `groups` pairs of bf16 in each row, and column.
#[inline(always)]
unsafe fn sum_minima(a: *const i8, b: *const u8, groups: usize, group: usize, to: *mut f32) {
    // SAFETY: the caller's promise.
    unsafe {
        asm!("tilezero tmm3", options(nostack, nomem));
        for part in 0..4 * groups / group {
            asm!(
                "tileloadd tmm5, [{a} + {a_stride}]",
                "tileloadd tmm7, [{b} + {b_stride}]",
                "tdpbf16ps tmm3, tmm5, tmm7",
                a = in(reg) a.add(part * group),
                a_stride = in(reg) 4 * groups,
                b = in(reg) b.add(part * group / 4 * LINE),
                b_stride = in(reg) LINE,
                options(nostack, readonly)
            );
        }
        finish!("3", to);
    }
}

/// Adds the products of a block of rows with some supers of a panel, which are unpacked, to `y`.
///
/// # Safety
/// As for `multiply`; the tiles are configured for the format's groups and `TILE` rows.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,fma,f16c")]
unsafe fn tile_rows<F: Format>(
    block: &RowBlock,
    supers: Range<usize>,
    source: *const u8,
    ahead: usize,
    unpacked: *mut Unpacked,
    y: Results,
) {
    let layout = F::LAYOUT;
    let per_super = layout.super_len() / layout.group();
    let per_block = BLOCK / layout.group();
    let (from, groups) = (supers.start * per_super, supers.len() * per_super);
    // Lines to prefetch with each group.
    let prefetches = (layout.super_bytes() / LINE).div_ceil(per_super);
    // Bytes from one group's activations, and weights, to those of the group `count` later, from a multiple of 4 on.
    let rows_after = |count: usize| {
        let k = count * layout.group();
        k / CHUNK * CHUNK * TILE + k % CHUNK
    };
    let lines_after = |count: usize| match layout.bits {
        // Of 8 bits there are two groups in a super, and they are taken from there.
        8 => count / 2 * layout.super_bytes() + count % 2 * layout.block_bytes(),
        _ => count * layout.group() * PANEL,
    };
    // SAFETY: the caller's promise; all groups are in the panel and in the rows.
    unsafe {
        let rows = block.values.add(rows_after(from));
        let lines = if layout.bits == 8 { source } else { (&raw const (*unpacked).lines).cast() };
        let scales = (&raw const (*unpacked).scales).cast::<f32>();
        let mins = (&raw const (*unpacked).mins).cast::<f32>();
        let d = block.scales.add(if layout.by_super() { supers.start * TILE } else { from / per_block * TILE });
        let scaled_sums = if per_block == 1 { block.scaled_sums } else { block.scaled_half_sums }.add(from * TILE);
        let sums = [0, 1].map(|index| (&raw mut (*unpacked).sums).cast::<i32>().add(index * 16 * PANEL));
        let mut total = [_mm512_setzero_ps(); TILE];
        // All loops over the totals have a constant number of steps, as otherwise they would be kept in memory.
        for (row, total) in total.iter_mut().enumerate() {
            if supers.start > 0 && row < y.rows {
                *total = _mm512_maskz_loadu_ps(y.columns, y.start.wrapping_add(row * y.stride));
            }
        }
        let results = (&raw mut (*unpacked).y).cast::<f32>();
        let min_sums = (&raw mut (*unpacked).min_sums).cast::<f32>();
        let min_factors = (&raw const (*unpacked).min_factors).cast::<f32>();
        if layout.by_super() {
            for (row, total) in total.iter_mut().enumerate() {
                _mm512_store_ps(results.add(row * PANEL), *total);
                *total = _mm512_setzero_ps();
            }
            if layout.has_min() {
                for index in 0..supers.len() {
                    let split = if per_block == 1 { block.split_sums } else { block.split_half_sums };
                    let a = split.add((supers.start + index) * TILE * per_super).cast::<i8>();
                    let b = mins.add(index * per_super * PANEL).cast::<u8>();
                    sum_minima(a, b, per_super, layout.group(), min_sums.add(index * 16 * PANEL));
                }
            }
        }
        let prefetches = if ahead > 0 { prefetches } else { 0 };
        // Scales the integers of a group and adds them to the totals; asks for some lines of what comes next. A macro, as
        // a function of its own would not be inlined.
        macro_rules! add {
            ($group:expr, $sums:expr) => {{
                let (group, sums): (usize, *const i32) = ($group, $sums);
                let scale = _mm512_load_ps(scales.add(group * PANEL));
                let d = d.add(if layout.by_super() { 0 } else { group / per_block * TILE });
                for (row, total) in total.iter_mut().enumerate() {
                    let dot = _mm512_cvtepi32_ps(_mm512_load_si512(sums.add(row * PANEL).cast()));
                    let scale =
                        if layout.by_super() { scale } else { _mm512_mul_ps(scale, _mm512_set1_ps(*d.add(row))) };
                    *total = _mm512_fmadd_ps(dot, scale, *total);
                }
                if layout.has_min() && !layout.by_super() {
                    let min = _mm512_load_ps(mins.add(group * PANEL));
                    for (row, total) in total.iter_mut().enumerate() {
                        *total = _mm512_fmadd_ps(min, _mm512_set1_ps(*scaled_sums.add(group * TILE + row)), *total);
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
                for line in 0..prefetches {
                    let at = source.wrapping_add(ahead + (group * prefetches + line) * LINE);
                    _mm_prefetch::<_MM_HINT_T1>(at.cast());
                }
            }};
        }
        // Brings the totals of a super, the last of whose groups has been added, to the results.
        macro_rules! flush {
            ($index:expr) => {{
                let index: usize = $index;
                let mut min_factor = _mm512_setzero_ps();
                if layout.has_min() {
                    min_factor = _mm512_load_ps(min_factors.add(index * PANEL));
                }
                for (row, total) in total.iter_mut().enumerate() {
                    if layout.has_min() {
                        let min_sum = _mm512_load_ps(min_sums.add((index * 16 + row) * PANEL));
                        *total = _mm512_fmadd_ps(min_factor, min_sum, *total);
                    }
                    let to = results.add(row * PANEL);
                    let d = _mm512_set1_ps(*d.add(index * TILE + row));
                    _mm512_store_ps(to, _mm512_fmadd_ps(*total, d, _mm512_load_ps(to)));
                    *total = _mm512_setzero_ps();
                }
            }};
        }
        // The vectors are three groups behind the start of a product and one behind its end, as it takes that long.
        let at = |count: usize| (rows.add(rows_after(count)), lines.add(lines_after(count)));
        start!("0", "4", "6", at(0).0, at(0).1);
        start!("1", "5", "7", at(1).0, at(1).1);
        if groups > 2 {
            start!("2", "4", "6", at(2).0, at(2).1);
        }
        finish!("0", sums[0]);
        let mut next = 0;
        while next + 7 <= groups {
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
            if layout.by_super() && next % per_super == 0 {
                flush!(next / per_super - 1);
            }
        }
        // Three groups of what is left are started already, or two; and there are two, four or six, as they come in pairs.
        let left = groups - next;
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
        if layout.by_super() {
            flush!(supers.len() - 1);
            for (row, total) in total.iter_mut().enumerate() {
                *total = _mm512_load_ps(results.add(row * PANEL));
            }
        }
        for (row, total) in total.into_iter().enumerate().take(y.rows) {
            _mm512_mask_storeu_ps(y.start.wrapping_add(row * y.stride), y.columns, total);
        }
    }
}
