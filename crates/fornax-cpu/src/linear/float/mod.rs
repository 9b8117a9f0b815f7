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
mod lines;
mod panel;
mod portable;
mod rows;
mod sums;
#[cfg(target_arch = "x86_64")]
mod tiles;

use std::ops::Range;

pub(crate) use panel::{pack_panel, panel_bytes, read_row, round_row};
pub use rows::FloatRows;
pub(crate) use sums::{MAX_PANELS, MAX_ROWS, Sums};

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

/// Whether products of so many rows are best made with [`multiply_to`].
pub(crate) fn wants_sums(isa: Isa, rows: usize) -> bool {
    #[cfg(target_arch = "x86_64")]
    return isa == Isa::Amx && rows > amx::FEW;
    #[cfg(not(target_arch = "x86_64"))]
    {
        let _ = (isa, rows);
        false
    }
}

/// Multiplies some rows of `x`, the first of them a multiple of 16, with some panels of one weight after another, all of one
/// type. The results are in `sums`, the first row as its row 0. At most [`MAX_ROWS`] and [`MAX_PANELS`] should be asked for.
///
/// # Panics
/// When rows and weights do not fit one another, or the rows should not be multiplied so.
pub(crate) fn multiply_to(
    x: &FloatRows,
    weights: &[&PackedWeight],
    panels: Range<usize>,
    rows: Range<usize>,
    sums: &mut Sums,
) {
    assert!(wants_sums(x.isa(), x.rows()), "a level and a number of rows for tiles");
    assert!(rows.end <= x.rows() && rows.start.is_multiple_of(rows::TILE_ROWS), "rows that were prepared");
    let weight_type = weights[0].weight_type();
    for weight in weights {
        assert_eq!(x.in_features(), weight.in_features(), "columns that the rows were prepared for");
        assert_eq!(weight.weight_type(), weight_type, "types of weights that are multiplied together");
    }
    sums.reset(rows.len(), weights.len() * panels.len());
    #[cfg(target_arch = "x86_64")]
    {
        let all: Vec<&[u8]> =
            weights.iter().flat_map(|weight| panels.clone().map(|panel| weight.panel(panel))).collect();
        let f16 = weight_type == WeightType::F16;
        // SAFETY: the level is chosen only where the processor has it; these are whole panels, and `sums` has room.
        unsafe {
            if f16 {
                amx::multiply_to::<true>(x, rows.clone(), &all, sums);
            } else {
                amx::multiply_to::<false>(x, rows.clone(), &all, sums);
            }
        }
        for &row in x.infinite().iter().filter(|row| f16 && rows.contains(row)) {
            let stride = sums.stride() / size_of::<f32>();
            let start = sums.start().cast::<f32>().wrapping_sub(rows.start * stride);
            for (index, weight) in weights.iter().enumerate() {
                // Columns are counted from those of the panels.
                let start = start.wrapping_add(index * panels.len() * PANEL);
                let size = panel_bytes(weight.in_features());
                let bytes = &weight.bytes()[panels.start * size..panels.end * size];
                // SAFETY: this row and the columns of these panels have room from `start` on, and are ours.
                unsafe {
                    let out = OutRows::new(start, stride, panels.len() * PANEL);
                    let job = Job { x, weight: bytes, panels: 0..panels.len(), blocks: x.blocks(), out };
                    portable::whole_row(&job, row);
                }
            }
        }
    }
}

/// Copies finished values of a row of [`Sums`] to where they belong in a result of `size` bytes.
pub(crate) fn put(values: &[f32], out: &mut [f32], size: usize) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: only processors with AMX, which have AVX-512 too, have rows of sums.
    unsafe {
        sums::put(values, out, size)
    };
    #[cfg(not(target_arch = "x86_64"))]
    {
        let _ = size;
        out.copy_from_slice(values);
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
