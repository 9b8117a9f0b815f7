//! The kernel for a few rows: each row of activations is held against the 16 columns of a panel at a time. It reads
//! several panels side by side, as one stream of memory alone is slower than several. It is written once for all levels.
//!
//! For each output, `y` starts at zero. For each group of weights with a common scale `w` in ascending order, with the
//! integer dot product `s`, the row's scale `d`, and the sum `a` of the row's quantized values there:
//! `y = fma(f32(s), w · d, y)`, then with a minimum `m`: `y = fma(m, d · f32(a), y)`.
//!
//! For the K types, `d` is common to a super, and scales are integers with a common factor `f`. For each super in ascending
//! order: `t = f32(Σ s · w) · f` with the sum over its groups, an exact integer, and then `y = fma(t, d, y)`. Minima are
//! integers with a factor `g` of their own: before the last step, `t = fma(-g, u, t)` with the sum `u` of all `m · a`, which
//! is exact, too, below 2^24 as it is. What is exact may be computed in whatever way is fastest.

use std::ops::Range;

use super::layout::{BLOCK, ForFormat, Format, LINE, Layout, Scales, for_format};
use super::rows::{CHUNK, Int8Rows, RowBlock};
use super::vector::Vector;
use crate::linear::OutRows;
use crate::packed::{PANEL, PackedWeight};

/// Panels that are read side by side at most.
const STREAMS: usize = 4;

/// How far ahead of its use memory is asked for, in bytes of each stream.
const AHEAD: usize = 3456;

/// What one call of the kernel computes: some rows against some panels.
pub struct Args {
    /// The rows' block.
    block: RowBlock,
    /// The first of the rows in it.
    first: usize,
    /// The first of the panels, their number and the bytes of each.
    panels: *const u8,
    count: usize,
    panel_bytes: usize,
    /// Results, `[panel, row, 16]`.
    y: *mut f32,
}

/// Multiplies all rows with some panels.
///
/// # Safety
/// The processor has the level's instructions; the columns of `panels` in `out` are the caller's to write.
pub unsafe fn multiply<V: Vector>(x: &Int8Rows, weight: &PackedWeight, panels: Range<usize>, out: OutRows) {
    struct Task<'a, V>(&'a Int8Rows, &'a PackedWeight, Range<usize>, OutRows, std::marker::PhantomData<V>);
    impl<V: Vector> ForFormat for Task<'_, V> {
        fn with<F: Format>(self) {
            // SAFETY: the promise to `multiply`.
            unsafe { multiply_format::<V, F>(self.0, self.1, self.2, self.3) }
        }
    }
    for_format(weight.weight_type(), Task(x, weight, panels, out, std::marker::PhantomData::<V>));
}

/// # Safety
/// As for `multiply`.
unsafe fn multiply_format<V: Vector, F: Format>(
    x: &Int8Rows,
    weight: &PackedWeight,
    panels: Range<usize>,
    out: OutRows,
) {
    #[repr(align(64))]
    struct Results([f32; STREAMS * 8 * PANEL]);

    let panel_bytes = F::LAYOUT.supers(weight.in_features()) * F::LAYOUT.super_bytes();
    let at_once = x.rows_per_block().min(V::MAX_ROWS);
    // The longer the pieces that are read of each, the fewer fit in the nearest cache.
    let streams = if F::LAYOUT.super_len() == BLOCK * 2 { STREAMS } else { STREAMS / 2 };
    let mut y = Results([0.0; STREAMS * 8 * PANEL]);
    let mut next = panels.start;
    while next < panels.end {
        let count = streams.min(panels.end - next);
        for first in (0..x.rows()).step_by(at_once) {
            let args = Args {
                block: x.row_block(first / x.rows_per_block()),
                first: first % x.rows_per_block(),
                panels: weight.panel(next).as_ptr(),
                count,
                panel_bytes,
                y: y.0.as_mut_ptr(),
            };
            y.0[..count * at_once * PANEL].fill(0.0);
            // SAFETY: the caller has the level; the arguments are in bounds by construction.
            unsafe {
                match at_once {
                    1 => V::run::<F, 1>(&args),
                    2 => V::run::<F, 2>(&args),
                    4 => V::run::<F, 4>(&args),
                    _ => V::run::<F, 8>(&args),
                }
            }
            let (results, _) = y.0.as_chunks::<PANEL>();
            for (panel, results) in results.chunks_exact(at_once).take(count).enumerate() {
                for (row, result) in results.iter().enumerate().take(x.rows() - first) {
                    // SAFETY: the row exists, the panel is the caller's.
                    unsafe { out.write(first + row, next + panel, result) };
                }
            }
        }
        next += count;
    }
}

