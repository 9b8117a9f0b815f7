//! The product as burn's matrix multiplication, on every backend. The weight is transposed as a view, not copied.

use burn::tensor::Tensor;

/// `x: [..., in]`, `weight: [out, in]` → `[..., out]`.
pub fn linear<const D: usize>(x: Tensor<D>, weight: Tensor<2>) -> Tensor<D> {
    let [out_features, in_features] = weight.dims();
    let mut dims = x.dims();
    let rows: usize = dims[..D - 1].iter().product();
    dims[D - 1] = out_features;
    x.reshape([rows, in_features]).matmul(weight.transpose()).reshape(dims)
}
