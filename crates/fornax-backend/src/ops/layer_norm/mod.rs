//! Layer normalization: `(x − mean) / sqrt(var + ε) · weight + bias` (Ba et al., 2016,
//! <https://arxiv.org/abs/1607.06450>), with the biased variance. burn has it as one operation; this room adds the contract.

pub mod cases;

use burn::tensor::{DType, Tensor};

/// Normalizes the last dimension to mean 0 and variance 1, scales and shifts it.
///
/// - `x`: `[..., features]`
/// - `weight`, `bias`: `[features]`
/// - returns the shape and dtype of `x`; half-precision input is normalized in `f32`
///
/// # Panics
/// When weight or bias are not as long as the last dimension of `x`.
pub fn layer_norm<const D: usize>(x: Tensor<D>, weight: Tensor<1>, bias: Option<Tensor<1>>, epsilon: f64) -> Tensor<D> {
    let dims = x.dims();
    assert_eq!(weight.dims(), [dims[D - 1]], "layer_norm: the weight for x {dims:?}");
    if let Some(bias) = &bias {
        assert_eq!(bias.dims(), [dims[D - 1]], "layer_norm: the bias for x {dims:?}");
    }
    let dtype = x.dtype();
    if dtype == DType::F32 {
        return burn::tensor::module::layer_norm(x, weight, bias, epsilon);
    }
    let wide = |tensor: Tensor<1>| tensor.cast(DType::F32);
    burn::tensor::module::layer_norm(x.cast(DType::F32), wide(weight), bias.map(wide), epsilon).cast(dtype)
}