/// The kernel.
///
/// # Safety
/// The processor has the level's instructions; `args` are in bounds.
#[inline(always)]
pub unsafe fn rows<V: Vector, F: Format, const ROWS: usize>(args: &Args) {
    let layout = F::LAYOUT;
    let supers = args.panel_bytes / layout.super_bytes();
    for index in 0..supers {
        let at = index * layout.super_bytes();
        // Beyond the end of a panel, its stream goes on in the panel that is read `count` panels later.
        let mut ahead = at + AHEAD;
        if ahead >= args.panel_bytes {
            ahead += (args.count - 1) * args.panel_bytes;
        }
        let panel_at = |panel: usize| {
            let base = args.panels.wrapping_add(panel * args.panel_bytes);
            OnePanel {
                bytes: base.wrapping_add(at),
                ahead: base.wrapping_add(ahead),
                y: args.y.wrapping_add(panel * ROWS * PANEL),
            }
        };
        let mut panel = 0;
        while panel < args.count {
            // SAFETY: in bounds by the caller's promise; prefetches may go anywhere.
            unsafe {
                if layout.by_super() {
                    scaled_super::<V, F, ROWS>(&args.block, args.first, index, panel_at(panel));
                    panel += 1;
                } else if V::PAIRS && ROWS == V::MAX_ROWS && panel + 2 <= args.count {
                    let pair = [panel_at(panel), panel_at(panel + 1)];
                    scaled_blocks::<V, F, ROWS, 2>(&args.block, args.first, index, pair);
                    panel += 2;
                } else {
                    scaled_blocks::<V, F, ROWS, 1>(&args.block, args.first, index, [panel_at(panel)]);
                    panel += 1;
                }
            }
        }
    }
}

/// A super of one panel.
#[derive(Clone, Copy)]
struct OnePanel {
    bytes: *const u8,
    /// What is asked of memory meanwhile.
    ahead: *const u8,
    /// The results.
    y: *mut f32,
}

impl OnePanel {
    /// Asks memory for the share of block `number`: a few lines at a time, as the processor keeps track of a dozen or so.
    ///
    /// # Safety
    /// The processor has the level's instructions.
    #[inline(always)]
    unsafe fn prefetch<V: Vector, F: Format>(&self, number: usize) {
        let layout = F::LAYOUT;
        let share = (layout.super_bytes() / LINE).div_ceil(layout.super_len() / BLOCK);
        for line in 0..share {
            // SAFETY: the caller's promise; a prefetch of any address is allowed.
            unsafe { V::prefetch(self.ahead.wrapping_add((number * share + line) * LINE)) };
        }
    }
}

/// The values of block `number` of the rows from `first` on. A row may end in the middle of the last super's room, but rows have
/// whole chunks, as supers do.
#[inline(always)]
fn values_of(block: &RowBlock, first: usize, number: usize) -> *const i8 {
    block.values.wrapping_add(number / 2 * CHUNK * block.rows + first * CHUNK + number % 2 * BLOCK)
}

