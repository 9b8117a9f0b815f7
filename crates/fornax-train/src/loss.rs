//! The objective of causal language models: each token predicted from those before it.

use burn::tensor::activation::log_softmax;
use burn::tensor::{DType, Int, Tensor};

/// Mean negative log-likelihood of `targets`, in nats per token.
///
/// - `logits`: `[rows, vocab]`, for each row the scores of the next token
/// - `targets`: `[rows]`, the true next tokens
/// - returns `[1]`; half-precision logits are normalized in `f32`
///
/// # Panics
/// When there is not one target for each row.
///
/// ```
/// use burn::tensor::Tensor;
///
/// let device = fornax_backend::Device::cpu();
/// let logits = Tensor::<2>::zeros([2, 8], device.as_burn()); // knows nothing
/// let loss = fornax_train::causal_lm_loss(logits, &[3, 5]);
/// assert!((loss.into_scalar::<f32>() - 8f32.ln()).abs() < 1e-6);
/// ```
pub fn causal_lm_loss(logits: Tensor<2>, targets: &[u32]) -> Tensor<1> {
    let [rows, vocab] = logits.dims();
    assert_eq!(targets.len(), rows, "causal_lm_loss: targets for logits [{rows}, {vocab}]");
    let ids: Vec<i32> = targets.iter().map(|&target| target as i32).collect();
    let targets = Tensor::<1, Int>::from_data(ids.as_slice(), &logits.device()).reshape([rows, 1]);
    let logits = if logits.dtype() == DType::F32 { logits } else { logits.cast(DType::F32) };
    log_softmax(logits, 1).gather(1, targets).mean().neg()
}
