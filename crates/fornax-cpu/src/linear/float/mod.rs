//! Kernels for weights that are 16-bit floats.
//!
//! Every kernel computes what the tiles of AMX compute, to the bit, so that a row's result depends neither on its
//! company nor on the processor. For each 32 columns of the input, with activations rounded to bf16:
//!
//! ```text
//! even = 0; odd = 0
//! for k in 0, 2, .., 30 { even = fma(x[k], w[k], even); odd = fma(x[k + 1], w[k + 1], odd) }
//! sum += even + odd
//! ```
//!
//! in `f32`, numbers below the smallest normal one taken and given as zeros. An f16 weight is the sum of two bf16
//! numbers, its upper 8 bits and the rest; for each 32 columns the upper parts are summed first, then the rest.
//!
//! NaNs travel as IEEE 754 has it, but which NaN comes out is the processor's choice.

#[cfg(target_arch = "x86_64")]
mod amx;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "x86_64")]
mod flush;
mod panel;
mod portable;
mod rows;

use std::ops::Range;

pub(crate) use panel::{pack_panel, panel_bytes, read_row, round_row};
pub use rows::FloatRows;

use crate::Isa;
use crate::linear::OutRows;
use crate::packed::{PANEL, PackedWeight, WeightType};

/// Columns of the input that one step of the sums takes.
const BLOCK: usize = 32;

/// Bytes of a panel that one step takes: 16 lines, each of two input columns for all 16 output columns.
const BLOCK_BYTES: usize = BLOCK * PANEL * 2;

/// What a kernel works on.
struct Job<'a> {
    x: &'a FloatRows,
    /// The bytes of the panels.
    weight: &'a [u8],
    /// Their numbers.
    panels: Range<usize>,
    /// Steps of [`BLOCK`] columns.
    blocks: usize,
    out: OutRows,
}

impl Job<'_> {
    fn panel_bytes(&self) -> usize {
        self.blocks * BLOCK_BYTES
    }
}

/// Multiplies all rows of `x` with some panels of `weight`, on the calling thread.
///
/// # Safety
/// The columns of `panels` in `out` are the caller's to write, for all rows of `x`.
pub(crate) unsafe fn multiply(isa: Isa, x: &FloatRows, weight: &PackedWeight, panels: Range<usize>, out: OutRows) {
    assert_eq!(x.in_features(), weight.in_features(), "columns that the rows were prepared for");
    assert_eq!(x.isa(), isa, "level that the rows were prepared for");
    if x.rows() == 0 || panels.is_empty() {
        return;
    }
    let size = panel_bytes(weight.in_features());
    let bytes = &weight.bytes()[panels.start * size..panels.end * size];
    let job = Job { x, weight: bytes, panels, blocks: x.blocks(), out };
    let f16 = weight.weight_type() == WeightType::F16;
    // SAFETY: `x` was prepared for a level that the processor has, the bytes are those of the panels, and the caller
    // owns their columns.
    unsafe {
        if f16 {
            multiply_as::<true>(&job);
            infinite_rows(&job);
        } else {
            multiply_as::<false>(&job);
        }
    }
}

/// Runs the kernel for the level and the number of rows.
///
/// # Safety
/// The processor has the level of the rows, and the job's columns are the caller's to write.
unsafe fn multiply_as<const F16: bool>(job: &Job) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: the caller's promise.
    unsafe {
        match job.x.isa() {
            Isa::Portable => {}
            Isa::Avx2 => return flush::to_zero(|| avx2::multiply::<F16>(job)),
            Isa::Amx if job.x.rows() >= amx::least_rows::<F16>() => return amx::multiply::<F16>(job),
            Isa::Avx512 | Isa::Amx => return flush::to_zero(|| avx512::multiply::<F16>(job)),
        }
    }
    // SAFETY: the caller's promise.
    unsafe { portable::multiply::<F16>(job) }
}

/// Does again the rows of a product with an f16 weight that have an infinity: times the second part of a weight, which
/// is often zero, it makes a NaN that the weight itself does not. The weight is taken whole here.
///
/// # Safety
/// The job's columns are the caller's to write.
unsafe fn infinite_rows(job: &Job) {
    for &row in job.x.infinite() {
        // SAFETY: the caller's promise.
        unsafe { portable::whole_row(job, row) };
    }
}
