//! The kernels from outside, at every level of instructions that this machine has.

mod float;
mod quantized;
mod attention;
mod rows;
