//! What the kernel for a few rows asks of a level of instructions: numbers for the 16 columns of a panel, and dot products
//! of quads of them. All levels give the same results to the last bit.

use half::f16;

use super::layout::Format;
use super::rowwise::{Args, rows};
use crate::packed::PANEL;

/// Vectors of one level, one number for each column of a panel.
///
/// # Safety
/// All functions need the level's instructions, and what pointers point to.
pub trait Vector {
    /// A line: a quad of bytes for each column.
    type Bytes: Copy;
    /// A quad of activations, as `dot` takes it.
    type Quad: Copy;
    /// An `i32` for each column.
    type Ints: Copy;
    /// An `f32` for each column.
    type Floats: Copy;

    /// How many rows are multiplied at a time at most; a power of two.
    const MAX_ROWS: usize;
    /// Whether two panels of as many rows are multiplied side by side, so that each quad of activations is read once.
    const PAIRS: bool;
    /// Binary logarithm of what `signed` adds to weights, if it does.
    const SIGNED_OFFSET: Option<u32>;

    /// Reads a line.
    unsafe fn line(from: *const u8) -> Self::Bytes;
    /// Brings bits from `from` on to `to` on in every byte, and keeps those of `mask`.
    unsafe fn bits(line: Self::Bytes, from: usize, to: usize, mask: u8) -> Self::Bytes;
    /// Bitwise or.
    unsafe fn or(a: Self::Bytes, b: Self::Bytes) -> Self::Bytes;
    /// Reads four activations.
    unsafe fn quad(from: *const i8) -> Self::Quad;
    /// Prepares signed weights for `dot_signed`.
    unsafe fn signed(line: Self::Bytes) -> Self::Bytes;
    /// Adds the dot product of each column's quad of unsigned weights (of 6 bits at most) with four activations.
    unsafe fn dot(sum: Self::Ints, weights: Self::Bytes, activations: Self::Quad) -> Self::Ints;
    /// The same with weights from `signed`.
    unsafe fn dot_signed(sum: Self::Ints, weights: Self::Bytes, activations: Self::Quad) -> Self::Ints;
    /// Makes the compiler finish these sums before it begins what follows, where it would else run out of registers.
    #[inline(always)]
    unsafe fn settle(_sums: &mut [Self::Ints]) {}
    /// `value · 2^shift` for all columns.
    unsafe fn start(value: *const i32, shift: u32) -> Self::Ints;
    /// Zeros.
    unsafe fn zero() -> Self::Ints;
    /// Converts, rounding to even.
    unsafe fn to_floats(ints: Self::Ints) -> Self::Floats;
    /// Reads 16 f16.
    unsafe fn halves(from: *const u8) -> Self::Floats;
    /// Reads 16 unsigned bytes.
    unsafe fn unsigned_bytes(from: *const u8) -> Self::Ints;
    /// Reads 16 signed bytes.
    unsafe fn signed_bytes(from: *const u8) -> Self::Ints;
    /// Reads the low halves of 16 bytes, and the high ones.
    unsafe fn nibbles(from: *const u8) -> [Self::Ints; 2];
    /// `a · b + c`.
    unsafe fn multiply_add(a: Self::Ints, b: Self::Ints, c: Self::Ints) -> Self::Ints;
    /// One number for all columns.
    unsafe fn splat(from: *const f32) -> Self::Floats;
    /// Product.
    unsafe fn mul(a: Self::Floats, b: Self::Floats) -> Self::Floats;
    /// `-a`.
    unsafe fn neg(a: Self::Floats) -> Self::Floats;
    /// `a · b + c`, rounded once.
    unsafe fn fma(a: Self::Floats, b: Self::Floats, c: Self::Floats) -> Self::Floats;
    /// Reads 16 numbers.
    unsafe fn load(from: *const f32) -> Self::Floats;
    /// Writes 16 numbers.
    unsafe fn store(floats: Self::Floats, to: *mut f32);
    /// Asks for a line that will be read soon.
    unsafe fn prefetch(line: *const u8);
    /// Runs the kernel, compiled for the level.
    unsafe fn run<F: Format, const ROWS: usize>(args: &Args);
}

/// Plain Rust.
pub struct Portable;

impl Vector for Portable {
    type Bytes = [u8; 64];
    type Quad = [i32; 4];
    type Ints = [i32; PANEL];
    type Floats = [f32; PANEL];

    const MAX_ROWS: usize = 4;
    const PAIRS: bool = false;
    const SIGNED_OFFSET: Option<u32> = None;

    #[inline(always)]
    unsafe fn line(from: *const u8) -> [u8; 64] {
        // SAFETY: the caller's promise.
        unsafe { from.cast::<[u8; 64]>().read() }
    }

