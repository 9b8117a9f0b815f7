//! `y = x Wᵀ + b`. Weights are `[out, in]`, as checkpoints hold them, so that they can be used where they lie.

pub mod cases;
#[cfg(feature = "cpu")]
pub(super) mod cpu;
pub mod reference;

use burn::tensor::Tensor;

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
    let y = product(x, weight);
    debug_assert_eq!(y.dims(), dims);
    match bias {
        Some(bias) => y + bias.unsqueeze::<D>(),
        None => y,
    }
}

#[cfg(feature = "cpu")]
fn product<const D: usize>(x: Tensor<D>, weight: Tensor<2>) -> Tensor<D> {
    use burn::backend::Dispatch;

    let mut dims = x.dims();
    let rows: usize = dims[..D - 1].iter().product();
    if !(1..=cpu::FEW_ROWS).contains(&rows) || !super::on_plain_cpu(&x) || !super::on_plain_cpu(&weight) {
        return reference::linear(x, weight);
    }
    let x = x.reshape([rows, dims[D - 1]]);
    dims[D - 1] = weight.dims()[0];
    let y = <Dispatch as super::CpuKernels>::linear_few_rows(x.into_dispatch(), weight.into_dispatch());
    Tensor::<2>::from_dispatch(y).reshape(dims)
}

#[cfg(not(feature = "cpu"))]
fn product<const D: usize>(x: Tensor<D>, weight: Tensor<2>) -> Tensor<D> {
    reference::linear(x, weight)
}
