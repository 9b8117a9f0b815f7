//! The definition in burn's operations.

use burn::tensor::{DType, Tensor};

use super::RmsNormOptions;

/// `x: [..., features]`, `weight: [features]` → the shape of `x`.
pub fn rms_norm<const D: usize>(x: Tensor<D>, weight: Tensor<1>, options: RmsNormOptions) -> Tensor<D> {
    let dtype = x.dtype();
    let wide = |x: Tensor<1>| if dtype == DType::F32 { x } else { x.cast(DType::F32) };
    let x = if dtype == DType::F32 { x } else { x.cast(DType::F32) };
    let mean_square = x.clone().square().mean_dim(D - 1);
    let normalized = x / mean_square.add_scalar(options.epsilon).sqrt();
    if options.offset != 0.0 {
        // Half precision would round the sum to 1 where the weight is small, so it is formed in `f32`, as Gemma does it.
        let scaled = normalized * wide(weight).add_scalar(options.offset).unsqueeze::<D>();
        return if dtype == DType::F32 { scaled } else { scaled.cast(dtype) };
    }
    let normalized = if dtype == DType::F32 { normalized } else { normalized.cast(dtype) };
    normalized * weight.unsqueeze::<D>()
}
