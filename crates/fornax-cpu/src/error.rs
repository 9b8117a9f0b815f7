//! What can go wrong in this crate.

use crate::Isa;
use crate::packed::WeightType;

/// An error of the CPU's kernels.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CpuError {
    /// A level of instructions that the processor lacks was asked for.
    #[error("instruction set {wanted}: this processor's best is {best}; choose {best} or a lower one")]
    IsaUnavailable {
        /// The level asked for.
        wanted: Isa,
        /// The highest that there is.
        best: Isa,
    },
    /// The level was chosen after operations had run at another.
    #[error("instruction set {wanted}: operations have run at {active} already; choose before the first operation")]
    IsaInUse {
        /// The level asked for.
        wanted: Isa,
        /// The level in use.
        active: Isa,
    },
    /// No level has this name.
    #[error("instruction set {found:?}: expected one of portable, avx2, avx512, amx")]
    UnknownIsa {
        /// The name found.
        found: String,
    },
    /// A number of threads that makes no sense.
    #[error("threads: found {found}, expected 1 to {max}")]
    ThreadsOutOfRange {
        /// The number asked for.
        found: usize,
        /// The most that is accepted.
        max: usize,
    },
    /// The threads run already, and are another number.
    #[error("threads: {running} are running already; set the number before the first operation")]
    ThreadsRunning {
        /// How many run.
        running: usize,
    },
    /// No type of weight has this name.
    #[error("weight type {found:?}: expected one of {expected}")]
    UnknownWeightType {
        /// The name found.
        found: String,
        /// The names there are.
        expected: String,
    },
    /// No type of cache has this name.
    #[error("cache type {found:?}: expected one of f32, f16, bf16, i8")]
    UnknownCacheType {
        /// The name found.
        found: String,
    },
    /// No activation has this name.
    #[error(
        "activation {found:?}: expected one of relu, relu2, gelu, gelu_new, gelu_pytorch_tanh, gelu_fast, quick_gelu, silu, \
         swish, tanh, sigmoid"
    )]
    UnknownActivation {
        /// The name found.
        found: String,
    },
    /// The system refused memory.
    #[error("no memory: the system refused {bytes} bytes; ask for less, or free some")]
    NoMemory {
        /// How much was asked for.
        bytes: usize,
    },
    /// A weight's rows cannot be cut into the blocks of its type.
    #[error(
        "weight [{out_features}, {in_features}] as {weight_type}: its {in_features} columns are not a multiple of {block}; \
         choose a type with smaller blocks (q8_0 and q4_0 have 32), or one without (bf16, f16)"
    )]
    Block {
        /// The type asked for.
        weight_type: WeightType,
        /// Rows of the weight.
        out_features: usize,
        /// Columns of the weight.
        in_features: usize,
        /// Columns of a block.
        block: usize,
    },
    /// The bytes or values of a weight are not as many as its shape says.
    #[error("weight [{out_features}, {in_features}] as {weight_type}: expected {expected} {unit}, found {found}")]
    Length {
        /// The type of the weight.
        weight_type: WeightType,
        /// Rows of the weight.
        out_features: usize,
        /// Columns of the weight.
        in_features: usize,
        /// How many its shape needs.
        expected: usize,
        /// How many there are.
        found: usize,
        /// What is counted.
        unit: &'static str,
    },
    /// The type can be read, but nothing is quantized to it here.
    #[error("weights cannot be quantized to {weight_type} here; choose one of {expected}")]
    CannotQuantize {
        /// The type asked for.
        weight_type: WeightType,
        /// The types that can be.
        expected: String,
    },
}

/// A result of this crate.
pub type Result<T, E = CpuError> = std::result::Result<T, E>;
