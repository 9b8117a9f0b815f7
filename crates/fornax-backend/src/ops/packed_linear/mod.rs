//! `y = x Wᵀ + b` with a packed weight: read where it lies by the CPU's kernels, unpacked for every call anywhere else.
//! Making packed weights is `fornax-cpu`'s matter.

pub mod cases;
pub mod reference;

use burn::tensor::Tensor;
use fornax_cpu::linear::{self, LinearMap};
use fornax_cpu::{Isa, PackedWeight, Pool};

use crate::{from_values, values};

/// Applies a linear map with a packed weight to the last dimension.
///
/// - `x`: `[..., in]`
/// - `weight`: `[out, in]`
/// - `bias`: `[out]`
/// - returns `[..., out]`, with gradients for `x` and the bias where they are recorded
///
/// The CPU rounds the input's rows as the weight's kernels want it: to bf16 for float weights, to int8 with a scale for
/// each 32 values for quantized ones.
///
/// # Panics
/// When the last dimension of `x` is not the weight's `in`, or the bias is not `[out]`.
pub fn packed_linear<const D: usize>(x: Tensor<D>, weight: &PackedWeight, bias: Option<Tensor<1>>) -> Tensor<D> {
    let (out_features, in_features) = (weight.out_features(), weight.in_features());
    let mut dims = x.dims();
    assert_eq!(dims[D - 1], in_features, "packed_linear: the weight [{out_features}, {in_features}] for x {dims:?}");
    if let Some(bias) = &bias {
        assert_eq!(bias.dims(), [out_features], "packed_linear: the bias of a weight [{out_features}, {in_features}]");
    }
    let rows: usize = dims[..D - 1].iter().product();
    dims[D - 1] = out_features;
    if dims.contains(&0) {
        return Tensor::zeros(dims, (&x.device(), x.dtype()));
    }
    let bias_values = bias.as_ref().and_then(values);
    match values(&x) {
        Some(x_values) if bias_values.is_some() == bias.is_some() => {
            let map = LinearMap { weight, bias: bias_values.as_deref() };
            let mut y = vec![0.0; rows * out_features];
            linear::linear(Pool::global(), Isa::active(), &x_values, rows, &[map], &mut [&mut y], |_, _, _, _| {});
            from_values(y, dims, &x.device())
        }
        _ => reference::packed_linear(x, weight, bias),
    }
}