/// One super of a type whose supers have factors.
///
/// # Safety
/// As for `rows`.
#[inline(always)]
unsafe fn scaled_super<V: Vector, F: Format, const ROWS: usize>(
    block: &RowBlock,
    first: usize,
    index: usize,
    panel: OnePanel,
) {
    let layout = F::LAYOUT;
    let OnePanel { bytes, y, .. } = panel;
    let rows = block.rows;
    // SAFETY: all within the super and the rows, by the caller's promise.
    unsafe {
        // No closures here: they would be compiled without the level's instructions.
        let zero = V::to_floats(V::zero());
        let mut int_sums = [V::zero(); ROWS];
        let mut min_sums = [zero; ROWS];
        for in_super in 0..layout.super_len() / BLOCK {
            let number = index * layout.super_len() / BLOCK + in_super;
            let values = values_of(block, first, number);
            let lines = bytes.add(in_super * layout.block_bytes());
            panel.prefetch::<V, F>(in_super);
            let groups = BLOCK / layout.group();
            for half in 0..groups {
                let group = groups * number + half;
                let mut dots = [V::zero(); ROWS];
                if let Some(shift) = layout.offset {
                    let sums = if groups == 1 { block.sums } else { block.half_sums };
                    for (row, dot) in dots.iter_mut().enumerate() {
                        *dot = V::start(sums.add(group * rows + first + row), shift);
                    }
                }
                for quad in 8 / groups * half..8 / groups * (half + 1) {
                    let weights = quad_of::<V>(layout, lines, quad);
                    for (row, dot) in dots.iter_mut().enumerate() {
                        *dot = V::dot(*dot, weights, V::quad(values.add(row * CHUNK + 4 * quad)));
                    }
                }
                let scaled_sums = if groups == 1 { block.scaled_sums } else { block.scaled_half_sums };
                let (scale, min) = int_scale_and_min::<V>(layout, bytes, in_super * groups + half);
                for (row, dot) in dots.into_iter().enumerate() {
                    int_sums[row] = V::multiply_add(dot, scale, int_sums[row]);
                    if layout.has_min() {
                        let a = V::splat(scaled_sums.add(group * rows + first + row));
                        min_sums[row] = V::fma(min, a, min_sums[row]);
                    }
                }
            }
        }
        let factor = V::halves(bytes.add(layout.factors_at()));
        let min_factor = if layout.has_min() { V::neg(V::halves(bytes.add(layout.factors_at() + 32))) } else { zero };
        for (row, sum) in int_sums.into_iter().enumerate() {
            let y = y.add(row * PANEL);
            let mut sum = V::mul(V::to_floats(sum), factor);
            if layout.has_min() {
                sum = V::fma(min_factor, min_sums[row], sum);
            }
            V::store(V::fma(sum, V::splat(block.scales.add(index * rows + first + row)), V::load(y)), y);
        }
    }
}

/// One super of some panels, of a type whose blocks have scales of their own. With many rows, reading the activations takes as
/// long as multiplying with them, and here they are read once for all of the panels.
///
/// # Safety
/// As for `rows`.
#[inline(always)]
unsafe fn scaled_blocks<V: Vector, F: Format, const ROWS: usize, const PANELS: usize>(
    block: &RowBlock,
    first: usize,
    index: usize,
    panels: [OnePanel; PANELS],
) {
    const { assert!(PANELS == 1 || PANELS == 2, "written for one panel and for two") };
    let layout = F::LAYOUT;
    let blocks = layout.super_len() / BLOCK;
    let rows = block.rows;
    // SAFETY: all within the supers and the rows, by the caller's promise.
    unsafe {
        for in_super in 0..blocks {
            let number = index * blocks + in_super;
            let values = values_of(block, first, number);
            for panel in panels {
                panel.prefetch::<V, F>(in_super);
            }
            let mut dots = [[V::zero(); ROWS]; PANELS];
            let shift = if layout.bits == 8 { V::SIGNED_OFFSET } else { layout.offset };
            if let Some(shift) = shift {
                for row in 0..ROWS {
                    let start = V::start(block.sums.add(number * rows + first + row), shift);
                    for dots in &mut dots {
                        dots[row] = start;
                    }
                }
            }
            let lines = panels.map(|panel| panel.bytes.wrapping_add(in_super * layout.block_bytes()));
            // Written out, as a loop is not always unrolled, and the place of a quad is to be a constant.
            macro_rules! multiply {
                ($($quad:literal)*) => {$(
                    // Of one panel, the last is the first. Written out, too: the release profile does not unroll a loop here.
                    let weights =
                        [quad_of::<V>(layout, lines[0], $quad), quad_of::<V>(layout, lines[PANELS - 1], $quad)];
                    for row in 0..ROWS {
                        let x = V::quad(values.add(row * CHUNK + 4 * $quad));
                        for panel in 0..PANELS {
                            let (dot, weights) = (dots[panel][row], weights[panel]);
                            dots[panel][row] =
                                if layout.bits == 8 { V::dot_signed(dot, weights, x) } else { V::dot(dot, weights, x) };
                        }
                    }
                    for dots in &mut dots {
                        V::settle(dots);
                    }
                )*};
            }
            // A line of 4 bits holds quads `i` and `i + 4`: one after the other, so that no line waits in a register.
            multiply!(0 4 1 5 2 6 3 7);
            for (panel, dots) in panels.iter().zip(&dots) {
                let (scale, min) = scale_and_min::<V>(layout, panel.bytes, in_super);
                for (row, &dot) in dots.iter().enumerate() {
                    let at = number * rows + first + row;
                    let y = panel.y.add(row * PANEL);
                    let scale = V::mul(scale, V::splat(block.scales.add(at)));
                    let mut sum = V::fma(V::to_floats(dot), scale, V::load(y));
                    if layout.has_min() {
                        sum = V::fma(min, V::splat(block.scaled_sums.add(at)), sum);
                    }
                    V::store(sum, y);
                }
            }
        }
    }
}