    #[inline(always)]
    unsafe fn bits(line: [u8; 64], from: usize, to: usize, mask: u8) -> [u8; 64] {
        line.map(|byte| (if from > to { byte >> (from - to) } else { byte << (to - from) }) & mask)
    }

    #[inline(always)]
    unsafe fn or(a: [u8; 64], b: [u8; 64]) -> [u8; 64] {
        std::array::from_fn(|index| a[index] | b[index])
    }

    #[inline(always)]
    unsafe fn quad(from: *const i8) -> [i32; 4] {
        // SAFETY: the caller's promise.
        unsafe { from.cast::<[i8; 4]>().read() }.map(i32::from)
    }

    #[inline(always)]
    unsafe fn signed(line: [u8; 64]) -> [u8; 64] {
        line
    }

    #[inline(always)]
    unsafe fn dot(mut sum: Self::Ints, weights: [u8; 64], activations: [i32; 4]) -> Self::Ints {
        for (sum, quad) in sum.iter_mut().zip(weights.as_chunks::<4>().0) {
            *sum += quad.iter().zip(activations).map(|(&weight, x)| i32::from(weight) * x).sum::<i32>();
        }
        sum
    }

    #[inline(always)]
    unsafe fn dot_signed(mut sum: Self::Ints, weights: [u8; 64], activations: [i32; 4]) -> Self::Ints {
        for (sum, quad) in sum.iter_mut().zip(weights.as_chunks::<4>().0) {
            *sum += quad.iter().zip(activations).map(|(&weight, x)| i32::from(weight as i8) * x).sum::<i32>();
        }
        sum
    }

    #[inline(always)]
    unsafe fn start(value: *const i32, shift: u32) -> Self::Ints {
        // SAFETY: the caller's promise.
        [unsafe { value.read() } << shift; PANEL]
    }

    #[inline(always)]
    unsafe fn zero() -> Self::Ints {
        [0; PANEL]
    }

    #[inline(always)]
    unsafe fn to_floats(ints: Self::Ints) -> Self::Floats {
        ints.map(|int| int as f32)
    }

    #[inline(always)]
    unsafe fn halves(from: *const u8) -> Self::Floats {
        // SAFETY: the caller's promise.
        let halves = unsafe { from.cast::<[[u8; 2]; PANEL]>().read() };
        halves.map(|half| f16::from_le_bytes(half).to_f32())
    }

    #[inline(always)]
    unsafe fn unsigned_bytes(from: *const u8) -> Self::Ints {
        // SAFETY: the caller's promise.
        unsafe { from.cast::<[u8; PANEL]>().read() }.map(i32::from)
    }

    #[inline(always)]
    unsafe fn signed_bytes(from: *const u8) -> Self::Ints {
        // SAFETY: the caller's promise.
        unsafe { from.cast::<[i8; PANEL]>().read() }.map(i32::from)
    }

    #[inline(always)]
    unsafe fn nibbles(from: *const u8) -> [Self::Ints; 2] {
        // SAFETY: the caller's promise.
        let bytes = unsafe { from.cast::<[u8; PANEL]>().read() };
        [bytes.map(|byte| i32::from(byte & 15)), bytes.map(|byte| i32::from(byte >> 4))]
    }

    #[inline(always)]
    unsafe fn multiply_add(a: Self::Ints, b: Self::Ints, c: Self::Ints) -> Self::Ints {
        std::array::from_fn(|index| a[index] * b[index] + c[index])
    }

    #[inline(always)]
    unsafe fn splat(from: *const f32) -> Self::Floats {
        // SAFETY: the caller's promise.
        [unsafe { from.read() }; PANEL]
    }

    #[inline(always)]
    unsafe fn mul(a: Self::Floats, b: Self::Floats) -> Self::Floats {
        std::array::from_fn(|index| a[index] * b[index])
    }

    #[inline(always)]
    unsafe fn neg(a: Self::Floats) -> Self::Floats {
        a.map(|a| -a)
    }

    #[inline(always)]
    unsafe fn fma(a: Self::Floats, b: Self::Floats, c: Self::Floats) -> Self::Floats {
        // Without such an instruction it is slow, and still the same.
        std::array::from_fn(|index| a[index].mul_add(b[index], c[index]))
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self::Floats {
        // SAFETY: the caller's promise.
        unsafe { from.cast::<[f32; PANEL]>().read() }
    }

    #[inline(always)]
    unsafe fn store(floats: Self::Floats, to: *mut f32) {
        // SAFETY: the caller's promise.
        unsafe { to.cast::<[f32; PANEL]>().write(floats) }
    }

    #[inline(always)]
    unsafe fn prefetch(_line: *const u8) {}

    unsafe fn run<F: Format, const ROWS: usize>(args: &Args) {
        // SAFETY: the caller's promise.
        unsafe { rows::<Self, F, ROWS>(args) }
    }
}
