//! Operations on each row of activations by itself: norms, activations. A row's result is the same bit
//! for bit whatever rows are beside it. Products of rows with weights are in [`linear`](crate::linear).

mod activation;
mod in_place;
mod norm;

use std::ops::Range;

pub use activation::{Activation, activate, gated};
pub use in_place::{add_in_place, multiply_in_place};
pub use norm::{NormWeights, layer_norm_rows, rms_norm_rows};

use crate::Pool;

/// Rows of numbers, perhaps with others between them: columns of a wider matrix.
///
/// ```
/// use fornax_cpu::rows::Rows;
///
/// let fused = [1.0, 2.0, 3.0, 10.0, 20.0, 30.0]; // two rows of a key and a value of two components
/// let values = Rows::strided(&fused[1..], 3);
/// assert_eq!(values.row(1)[..2], [20.0, 30.0]);
/// ```
#[derive(Debug, Clone, Copy)]
pub struct Rows<'a> {
    values: &'a [f32],
    stride: usize,
}

impl<'a> Rows<'a> {
    /// Rows of `columns` numbers, one after another.
    pub fn new(values: &'a [f32], columns: usize) -> Self {
        Self { values, stride: columns }
    }

    /// Rows that begin every `stride` numbers, the first at the slice's begin.
    pub fn strided(values: &'a [f32], stride: usize) -> Self {
        Self { values, stride }
    }

    /// What there is from the begin of row `row` on.
    ///
    /// # Panics
    /// When the row begins beyond the slice.
    #[inline(always)]
    pub fn row(&self, row: usize) -> &'a [f32] {
        &self.values[row * self.stride..]
    }

    /// From the begin of a row to that of the next.
    #[inline(always)]
    pub(crate) fn stride(&self) -> usize {
        self.stride
    }

    /// # Panics
    /// When there are not `rows` of `columns` numbers.
    #[track_caller]
    pub(crate) fn check(&self, name: &str, rows: usize, columns: usize) {
        let (found, stride) = (self.values.len(), self.stride);
        let enough = rows == 0 || (rows == 1 || columns <= stride) && (rows - 1) * stride + columns <= found;
        assert!(enough, "{name}: expected [{rows}, {columns}] at stride {stride}, found {found} numbers");
    }
}

/// Where tasks write, each to rows of its own.
pub(crate) struct SharedRows(pub(crate) *mut f32);
// SAFETY: tasks write to different rows.
unsafe impl Send for SharedRows {}
// SAFETY: as above.
unsafe impl Sync for SharedRows {}

/// Numbers of a piece of work that is worth another thread.
const PIECE: usize = 16 << 10;

/// Runs `work` over ranges of rows, on several threads when there are many numbers.
pub(crate) fn in_pieces(pool: &Pool, rows: usize, columns: usize, work: &(dyn Fn(Range<usize>) + Sync)) {
    let step = PIECE.div_ceil(columns.max(1));
    if rows <= step {
        work(0..rows);
        return;
    }
    pool.run(rows.div_ceil(step), |piece| work(piece * step..rows.min((piece + 1) * step)));
}
