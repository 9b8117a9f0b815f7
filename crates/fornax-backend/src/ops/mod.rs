//! The operations that language models need, a room for each.
//!
//! A room holds the operation's contract (shapes, dtypes, what it panics on), a `reference` in burn's tensor
//! operations that runs on every backend and records gradients, the kernels of single backends beside it,
//! and `cases`: one table of shapes that drives the tests and the benches and knows each case's bytes and FLOPs.
//! There are no parameters here; a layer that owns weights belongs to the crate above.
//!
//! Shapes are part of the contract: an operation panics on operands that do not fit, as burn's own do. What comes
//! from a user (token ids, files, configurations) is checked before it gets here.

mod activation;
mod attention;
mod cost;
#[cfg(feature = "cpu")]
mod kernels;
mod layer_norm;
mod linear;
mod packed_linear;
mod rms_norm;
mod rope;

pub use activation::{Activation, UnknownActivation, gated};
pub use attention::{AttentionOptions, attention};
pub use cost::Cost;
#[cfg(feature = "cpu")]
pub use kernels::CpuKernels;
pub use layer_norm::layer_norm;
pub use linear::linear;
pub use packed_linear::packed_linear;
pub use rms_norm::rms_norm;
pub use rope::rope;

/// The tables of cases that tests and benches run, by operation.
pub mod cases {
    pub use super::activation::cases as activation;
    pub use super::attention::cases as attention;
    pub use super::layer_norm::cases as layer_norm;
    pub use super::linear::cases as linear;
    pub use super::packed_linear::cases as packed_linear;
    pub use super::rms_norm::cases as rms_norm;
    pub use super::rope::cases as rope;
}

/// The plain implementations, for comparing the kernels with.
pub mod reference {
    pub use super::attention::reference::attention;
    pub use super::linear::reference::linear;
    pub use super::packed_linear::reference::packed_linear;
    pub use super::rms_norm::reference::rms_norm;
}

/// Whether a tensor is held by burn-flex with no gradients recorded, so that a CPU kernel may take it.
#[cfg(feature = "cpu")]
fn on_plain_cpu<const D: usize>(tensor: &burn::tensor::Tensor<D>) -> bool {
    // With gradients the device is `Autodiff(Flex)`, which does not match.
    matches!(tensor.device().as_dispatch(), burn::backend::DispatchDevice::Flex(_))
        && tensor.dtype() == burn::tensor::DType::F32
}
