//! A generated sequence: it samples tokens from logits, decodes them to text, and knows when it ends.

use fornax_models::AutoModel;
use fornax_text::{StreamDecoder, TextError};

use crate::sampling::{History, Sampled, Sampler, SamplingParams};
use crate::stop::StopChecker;
use crate::{Chunk, EngineError, FinishReason};

/// One of the sequences of a request.
#[derive(Debug)]
pub(crate) struct Sequence {
    index: usize,
    sampler: Sampler,
    history: History,
    decoder: Option<StreamDecoder>,
    stop: StopChecker,
}

/// The parameters that all sequences of a request share.
#[derive(Debug)]
pub(crate) struct Limits {
    pub(crate) params: SamplingParams,
    pub(crate) eos: Vec<u32>,
    /// The most new tokens, by the request and by the context.
    pub(crate) limit: usize,
}

impl Sequence {
    pub(crate) fn new(model: &AutoModel, prompt: &[u32], limits: &Limits, index: usize) -> Result<Self, EngineError> {
        let vocab_size = model.network().vocab_size();
        Ok(Self {
            index,
            sampler: Sampler::new(&limits.params, vocab_size, index as u64)?.with_eos(&limits.eos),
            history: History::new(prompt),
            decoder: model.tokenizer().map(|tokenizer| tokenizer.stream_decoder(true)),
            stop: StopChecker::new(&limits.params.stop, false)?,
        })
    }

    /// Samples the next token, and gives a chunk with the text that is certain by now and, at the end, the finish
    /// reason.
    pub(crate) fn advance(&mut self, logits: &mut [f32], limits: &Limits) -> Result<Chunk, EngineError> {
        let sampled = self.sampler.sample(logits, &self.history)?;
        self.history.push(sampled.token);
        self.emit(sampled, limits)
    }

    fn emit(&mut self, sampled: Sampled, limits: &Limits) -> Result<Chunk, EngineError> {
        let Limits { params, eos, limit } = limits;
        let token = sampled.token;
        let ends_by_token = if params.stop_token_ids.contains(&token) {
            Some(FinishReason::StopToken(token))
        } else if eos.contains(&token) {
            Some(FinishReason::EndOfSequence)
        } else {
            None
        };
        let mut text = String::new();
        let mut finish_reason = ends_by_token;
        if let Some(decoder) = &mut self.decoder {
            // The token that ends a sequence is not part of its text.
            let piece = match ends_by_token {
                None => text_of(decoder.push(token))?,
                Some(_) => None,
            };
            if let Some(piece) = piece {
                let output = self.stop.push(&piece);
                text.push_str(&output.text);
                finish_reason = output.stopped.map(FinishReason::StopString);
            }
        }
        if finish_reason.is_none() && self.history.generated().len() >= *limit {
            let full = *limit < params.max_new_tokens;
            finish_reason = Some(if full { FinishReason::Context } else { FinishReason::Length });
        }
        if finish_reason.is_some() && !matches!(finish_reason, Some(FinishReason::StopString(_))) {
            self.flush(&mut text, &mut finish_reason)?;
        }
        let logprobs = if params.logprobs.is_some() { vec![sampled] } else { Vec::new() };
        Ok(Chunk { sequence: self.index, text, token_ids: vec![token], logprobs, finish_reason })
    }

    /// Adds the text that was held back: an incomplete character, or the beginning of a stop string.
    fn flush(&mut self, text: &mut String, finish_reason: &mut Option<FinishReason>) -> Result<(), EngineError> {
        let Some(decoder) = &mut self.decoder else { return Ok(()) };
        if let Some(piece) = decoder.finish()? {
            let output = self.stop.push(&piece);
            text.push_str(&output.text);
            if let Some(index) = output.stopped {
                *finish_reason = Some(FinishReason::StopString(index));
                return Ok(());
            }
        }
        text.push_str(&self.stop.finish());
        Ok(())
    }
}

/// The text of a token. Embeddings are often padded to a round number of rows; a token beyond the tokenizer's ids has
/// none.
fn text_of(piece: Result<Option<String>, TextError>) -> Result<Option<String>, EngineError> {
    match piece {
        Err(TextError::UnknownId { .. }) => Ok(None),
        other => Ok(other?),
    }
}
