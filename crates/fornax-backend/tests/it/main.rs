//! The operations on a device, each against a plain `f64` implementation written from its definition.
//!
//! The device is named by `FORNAX_TEST_DEVICE`, `cpu` without it, so the same tests run on every backend. What only
//! the CPU promises (bit equality, NaN, gradients against differences) is checked there alone, and the random shapes
//! too, since a GPU backend compiles kernels for new shapes. How fast anything is, is the benches' matter.

mod common;

mod activation;
mod attention;
mod embedding;
mod gated_linear;
mod layer_norm;
mod linear;
mod rms_norm;
mod rope;
