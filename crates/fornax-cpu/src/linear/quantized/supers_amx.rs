//! The kernel of the K types for many rows, on AMX's tiles: 32 rows against the 16 columns of a panel.
//!
//! Weights of a super have one factor, and integers for scales of its groups. Weight times scale has 14 bits at most and is
//! taken apart into two bytes, `256 high + low`. Two products of tiles with these then give the super's sum as an integer, and
//! only 256 weights further numbers leave the tiles. That is exact, as are the sums of `rowwise`, so both are the same. The
//! minima are a product of their own, of bf16 numbers that hold them exactly.
//!
//! What leaves the tiles is scaled in vectors while the tiles compute the next super.

use std::arch::asm;
use std::arch::x86_64::*;
use std::ops::Range;

use super::avx512::Avx512;
use super::layout::{BLOCK, Format, LINE, SUPER};
use super::rows::{CHUNK, Int8Rows, RowBlock};
use super::rowwise::{int_scale_and_min, quad_of};
use super::tiles::{NUMBERS, Part, Results, TILE, for_each_part};
use super::vector::Vector;
use crate::linear::OutRows;
use crate::packed::{PANEL, PackedWeight};

/// Supers of a panel that are unpacked at a time: as many as leave room in the nearest cache.
const DEPTH: usize = 2;

/// Chunks of a super, each as deep as a tile.
const CHUNKS: usize = SUPER / CHUNK;

/// A part of a panel, as the tiles want it, and what comes out of them.
#[repr(C, align(64))]
struct Unpacked {
    /// For each chunk the high bytes of 16 quads, then the low ones.
    lines: [[[u8; TILE * LINE]; 2]; DEPTH * CHUNKS],
    /// What the sums of a super are multiplied with, for each column.
    factors: [[f32; PANEL]; DEPTH],
    /// For each group and column, twice the minimum as bf16.
    mins: [[u32; TILE * PANEL]; DEPTH],
    /// What the minima of a super are multiplied with, with its sign, for each column.
    min_factors: [[f32; PANEL]; DEPTH],
    /// High and low sums of two blocks of rows, of two supers in turn.
    sums: [[[i32; NUMBERS]; 4]; 2],
    /// The sums of the minima of both blocks, likewise.
    min_sums: [[[f32; NUMBERS]; 2]; 2],
}

