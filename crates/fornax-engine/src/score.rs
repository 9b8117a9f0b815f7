//! How likely a model finds a text: the log-probability of each token given the tokens before it, and the perplexity.

use std::ops::Range;

use burn::tensor::Tensor;
use fornax_models::AutoModel;
use fornax_nn::{Batch, Decoder};

use crate::error::to_host;
use crate::sampling::log_sum_exp;
use crate::{EngineError, Prompt};

/// Positions whose logits are brought to the host at once.
const ROWS: usize = 128;
/// Tokens that run through the layers at once, unless a single window has more.
const BATCH_TOKENS: usize = 512;

/// The likelihood of a text.
#[derive(Debug, Clone, PartialEq)]
pub struct Score {
    /// The tokens.
    pub token_ids: Vec<u32>,
    /// The natural log-probability of each token given the tokens before it; `None` for the first token.
    pub logprobs: Vec<Option<f32>>,
}

impl Score {
    /// `exp` of the mean negative log-probability over the tokens that have a log-probability; `None` when no token
    /// has.
    pub fn perplexity(&self) -> Option<f64> {
        let known: Vec<f64> = self.logprobs.iter().flatten().map(|&logprob| f64::from(logprob)).collect();
        (!known.is_empty()).then(|| (-known.iter().sum::<f64>() / known.len() as f64).exp())
    }
}

/// Scores a text or token ids.
///
/// A text longer than the model's context is scored in windows of the context's length that overlap by half. So every
/// token after the first window has at least half a context before it.
///
/// # Errors
/// [`EngineError`]: a model that is no causal language model, a token out of the vocabulary, no token at all.
pub fn score(model: &AutoModel, text: impl Into<Prompt>) -> Result<Score, EngineError> {
    score_all(model, [text])?.pop().unwrap_or(Err(EngineError::EmptyPrompt))
}

/// Scores texts of any lengths, several at once. The results are in the order of the texts. Each text gets the same
/// result as from [`score`], and an error of one text is that text's result.
///
/// # Errors
/// [`EngineError`]: a model that is no causal language model, a device that fails.
pub fn score_all(
    model: &AutoModel,
    texts: impl IntoIterator<Item = impl Into<Prompt>>,
) -> Result<Vec<Result<Score, EngineError>>, EngineError> {
    let decoder = model.decoder()?;
    let mut scores: Vec<Result<Score, EngineError>> = texts.into_iter().map(|text| unscored(model, text)).collect();
    let context = decoder.config().context_length();
    let windows: Vec<Window> = scores
        .iter()
        .enumerate()
        .flat_map(|(text, score)| {
            let len = score.as_ref().map_or(0, |score| score.token_ids.len());
            windows(len, context).map(move |(tokens, first)| Window { text, tokens, first })
        })
        .collect();
    let mut rest = windows.as_slice();
    while !rest.is_empty() {
        let mut tokens = 0;
        let fitting = rest.iter().take_while(|window| {
            tokens += window.tokens.len();
            tokens <= BATCH_TOKENS
        });
        let (batch, others) = rest.split_at(fitting.count().max(1));
        score_batch(decoder, batch, &mut scores)?;
        rest = others;
    }
    Ok(scores)
}

/// A text's tokens, without log-probabilities yet.
fn unscored(model: &AutoModel, text: impl Into<Prompt>) -> Result<Score, EngineError> {
    let token_ids = text.into().token_ids(model)?;
    if token_ids.is_empty() {
        return Err(EngineError::EmptyPrompt);
    }
    Ok(Score { logprobs: vec![None; token_ids.len()], token_ids })
}

/// A part of a text that fits the context.
struct Window {
    /// Which text.
    text: usize,
    /// The tokens that are computed. The text's last token is not among them, as nothing follows it.
    tokens: Range<usize>,
    /// The first position without a log-probability from an earlier window.
    first: usize,
}

/// The windows of a text of `len` tokens: the tokens that are computed, and the first position without a
/// log-probability from an earlier window.
fn windows(len: usize, context: usize) -> impl Iterator<Item = (Range<usize>, usize)> {
    let (mut start, mut first) = (0, 1);
    std::iter::from_fn(move || {
        // In a context of one token, no token has another before it.
        if first >= len || context < 2 {
            return None;
        }
        let end = (start + context).min(len);
        let window = (start..end - 1, first);
        (start, first) = (start + context / 2, end);
        Some(window)
    })
}

/// Runs windows through the layers together.
fn score_batch(
    decoder: &Decoder,
    windows: &[Window],
    scores: &mut [Result<Score, EngineError>],
) -> Result<(), EngineError> {
    let mut fed: Vec<&[u32]> = Vec::with_capacity(windows.len());
    // The rows whose logits are wanted, and the text, position and token that each is for.
    let (mut rows, mut wanted) = (Vec::new(), Vec::new());
    let mut row = 0;
    for window in windows {
        let Ok(score) = &scores[window.text] else { continue };
        for position in window.first..=window.tokens.end {
            rows.push((row + position - 1 - window.tokens.start) as u32);
            wanted.push((window.text, position, score.token_ids[position]));
        }
        row += window.tokens.len();
        fed.push(&score.token_ids[window.tokens.clone()]);
    }
    if wanted.is_empty() {
        return Ok(());
    }
    let hidden = decoder.forward(&Batch::uncached(&fed).with_outputs(rows), None);
    for (index, wanted) in wanted.chunks(ROWS).enumerate() {
        let logits = to_host(decoder.logits(hidden.clone().narrow(0, index * ROWS, wanted.len())))?;
        for (row, &(text, position, token)) in logits.chunks_exact(decoder.config().vocab_size).zip(wanted) {
            let Ok(score) = &mut scores[text] else { continue };
            match log_sum_exp(row) {
                Ok(sum) => score.logprobs[position] = Some((f64::from(row[token as usize]) - sum) as f32),
                Err(error) => scores[text] = Err(error.into()),
            }
        }
    }
    Ok(())
}

/// The natural log-probability of each of the tokens `next`, given the row of `hidden` at its place. `hidden` is
/// `[rows, hidden_size]` and may have more rows than there are tokens.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_overlap_by_half_and_cover_every_position_once() {
        let of = |len, context| windows(len, context).collect::<Vec<_>>();
        assert_eq!(of(5, 8), [(0..4, 1)]);
        assert_eq!(of(8, 8), [(0..7, 1)]);
        assert_eq!(of(13, 8), [(0..7, 1), (4..11, 8), (8..12, 12)]);
        assert_eq!(of(3, 2), [(0..1, 1), (1..2, 2)]);
        for (len, context) in [(0, 8), (1, 8), (9, 1)] {
            assert_eq!(of(len, context), [], "{len} tokens in {context}");
        }
    }
}
