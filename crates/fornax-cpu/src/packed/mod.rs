//! Weights in the order in which the kernels read them: panels of 16 output columns, each read from its start to its end.
//! What a file holds is repacked into it without loss; floats can be quantized into it. It neither opens files nor
//! multiplies.

mod weight_type;

use std::ops::Range;

use bytes::Bytes;

pub use weight_type::WeightType;

use crate::{Buffer, CpuError, Result, linear};

/// Output columns of a panel: what one 64-byte line holds of `f32`.
pub const PANEL: usize = 16;

/// A weight `[out_features, in_features]`, packed.
///
/// Its bytes are the panels one after another, the last one filled up with zeros. They can be kept in a file and be
/// mapped again: their layout depends on the type and the shape alone, and [`LAYOUT_VERSION`] changes with it.
#[derive(Debug, Clone)]
pub struct PackedWeight {
    weight_type: WeightType,
    out_features: usize,
    in_features: usize,
    bytes: Bytes,
}

/// Changes whenever the bytes of any packed weight would.
pub const LAYOUT_VERSION: u32 = 1;

impl PackedWeight {
    /// Packs what a checkpoint holds: `source` is `[out_features, in_features]` in rows of `weight_type`'s blocks (GGUF's
    /// for quantized types, little-endian numbers for float types).
    ///
    /// # Errors
    /// [`CpuError::Block`] when the columns are no multiple of the type's block, [`CpuError::Length`] when `source` has
    /// not as many bytes as the shape needs.
    pub fn pack(weight_type: WeightType, out_features: usize, in_features: usize, source: &[u8]) -> Result<Self> {
        check_block(weight_type, out_features, in_features)?;
        let expected = out_features * weight_type.row_bytes(in_features);
        check_length(weight_type, out_features, in_features, expected, source.len(), "bytes")?;
        Ok(Self::build(weight_type, out_features, in_features, |panel, rows, out| {
            let row_bytes = weight_type.row_bytes(in_features);
            linear::pack_panel(weight_type, in_features, &source[rows.start * row_bytes..rows.end * row_bytes], out);
            debug_assert!(panel * PANEL == rows.start);
        }))
    }

    /// Quantizes or rounds `f32` values, `[out_features, in_features]`, to `weight_type`, and packs them.
    ///
    /// # Errors
    /// As [`pack`](Self::pack), and [`CpuError::CannotQuantize`] for types that are only read.
    pub fn quantize(weight_type: WeightType, out_features: usize, in_features: usize, values: &[f32]) -> Result<Self> {
        check_block(weight_type, out_features, in_features)?;
        check_length(weight_type, out_features, in_features, out_features * in_features, values.len(), "values")?;
        weight_type.check_quantizable()?;
        Ok(Self::build(weight_type, out_features, in_features, |_, rows, out| {
            let mut source = Vec::with_capacity(rows.len() * weight_type.row_bytes(in_features));
            for row in values[rows.start * in_features..rows.end * in_features].chunks_exact(in_features.max(1)) {
                linear::quantize_row(weight_type, row, &mut source);
            }
            linear::pack_panel(weight_type, in_features, &source, out);
        }))
    }

    /// Takes bytes that another `PackedWeight` of this type and shape had, as a cache of packed weights keeps them.
    ///
    /// # Errors
    /// [`CpuError::Block`] and [`CpuError::Length`] as for [`pack`](Self::pack).
    pub fn from_packed(weight_type: WeightType, out_features: usize, in_features: usize, bytes: Bytes) -> Result<Self> {
        check_block(weight_type, out_features, in_features)?;
        let expected = out_features.div_ceil(PANEL) * linear::panel_bytes(weight_type, in_features);
        check_length(weight_type, out_features, in_features, expected, bytes.len(), "packed bytes")?;
        Ok(Self { weight_type, out_features, in_features, bytes })
    }

    fn build(
        weight_type: WeightType,
        out_features: usize,
        in_features: usize,
        pack: impl Fn(usize, Range<usize>, &mut [u8]) + Sync,
    ) -> Self {
        let panel_bytes = linear::panel_bytes(weight_type, in_features);
        let panels = out_features.div_ceil(PANEL);
        let mut buffer = Buffer::zeroed(panels * panel_bytes);
        if panel_bytes > 0 {
            crate::parallel_chunks(&mut buffer, panel_bytes, |panel, out| {
                pack(panel, panel * PANEL..((panel + 1) * PANEL).min(out_features), out);
            });
        }
        Self { weight_type, out_features, in_features, bytes: buffer.freeze() }
    }

    /// What its numbers are.
    pub fn weight_type(&self) -> WeightType {
        self.weight_type
    }

    /// Its rows: columns of the result.
    pub fn out_features(&self) -> usize {
        self.out_features
    }

    /// Its columns: columns of the input.
    pub fn in_features(&self) -> usize {
        self.in_features
    }

    /// How many panels of [`PANEL`] output columns it has.
    pub fn panels(&self) -> usize {
        self.out_features.div_ceil(PANEL)
    }

    /// Its bytes, for keeping them.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// The bytes of one panel.
    pub fn panel(&self, panel: usize) -> &[u8] {
        let size = linear::panel_bytes(self.weight_type, self.in_features);
        &self.bytes[panel * size..(panel + 1) * size]
    }

    /// Row `row` as `f32`, exactly what the packed numbers are, into `out` of `in_features`.
    ///
    /// # Panics
    /// When there is no such row, or `out` has another length.
    pub fn read_row(&self, row: usize, out: &mut [f32]) {
        assert!(row < self.out_features, "row {row} of a weight with {}", self.out_features);
        assert_eq!(out.len(), self.in_features, "values of a row");
        if self.in_features > 0 {
            linear::read_row(self.weight_type, self.in_features, self.panel(row / PANEL), row % PANEL, out);
        }
    }

    /// All of it as `f32`, `[out_features, in_features]`.
    pub fn to_f32(&self) -> Vec<f32> {
        let mut values = vec![0.0; self.out_features * self.in_features];
        if self.in_features > 0 {
            crate::parallel_chunks(&mut values, self.in_features, |row, out| self.read_row(row, out));
        }
        values
    }
}

fn check_block(weight_type: WeightType, out_features: usize, in_features: usize) -> Result<()> {
    let block = weight_type.block();
    if in_features.is_multiple_of(block) {
        return Ok(());
    }
    Err(CpuError::Block { weight_type, out_features, in_features, block })
}

fn check_length(
    weight_type: WeightType,
    out_features: usize,
    in_features: usize,
    expected: usize,
    found: usize,
    unit: &'static str,
) -> Result<()> {
    if expected == found {
        return Ok(());
    }
    Err(CpuError::Length { weight_type, out_features, in_features, expected, found, unit })
}
