//! Kernels for weights that are quantized in blocks, on activations quantized to int8: exact integer dot products of
//! blocks, scaled and summed in `f32` in one fixed order, so that results are the same for any number of rows, any threads
//! and any level of instructions. Gradients are not its matter.
//!
//! Activations have one scale for 32 values, or for 256 where the weights are of a K type (`rows` says why); `rowwise` has
//! the order of the sums.

#[cfg(target_arch = "x86_64")]
mod amx;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod blocks;
mod layout;
mod pack;
mod quantize;
mod quantize_k;
mod rows;
#[cfg(target_arch = "x86_64")]
mod rows_avx512;
mod rowwise;
#[cfg(target_arch = "x86_64")]
mod supers_amx;
#[cfg(target_arch = "x86_64")]
mod tiles;
mod vector;

use std::ops::Range;

pub(crate) use layout::panel_bytes;
pub(crate) use pack::{pack_panel, read_row};
pub(crate) use quantize::quantize_row;
pub use rows::Int8Rows;

use crate::Isa;
use crate::linear::OutRows;
use crate::packed::{PANEL, PackedWeight, WeightType};

/// Activations with a common scale, for weights of a quantized type: 32 or 256.
pub(crate) fn run(weight_type: WeightType) -> usize {
    layout::Layout::of(weight_type).run()
}

/// Whether weights of a quantized type are divided into supers of 256, as the K types are.
pub(crate) fn has_supers(weight_type: WeightType) -> bool {
    layout::Layout::of(weight_type).by_super()
}

/// Multiplies all rows with some panels.
///
/// # Safety
/// The columns of `panels` in `out` are the caller's to write.
///
/// # Panics
/// When the rows have another number of columns than the weight or were prepared for another kind, or it has fewer panels.
pub(crate) unsafe fn multiply(isa: Isa, x: &Int8Rows, weight: &PackedWeight, panels: Range<usize>, out: OutRows) {
    assert!(isa.is_available(), "instruction set {isa} is not available");
    assert_eq!(x.in_features(), weight.in_features(), "columns of the rows and of the weight");
    assert_eq!(x.run(), run(weight.weight_type()), "activations with a common scale");
    assert!(panels.end <= weight.panels(), "panels {panels:?} of {}", weight.panels());
    // SAFETY: the processor has the level, as just checked; the rest is the caller's promise.
    unsafe {
        match isa {
            Isa::Portable => rowwise::multiply::<vector::Portable>(x, weight, panels.clone(), out),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => rowwise::multiply::<avx2::Avx2>(x, weight, panels.clone(), out),
            #[cfg(target_arch = "x86_64")]
            Isa::Amx if x.rows() >= amx::MIN_ROWS => amx::multiply(x, weight, panels.clone(), out),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 | Isa::Amx => rowwise::multiply::<avx512::Avx512>(x, weight, panels.clone(), out),
            #[cfg(not(target_arch = "x86_64"))]
            _ => unreachable!("other levels are x86-64's"),
        }
        multiply_special(x, weight, panels, out);
    }
}

/// Computes the rows that cannot be quantized, with the weights' exact values and sums in `f64`: slow, and with infinities
/// and NaN where they belong.
///
/// # Safety
/// As for `multiply`.
unsafe fn multiply_special(x: &Int8Rows, weight: &PackedWeight, panels: Range<usize>, out: OutRows) {
    if x.special().is_empty() {
        return;
    }
    let mut values = vec![0.0; weight.in_features()];
    for panel in panels {
        let mut results = vec![[0.0; PANEL]; x.special().len()];
        for column in 0..PANEL.min(weight.out_features() - panel * PANEL) {
            weight.read_row(panel * PANEL + column, &mut values);
            for ((_, row), result) in x.special().iter().zip(&mut results) {
                let products = row.iter().zip(&values).map(|(&x, &weight)| f64::from(x) * f64::from(weight));
                result[column] = products.sum::<f64>() as f32;
            }
        }
        for ((row, _), result) in x.special().iter().zip(&results) {
            // SAFETY: the row exists, the panel is the caller's.
            unsafe { out.write(*row, panel, result) };
        }
    }
}
