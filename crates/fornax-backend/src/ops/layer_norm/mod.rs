//! Layer normalization: `(x − mean) / sqrt(var + ε) · weight + bias` (Ba et al., 2016,
//! <https://arxiv.org/abs/1607.06450>), with the biased variance.

pub mod cases;
pub mod reference;

use burn::tensor::Tensor;
use fornax_cpu::rows::{self, NormWeights};
use fornax_cpu::{Isa, Pool};

use crate::values::{cpu_tensor, into_values};
use crate::{buffers, values};

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
    if dims.contains(&0) {
        return x;
    }
    let shift = bias.as_ref().map(values);
    let (Some(scale), None | Some(Some(_))) = (values(&weight), &shift) else {
        return reference::layer_norm(x, weight, bias, epsilon);
    };
    let x = match into_values(x) {
        Ok(x) => x,
        Err(x) => return reference::layer_norm(x, weight, bias, epsilon),
    };
    let mut y = buffers::take(x.len());
    let shift = shift.flatten();
    let weights = NormWeights { weight: &scale, bias: shift.as_deref(), epsilon: epsilon as f32, offset: 0.0 };
    rows::layer_norm_rows(Pool::global(), Isa::active(), &x, weights, None, &mut y);
    buffers::recycle(x);
    cpu_tensor(y, dims)
}
