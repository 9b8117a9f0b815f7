//! How likely a model finds a text: the log-probability of each token given those before it, and the perplexity.

use burn::tensor::Tensor;
use fornax_models::AutoModel;
use fornax_nn::{Batch, Decoder};

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
/// It needs no engine, and so no thread and no memory for keys and values: each window is one pass whose keys and values are
/// not kept. [`EngineHandle::score`](crate::EngineHandle::score) gives the same numbers beside other requests, of texts that fit
/// the context.
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
    let mut logprobs: Vec<Option<f32>> = vec![None];
    let mut start = 0;
    // In a context of one token nothing comes before another.
    while context > 1 && logprobs.len() < token_ids.len() {
        let end = (start + context).min(token_ids.len());
        // The last token's successor is not asked for, so it is not fed.
        let window = &token_ids[start..end - 1];
        let hidden = decoder.forward(&Batch::uncached(&[window]), None);
        // What the window before has scored had more before it there.
        let known = logprobs.len() - start - 1;
        let rows = hidden.narrow(0, known, window.len() - known);
        logprobs.extend(logprobs_of(decoder, rows, &token_ids[logprobs.len()..end])?.into_iter().map(Some));
        start += context / 2;
    }
    logprobs.resize(token_ids.len(), None);
    Ok(Score { token_ids, logprobs })
}

/// The natural log-probability of each of the tokens `next`, given the hidden state at its place in `hidden`, which may have
/// more rows: `[rows, hidden_size]`.
pub(crate) fn logprobs_of(decoder: &Decoder, hidden: Tensor<2>, next: &[u32]) -> Result<Vec<f32>, EngineError> {
    let mut logprobs = Vec::with_capacity(next.len());
    for (index, next) in next.chunks(ROWS).enumerate() {
        let rows = to_host(decoder.logits(hidden.clone().narrow(0, index * ROWS, next.len())))?;
        for (logits, &token) in rows.chunks_exact(rows.len() / next.len()).zip(next) {
            logprobs.push((f64::from(logits[token as usize]) - log_sum_exp(logits)?) as f32);
        }
    }
    Ok(logprobs)
}
