//! Rows of activations, rounded to bf16 once for all threads, in the orders that the kernels read.

use super::BLOCK;
#[cfg(target_arch = "x86_64")]
use super::amx;
use crate::{Isa, Pool};

/// Rows of a tile.
pub(super) const TILE_ROWS: usize = 16;

/// Rows that one pass over a panel takes outside of AMX.
pub(super) const GROUP: usize = 8;

/// A line of the cache.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(64))]
pub(super) struct Line(pub [u8; 64]);

/// Rows rounded to bf16, as numbers of 16 bits for tiles and as `f32` for the other kernels.
#[derive(Debug)]
pub struct FloatRows {
    rows: usize,
    in_features: usize,
    isa: Isa,
    /// Rows with an infinity or a NaN.
    infinite: Vec<usize>,
    /// `[rows / 16, columns / 32, 16, 32]` bf16, filled up with zeros: one line for each 32 columns of a row. Empty if
    /// no kernel of the level reads it.
    tiles: Vec<Line>,
    /// `[rows / 8, columns, 8]` (the last group as narrow as it has rows) `f32`, columns filled up with zeros to a
    /// multiple of 32. Empty if no kernel of the level reads it.
    wide: Vec<f32>,
}

impl FloatRows {
    /// Prepares `x: [rows, in_features]` for the kernels of a level.
    pub fn prepare(pool: &Pool, isa: Isa, x: &[f32], rows: usize, in_features: usize) -> Self {
        assert_eq!(x.len(), rows * in_features, "values of {rows} rows");
        assert!(isa.is_available(), "level {isa} on this processor");
        let (tiled, wide) = forms(isa, rows);
        let blocks = in_features.div_ceil(BLOCK);
        let mut this = Self { rows, in_features, isa, infinite: Vec::new(), tiles: Vec::new(), wide: Vec::new() };
        if rows == 0 || in_features == 0 {
            return this;
        }
        if tiled {
            this.tiles = vec![Line([0; 64]); rows.next_multiple_of(TILE_ROWS) * blocks];
        }
        if wide {
            this.wide = vec![0.0; rows * blocks * BLOCK];
        }
        // Row by row is right for few rows, which is where a step's time is counted in microseconds.
        for (row, values) in x.chunks_exact(in_features).enumerate() {
            let mut finite = true;
            for (block, values) in values.chunks(BLOCK).enumerate() {
                let rounded = round_block(values);
                finite &= rounded.iter().all(|&value| value & 0x7f80 != 0x7f80);
                if tiled {
                    let line = &mut this.tiles[(row / TILE_ROWS * blocks + block) * TILE_ROWS + row % TILE_ROWS];
                    for (bytes, value) in line.0.chunks_exact_mut(2).zip(rounded) {
                        bytes.copy_from_slice(&value.to_ne_bytes());
                    }
                }
                if wide {
                    let first = row / GROUP * GROUP;
                    let width = GROUP.min(rows - first);
                    let start = (first * blocks + block * width) * BLOCK + row % GROUP;
                    for (out, value) in this.wide[start..].iter_mut().step_by(width).zip(rounded) {
                        *out = f32::from_bits(u32::from(value) << 16);
                    }
                }
            }
            if !finite {
                this.infinite.push(row);
            }
        }
        let _ = pool;
        this
    }

    pub(super) fn rows(&self) -> usize {
        self.rows
    }

    pub(super) fn in_features(&self) -> usize {
        self.in_features
    }

    pub(super) fn isa(&self) -> Isa {
        self.isa
    }

    /// Steps of 32 columns.
    pub(super) fn blocks(&self) -> usize {
        self.in_features.div_ceil(BLOCK)
    }

    /// Rows with an infinity or a NaN.
    pub(super) fn infinite(&self) -> &[usize] {
        &self.infinite
    }

    /// The tiles of 16 rows: 16 lines for each 32 columns.
    #[cfg(target_arch = "x86_64")]
    pub(super) fn tiles(&self, tile_row: usize) -> &[Line] {
        let size = self.blocks() * TILE_ROWS;
        &self.tiles[tile_row * size..(tile_row + 1) * size]
    }

    /// The `f32` form of group `group` of up to 8 rows, `[columns, rows of the group]`, and how many rows it has.
    pub(super) fn group(&self, group: usize) -> (&[f32], usize) {
        let first = group * GROUP;
        let width = GROUP.min(self.rows - first);
        let columns = self.blocks() * BLOCK;
        (&self.wide[first * columns..(first + width) * columns], width)
    }

    /// How many groups there are.
    pub(super) fn groups(&self) -> usize {
        self.rows.div_ceil(GROUP)
    }

    /// One rounded value.
    pub(super) fn value(&self, row: usize, column: usize) -> f32 {
        if self.wide.is_empty() {
            let (block, within) = (column / BLOCK, column % BLOCK);
            let line = &self.tiles[(row / TILE_ROWS * self.blocks() + block) * TILE_ROWS + row % TILE_ROWS].0;
            return f32::from_bits(u32::from(u16::from_ne_bytes([line[2 * within], line[2 * within + 1]])) << 16);
        }
        let (group, width) = self.group(row / GROUP);
        group[column * width + row % GROUP]
    }
}

/// Whether the kernels of a level read tiles, and whether they read `f32`.
fn forms(isa: Isa, rows: usize) -> (bool, bool) {
    #[cfg(target_arch = "x86_64")]
    if isa == Isa::Amx {
        let (bf16, f16) = (amx::least_rows::<false>(), amx::least_rows::<true>());
        return (rows >= bf16.min(f16), rows < bf16.max(f16));
    }
    let _ = (isa, rows);
    (false, true)
}

fn round_block(values: &[f32]) -> [u16; BLOCK] {
    let mut rounded = [0; BLOCK];
    match <&[f32; BLOCK]>::try_from(values) {
        Ok(values) => rounded = values.map(round_to_bf16),
        Err(_) => rounded.iter_mut().zip(values).for_each(|(out, &value)| *out = round_to_bf16(value)),
    }
    rounded
}

/// The bits of the bf16 nearest to `value`, ties to even; a NaN stays one.
#[inline(always)]
pub(super) fn round_to_bf16(value: f32) -> u16 {
    let bits = value.to_bits();
    // As a number without sign, the sum of an infinity or less does not overflow, nor reach the NaNs.
    let nearest = bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16;
    let quiet = bits >> 16 | 0x40;
    (if value.is_nan() { quiet } else { nearest }) as u16
}
