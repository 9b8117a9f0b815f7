//! The tiles of AMX, programmed in assembly, as the compiler has no stable intrinsics for them. It knows nothing of them,
//! so that what is in them stays there from one `asm!` block to the next. Which tiles are multiplied is not decided here.
//!
//! Tiles 0 to 3 are sums of two tile rows (0 and 1, 2 and 3) and two panels (0 and 2, 1 and 3), 4 and 5 are activations,
//! 6 and 7 weights.

use std::arch::asm;

use super::BLOCK_BYTES;
use super::rows::TILE_ROWS;

/// The tiles of this thread, ready; given back when dropped.
pub struct Tiles;

impl Tiles {
    pub fn new() -> Self {
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

/// Sets the four tiles of sums to zero.
#[inline(always)]
pub fn zero_sums() {
    // SAFETY: it changes nothing but tiles, which are configured where kernels run.
    unsafe { asm!("tilezero tmm0", "tilezero tmm1", "tilezero tmm2", "tilezero tmm3", options(nomem, nostack)) };
}

/// Puts the four tiles of sums down.
///
/// # Safety
/// The tiles are configured, and there is room for four at `sums`.
#[inline(always)]
pub unsafe fn store_sums(sums: *mut u8) {
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

/// Some blocks of two tile rows and of two panels, and the sums that their products are added to.
#[derive(Debug, Clone, Copy)]
pub struct Group {
    /// The first block of each tile row.
    pub x: [*const u8; 2],
    /// The first block of each panel; those of f16 are split.
    pub weights: [*const u8; 2],
    /// 32 rows of 32 sums.
    pub sums: *mut u8,
    /// Whether the sums begin here, at zero.
    pub first: bool,
    /// Blocks.
    pub depth: usize,
}

/// Loads what the first step of a group needs.
///
/// # Safety
/// The tiles are configured, and the group's first blocks are there.
#[inline(always)]
pub unsafe fn begin(group: &Group) {
    // SAFETY: the caller's promise.
    unsafe {
        asm!(
            "tileloaddt1 tmm4, [{x0} + {line}]",
            "tileloadd tmm6, [{w0} + {line}]",
            "tileloadd tmm7, [{w1} + {line}]",
            "tileloaddt1 tmm5, [{x1} + {line}]",
            x0 = in(reg) group.x[0],
            x1 = in(reg) group.x[1],
            w0 = in(reg) group.weights[0],
            w1 = in(reg) group.weights[1],
            line = in(reg) 64usize,
            options(readonly, nostack)
        );
    }
}

/// Adds the products of a group, whose first step is loaded, to the sums in the tiles, and loads the first step of the
/// next one. Calls `beside` with the number of each block, for what can be done while the tiles are busy.
///
/// What a step needs is loaded among the products of the one before, so that they need not wait for it. Activations are
/// used once and then come from the second cache again; loaded with the hint that says so they leave the first to the
/// weights. The lines of the next group's sums are fetched before they are stored to, as a store that misses the first
/// cache holds up those behind it.
///
/// # Safety
/// The tiles are configured, the group's blocks are there, and those of the first step of the next one. The rows of sums
/// are `stride` bytes apart.
#[inline(always)]
pub unsafe fn steps<const F16: bool>(group: &Group, next: &Group, stride: usize, mut beside: impl FnMut(usize)) {
    let ([mut x0, mut x1], [mut w0, mut w1]) = (group.x, group.weights);
    let depth = group.depth;
    for block in 0..depth {
        beside(block);
        for row in 2 * TILE_ROWS * block / depth..2 * TILE_ROWS * (block + 1) / depth {
            let row = next.sums.wrapping_add(row * stride);
            // SAFETY: it changes nothing, and may have any address; every processor with tiles has the instruction.
            unsafe { asm!("prefetchw [{row}]", "prefetchw [{row} + 64]", row = in(reg) row, options(nostack)) };
        }
        // SAFETY: the caller's promise.
        unsafe {
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
            } else {
                ([x0, x1], [w0, w1]) = (next.x, next.weights);
            }
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
        }
    }
}

/// Puts the sums of a group down and takes those of the next one up, tile by tile, so that the next products can begin
/// before the last sums are stored.
///
/// # Safety
/// The tiles are configured, and both groups' sums are there, in rows that are `stride` bytes apart.
#[inline(always)]
pub unsafe fn turn(group: &Group, next: &Group, stride: usize) {
    let (upper, lower) = (group.sums, group.sums.wrapping_add(TILE_ROWS * stride));
    // SAFETY: the caller's promise.
    unsafe {
        if next.first {
            asm!(
                "tilestored [{upper} + {stride}], tmm0",
                "tilezero tmm0",
                "tilestored [{upper} + {stride} + 64], tmm1",
                "tilezero tmm1",
                "tilestored [{lower} + {stride}], tmm2",
                "tilezero tmm2",
                "tilestored [{lower} + {stride} + 64], tmm3",
                "tilezero tmm3",
                upper = in(reg) upper,
                lower = in(reg) lower,
                stride = in(reg) stride,
                options(nostack)
            );
        } else {
            asm!(
                "tilestored [{upper} + {stride}], tmm0",
                "tileloadd tmm0, [{next_upper} + {stride}]",
                "tilestored [{upper} + {stride} + 64], tmm1",
                "tileloadd tmm1, [{next_upper} + {stride} + 64]",
                "tilestored [{lower} + {stride}], tmm2",
                "tileloadd tmm2, [{next_lower} + {stride}]",
                "tilestored [{lower} + {stride} + 64], tmm3",
                "tileloadd tmm3, [{next_lower} + {stride} + 64]",
                upper = in(reg) upper,
                lower = in(reg) lower,
                next_upper = in(reg) next.sums,
                next_lower = in(reg) next.sums.wrapping_add(TILE_ROWS * stride),
                stride = in(reg) stride,
                options(nostack)
            );
        }
    }
}

/// Adds the products of a block of two tile rows (of the first only, unless `PAIR`) and two panels to the sums. A block of
/// f16 is that of the upper parts and that of the rests.
///
/// # Safety
/// The tiles are configured, and the blocks are there.
#[inline(always)]
pub unsafe fn step<const F16: bool, const PAIR: bool>(x: [*const u8; 2], weights: [*const u8; 2]) {
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