/// Quad `quad` of a block.
///
/// # Safety
/// The block can be read, with the level's instructions.
#[inline(always)]
pub unsafe fn quad_of<V: Vector>(layout: Layout, block: *const u8, quad: usize) -> V::Bytes {
    // SAFETY: the caller's promise.
    unsafe {
        match layout.bits {
            8 => V::signed(V::line(block.add(quad * LINE))),
            6 => V::or(four_bits::<V>(block, quad), two_bits::<V>(block.add(4 * LINE), quad, 4)),
            5 => V::or(four_bits::<V>(block, quad), one_bit::<V>(block.add(4 * LINE), quad, 4)),
            4 => four_bits::<V>(block, quad),
            3 => V::or(two_bits::<V>(block, quad, 0), one_bit::<V>(block.add(2 * LINE), quad, 2)),
            _ => two_bits::<V>(block, quad, 0),
        }
    }
}

/// Quad `quad` of a plane of 4 bits.
///
/// # Safety
/// As for `quad_of`.
#[inline(always)]
unsafe fn four_bits<V: Vector>(plane: *const u8, quad: usize) -> V::Bytes {
    // SAFETY: the caller's promise.
    unsafe { V::bits(V::line(plane.add(quad % 4 * LINE)), 4 * (quad / 4), 0, 15) }
}

/// Quad `quad` of a plane of 2 bits, moved to bit `to` of each byte.
///
/// # Safety
/// As for `quad_of`.
#[inline(always)]
unsafe fn two_bits<V: Vector>(plane: *const u8, quad: usize, to: usize) -> V::Bytes {
    // SAFETY: the caller's promise.
    unsafe { V::bits(V::line(plane.add(quad % 2 * LINE)), 2 * (quad / 2), to, 3 << to) }
}

/// Quad `quad` of a plane of 1 bit, moved to bit `to` of each byte.
///
/// # Safety
/// As for `quad_of`.
#[inline(always)]
unsafe fn one_bit<V: Vector>(plane: *const u8, quad: usize, to: usize) -> V::Bytes {
    // SAFETY: the caller's promise.
    unsafe { V::bits(V::line(plane), quad, to, 1 << to) }
}

/// Scales and minima, to be added, of a block of a type that has none for a super.
///
/// # Safety
/// The super can be read, with the level's instructions.
#[inline(always)]
pub unsafe fn scale_and_min<V: Vector>(layout: Layout, bytes: *const u8, block: usize) -> (V::Floats, V::Floats) {
    // SAFETY: the caller's promise.
    unsafe {
        let scales = bytes.add(layout.scales_at());
        if layout.has_min() {
            return (V::halves(scales.add(64 * block)), V::halves(scales.add(64 * block + 32)));
        }
        let scale = V::halves(scales.add(32 * block));
        (scale, scale)
    }
}

/// Scales and minima of a group of a K type, without their factors, of which that of the minima is to be subtracted.
///
/// # Safety
/// The super can be read, with the level's instructions.
#[inline(always)]
pub unsafe fn int_scale_and_min<V: Vector>(layout: Layout, bytes: *const u8, group: usize) -> (V::Ints, V::Floats) {
    // SAFETY: the caller's promise.
    unsafe {
        let scales = bytes.add(layout.scales_at());
        match layout.scales {
            Scales::Byte => (V::signed_bytes(scales.add(16 * group)), V::to_floats(V::zero())),
            Scales::NibbleMin => {
                let [scale, min] = V::nibbles(scales.add(16 * group));
                (scale, V::to_floats(min))
            }
            _ => {
                let min = V::to_floats(V::unsigned_bytes(scales.add(128 + 16 * group)));
                (V::unsigned_bytes(scales.add(16 * group)), min)
            }
        }
    }
}
