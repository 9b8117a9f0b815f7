//! The form of a panel of 16-bit floats, and its packing. A panel is a sequence of 64-byte lines, line `i` having input
//! columns `2i` and `2i + 1` for 16 output columns, filled up with zeros to a multiple of 32 input columns.
//!
//! A line of bf16 has the two weights of an output column side by side, as the tiles of AMX want them. A line of f16 has
//! the 16 weights of the first input column, then those of the second, each half being what one conversion takes.

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

use super::rows::round_to_bf16;
use super::{BLOCK, BLOCK_BYTES};
use crate::packed::{PANEL, WeightType};

/// Bytes of a panel.
pub(crate) fn panel_bytes(in_features: usize) -> usize {
    in_features.div_ceil(BLOCK) * BLOCK_BYTES
}

/// Packs up to 16 rows, little-endian, into a zeroed panel.
pub(crate) fn pack_panel(weight_type: WeightType, in_features: usize, rows: &[u8], panel: &mut [u8]) {
    if in_features == 0 {
        return;
    }
    for (block, lines) in panel.chunks_exact_mut(BLOCK_BYTES).enumerate() {
        let columns = block * BLOCK..((block + 1) * BLOCK).min(in_features);
        // First a copy in which rows are a line apart: rows of a power of two bytes would fight for one place in the
        // cache.
        let mut square = [[0u8; 2 * BLOCK]; PANEL];
        for (row, copy) in rows.chunks_exact(2 * in_features).zip(&mut square) {
            let row = &row[2 * columns.start..2 * columns.end];
            match <&[u8; 2 * BLOCK]>::try_from(row) {
                Ok(row) => *copy = *row,
                Err(_) => copy[..row.len()].copy_from_slice(row),
            }
        }
        let lines: &mut [u8; BLOCK_BYTES] = lines.try_into().expect("chunks of this size");
        if weight_type == WeightType::F16 { pack_f16(&square, lines) } else { pack_bf16(&square, lines) }
    }
}

fn pack_bf16(square: &[[u8; 2 * BLOCK]; PANEL], lines: &mut [u8; BLOCK_BYTES]) {
    for (pair, line) in lines.chunks_exact_mut(64).enumerate() {
        for (weights, row) in line.chunks_exact_mut(4).zip(square) {
            weights.copy_from_slice(&row[4 * pair..4 * pair + 4]);
        }
    }
}

fn pack_f16(square: &[[u8; 2 * BLOCK]; PANEL], lines: &mut [u8; BLOCK_BYTES]) {
    for (column, half_line) in lines.chunks_exact_mut(32).enumerate() {
        for (weight, row) in half_line.chunks_exact_mut(2).zip(square) {
            weight.copy_from_slice(&row[2 * column..2 * column + 2]);
        }
    }
}

/// Appends a row, rounded to nearest, ties to even, little-endian.
pub(crate) fn round_row(weight_type: WeightType, row: &[f32], out: &mut Vec<u8>) {
    if weight_type == WeightType::F16 {
        let mut rounded = [f16::ZERO; 256];
        for values in row.chunks(rounded.len()) {
            let rounded = &mut rounded[..values.len()];
            rounded.convert_from_f32_slice(values);
            out.extend(rounded.iter().flat_map(|value| value.to_le_bytes()));
        }
    } else {
        out.extend(row.iter().flat_map(|&value| round_to_bf16(value).to_le_bytes()));
    }
}

/// Reads output column `column` of a panel, exactly.
pub(crate) fn read_row(weight_type: WeightType, in_features: usize, panel: &[u8], column: usize, out: &mut [f32]) {
    let read = |at: usize| [panel[2 * at], panel[2 * at + 1]];
    for (k, out) in out[..in_features].iter_mut().enumerate() {
        *out = if weight_type == WeightType::F16 {
            f16::from_le_bytes(read(k * PANEL + column)).to_f32()
        } else {
            bf16::from_le_bytes(read(k / 2 * 2 * PANEL + 2 * column + k % 2)).to_f32()
        };
    }
}
