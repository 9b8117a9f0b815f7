//! `y = x Wᵀ + b`. On the CPU without gradients `fornax-cpu` computes it, burn everywhere else. Weights are `[out, in]`, as checkpoints hold them, so that they can be used where they lie.

pub mod cases;
pub mod reference;

use burn::tensor::Tensor;
use fornax_cpu::linear::{self, LinearMap, Matrix};
use fornax_cpu::{Isa, Pool};

use crate::{from_values, values};

/// Applies a linear map to the last dimension.
///
/// - `x`: `[..., in]`
/// - `weight`: `[out, in]`, of the same dtype
/// - `bias`: `[out]`
/// - returns `[..., out]`
///
/// # Panics
/// When the last dimension of `x` is not the weight's `in`, or the bias is not `[out]`.
pub fn linear<const D: usize>(x: Tensor<D>, weight: Tensor<2>, bias: Option<Tensor<1>>) -> Tensor<D> {
    let [out_features, in_features] = weight.dims();
    let mut dims = x.dims();
    assert_eq!(
        dims[D - 1],
        in_features,
        "linear: x is {dims:?}, so the weight must be [out, {}], found {:?}",
        dims[D - 1],
        [out_features, in_features]
    );
    if let Some(bias) = &bias {
        assert_eq!(bias.dims(), [out_features], "linear: the bias of a weight [{out_features}, {in_features}]");
    }
    dims[D - 1] = out_features;
    if dims.contains(&0) {
        // burn's reshape reads a size of 0 as "the size before", so what is empty cannot be seen as a matrix.
        return Tensor::zeros(dims, (&x.device(), x.dtype()));
    }
    let device = x.device();
    let rows = dims[..D - 1].iter().product();
    let bias_values = bias.as_ref().and_then(values);
    if let (Some(x), Some(weight)) = (values(&x), values(&weight))
        && bias_values.is_some() == bias.is_some()
    {
        let map = LinearMap {
            weight: Matrix::Dense { values: &weight, out_features, in_features },
            bias: bias_values.as_deref(),
        };
        let mut y = vec![0.0; rows * out_features];
        linear::linear(Pool::global(), Isa::active(), &x, rows, &[map], &mut [&mut y], |_, _, _, _| {});
        return from_values(y, dims, &device);
    }
    let y = reference::linear(x, weight);
    debug_assert_eq!(y.dims(), dims);
    match bias {
        Some(bias) => y + bias.unsqueeze::<D>(),
        None => y,
    }
}
