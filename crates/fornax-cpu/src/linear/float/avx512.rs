//! The products with AVX-512: several panels at once, so that the memory has several streams to serve, each line of the
//! weight read once for up to 8 rows.

use std::arch::x86_64::*;

use super::rows::GROUP;
use super::{BLOCK, BLOCK_BYTES, Job};

/// Panels that are read side by side.
const STREAMS: usize = 4;

/// How far ahead of the arithmetic memory is asked for, in blocks of 1 KiB.
const AHEAD: usize = 4;

/// # Safety
/// The processor has AVX-512 F, BW, DQ and VL, denormals are taken as zeros, and the job's columns are the caller's.
#[inline(never)]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
pub unsafe fn multiply<const F16: bool>(job: &Job) {
    let count = job.panels.len();
    for first in (0..count).step_by(STREAMS) {
        let streams = STREAMS.min(count - first);
        for group in 0..job.x.groups() {
            // SAFETY: the caller's promise.
            unsafe {
                match job.x.group(group).1 {
                    1 if streams < STREAMS => several::<F16, 1, 1>(job, first, streams, group),
                    1 if F16 => several::<F16, 1, 2>(job, first, streams, group),
                    1 => several::<F16, 1, 4>(job, first, streams, group),
                    2 if streams < STREAMS => several::<F16, 2, 1>(job, first, streams, group),
                    2 => several::<F16, 2, 2>(job, first, streams, group),
                    3 => several::<F16, 3, 1>(job, first, streams, group),
                    4 => several::<F16, 4, 1>(job, first, streams, group),
                    5 => several::<F16, 5, 1>(job, first, streams, group),
                    6 => several::<F16, 6, 1>(job, first, streams, group),
                    7 => several::<F16, 7, 1>(job, first, streams, group),
                    _ => several::<F16, 8, 1>(job, first, streams, group),
                }
            }
        }
    }
}

/// `ROWS` rows times `streams` panels, of which `TOGETHER` (a divisor of it) are in registers at once.
///
/// # Safety
/// As for [`multiply`]; the group has `ROWS` rows.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
unsafe fn several<const F16: bool, const ROWS: usize, const TOGETHER: usize>(
    job: &Job,
    first: usize,
    streams: usize,
    group: usize,
) {
    let (x, _) = job.x.group(group);
    let weight = job.weight[first * job.panel_bytes()..(first + streams) * job.panel_bytes()].as_ptr();
    let mut sums = [[_mm512_setzero_ps(); ROWS]; STREAMS];
    for block in 0..job.blocks {
        let x = x[block * BLOCK * ROWS..(block + 1) * BLOCK * ROWS].as_ptr();
        // Towards the end of these panels, memory is asked for the next ones.
        let skip = if block + AHEAD < job.blocks { 0 } else { (STREAMS - 1) * job.panel_bytes() };
        let ahead = AHEAD * BLOCK_BYTES + skip;
        for stream in (0..streams).step_by(TOGETHER) {
            // SAFETY: block `block` of panels `first + stream` and on is inside of the weight, and `x` has `BLOCK`
            // columns of `ROWS` rows.
            unsafe {
                let weight = weight.add(stream * job.panel_bytes() + block * BLOCK_BYTES);
                let sums = sums[stream..stream + TOGETHER].as_mut_ptr();
                let (sums, stride) = (&mut *sums.cast(), job.panel_bytes());
                if !F16 {
                    step::<BF16, ROWS, TOGETHER>(x, weight, stride, ahead, sums);
                } else if ROWS * TOGETHER <= 4 {
                    step::<BOTH, ROWS, TOGETHER>(x, weight, stride, ahead, sums);
                } else {
                    // All chains at once would be more than there are registers.
                    step::<UPPER, ROWS, TOGETHER>(x, weight, stride, ahead, sums);
                    step::<REST, ROWS, TOGETHER>(x, weight, stride, ahead, sums);
                }
            }
        }
    }
    for (stream, sums) in sums.iter().take(streams).enumerate() {
        let panel = job.panels.start + first + stream;
        for (row, &sum) in sums.iter().enumerate() {
            let row = group * GROUP + row;
            // SAFETY: the columns are the caller's, and the row is one of `x`.
            unsafe {
                match job.out.whole(row, panel) {
                    Some(out) => _mm512_storeu_ps(out, sum),
                    None => job.out.write(row, panel, &std::mem::transmute::<__m512, [f32; 16]>(sum)),
                }
            }
        }
    }
}

/// Which numbers of a line a step multiplies.
type Part = u8;
const BF16: Part = 0;
/// The upper part of f16 weights.
const UPPER: Part = 1;
/// Their rest.
const REST: Part = 2;
/// One after the other.
const BOTH: Part = 3;

