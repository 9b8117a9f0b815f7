//! Root mean square normalization: `x / sqrt(mean(x²) + ε) · weight` (Zhang and Sennrich, 2019,
//! <https://arxiv.org/abs/1910.07467>). It neither subtracts the mean nor adds a bias; that is layer norm.

pub mod cases;
pub mod reference;

use burn::tensor::Tensor;
use fornax_cpu::rows::{self, NormWeights};
use fornax_cpu::{Isa, Pool};

use crate::values::{cpu_tensor, into_values};
use crate::{Values, buffers, values};

/// The parameters of a norm.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RmsNormOptions {
    /// Added to the mean square.
    pub epsilon: f64,
    /// Added to the weight: 1 for models that keep their weights around 0 (Gemma), else 0.
    pub offset: f64,
}

impl RmsNormOptions {
    /// A norm without an offset.
    pub fn new(epsilon: f64) -> Self {
        Self { epsilon, offset: 0.0 }
    }
}

/// Normalizes the last dimension by its root mean square, scales it, and adds the residual where there is one.
///
/// - `x`, `residual`: `[..., features]`
/// - `weight`: `[features]`
/// - returns the shape and dtype of `x`; half-precision input is normalized in `f32`
///
/// # Panics
/// When the weight's length is not the last dimension of `x`, or the residual has another shape than `x`.
pub fn rms_norm<const D: usize>(
    x: Tensor<D>,
    weight: Tensor<1>,
    residual: Option<Tensor<D>>,
    options: RmsNormOptions,
) -> Tensor<D> {
    let dims = x.dims();
    assert_eq!(weight.dims(), [dims[D - 1]], "rms_norm: the weight for x {dims:?}");
    if let Some(residual) = &residual {
        assert_eq!(residual.dims(), dims, "rms_norm: the residual");
    }
    if dims.contains(&0) {
        // burn's reshape reads a size of 0 as "the size before", so an empty tensor cannot be seen as a matrix.
        return x;
    }
    let in_tensors = |x: Tensor<D>, weight: Tensor<1>, residual: Option<Tensor<D>>| {
        let y = reference::rms_norm(x, weight, options);
        match residual {
            Some(residual) => residual + y,
            None => y,
        }
    };
    let Some(scale) = values(&weight) else { return in_tensors(x, weight, residual) };
    let added = match residual.map(into_values).transpose() {
        Ok(added) => added,
        Err(residual) => return in_tensors(x, weight, Some(residual)),
    };
    let x = match into_values(x) {
        Ok(x) => x,
        Err(x) => return in_tensors(x, weight, added.map(Values::into_tensor)),
    };
    let mut y = buffers::take(x.len());
    let (epsilon, offset) = (options.epsilon as f32, options.offset as f32);
    let weights = NormWeights { weight: &scale, bias: None, epsilon, offset };
    rows::rms_norm_rows(Pool::global(), Isa::active(), &x, weights, added.as_deref(), &mut y);
    buffers::recycle(x);
    if let Some(added) = added {
        buffers::recycle(added);
    }
    cpu_tensor(y, dims)
}
