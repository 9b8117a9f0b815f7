//! `y = x Wᵀ` for packed weights. Rows of the input are prepared once for the weights' kind (rounded to bf16, or quantized
//! to int8 with a scale for 32 values, or for 256 if the weights are of a K type), then threads take panels of the weight. A
//! row's result depends on that row and the weight alone: not on the rows beside it, nor on the number of threads, nor on
//! which kernel its batch size selects.

mod apply;
pub(crate) mod float;
pub(crate) mod quantized;

use std::ops::Range;

pub use apply::{LinearMap, Matrix, gated_linear, linear};

use crate::packed::{PANEL, PackedWeight, WeightType};
use crate::{Isa, Pool};

/// Rows of activations, prepared for the kernels of one kind of weight.
#[derive(Debug)]
pub enum Activations {
    /// For float weights.
    Float(float::FloatRows),
    /// For quantized weights.
    Int8(quantized::Int8Rows),
}

/// The forms that activations take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ActivationKind {
    /// For float weights.
    Float,
    /// Quantized with a scale for 32 values.
    Int8,
    /// Quantized with a scale for 256 values.
    Int8Super,
}

impl ActivationKind {
    /// All kinds, in the order of their numbers.
    pub(crate) const ALL: [Self; 3] = [Self::Float, Self::Int8, Self::Int8Super];

    /// What weights of a type are multiplied with.
    pub(crate) fn of(weight_type: WeightType) -> Self {
        match weight_type {
            WeightType::F16 | WeightType::BF16 => Self::Float,
            _ if quantized::has_supers(weight_type) => Self::Int8Super,
            _ => Self::Int8,
        }
    }
}

/// Where a kernel writes: rows of `f32` of which it owns some columns.
#[derive(Debug, Clone, Copy)]
pub struct OutRows {
    start: *mut f32,
    stride: usize,
    columns: usize,
}

// SAFETY: whoever makes one promises that those it is handed to write to different columns.
unsafe impl Send for OutRows {}
// SAFETY: as above.
unsafe impl Sync for OutRows {}

impl OutRows {
    /// `start` is the first of rows of `columns` values, `stride` values apart.
    ///
    /// # Safety
    /// Until the last write, all these rows stay allocated, and nobody else reads or writes the columns written.
    pub unsafe fn new(start: *mut f32, stride: usize, columns: usize) -> Self {
        Self { start, stride, columns }
    }

    /// Where the 16 values of `row` in `panel` go, when all 16 exist.
    #[inline(always)]
    pub fn whole(&self, row: usize, panel: usize) -> Option<*mut f32> {
        let column = panel * PANEL;
        (column + PANEL <= self.columns).then(|| self.start.wrapping_add(row * self.stride + column))
    }

    /// Some columns of a row.
    ///
    /// # Safety
    /// The row and the columns exist, and nobody else holds or writes them while the slice lives.
    pub unsafe fn columns<'a>(&self, row: usize, columns: Range<usize>) -> &'a mut [f32] {
        // SAFETY: inside of the rows by the constructor's contract, and the caller's alone.
        unsafe {
            let start = self.start.wrapping_add(row * self.stride + columns.start);
            std::slice::from_raw_parts_mut(start, columns.len())
        }
    }

    /// Writes those of the 16 values of `row` in `panel` that exist.
    ///
    /// # Safety
    /// The row exists, and this panel is the caller's to write.
    #[inline(always)]
    pub unsafe fn write(&self, row: usize, panel: usize, values: &[f32; PANEL]) {
        let column = panel * PANEL;
        let count = PANEL.min(self.columns - column);
        // SAFETY: inside of the rows by the constructor's contract.
        unsafe {
            std::ptr::copy_nonoverlapping(values.as_ptr(), self.start.wrapping_add(row * self.stride + column), count);
        }
    }
}

// What a kind of weight brings, by type. Float and quantized weights are two families of kernels.

/// Bytes of one panel of 16 output columns.
pub(crate) fn panel_bytes(weight_type: WeightType, in_features: usize) -> usize {
    match weight_type {
        WeightType::F16 | WeightType::BF16 => float::panel_bytes(in_features),
        _ => quantized::panel_bytes(weight_type, in_features),
    }
}

/// Packs up to 16 rows of a checkpoint's blocks into a zeroed panel.
pub(crate) fn pack_panel(weight_type: WeightType, in_features: usize, rows: &[u8], panel: &mut [u8]) {
    match weight_type {
        WeightType::F16 | WeightType::BF16 => float::pack_panel(weight_type, in_features, rows, panel),
        _ => quantized::pack_panel(weight_type, in_features, rows, panel),
    }
}

/// Appends a row of values to `out` in a checkpoint's form.
pub(crate) fn quantize_row(weight_type: WeightType, row: &[f32], out: &mut Vec<u8>) {
    match weight_type {
        WeightType::F16 | WeightType::BF16 => float::round_row(weight_type, row, out),
        _ => quantized::quantize_row(weight_type, row, out),
    }
}

/// Reads output column `column` of a panel.
pub(crate) fn read_row(weight_type: WeightType, in_features: usize, panel: &[u8], column: usize, out: &mut [f32]) {
    match weight_type {
        WeightType::F16 | WeightType::BF16 => float::read_row(weight_type, in_features, panel, column, out),
        _ => quantized::read_row(weight_type, in_features, panel, column, out),
    }
}

/// Prepares `rows` rows of `x` (`[rows, in_features]`) for weights like `weight`.
pub fn prepare(pool: &Pool, isa: Isa, weight: &PackedWeight, x: &[f32], rows: usize) -> Activations {
    let in_features = weight.in_features();
    assert_eq!(x.len(), rows * in_features, "values of {rows} rows");
    assert!(isa.is_available(), "level {isa} on this processor");
    match weight.weight_type() {
        WeightType::F16 | WeightType::BF16 => {
            Activations::Float(float::FloatRows::prepare(pool, isa, x, rows, in_features))
        }
        weight_type => {
            let run = quantized::run(weight_type);
            Activations::Int8(quantized::Int8Rows::prepare(pool, isa, x, rows, in_features, run))
        }
    }
}

/// Multiplies all prepared rows with some panels of a weight, on the calling thread.
///
/// # Safety
/// The columns of `panels` in `out` are the caller's to write, for as many rows as were prepared.
///
/// # Panics
/// When the rows were prepared for another kind of weight or another number of columns.
pub unsafe fn multiply(isa: Isa, x: &Activations, weight: &PackedWeight, panels: Range<usize>, out: OutRows) {
    match x {
        // SAFETY: the caller's promise.
        Activations::Float(x) => unsafe { float::multiply(isa, x, weight, panels, out) },
        // SAFETY: the caller's promise.
        Activations::Int8(x) => unsafe { quantized::multiply(isa, x, weight, panels, out) },
    }
}
