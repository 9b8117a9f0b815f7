//! Kernels for weights that are quantized in blocks.

use std::ops::Range;

use crate::linear::OutRows;
use crate::packed::{PackedWeight, WeightType};
use crate::{Isa, Pool};

/// Rows quantized to int8 in blocks of 32.
#[derive(Debug)]
pub struct Int8Rows {}

impl Int8Rows {
    /// Prepares `x: [rows, in_features]`.
    pub fn prepare(_pool: &Pool, _isa: Isa, _x: &[f32], _rows: usize, _in_features: usize) -> Self {
        unimplemented!()
    }
}

pub(crate) fn panel_bytes(_type: WeightType, _in_features: usize) -> usize {
    unimplemented!()
}

pub(crate) fn pack_panel(_weight_type: WeightType, _in_features: usize, _rows: &[u8], _panel: &mut [u8]) {
    unimplemented!()
}

pub(crate) fn quantize_row(_weight_type: WeightType, _row: &[f32], _out: &mut Vec<u8>) {
    unimplemented!()
}

pub(crate) fn read_row(_type: WeightType, _in_features: usize, _panel: &[u8], _column: usize, _out: &mut [f32]) {
    unimplemented!()
}

pub(crate) unsafe fn multiply(_isa: Isa, _x: &Int8Rows, _w: &PackedWeight, _panels: Range<usize>, _out: OutRows) {
    unimplemented!()
}
