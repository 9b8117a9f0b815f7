//! The product as burn's matrix multiplication, on every backend. A dense weight is transposed as a view, without a
//! copy; a packed weight is unpacked into a tensor.

use burn::tensor::Tensor;

use super::{LinearRef, WeightRef};
use crate::from_values;

/// `x: [..., in]` → `[..., out]`.
pub fn linear<const D: usize>(x: Tensor<D>, map: &LinearRef<'_>) -> Tensor<D> {
    let weight = match &map.weight {
        WeightRef::Dense(weight) => weight.clone(),
        WeightRef::Packed(weight) => {
            let shape = [weight.out_features(), weight.in_features()];
            let unpacked: Tensor<2> = from_values(weight.to_f32(), shape, &x.device());
            unpacked.cast(x.dtype())
        }
    };
    let [out_features, in_features] = weight.dims();
    let mut dims = x.dims();
    let rows: usize = dims[..D - 1].iter().product();
    dims[D - 1] = out_features;
    let y = x.reshape([rows, in_features]).matmul(weight.transpose()).reshape(dims);
    match &map.bias {
        Some(bias) => y + bias.clone().unsqueeze::<D>(),
        None => y,
    }
}
