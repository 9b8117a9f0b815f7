//! From `f32` into GGUF's blocks, of Q8_0 and Q4_0 as ggml's reference does.

use half::f16;

use super::layout::BLOCK;
use super::quantize_k::{q4_k, q6_k};
use crate::packed::WeightType;

/// Appends a row's blocks to `out`.
pub fn quantize_row(weight_type: WeightType, row: &[f32], out: &mut Vec<u8>) {
    match weight_type {
        WeightType::Q8_0 => row.as_chunks().0.iter().for_each(|block| q8_0(block, out)),
        WeightType::Q4_0 => row.as_chunks().0.iter().for_each(|block| q4_0(block, out)),
        WeightType::Q4_K => row.as_chunks().0.iter().for_each(|block| q4_k(block, out)),
        WeightType::Q6_K => row.as_chunks().0.iter().for_each(|block| q6_k(block, out)),
        _ => unreachable!("{weight_type} is refused earlier"),
    }
}

/// The scale takes the largest magnitude to 127; weights are rounded half away from zero.
fn q8_0(block: &[f32; BLOCK], out: &mut Vec<u8>) {
    let largest = block.iter().fold(0f32, |max, value| max.max(value.abs()));
    let scale = largest / 127.0;
    let inverse = if scale == 0.0 { 0.0 } else { 1.0 / scale };
    out.extend(f16::from_f32(scale).to_le_bytes());
    out.extend(block.iter().map(|value| (value * inverse).round() as i8 as u8));
}

/// The scale takes the value of the largest magnitude to -8.
fn q4_0(block: &[f32; BLOCK], out: &mut Vec<u8>) {
    let largest = block.iter().fold(0f32, |max, &value| if value.abs() > max.abs() { value } else { max });
    let scale = largest / -8.0;
    let inverse = if scale == 0.0 { 0.0 } else { 1.0 / scale };
    out.extend(f16::from_f32(scale).to_le_bytes());
    let quantize = |value: f32| (value * inverse + 8.5).clamp(0.0, 15.0) as u8;
    let (low, high) = block.split_at(BLOCK / 2);
    out.extend(low.iter().zip(high).map(|(&low, &high)| quantize(low) | quantize(high) << 4));
}
