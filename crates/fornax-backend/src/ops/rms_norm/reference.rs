//! The definition in burn's operations.

use burn::tensor::{DType, Tensor};

use super::RmsNormOptions;

/// `x: [..., features]`, `weight: [features]` → the shape of `x`.
pub fn rms_norm<const D: usize>(x: Tensor<D>, weight: Tensor<1>, options: RmsNormOptions) -> Tensor<D> {
    let dtype = x.dtype();
    let x = if dtype == DType::F32 { x } else { x.cast(DType::F32) };
    let weight = if options.offset == 0.0 { weight } else { weight.add_scalar(options.offset) };
    let mean_square = x.clone().square().mean_dim(D - 1);
    let normalized = x / mean_square.add_scalar(options.epsilon).sqrt();
    let normalized = if dtype == DType::F32 { normalized } else { normalized.cast(dtype) };
    normalized * weight.unsqueeze::<D>()
}