/// Adds the products of 32 columns to the sums of `ROWS` rows for `TOGETHER` panels.
///
/// # Safety
/// `x` has `BLOCK` columns of `ROWS` rows, `weight` a block, and another every `stride` bytes.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
unsafe fn step<const PART: Part, const ROWS: usize, const TOGETHER: usize>(
    x: *const f32,
    weight: *const u8,
    stride: usize,
    ahead: usize,
    sums: &mut [[__m512; ROWS]; TOGETHER],
) {
    // Chains over even and over odd columns; for both parts of f16 two of each.
    let mut chains = [[[_mm512_setzero_ps(); 4]; ROWS]; TOGETHER];
    let used = if PART == BOTH { 4 } else { 2 };
    for pair in 0..BLOCK / 2 {
        for (panel, chains) in chains.iter_mut().enumerate() {
            // SAFETY: the caller's promise; a prefetch may have any address.
            let weights = unsafe {
                let line = weight.add(panel * stride + pair * 64);
                if PART != REST {
                    _mm_prefetch::<_MM_HINT_T0>(line.wrapping_add(ahead).cast());
                }
                split::<PART>(line)
            };
            for (row, chains) in chains.iter_mut().enumerate() {
                for (chain, (sum, weights)) in chains.iter_mut().zip(weights).enumerate().take(used) {
                    // SAFETY: the caller's promise.
                    let x = unsafe { *x.add((2 * pair + chain % 2) * ROWS + row) };
                    *sum = _mm512_fmadd_ps(_mm512_set1_ps(x), weights, *sum);
                }
            }
        }
    }
    for (sum, chains) in sums.as_flattened_mut().iter_mut().zip(chains.as_flattened()) {
        *sum = _mm512_add_ps(*sum, _mm512_add_ps(chains[0], chains[1]));
        if PART == BOTH {
            *sum = _mm512_add_ps(*sum, _mm512_add_ps(chains[2], chains[3]));
        }
    }
}

/// The weights of a line: of the even column and of the odd one, for [`BOTH`] the upper parts, then the rests.
///
/// # Safety
/// A line is there.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
unsafe fn split<const PART: Part>(line: *const u8) -> [__m512; 4] {
    let high = _mm512_set1_epi32(0xffff_0000u32 as i32);
    let mut parts = [_mm512_setzero_ps(); 4];
    if PART == BF16 {
        // SAFETY: the caller's promise.
        let both = unsafe { _mm512_loadu_si512(line.cast()) };
        parts[0] = _mm512_castsi512_ps(_mm512_slli_epi32::<16>(both));
        parts[1] = _mm512_castsi512_ps(_mm512_and_si512(both, high));
        return parts;
    }
    for half in 0..2 {
        // SAFETY: the caller's promise.
        let whole = _mm512_cvtph_ps(unsafe { _mm256_loadu_si256(line.add(32 * half).cast()) });
        let upper = _mm512_castsi512_ps(_mm512_and_si512(_mm512_castps_si512(whole), high));
        let rest = _mm512_sub_ps(whole, upper);
        // Infinities and NaNs have no rest: NaNs, quiet and signaling, the first two classes, are answered with zero.
        let rest = _mm512_fixupimm_ps::<0>(rest, rest, _mm512_set1_epi32(0x88));
        parts[half] = if PART == REST { rest } else { upper };
        parts[2 + half] = rest;
    }
    parts
}

/// Writes the two parts of `blocks` blocks of f16 weights as bf16 in the order of tiles: the upper parts of a block, then
/// its rests.
///
/// # Safety
/// The processor has AVX-512 F, BW, DQ and VL; the blocks are there, and room for twice as much.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
pub unsafe fn split_blocks(weight: *const u8, blocks: usize, out: *mut u8) {
    for block in 0..blocks {
        for pair in 0..BLOCK / 2 {
            // SAFETY: the caller's promise.
            unsafe {
                let parts = split::<BOTH>(weight.add(block * BLOCK_BYTES + pair * 64));
                let out = out.add(2 * block * BLOCK_BYTES + pair * 64);
                _mm512_storeu_si512(out.cast(), upper_halves(parts[0], parts[1]));
                _mm512_storeu_si512(out.add(BLOCK_BYTES).cast(), upper_halves(parts[2], parts[3]));
            }
        }
    }
}

/// The upper 16 bits of two times 16 numbers, in turn.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn upper_halves(even: __m512, odd: __m512) -> __m512i {
    let (even, odd) = (_mm512_castps_si512(even), _mm512_castps_si512(odd));
    _mm512_mask_blend_epi16(0xaaaa_aaaa, _mm512_srli_epi32::<16>(even), odd)
}
