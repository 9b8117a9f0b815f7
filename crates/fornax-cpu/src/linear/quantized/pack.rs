//! From a checkpoint's blocks into panels, and single rows back out of them. The layout is described in `layout`.

use half::f16;

use super::blocks::Numbers;
use super::layout::{BLOCK, LINE, Layout, Scales};
use crate::packed::{PANEL, WeightType};

/// Packs up to 16 rows of blocks into a zeroed panel.
pub fn pack_panel(weight_type: WeightType, in_features: usize, rows: &[u8], panel: &mut [u8]) {
    let layout = Layout::of(weight_type);
    let row_bytes = weight_type.row_bytes(in_features);
    if row_bytes == 0 {
        return;
    }
    let super_source = weight_type.row_bytes(layout.super_len());
    let mut numbers = Numbers::ZERO;
    let mut values = [[0; 256]; PANEL];
    for (index, out) in panel.chunks_exact_mut(layout.super_bytes()).enumerate() {
        let (blocks, scales) = out.split_at_mut(layout.scales_at());
        let from = index * super_source;
        let to = (from + super_source).min(row_bytes);
        for (column, row) in rows.chunks_exact(row_bytes).enumerate() {
            if to - from < super_source {
                numbers = Numbers::ZERO;
                // The missing block's weights are zeros whatever its scale, but for what is stored with a bias.
                numbers.values.fill(layout.bias() as u8);
            }
            numbers.read(weight_type, &row[from..to]);
            values[column] = numbers.values;
            put_scales(layout, &numbers, column, scales);
        }
        for (index, block) in blocks.chunks_exact_mut(layout.block_bytes()).enumerate() {
            put_block(layout, &values, index * BLOCK, block);
        }
    }
}

/// Reads output column `column` of a panel, as GGUF defines its numbers.
pub fn read_row(weight_type: WeightType, in_features: usize, panel: &[u8], column: usize, out: &mut [f32]) {
    let layout = Layout::of(weight_type);
    let supers = panel.chunks_exact(layout.super_bytes());
    for (bytes, out) in supers.zip(out[..in_features].chunks_mut(layout.super_len())) {
        let (blocks, scales) = bytes.split_at(layout.scales_at());
        for (group, out) in out.chunks_mut(layout.group()).enumerate() {
            let from = group * layout.group();
            let block = &blocks[from / BLOCK * layout.block_bytes()..][..layout.block_bytes()];
            let (scale, min) = scale_and_min(layout, scales, group, column);
            for (index, out) in out.iter_mut().enumerate() {
                let value = value(layout, block, from % BLOCK + index, column) as f32;
                *out = if layout.has_min() { scale * value + min } else { scale * value };
            }
        }
    }
}

/// Scale and minimum (with the sign with which it is added) of a group of a column.
fn scale_and_min(layout: Layout, scales: &[u8], group: usize, column: usize) -> (f32, f32) {
    let half = |at: usize| f16::from_le_bytes([scales[at + 2 * column], scales[at + 2 * column + 1]]).to_f32();
    let byte = scales[16 * group.min(15) + column];
    match layout.scales {
        Scales::Half => (half(32 * group), 0.0),
        Scales::HalfMin => (half(64 * group), half(64 * group + 32)),
        Scales::ByteMin => (half(256) * f32::from(byte), -(half(288) * f32::from(scales[128 + 16 * group + column]))),
        Scales::Byte => (half(256) * f32::from(byte as i8), 0.0),
        Scales::NibbleMin => (half(256) * f32::from(byte & 15), -(half(288) * f32::from(byte >> 4))),
    }
}

/// Weight `index` of a block's column.
fn value(layout: Layout, block: &[u8], index: usize, column: usize) -> i32 {
    let (quad, at) = (index / 4, 4 * column + index % 4);
    let line = |line: usize| i32::from(block[line * LINE + at]);
    let four = || line(quad % 4) >> (4 * (quad / 4)) & 15;
    let two = |first: usize| line(first + quad % 2) >> (2 * (quad / 2)) & 3;
    let one = |first: usize| line(first) >> quad & 1;
    let unsigned = match layout.bits {
        8 => return line(quad) as u8 as i8 as i32,
        6 => four() | two(4) << 4,
        5 => four() | one(4) << 4,
        4 => four(),
        3 => two(0) | one(2) << 2,
        _ => two(0),
    };
    unsigned - layout.bias()
}

fn put_scales(layout: Layout, numbers: &Numbers, column: usize, scales: &mut [u8]) {
    let mut half = |at: usize, value: u16| {
        scales[at + 2 * column..at + 2 * column + 2].copy_from_slice(&value.to_le_bytes());
    };
    let Numbers { scale, min, group_scale, group_min, .. } = numbers;
    match layout.scales {
        Scales::Half => {
            half(0, scale[0]);
            half(32, scale[1]);
        }
        Scales::HalfMin => {
            half(0, scale[0]);
            half(32, min[0]);
            half(64, scale[1]);
            half(96, min[1]);
        }
        Scales::ByteMin | Scales::Byte | Scales::NibbleMin => {
            half(256, scale[0]);
            half(288, min[0]);
        }
    }
    match layout.scales {
        Scales::Half | Scales::HalfMin => {}
        Scales::ByteMin => {
            for group in 0..8 {
                scales[16 * group + column] = group_scale[group];
                scales[128 + 16 * group + column] = group_min[group];
            }
        }
        Scales::Byte => {
            for group in 0..16 {
                scales[16 * group + column] = group_scale[group];
            }
        }
        Scales::NibbleMin => {
            for group in 0..16 {
                scales[16 * group + column] = group_scale[group] | group_min[group] << 4;
            }
        }
    }
}

/// Packs weights `from..from + 32` of all columns.
fn put_block(layout: Layout, values: &[[u8; 256]; PANEL], from: usize, block: &mut [u8]) {
    let mut quads = [[0u8; LINE]; 8];
    for (column, values) in values.iter().enumerate() {
        for (line, quad) in quads.iter_mut().zip(values[from..from + BLOCK].chunks_exact(4)) {
            line[4 * column..4 * column + 4].copy_from_slice(quad);
        }
    }
    match layout.bits {
        8 => block.copy_from_slice(quads.as_flattened()),
        6 => {
            let (low, high) = block.split_at_mut(4 * LINE);
            put_plane::<4>(&quads, 0, low);
            put_plane::<2>(&quads, 4, high);
        }
        5 => {
            let (low, high) = block.split_at_mut(4 * LINE);
            put_plane::<4>(&quads, 0, low);
            put_plane::<1>(&quads, 4, high);
        }
        4 => put_plane::<4>(&quads, 0, block),
        3 => {
            let (low, high) = block.split_at_mut(2 * LINE);
            put_plane::<2>(&quads, 0, low);
            put_plane::<1>(&quads, 2, high);
        }
        _ => put_plane::<2>(&quads, 0, block),
    }
}

/// Writes bits `from..from + BITS` of all values; the plane has `BITS` lines.
fn put_plane<const BITS: usize>(quads: &[[u8; LINE]; 8], from: usize, plane: &mut [u8]) {
    let mask = (1u16 << BITS) as u8 - 1;
    for (index, line) in plane.chunks_exact_mut(LINE).enumerate() {
        for (place, quad) in quads.iter().skip(index).step_by(BITS).enumerate() {
            for (out, &value) in line.iter_mut().zip(quad) {
                *out |= (value >> from & mask) << (BITS * place);
            }
        }
    }
}
