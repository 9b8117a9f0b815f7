//! GGUF's block types to `f32`, exactly as the format defines them: the same operations in the same order, each rounded
//! once. It deliberately does not quantize, and holds no kernel that multiplies without expanding (those belong to the
//! backend).

use crate::{convert::f16_to_f32, dtype::Dtype};

/// Elements of a super-block.
const QK_K: usize = 256;

/// Expands `bytes` into `out`; both are whole numbers of blocks (checked by the caller).
pub(crate) fn blocks(dtype: Dtype, bytes: &[u8], out: &mut [f32]) {
    match dtype {
        Dtype::Q4_0 => each::<18, 32>(bytes, out, q4_0),
        Dtype::Q4_1 => each::<20, 32>(bytes, out, q4_1),
        Dtype::Q5_0 => each::<22, 32>(bytes, out, q5_0),
        Dtype::Q5_1 => each::<24, 32>(bytes, out, q5_1),
        Dtype::Q8_0 => each::<34, 32>(bytes, out, q8_0),
        Dtype::Q2_K => each::<84, QK_K>(bytes, out, q2_k),
        Dtype::Q3_K => each::<110, QK_K>(bytes, out, q3_k),
        Dtype::Q4_K => each::<144, QK_K>(bytes, out, q4_k),
        Dtype::Q5_K => each::<176, QK_K>(bytes, out, q5_k),
        Dtype::Q6_K => each::<210, QK_K>(bytes, out, q6_k),
        _ => {}
    }
}

/// Applies `expand` to each block of `BYTES` bytes and `LEN` elements.
fn each<const BYTES: usize, const LEN: usize>(
    bytes: &[u8],
    out: &mut [f32],
    expand: impl Fn(&[u8; BYTES], &mut [f32; LEN]),
) {
    let (blocks, _) = bytes.as_chunks::<BYTES>();
    let (outs, _) = out.as_chunks_mut::<LEN>();
    for (block, out) in blocks.iter().zip(outs) {
        expand(block, out);
    }
}

/// The half at `at`.
fn f16_at(block: &[u8], at: usize) -> f32 {
    f16_to_f32(u16::from_le_bytes([block[at], block[at + 1]]))
}

/// `d` (f16), 16 bytes of nibbles: element `i` in the low nibble of byte `i`, `i + 16` in its high nibble.
fn q4_0(block: &[u8; 18], out: &mut [f32; 32]) {
    let d = f16_at(block, 0);
    for i in 0..16 {
        let byte = block[2 + i];
        out[i] = d * f32::from((byte & 15) as i8 - 8);
        out[i + 16] = d * f32::from((byte >> 4) as i8 - 8);
    }
}

/// `d`, `m` (f16), nibbles as in Q4_0, without the shift by eight.
fn q4_1(block: &[u8; 20], out: &mut [f32; 32]) {
    let (d, m) = (f16_at(block, 0), f16_at(block, 2));
    for i in 0..16 {
        let byte = block[4 + i];
        out[i] = d * f32::from(byte & 15) + m;
        out[i + 16] = d * f32::from(byte >> 4) + m;
    }
}

/// `d` (f16), 32 fifth bits, nibbles as in Q4_0.
fn q5_0(block: &[u8; 22], out: &mut [f32; 32]) {
    let d = f16_at(block, 0);
    let high = u32::from_le_bytes([block[2], block[3], block[4], block[5]]);
    for i in 0..16 {
        let byte = block[6 + i];
        let low = byte & 15 | ((high >> i & 1) as u8) << 4;
        let up = byte >> 4 | ((high >> (i + 16) & 1) as u8) << 4;
        out[i] = d * f32::from(low as i8 - 16);
        out[i + 16] = d * f32::from(up as i8 - 16);
    }
}

/// `d`, `m` (f16), 32 fifth bits, nibbles as in Q4_0.
fn q5_1(block: &[u8; 24], out: &mut [f32; 32]) {
    let (d, m) = (f16_at(block, 0), f16_at(block, 2));
    let high = u32::from_le_bytes([block[4], block[5], block[6], block[7]]);
    for i in 0..16 {
        let byte = block[8 + i];
        let low = byte & 15 | ((high >> i & 1) as u8) << 4;
        let up = byte >> 4 | ((high >> (i + 16) & 1) as u8) << 4;
        out[i] = d * f32::from(low) + m;
        out[i + 16] = d * f32::from(up) + m;
    }
}

/// `d` (f16), 32 signed bytes.
fn q8_0(block: &[u8; 34], out: &mut [f32; 32]) {
    let d = f16_at(block, 0);
    for i in 0..32 {
        out[i] = f32::from(block[2 + i] as i8) * d;
    }
}

