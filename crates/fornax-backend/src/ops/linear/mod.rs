//! Linear maps `y = x Wᵀ + b`: alone, several of one input side by side, and with a residual added. Weights are
//! `[out, in]`, as checkpoints hold them, so that they can be used where they lie. Dense weights are tensors on any
//! device. Packed weights are read in place by the CPU's kernels, and unpacked for every call on any other device.

pub mod cases;
mod cpu;
pub mod reference;

use burn::tensor::Tensor;
use fornax_cpu::PackedWeight;

pub(crate) use cpu::Maps;

use crate::buffers;
use crate::values::{cpu_tensor, into_values};

/// The matrix of a linear map, as an operand.
// It lives for a call, and a tensor is as large as burn makes it.
#[derive(Debug, Clone)]
#[allow(clippy::large_enum_variant)]
pub enum WeightRef<'a> {
    /// A tensor `[out, in]` of the input's dtype, which gradients can be recorded for.
    Dense(Tensor<2>),
    /// A packed weight, which is only read. The CPU rounds the input's rows as its kernels want it: to bf16 for float
    /// weights, to int8 with a scale for each 32 values, or 256, for quantized ones.
    Packed(&'a PackedWeight),
}

/// A linear map, as an operand.
#[derive(Debug, Clone)]
pub struct LinearRef<'a> {
    /// `[out, in]`
    pub weight: WeightRef<'a>,
    /// `[out]`
    pub bias: Option<Tensor<1>>,
}

impl WeightRef<'_> {
    /// `[out, in]`
    pub fn dims(&self) -> [usize; 2] {
        match self {
            Self::Dense(weight) => weight.dims(),
            Self::Packed(weight) => [weight.out_features(), weight.in_features()],
        }
    }
}

impl LinearRef<'_> {
    /// A map with a dense weight, without bias.
    pub fn dense(weight: Tensor<2>) -> Self {
        Self { weight: WeightRef::Dense(weight), bias: None }
    }

    /// Checks that the operands fit, and returns the number of output features.
    #[track_caller]
    pub(crate) fn check(&self, dims: &[usize]) -> usize {
        let [out_features, in_features] = self.weight.dims();
        let last = dims[dims.len() - 1];
        let found = [out_features, in_features];
        assert_eq!(last, in_features, "linear: x is {dims:?}, so the weight must be [out, {last}], found {found:?}");
        if let Some(bias) = &self.bias {
            assert_eq!(bias.dims(), [out_features], "linear: the bias of a weight {found:?}");
        }
        out_features
    }
}

/// Applies a linear map to the last dimension: `x: [..., in]` → `[..., out]`.
///
/// # Panics
/// When the last dimension of `x` is not the weight's `in`, or the bias is not `[out]`, as for all operations here.
pub fn linear<const D: usize>(x: Tensor<D>, map: &LinearRef<'_>) -> Tensor<D> {
    let mut dims = x.dims();
    let out_features = map.check(&dims);
    let rows = dims[..D - 1].iter().product();
    dims[D - 1] = out_features;
    if dims.contains(&0) {
        // burn's reshape reads a size of 0 as "the size before", so an empty tensor cannot be seen as a matrix.
        return Tensor::zeros(dims, (&x.device(), x.dtype()));
    }
    let Some(maps) = Maps::of([map]) else { return reference::linear(x, map) };
    let x = match into_values(x) {
        Ok(x) => x,
        Err(x) => return reference::linear(x, map),
    };
    let mut y = buffers::take(rows * out_features);
    maps.linear(&x, rows, &mut y);
    buffers::recycle(x);
    cpu_tensor(y, dims)
}

/// Applies several linear maps to one input: `x: [rows, in]` → `[rows, out₀ + out₁ + …]`, the results side by side.
///
/// The input is read, and rounded where weights are packed, once for all maps.
///
/// # Panics
/// As [`linear`], and without maps.
pub fn linears<const N: usize>(x: Tensor<2>, maps: [&LinearRef<'_>; N]) -> Tensor<2> {
    let dims @ [rows, _] = x.dims();
    let columns = maps.iter().map(|map| map.check(&dims)).sum();
    if rows == 0 || columns == 0 {
        return Tensor::zeros([rows, columns], (&x.device(), x.dtype()));
    }
    let all = |x: Tensor<2>| Tensor::cat(maps.into_iter().map(|map| reference::linear(x.clone(), map)).collect(), 1);
    let Some(kernels) = Maps::of(maps) else { return all(x) };
    let x = match into_values(x) {
        Ok(x) => x,
        Err(x) => return all(x),
    };
    let mut y = buffers::take(rows * columns);
    kernels.linear(&x, rows, &mut y);
    buffers::recycle(x);
    cpu_tensor(y, [rows, columns])
}

/// A linear map added to a residual: `residual + x Wᵀ + b` with `x: [rows, in]` and `residual: [rows, out]`.
///
/// # Panics
/// As [`linear`], and when the residual has another shape than the result.
pub fn linear_add(x: Tensor<2>, map: &LinearRef<'_>, residual: Tensor<2>) -> Tensor<2> {
    let dims @ [rows, _] = x.dims();
    let columns = map.check(&dims);
    assert_eq!(residual.dims(), [rows, columns], "linear_add: the residual");
    if rows == 0 || columns == 0 {
        return residual;
    }
    let Some(maps) = Maps::of([map]) else { return residual + reference::linear(x, map) };
    let x = match into_values(x) {
        Ok(x) => x,
        Err(x) => return residual + reference::linear(x, map),
    };
    let added = match into_values(residual) {
        Ok(added) => added,
        Err(residual) => return residual + reference::linear(x.into_tensor(), map),
    };
    let mut y = buffers::take(rows * columns);
    maps.linear_add(&x, rows, &added, &mut y);
    buffers::recycle(x);
    buffers::recycle(added);
    cpu_tensor(y, [rows, columns])
}
