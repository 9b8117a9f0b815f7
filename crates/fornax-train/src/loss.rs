//! The objective of causal language models: each token predicted from those before it.

use burn::tensor::activation::log_softmax;
use burn::tensor::{DType, Int, Tensor};

/// Mean negative log-likelihood of `targets`, in nats per token.
///
/// - `logits`: `[batch, seq, vocab]`, at each position the scores of the token that comes next
/// - `targets`: `[batch, seq]`, the tokens that do come next
/// - returns `[1]`; half-precision logits are normalized in `f32`
///
/// # Panics
/// When batch or sequence differ.
///
/// ```
/// use burn::tensor::{Int, Tensor};
///
/// let device = fornax_backend::Device::cpu();
/// let logits = Tensor::<3>::zeros([1, 2, 8], device.as_burn()); // knows nothing
/// let loss = fornax_train::causal_lm_loss(logits, Tensor::<2, Int>::from_ints([[3, 5]], device.as_burn()));
/// assert!((loss.into_scalar::<f32>() - 8f32.ln()).abs() < 1e-6);
/// ```
pub fn causal_lm_loss(logits: Tensor<3>, targets: Tensor<2, Int>) -> Tensor<1> {
    let [batch, seq, vocab] = logits.dims();
    assert_eq!(targets.dims(), [batch, seq], "causal_lm_loss: targets for logits [{batch}, {seq}, {vocab}]");
    let rows = batch * seq;
    let logits = logits.reshape([rows, vocab]);
    let logits = if logits.dtype() == DType::F32 { logits } else { logits.cast(DType::F32) };
    log_softmax(logits, 1).gather(1, targets.reshape([rows, 1])).mean().neg()
}