/// 16 bytes of scales (low nibble) and minima (high nibble), 64 bytes of two bits an element, `d`, `dmin` (f16).
/// Each 32 bytes hold 128 elements, four groups of 32 in successive bit pairs.
fn q2_k(block: &[u8; 84], out: &mut [f32; QK_K]) {
    let (d, dmin) = (f16_at(block, 80), f16_at(block, 82));
    for (group, out) in out.as_chunks_mut::<16>().0.iter_mut().enumerate() {
        let scale = d * f32::from(block[group] & 15);
        let minimum = dmin * f32::from(block[group] >> 4);
        let (bytes, shift) = (16 + group / 8 * 32 + group % 2 * 16, group % 8 / 2 * 2);
        for i in 0..16 {
            out[i] = scale * f32::from(block[bytes + i] >> shift & 3) - minimum;
        }
    }
}

/// 32 bytes of third bits, 64 bytes of two bits an element (as in Q2_K), 12 bytes of sixteen six-bit scales, `d` (f16).
fn q3_k(block: &[u8; 110], out: &mut [f32; QK_K]) {
    let d = f16_at(block, 108);
    for (group, out) in out.as_chunks_mut::<16>().0.iter_mut().enumerate() {
        let low = block[96 + group % 8] >> (group / 8 * 4) & 15;
        let high = block[104 + group % 4] >> (group / 4 * 2) & 3;
        let scale = d * f32::from((low | high << 4) as i8 - 32);
        let (bytes, shift) = (32 + group / 8 * 32 + group % 2 * 16, group % 8 / 2 * 2);
        let (masks, bit) = (group % 2 * 16, group / 2);
        for i in 0..16 {
            // The third bit counts against the value when it is clear.
            let borrow = (block[masks + i] >> bit & 1 ^ 1) << 2;
            out[i] = scale * f32::from((block[bytes + i] >> shift & 3) as i8 - borrow as i8);
        }
    }
}

/// The scale and the minimum of sub-block `j` (of eight), six bits each, from the 12 bytes that Q4_K and Q5_K pack
/// them in: the first four of each whole, the last four split between the third four bytes and the spare upper bits.
fn scale_and_minimum(packed: &[u8], j: usize) -> (f32, f32) {
    let (scale, minimum) = if j < 4 {
        (packed[j] & 63, packed[j + 4] & 63)
    } else {
        (packed[j + 4] & 15 | packed[j - 4] >> 2 & 0x30, packed[j + 4] >> 4 | packed[j] >> 2 & 0x30)
    };
    (f32::from(scale), f32::from(minimum))
}

/// `d`, `dmin` (f16), 12 bytes of scales and minima, 128 bytes of nibbles: each 32 bytes hold two sub-blocks.
fn q4_k(block: &[u8; 144], out: &mut [f32; QK_K]) {
    let (d, dmin) = (f16_at(block, 0), f16_at(block, 2));
    for (j, out) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        let (scale, minimum) = scale_and_minimum(&block[4..16], j);
        let (scale, minimum) = (d * scale, dmin * minimum);
        let (nibbles, shift) = (&block[16 + j / 2 * 32..][..32], j % 2 * 4);
        for i in 0..32 {
            out[i] = scale * f32::from(nibbles[i] >> shift & 15) - minimum;
        }
    }
}

/// As Q4_K, with 32 bytes of fifth bits (bit `j` for sub-block `j`) before the nibbles.
fn q5_k(block: &[u8; 176], out: &mut [f32; QK_K]) {
    let (d, dmin) = (f16_at(block, 0), f16_at(block, 2));
    let high = &block[16..48];
    for (j, out) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        let (scale, minimum) = scale_and_minimum(&block[4..16], j);
        let (scale, minimum) = (d * scale, dmin * minimum);
        let (nibbles, shift) = (&block[48 + j / 2 * 32..][..32], j % 2 * 4);
        for i in 0..32 {
            let value = nibbles[i] >> shift & 15 | (high[i] >> j & 1) << 4;
            out[i] = scale * f32::from(value) - minimum;
        }
    }
}

/// 128 bytes of low nibbles, 64 bytes of high bit pairs, 16 signed scales, `d` (f16). Each half of the block has 64
/// bytes of nibbles and 32 of bit pairs, for four groups of 32 elements.
fn q6_k(block: &[u8; 210], out: &mut [f32; QK_K]) {
    let d = f16_at(block, 208);
    for (group, out) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        let (half, quarter) = (group / 4, group % 4);
        let low = &block[half * 64 + quarter % 2 * 32..][..32];
        let high = &block[128 + half * 32..][..32];
        let (low_shift, high_shift) = (quarter / 2 * 4, quarter * 2);
        for (part, out) in out.as_chunks_mut::<16>().0.iter_mut().enumerate() {
            let scale = d * f32::from(block[192 + group * 2 + part] as i8);
            let (low, high) = (&low[part * 16..][..16], &high[part * 16..][..16]);
            for i in 0..16 {
                let value = low[i] >> low_shift & 15 | (high[i] >> high_shift & 3) << 4;
                out[i] = scale * f32::from(value as i8 - 32);
            }
        }
    }
}
