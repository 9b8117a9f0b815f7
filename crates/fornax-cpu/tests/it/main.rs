//! The kernels from outside, at every level of instructions that this machine has.

mod attention;
mod dense;
mod float;
mod quantized;
mod rows;