/// Multiplies all rows with some panels.
///
/// # Safety
/// The processor has AMX and this process may use it; the columns of `panels` in `out` are the caller's to write. `x` has
/// blocks of 16 rows, and runs of 256.
pub unsafe fn multiply<F: Format>(x: &Int8Rows, weight: &PackedWeight, panels: Range<usize>, out: OutRows) {
    let mut unpacked = std::mem::MaybeUninit::<Unpacked>::uninit();
    let unpacked = unpacked.as_mut_ptr();
    // SAFETY: the caller's promise; a part is in its panel and fits, and the rows are the block's.
    unsafe {
        for_each_part(x, weight, panels, out, F::LAYOUT, [DEPTH, CHUNK], |part| {
            unpack::<F>(part.source, part.supers.len(), unpacked);
            multiply_rows::<F>(x, part, unpacked);
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
    let quads = layout.group() / 4;
    let groups = SUPER / layout.group();
    let low_byte = _mm512_set1_epi16(0xff);
    // SAFETY: the caller's promise.
    unsafe {
        for index in 0..supers {
            let bytes = source.add(index * layout.super_bytes());
            let factors = [0, 32].map(|at| bytes.add(layout.factors_at() + at));
            let lines = (&raw mut (*to).lines).cast::<u8>().add(index * CHUNKS * 2 * TILE * LINE);
            let mins = (&raw mut (*to).mins[index]).cast::<u32>();
            let to_factors = (&raw mut (*to).factors[index]).cast::<f32>();
            _mm512_store_ps(to_factors, Avx512::halves(factors[0]));
            if layout.has_min() {
                let to = (&raw mut (*to).min_factors[index]).cast::<f32>();
                _mm512_store_ps(to, Avx512::neg(Avx512::halves(factors[1])));
            }
            for group in groups..TILE {
                // A tile of minima has 16 groups, those that are not there are zeros.
                _mm512_store_si512(mins.add(group * PANEL).cast(), _mm512_setzero_si512());
            }
            for block in 0..SUPER / BLOCK {
                let source = bytes.add(block * layout.block_bytes());
                let lines = lines.add(block / 2 * 2 * TILE * LINE + block % 2 * 8 * LINE);
                let (mut scale, mut addend) = (_mm512_setzero_si512(), _mm512_setzero_si512());
                // A constant number of steps, so that the compiler knows each quad's place.
                for quad in 0..8 {
                    if quad % quads == 0 {
                        let group = block * (8 / quads) + quad / quads;
                        let (number, min) = int_scale_and_min::<Avx512>(layout, bytes, group);
                        if layout.has_min() {
                            // Integers of 6 bits, which are the same in the upper half of their bits: bf16.
                            let bits = _mm512_castps_si512(min);
                            let pair = _mm512_or_si512(bits, _mm512_srli_epi32::<16>(bits));
                            _mm512_store_si512(mins.add(group * PANEL).cast(), pair);
                        }
                        scale = _mm512_mask_blend_epi16(0xaaaa_aaaa, number, _mm512_slli_epi32::<16>(number));
                        let bias = _mm512_mullo_epi16(scale, _mm512_set1_epi16(layout.bias() as i16));
                        addend = _mm512_sub_epi16(_mm512_set1_epi16(128), bias);
                    }
                    // Scale times weight, without the bias and with 128 so that the high byte is rounded, is below 2^14.
                    let line = quad_of::<Avx512>(layout, source, quad);
                    let even = _mm512_and_si512(line, low_byte);
                    let odd = _mm512_srli_epi16::<8>(line);
                    let even = _mm512_add_epi16(_mm512_mullo_epi16(even, scale), addend);
                    let odd = _mm512_add_epi16(_mm512_mullo_epi16(odd, scale), addend);
                    // The first where the mask has bits, else the second.
                    let high = _mm512_ternarylogic_epi32::<0xca>(low_byte, _mm512_srli_epi16::<8>(even), odd);
                    let low = _mm512_ternarylogic_epi32::<0xca>(low_byte, even, _mm512_slli_epi16::<8>(odd));
                    let low = _mm512_xor_si512(low, _mm512_set1_epi8(-128));
                    _mm512_store_si512(lines.add(quad * LINE).cast(), high);
                    _mm512_store_si512(lines.add((TILE + quad) * LINE).cast(), low);
                }
            }
        }
    }
}

/// Adds the products of blocks of rows with a part of a panel, which is unpacked, to the results.
///
/// # Safety
/// As for `multiply`; the tiles are configured; the blocks and supers are there.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,fma,f16c")]
unsafe fn multiply_rows<F: Format>(x: &Int8Rows, part: Part<'_>, unpacked: *mut Unpacked) {
    let Part { supers, blocks, results, next, .. } = part;
    let mut next = next.in_steps(blocks.len().div_ceil(2) * supers.len());
    let (mut turn, mut pending) = (0, None::<Super>);
    for (pair, results) in blocks.clone().step_by(2).zip(results.chunks_mut(2)) {
        let second = (pair + 1).min(blocks.end - 1);
        let rows = [x.row_block(pair), x.row_block(second)];
        let y = [&raw mut results[0], &raw mut results[results.len() - 1]].map(<*mut Results>::cast::<f32>);
        for index in 0..supers.len() {
            // SAFETY: the caller's promise; the tiles' numbers have room of their own until the next super but one.
            unsafe {
                let this =
                    Super::new::<F>(rows, supers.start + index, index, unpacked, turn % 2, y, results.len() == 2);
                one_super::<F>(&this, pending.as_ref());
                pending = Some(this);
            }
            next.ask();
            turn += 1;
        }
    }
    if let Some(last) = pending {
        for part in 0..CHUNKS {
            // SAFETY: as above.
            unsafe { last.add_part::<F>(part) };
        }
    }
}

/// A super of two blocks of rows: what goes into the tiles, and where what comes out of them goes.
struct Super {
    /// Quantized values.
    values: [*const i8; 2],
    /// Sums of the values, for the minima.
    split_sums: [*const i8; 2],
    /// The rows' scales.
    scales: [*const f32; 2],
    lines: *const u8,
    mins: *const u8,
    factors: *const f32,
    min_factors: *const f32,
    sums: *mut i32,
    min_sums: *mut f32,
    /// Results of both blocks.
    y: [*mut f32; 2],
    /// Whether there is a second block, or only the first twice.
    pair: bool,
}

impl Super {
    /// Super `number` of the rows, which is `index` among the unpacked.
    ///
    /// # Safety
    /// As for `one_super`.
    #[inline(always)]
    unsafe fn new<F: Format>(
        rows: [RowBlock; 2],
        number: usize,
        index: usize,
        unpacked: *mut Unpacked,
        turn: usize,
        y: [*mut f32; 2],
        pair: bool,
    ) -> Self {
        let groups = SUPER / F::LAYOUT.group();
        let [first, second] = rows;
        // SAFETY: the caller's promise.
        unsafe {
            Self {
                values: [first.values, second.values].map(|values| values.add(number * SUPER * TILE)),
                split_sums: [first, second].map(|rows| {
                    let sums = if groups == SUPER / BLOCK { rows.split_sums } else { rows.split_half_sums };
                    sums.add(number * TILE * groups).cast()
                }),
                scales: [first.scales, second.scales].map(|scales| scales.add(number * TILE)),
                lines: (&raw const (*unpacked).lines[index * CHUNKS]).cast(),
                mins: (&raw const (*unpacked).mins[index]).cast(),
                factors: (&raw const (*unpacked).factors[index]).cast(),
                min_factors: (&raw const (*unpacked).min_factors[index]).cast(),
                sums: (&raw mut (*unpacked).sums[turn]).cast(),
                min_sums: (&raw mut (*unpacked).min_sums[turn]).cast(),
                y,
                pair,
            }
        }
    }
}

/// Computes a super's sums in the tiles, and scales those of the one before meanwhile.
///
/// # Safety
/// As for `multiply`; the tiles are configured; all that `this` and `before` point to is there.
#[inline(always)]
unsafe fn one_super<F: Format>(this: &Super, before: Option<&Super>) {
    // SAFETY: the caller's promise.
    unsafe {
        if F::LAYOUT.has_min() {
            // Of 8 groups, 32 bytes a row: what follows them is multiplied with zeros.
            let groups = SUPER / F::LAYOUT.group();
            this.sum_minima(4 * groups);
        }
        asm!("tilezero tmm0", "tilezero tmm1", "tilezero tmm2", "tilezero tmm3", options(nostack, nomem));
        this.load_chunk(0);
        for chunk in 0..CHUNKS {
            this.multiply_chunk(chunk);
            if let Some(before) = before {
                before.add_part::<F>(chunk);
            }
        }
        asm!(
            "tilestored [{to} + {line}], tmm0",
            "tilestored [{to} + {line} + 1024], tmm1",
            to = in(reg) this.sums,
            line = in(reg) LINE,
            options(nostack)
        );
        if this.pair {
            asm!(
                "tilestored [{to} + {line} + 2048], tmm2",
                "tilestored [{to} + {line} + 3072], tmm3",
                to = in(reg) this.sums,
                line = in(reg) LINE,
                options(nostack)
            );
        }
    }
}

impl Super {
    /// Sums minima times sums of activations, which are `stride` bytes a row.
    ///
    /// # Safety
    /// As for `one_super`.
    #[inline(always)]
    unsafe fn sum_minima(&self, stride: usize) {
        // SAFETY: the caller's promise.
        unsafe {
            asm!(
                "tilezero tmm0",
                "tilezero tmm2",
                "tileloadd tmm4, [{a} + {stride}]",
                "tileloadd tmm6, [{b} + {line}]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tileloadd tmm5, [{c} + {stride}]",
                "tdpbf16ps tmm2, tmm5, tmm6",
                "tilestored [{to} + {line}], tmm0",
                "tilestored [{to} + {line} + 1024], tmm2",
                a = in(reg) self.split_sums[0],
                b = in(reg) self.mins,
                c = in(reg) self.split_sums[1],
                to = in(reg) self.min_sums,
                stride = in(reg) stride,
                line = in(reg) LINE,
                options(nostack)
            );
        }
    }

    /// Loads what the first products of a chunk need.
    ///
    /// # Safety
    /// As for `one_super`.
    #[inline(always)]
    unsafe fn load_chunk(&self, chunk: usize) {
        // SAFETY: the caller's promise.
        unsafe {
            asm!(
                "tileloaddt1 tmm4, [{a} + {line}]",
                "tileloadd tmm6, [{b} + {line}]",
                "tileloaddt1 tmm5, [{c} + {line}]",
                "tileloadd tmm7, [{b} + {line} + 1024]",
                a = in(reg) self.values[0].add(chunk * CHUNK * TILE),
                b = in(reg) self.lines.add(chunk * 2 * TILE * LINE),
                c = in(reg) self.values[1].add(chunk * CHUNK * TILE),
                line = in(reg) LINE,
                options(nostack, readonly)
            );
        }
    }

    /// Adds the products of a chunk, which is loaded, and loads the one after it.
    ///
    /// # Safety
    /// As for `one_super`.
    #[inline(always)]
    unsafe fn multiply_chunk(&self, chunk: usize) {
        // SAFETY: the caller's promise.
        unsafe {
            let next = chunk + 1;
            if next < CHUNKS {
                asm!(
                    "tdpbssd tmm0, tmm4, tmm6",
                    "tdpbssd tmm2, tmm5, tmm6",
                    "tileloadd tmm6, [{b} + {line}]",
                    "tdpbssd tmm1, tmm4, tmm7",
                    "tileloaddt1 tmm4, [{a} + {line}]",
                    "tdpbssd tmm3, tmm5, tmm7",
                    "tileloadd tmm7, [{b} + {line} + 1024]",
                    "tileloaddt1 tmm5, [{c} + {line}]",
                    a = in(reg) self.values[0].add(next * CHUNK * TILE),
                    b = in(reg) self.lines.add(next * 2 * TILE * LINE),
                    c = in(reg) self.values[1].add(next * CHUNK * TILE),
                    line = in(reg) LINE,
                    options(nostack, readonly)
                );
            } else {
                asm!(
                    "tdpbssd tmm0, tmm4, tmm6",
                    "tdpbssd tmm2, tmm5, tmm6",
                    "tdpbssd tmm1, tmm4, tmm7",
                    "tdpbssd tmm3, tmm5, tmm7",
                    options(nostack, nomem)
                );
            }
        }
    }

    /// Scales a part of what came out of the tiles, and adds it to the results.
    ///
    /// # Safety
    /// As for `one_super`.
    #[inline(always)]
    unsafe fn add_part<F: Format>(&self, part: usize) {
        const PART: usize = 2 * TILE / CHUNKS;
        let block = part * PART / TILE;
        if block == 1 && !self.pair {
            return;
        }
        // SAFETY: the caller's promise.
        unsafe {
            let (factor, min_factor) = (_mm512_load_ps(self.factors), _mm512_load_ps(self.min_factors));
            let sums = self.sums.add(block * 2 * NUMBERS);
            for row in part * PART % TILE..part * PART % TILE + PART {
                let high = _mm512_load_si512(sums.add(row * PANEL).cast());
                let low = _mm512_load_si512(sums.add(NUMBERS + row * PANEL).cast());
                let sum = _mm512_add_epi32(_mm512_slli_epi32::<8>(high), low);
                let mut total = _mm512_mul_ps(_mm512_cvtepi32_ps(sum), factor);
                if F::LAYOUT.has_min() {
                    let min_sum = _mm512_load_ps(self.min_sums.add(block * NUMBERS + row * PANEL));
                    total = _mm512_fmadd_ps(min_factor, min_sum, total);
                }
                let d = _mm512_set1_ps(*self.scales[block].add(row));
                let y = self.y[block].add(row * PANEL);
                _mm512_store_ps(y, _mm512_fmadd_ps(total, d, _mm512_load_ps(y)));
            }
        }
    }
}
