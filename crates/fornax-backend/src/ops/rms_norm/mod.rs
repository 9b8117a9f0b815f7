//! Root mean square normalization: `x / sqrt(mean(x²) + ε) · weight` (Zhang and Sennrich, 2019,
//! <https://arxiv.org/abs/1910.07467>). It neither subtracts the mean nor adds a bias; that is layer norm.

pub mod cases;
#[cfg(feature = "cpu")]
pub(super) mod cpu;
pub mod reference;

use burn::tensor::Tensor;

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
    #[cfg(feature = "cpu")]
    if super::on_plain_cpu(&x) && super::on_plain_cpu(&weight) {
        use burn::backend::Dispatch;

        let rows = dims[..D - 1].iter().product();
        let x = x.reshape([rows, dims[D - 1]]);
        let y = <Dispatch as super::CpuKernels>::rms_norm_rows(x.into_dispatch(), weight.into_dispatch(), epsilon);
        return Tensor::<2>::from_dispatch(y).reshape(dims);
    }
    reference::rms_norm(x, weight, epsilon)
}
