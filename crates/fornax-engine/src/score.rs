//! How likely a model finds a text: the log-probability of each token given those before it, and the perplexity.

use fornax_models::AutoModel;
use fornax_nn::Batch;

use crate::error::to_host;
use crate::sampling::log_sum_exp;
use crate::{EngineError, Prompt};

/// Positions whose logits are brought to the host at once.
const ROWS: usize = 128;

/// The likelihood of a text.
#[derive(Debug, Clone, PartialEq)]
pub struct Score {
    /// The tokens.
    pub token_ids: Vec<u32>,
    /// The natural log-probability of each token given those before it; `None` for the first, which nothing comes before.
    pub logprobs: Vec<Option<f32>>,
}

impl Score {
    /// `exp` of the mean negative log-probability over the tokens that have one; `None` when none has.
    pub fn perplexity(&self) -> Option<f64> {
        let known: Vec<f64> = self.logprobs.iter().flatten().map(|&logprob| f64::from(logprob)).collect();
        (!known.is_empty()).then(|| (-known.iter().sum::<f64>() / known.len() as f64).exp())
    }
}

/// Scores a text or token ids.
///
/// A text longer than the model's context is scored in windows of the context's length that overlap by half, so every
/// token past the first window is given at least half a context.
///
/// # Errors
/// [`EngineError`]: a model that is no causal language model, a token out of the vocabulary, no token at all.
pub fn score(model: &AutoModel, text: impl Into<Prompt>) -> Result<Score, EngineError> {
    let decoder = model.decoder()?;
    let token_ids = text.into().token_ids(model)?;
    if token_ids.is_empty() {
        return Err(EngineError::EmptyPrompt);
    }
    let context = decoder.config().context_length();
    let vocab_size = decoder.config().vocab_size;
    let mut logprobs: Vec<Option<f32>> = vec![None];
    let mut start = 0;
    while logprobs.len() < token_ids.len() {
        let end = (start + context).min(token_ids.len());
        // The last token's successor is not asked for, so it is not fed.
        let window = &token_ids[start..end - 1];
        let hidden = decoder.forward(&Batch::uncached(&[window]), None);
        for first in (0..window.len()).step_by(ROWS) {
            let next = start + first + 1;
            let count = ROWS.min(window.len() - first);
            if next + count <= logprobs.len() {
                continue;
            }
            let rows = to_host(decoder.logits(hidden.clone().narrow(0, first, count)))?;
            for (row, logits) in rows.chunks_exact(vocab_size).enumerate() {
                if next + row == logprobs.len() {
                    let logit = logits[token_ids[next + row] as usize];
                    logprobs.push(Some((f64::from(logit) - log_sum_exp(logits)?) as f32));
                }
            }
        }
        start += (context / 2).max(1);
        if context < 2 {
            break;
        }
    }
    logprobs.resize(token_ids.len(), None);
    Ok(Score { token_ids, logprobs })
}
