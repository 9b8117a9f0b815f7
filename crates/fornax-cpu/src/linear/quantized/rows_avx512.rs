//! Quantizing a row of activations with AVX-512, two blocks at a time: the numbers of `rows`, sooner. With one
//! row to a step, a model's thread waits for this before every weight.

use std::arch::x86_64::*;

use super::layout::{BLOCK, SUPER};
use super::rows::{CHUNK, HUGE, RowBlock, TINY, quantize_from};

/// Quantizes a row to `place` of a block of rows, in runs of 32; `false` when it has a value that cannot be.
///
/// # Safety
/// The processor has AVX-512, and the row is the caller's and has room for `x`.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,fma")]
pub unsafe fn quantize_blocks(block: RowBlock, place: usize, x: &[f32]) -> bool {
    let magnitude = _mm512_set1_epi32(0x7fff_ffff);
    let first_of_halves = _mm512_setr_epi32(0, 8, 0, 8, 0, 8, 0, 8, 0, 8, 0, 8, 0, 8, 0, 8);
    let mut largest = _mm512_setzero_si512();
    let (chunks, rest) = x.as_chunks::<CHUNK>();
    for (index, x) in chunks.iter().enumerate() {
        // SAFETY: `x` has four vectors.
        let x = [0, 16, 32, 48].map(|at| unsafe { _mm512_loadu_ps(x.as_ptr().add(at)) });
        // As integers, magnitudes are ordered as they are as floats, infinity and NaN above all.
        let sizes = x.map(|x| _mm512_and_si512(_mm512_castps_si512(x), magnitude));
        let blocks = [_mm512_max_epu32(sizes[0], sizes[1]), _mm512_max_epu32(sizes[2], sizes[3])];
        // The largest of the first block goes to all of the lower half, that of the second to all of the upper.
        let low = _mm512_shuffle_i32x4::<0b01_00_01_00>(blocks[0], blocks[1]);
        let high = _mm512_shuffle_i32x4::<0b11_10_11_10>(blocks[0], blocks[1]);
        let size = _mm512_max_epu32(low, high);
        let size = _mm512_max_epu32(size, _mm512_shuffle_i32x4::<0b10_11_00_01>(size, size));
        let size = _mm512_max_epu32(size, _mm512_shuffle_epi32::<0b01_00_11_10>(size));
        let size = _mm512_max_epu32(size, _mm512_shuffle_epi32::<0b10_11_00_01>(size));
        largest = _mm512_max_epu32(largest, size);
        // Both blocks' in turn.
        let size = _mm512_castsi512_si128(_mm512_permutexvar_epi32(first_of_halves, size));
        let normal = _mm_cmpge_epu32_mask(size, _mm_set1_epi32(TINY as i32));
        let size = _mm_castsi128_ps(size);
        let scales = _mm_maskz_div_ps(normal, size, _mm_set1_ps(127.0));
        let inverses = _mm_maskz_div_ps(normal, _mm_set1_ps(127.0), size);
        let inverses = [_mm512_broadcastss_ps(inverses), _mm512_broadcastss_ps(_mm_movehdup_ps(inverses))];
        // SAFETY: the row has this chunk.
        unsafe {
            put2(block, place, index, block.scales.cast(), _mm_castps_si128(scales));
            put_chunk(block, place, index, x, inverses, scales);
        }
    }
    let fits = _mm512_cmpge_epu32_mask(largest, _mm512_set1_epi32(HUGE as i32)) == 0;
    // SAFETY: the caller's promise.
    fits && unsafe { quantize_from::<BLOCK>(block, place, 2 * chunks.len(), rest) }
}

/// Quantizes a row to `place` of a block of rows, in runs of 256; `false` when it has a value that cannot be.
///
/// # Safety
/// As for `quantize_blocks`; the row has whole runs.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,fma")]
pub unsafe fn quantize_supers(block: RowBlock, place: usize, x: &[f32]) -> bool {
    let magnitude = _mm512_set1_epi32(0x7fff_ffff);
    let mut largest = 0;
    for (index, x) in x.as_chunks::<SUPER>().0.iter().enumerate() {
        let mut sizes = [_mm512_setzero_si512(); 4];
        for at in (0..SUPER).step_by(64) {
            for (part, size) in sizes.iter_mut().enumerate() {
                // SAFETY: `x` has these values.
                let x = unsafe { _mm512_loadu_si512(x.as_ptr().add(at + 16 * part).cast()) };
                *size = _mm512_max_epu32(*size, _mm512_and_si512(x, magnitude));
            }
        }
        let size = _mm512_max_epu32(_mm512_max_epu32(sizes[0], sizes[1]), _mm512_max_epu32(sizes[2], sizes[3]));
        let size = _mm512_reduce_max_epu32(size);
        largest = largest.max(size);
        let (scale, inverse) =
            if size < TINY { (0.0, 0.0) } else { (f32::from_bits(size) / 127.0, 127.0 / f32::from_bits(size)) };
        // SAFETY: the row has this run, of four chunks.
        unsafe {
            block.scales.add(index * block.rows + place).cast_mut().write(scale);
            for chunk in 0..SUPER / CHUNK {
                let x = [0, 16, 32, 48].map(|at| _mm512_loadu_ps(x.as_ptr().add(CHUNK * chunk + at)));
                let inverses = [_mm512_set1_ps(inverse); 2];
                put_chunk(block, place, SUPER / CHUNK * index + chunk, x, inverses, _mm_set1_ps(1.0));
            }
        }
    }
    largest < HUGE
}

