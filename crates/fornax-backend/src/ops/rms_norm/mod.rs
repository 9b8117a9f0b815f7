//! Root mean square normalization: `x / sqrt(mean(x²) + ε) · weight` (Zhang and Sennrich, 2019,
//! <https://arxiv.org/abs/1910.07467>). It neither subtracts the mean nor adds a bias; that is layer norm.

pub mod cases;
pub mod reference;

use burn::tensor::Tensor;
use fornax_cpu::rows::{self, NormWeights};
use fornax_cpu::{Isa, Pool};

use crate::{from_values, values};

/// Normalizes the last dimension by its root mean square and scales it.
///
/// - `x`: `[..., features]`
/// - `weight`: `[features]`
/// - returns the shape and dtype of `x`; half-precision input is normalized in `f32`
///
/// # Panics
/// When the weight's length is not the last dimension of `x`.
pub fn rms_norm<const D: usize>(x: Tensor<D>, weight: Tensor<1>, epsilon: f64) -> Tensor<D> {
    let dims = x.dims();
    assert_eq!(weight.dims(), [dims[D - 1]], "rms_norm: the weight for x {dims:?}");
    if dims.contains(&0) {
        // burn's reshape reads a size of 0 as "the size before", so what is empty cannot be seen as a matrix.
        return x;
    }
    if let (Some(x_values), Some(weight)) = (values(&x), values(&weight)) {
        let mut y = vec![0.0; x_values.len()];
        let weights = NormWeights { weight: &weight, bias: None, epsilon: epsilon as f32 };
        rows::rms_norm_rows(Pool::global(), Isa::active(), &x_values, weights, &mut y);
        return from_values(y, dims, &x.device());
    }
    reference::rms_norm(x, weight, epsilon)
}
