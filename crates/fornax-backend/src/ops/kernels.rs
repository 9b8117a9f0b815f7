//! The CPU kernels as an extension of burn's backend: each method is one kernel, its body in its operation's room.
//! Only Flex implements it; every other backend, and every tensor with gradients, takes the operation's reference,
//! and the operation, not this trait, decides which.

use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, Flex, backend_extension};

/// Kernels of the processor, for contiguous or strided `f32` operands without gradients.
#[backend_extension(Flex)]
pub trait CpuKernels: Backend {
    /// `x: [rows, in]`, `weight: [out, in]` → `[rows, out]`, for few rows: the weight is read once, by all threads.
    fn linear_few_rows(x: FloatTensor<Self>, weight: FloatTensor<Self>) -> FloatTensor<Self>;

    /// `x: [rows, features]`, `weight: [features]` → `[rows, features]`, in one pass over each row.
    fn rms_norm_rows(x: FloatTensor<Self>, weight: FloatTensor<Self>, epsilon: f64) -> FloatTensor<Self>;
}

impl CpuKernels for Flex {
    fn linear_few_rows(x: FloatTensor<Self>, weight: FloatTensor<Self>) -> FloatTensor<Self> {
        super::linear::cpu::linear_few_rows(x, weight)
    }

    fn rms_norm_rows(x: FloatTensor<Self>, weight: FloatTensor<Self>, epsilon: f64) -> FloatTensor<Self> {
        super::rms_norm::cpu::rms_norm_rows(x, weight, epsilon)
    }
}