/// Rounds and writes a chunk, with its sums and the two blocks' factors (in turn) times them.
///
/// # Safety
/// The row is the caller's and has this chunk.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,fma")]
unsafe fn put_chunk(
    block: RowBlock,
    place: usize,
    index: usize,
    x: [__m512; 4],
    inverses: [__m512; 2],
    factors: __m128,
) {
    // Adding 1.5 · 2^23 rounds to an integer, which is then in the lowest bits.
    let magic = _mm512_set1_ps(12_582_912.0);
    let mut rounded = [_mm512_setzero_si512(); 4];
    for (part, rounded) in rounded.iter_mut().enumerate() {
        let scaled = _mm512_mul_ps(x[part], inverses[part / 2]);
        *rounded = _mm512_castps_si512(_mm512_add_ps(scaled, magic));
        // SAFETY: the row has this chunk.
        unsafe {
            let at = index * CHUNK * block.rows + CHUNK * place + 16 * part;
            _mm_storeu_si128(block.values.add(at).cast_mut().cast(), _mm512_cvtepi32_epi8(*rounded));
        }
    }
    // The sums of the four halves; the bits of 1.5 · 2^23, 16 times, wrap around to zero below what is kept of them.
    let pair = |a, b| _mm512_add_epi32(_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
    let (first, second) = (pair(rounded[0], rounded[1]), pair(rounded[2], rounded[3]));
    let sums = _mm512_add_epi32(_mm512_unpacklo_epi64(first, second), _mm512_unpackhi_epi64(first, second));
    let sums = _mm256_add_epi32(_mm512_castsi512_si256(sums), _mm512_extracti64x4_epi64::<1>(sums));
    let sums = _mm_add_epi32(_mm256_castsi256_si128(sums), _mm256_extracti128_si256::<1>(sums));
    let halves = _mm_sub_epi32(sums, _mm_set1_epi32(0x4b40_0000i32.wrapping_mul(16)));
    let wholes = _mm_hadd_epi32(halves, halves);
    let zero = _mm_setzero_si128();
    let scaled_wholes = _mm_mul_ps(factors, _mm_cvtepi32_ps(wholes));
    let scaled_halves = _mm_mul_ps(_mm_unpacklo_ps(factors, factors), _mm_cvtepi32_ps(halves));
    // SAFETY: the row has these blocks.
    unsafe {
        put2(block, place, index, block.sums, _mm_sub_epi32(zero, wholes));
        put2(block, place, index, block.scaled_sums.cast(), _mm_castps_si128(scaled_wholes));
        put4(block, place, index, block.half_sums, _mm_sub_epi32(zero, halves));
        put4(block, place, index, block.scaled_half_sums.cast(), _mm_castps_si128(scaled_halves));
    }
}

/// Writes the numbers of a chunk's two blocks.
///
/// # Safety
/// They exist and are the caller's.
#[target_feature(enable = "avx512f,avx512vl")]
unsafe fn put2(block: RowBlock, place: usize, index: usize, array: *const i32, numbers: __m128i) {
    // SAFETY: the caller's promise.
    unsafe {
        let to = array.cast_mut().add(2 * index * block.rows + place);
        to.write(_mm_extract_epi32::<0>(numbers));
        to.add(block.rows).write(_mm_extract_epi32::<1>(numbers));
    }
}

/// Writes the numbers of a chunk's four half blocks.
///
/// # Safety
/// They exist and are the caller's.
#[target_feature(enable = "avx512f,avx512vl")]
unsafe fn put4(block: RowBlock, place: usize, index: usize, array: *const i32, numbers: __m128i) {
    // SAFETY: the caller's promise.
    unsafe {
        let to = array.cast_mut().add(4 * index * block.rows + place);
        if block.rows == 1 {
            _mm_storeu_si128(to.cast(), numbers);
        } else {
            to.write(_mm_extract_epi32::<0>(numbers));
            to.add(block.rows).write(_mm_extract_epi32::<1>(numbers));
            to.add(2 * block.rows).write(_mm_extract_epi32::<2>(numbers));
            to.add(3 * block.rows).write(_mm_extract_epi32::<3>(numbers));
        }
    }
}
