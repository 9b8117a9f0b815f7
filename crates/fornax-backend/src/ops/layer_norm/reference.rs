//! burn's own layer normalization, in `f32`.

use burn::tensor::{DType, Tensor};

/// `x: [..., features]`, `weight` and `bias: [features]` → the shape of `x`.
pub fn layer_norm<const D: usize>(x: Tensor<D>, weight: Tensor<1>, bias: Option<Tensor<1>>, epsilon: f64) -> Tensor<D> {
    let dtype = x.dtype();
    if dtype == DType::F32 {
        return burn::tensor::module::layer_norm(x, weight, bias, epsilon);
    }
    let wide = |tensor: Tensor<1>| tensor.cast(DType::F32);
    burn::tensor::module::layer_norm(x.cast(DType::F32), wide(weight), bias.map(wide), epsilon).cast(dtype)
}
