//! The product with the weight unpacked into a tensor, on every backend.

use burn::tensor::Tensor;
use fornax_cpu::PackedWeight;

use crate::from_values;

/// `x: [..., in]`, `weight: [out, in]`, `bias: [out]` → `[..., out]`.
pub fn packed_linear<const D: usize>(x: Tensor<D>, weight: &PackedWeight, bias: Option<Tensor<1>>) -> Tensor<D> {
    let shape = [weight.out_features(), weight.in_features()];
    let unpacked: Tensor<2> = from_values(weight.to_f32(), shape, &x.device());
    let y = super::super::linear::reference::linear(x.clone(), unpacked.cast(x.dtype()));
    match bias {
        Some(bias) => y + bias.unsqueeze::<D>(),
        None => y,
    }
}
