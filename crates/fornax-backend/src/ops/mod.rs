//! The operations that language models need, a room for each.
//!
//! A room holds the operation's contract (shapes, dtypes, what it panics on), a `reference` in burn's tensor operations that
//! runs on every backend and records gradients, and `cases`: one table of shapes that drives the tests and the benches and
//! knows each case's bytes and FLOPs. An operation looks at its operands: plain `f32` of the CPU and packed weights go to
//! the kernels of `fornax-cpu`, everything else to the reference. A gradient written by hand stands beside both.
//! There are no parameters here; a layer that owns weights belongs to the crate above.
//!
//! Operations take their operands by value where they can, and reuse their memory.
//!
//! Shapes are part of the contract: an operation panics on operands that do not fit, as burn's own do. What comes
//! from a user (token ids, files, configurations) is checked before it gets here.

mod activation;
mod attention;
mod cost;
mod embedding;
mod gated_linear;
mod layer_norm;
mod linear;
mod rms_norm;
mod rope;

pub use activation::{Activation, activate, gated};
pub use attention::{AttentionOptions, HeadNorms, Mask, RopeTables, Sequences, attention};
pub use cost::Cost;
pub use embedding::{embedding, rows};
pub use gated_linear::gated_linear;
pub use layer_norm::layer_norm;
pub use linear::{LinearRef, WeightRef, linear, linear_add, linears};
pub use rms_norm::{RmsNormOptions, rms_norm};
pub use rope::rope;

/// The tables of cases that tests and benches run, by operation.
pub mod cases {
    pub use super::activation::cases as activation;
    pub use super::attention::cases as attention;
    pub use super::gated_linear::cases as gated_linear;
    pub use super::layer_norm::cases as layer_norm;
    pub use super::linear::cases as linear;
    pub use super::rms_norm::cases as rms_norm;
    pub use super::rope::cases as rope;
}

/// The plain implementations, for comparing the kernels with.
pub mod reference {
    pub use super::activation::reference::activate;
    pub use super::attention::reference::dense as attention;
    pub use super::layer_norm::reference::layer_norm;
    pub use super::linear::reference::linear;
    pub use super::rms_norm::reference::rms_norm;
}
