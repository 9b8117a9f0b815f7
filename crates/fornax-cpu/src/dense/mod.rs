//! `y = x Wᵀ` for weights of `f32` that are used where they lie, row-major as checkpoints and trained parameters are.
//!
//! Every output is one chain of fused multiply-adds over the columns of the input in their order, starting at zero, at
//! every level and for every number of rows; so a row's result depends on that row and the weight alone, to the bit, but
//! for which NaN comes out. What is read more than once belongs into a packed weight of another type; this is for
//! exactness and for weights that change.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod portable;

use std::ops::Range;

use crate::Isa;
use crate::linear::OutRows;
use crate::packed::PANEL;

/// What a kernel works on.
struct Job<'a> {
    x: &'a [f32],
    rows: usize,
    weight: &'a [f32],
    in_features: usize,
    panels: Range<usize>,
    out: OutRows,
}

impl Job<'_> {
    /// Row `column` of the weight, or the last one where there are no more.
    #[inline(always)]
    fn weight_row(&self, column: usize) -> &[f32] {
        let column = column.min(self.weight.len() / self.in_features - 1);
        &self.weight[column * self.in_features..(column + 1) * self.in_features]
    }

    #[inline(always)]
    fn x_row(&self, row: usize) -> &[f32] {
        &self.x[row * self.in_features..(row + 1) * self.in_features]
    }
}

/// Multiplies `x: [rows, in_features]` with the rows of `weight: [out_features, in_features]` that are in `panels`, of 16
/// rows each, on the calling thread.
///
/// For many rows, tasks of 24 panels or more do best: what all of them need is read once for each task.
///
/// ```
/// use fornax_cpu::linear::OutRows;
/// use fornax_cpu::{Isa, dense};
///
/// let (x, weight) = ([1.0, 2.0], [3.0, 4.0, 5.0, 6.0, 7.0, 8.0]);
/// let mut y = [0.0; 3];
/// // SAFETY: `y` outlives the product, and nobody else uses it.
/// unsafe {
///     let out = OutRows::new(y.as_mut_ptr(), 3, 3);
///     dense::multiply(Isa::active(), &x, 1, &weight, 2, 0..1, out);
/// }
/// assert_eq!(y, [11.0, 17.0, 23.0]);
/// ```
///
/// # Safety
/// `out` has as many columns as `weight` has rows, and those of `panels` are the caller's to write, for `rows` rows.
///
/// # Panics
/// When `x` or `weight` have not as many values as that, there are no such panels, or the processor lacks the level.
pub unsafe fn multiply(
    isa: Isa,
    x: &[f32],
    rows: usize,
    weight: &[f32],
    in_features: usize,
    panels: Range<usize>,
    out: OutRows,
) {
    assert_eq!(x.len(), rows * in_features, "values of {rows} rows");
    assert!(isa.is_available(), "level {isa} on this processor");
    if rows == 0 || panels.is_empty() {
        return;
    }
    if in_features == 0 {
        for row in 0..rows {
            for panel in panels.clone() {
                // SAFETY: the caller's promise.
                unsafe { out.write(row, panel, &[0.0; PANEL]) };
            }
        }
        return;
    }
    let out_features = weight.len() / in_features;
    assert_eq!(weight.len(), out_features * in_features, "values of a weight of {in_features} columns");
    assert!(panels.end <= out_features.div_ceil(PANEL), "panel {} of {out_features} rows", panels.end);
    let job = Job { x, rows, weight, in_features, panels, out };
    // SAFETY: the processor has the level, and the rest is the caller's promise.
    unsafe {
        match isa {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => avx2::multiply(&job),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 | Isa::Amx => avx512::multiply(&job),
            _ => portable::multiply(&job),
        }
    }
}
