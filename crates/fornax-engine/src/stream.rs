//! The steps of sampled generation, as an iterator: sequences of one prompt run side by side, each with its own sampler,
//! until it ends and leaves the batch.

use std::collections::VecDeque;
use std::fmt;

use fornax_models::AutoModel;
use fornax_nn::Decoder;
use fornax_text::{StreamDecoder, TextError};

use crate::EngineError;
use crate::generator::{FinishReason, Generation};
use crate::local::LocalSequences;
use crate::sampling::{History, Sampled, Sampler, SamplingParams};
use crate::stop::StopChecker;

/// A piece of a sequence. It displays as its text.
#[derive(Debug, Clone, PartialEq)]
pub struct Chunk {
    /// Which of the sequences asked for.
    pub sequence: usize,
    /// The text that can be shown now; whole characters, possibly none.
    pub text: String,
    /// The tokens since the last piece.
    pub token_ids: Vec<u32>,
    /// Their log-probabilities, if they were asked for.
    pub logprobs: Vec<Sampled>,
    /// Set on the last piece of a sequence.
    pub finish_reason: Option<FinishReason>,
}

impl fmt::Display for Chunk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Pieces as they are generated, and at the end the whole sequences.
#[derive(Debug)]
pub struct Stream<'a> {
    batch: Option<Batch<'a>>,
    ready: VecDeque<Chunk>,
    results: Vec<Generation>,
}

impl<'a> Stream<'a> {
    /// Feeds the prompt. `limit` new tokens at most fit request and context.
    pub(crate) fn start(
        model: &'a AutoModel,
        decoder: &'a Decoder,
        prompt: &[u32],
        params: &SamplingParams,
        limit: usize,
    ) -> Result<Self, EngineError> {
        let params = params.clone().with_fixed_seed();
        let count = params.num_return_sequences;
        let eos = if params.ignore_eos { &[][..] } else { &model.generation_defaults().eos_token_ids };
        let sequences = (0..count)
            .map(|index| {
                Ok(Sequence {
                    index,
                    sampler: Sampler::new(&params, decoder.config().vocab_size, index as u64)?.with_eos(eos),
                    history: History::new(prompt),
                    decoder: model.tokenizer().map(|tokenizer| tokenizer.stream_decoder(true)),
                    stop: StopChecker::new(&params.stop, false)?,
                })
            })
            .collect::<Result<Vec<_>, EngineError>>()?;

        let mut cache = LocalSequences::new(decoder, count, prompt.len() + limit)?;
        let first = cache.prefill(prompt)?;
        cache.select(&vec![0; count]);
        let results = vec![
            Generation {
                text: String::new(),
                token_ids: Vec::new(),
                finish_reason: FinishReason::Length,
                logprobs: Vec::new(),
                beam_score: None,
            };
            count
        ];
        let batch = Batch { vocab_size: decoder.config().vocab_size, cache, logits: first.repeat(count), sequences, eos: eos.to_vec(), params, limit };
        Ok(Self { batch: Some(batch), ready: VecDeque::new(), results })
    }

    /// A stream of sequences that are known already.
    pub(crate) fn finished(generations: Vec<Generation>) -> Self {
        let chunk = |(sequence, generation): (usize, &Generation)| Chunk {
            sequence,
            text: generation.text.clone(),
            token_ids: generation.token_ids.clone(),
            logprobs: generation.logprobs.clone(),
            finish_reason: Some(generation.finish_reason),
        };
        Self { batch: None, ready: generations.iter().enumerate().map(chunk).collect(), results: generations }
    }

    /// The sequences so far; whole once the stream has ended.
    pub fn into_generations(self) -> Vec<Generation> {
        self.results
    }
}

impl Iterator for Stream<'_> {
    type Item = Result<Chunk, EngineError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(chunk) = self.ready.pop_front() {
                return Some(Ok(chunk));
            }
            let batch = self.batch.as_mut()?;
            match batch.step() {
                Ok(chunks) => {
                    for chunk in &chunks {
                        let result = &mut self.results[chunk.sequence];
                        result.text.push_str(&chunk.text);
                        result.token_ids.extend(&chunk.token_ids);
                        result.logprobs.extend(chunk.logprobs.iter().cloned());
                        result.finish_reason = chunk.finish_reason.unwrap_or(result.finish_reason);
                    }
                    self.ready.extend(chunks);
                    if batch.sequences.is_empty() {
                        self.batch = None;
                    }
                }
                Err(error) => {
                    self.batch = None;
                    return Some(Err(error));
                }
            }
        }
    }
}

/// The sequences that still run, in the order of the cache's rows.
#[derive(Debug)]
struct Batch<'a> {
    vocab_size: usize,
    cache: LocalSequences<'a>,
    /// `[sequences · vocab_size]`: what the model says comes next.
    logits: Vec<f32>,
    sequences: Vec<Sequence>,
    eos: Vec<u32>,
    params: SamplingParams,
    limit: usize,
}

#[derive(Debug)]
struct Sequence {
    index: usize,
    sampler: Sampler,
    history: History,
    decoder: Option<StreamDecoder>,
    stop: StopChecker,
}

impl Batch<'_> {
    /// Chooses a token for every sequence, lets those leave that have ended, and runs the model for the others.
    fn step(&mut self) -> Result<Vec<Chunk>, EngineError> {
        let vocab_size = self.vocab_size;
        let mut chunks = Vec::with_capacity(self.sequences.len());
        for (sequence, logits) in self.sequences.iter_mut().zip(self.logits.chunks_exact_mut(vocab_size)) {
            let sampled = sequence.sampler.sample(logits, &sequence.history)?;
            sequence.history.push(sampled.token);
            chunks.push(sequence.emit(sampled, &self.eos, &self.params, self.limit)?);
        }

        let stay: Vec<usize> = (0..chunks.len()).filter(|&row| chunks[row].finish_reason.is_none()).collect();
        let tokens: Vec<u32> = stay.iter().filter_map(|&row| chunks[row].token_ids.last().copied()).collect();
        let mut row = 0;
        self.sequences.retain(|_| {
            row += 1;
            chunks[row - 1].finish_reason.is_none()
        });
        if !tokens.is_empty() {
            self.cache.select(&stay);
            self.logits = self.cache.step(&tokens)?;
        }
        Ok(chunks)
    }
}

impl Sequence {
    /// The piece that a token makes: its text as far as it is certain, and whether the sequence ends with it.
    fn emit(
        &mut self,
        sampled: Sampled,
        eos: &[u32],
        params: &SamplingParams,
        limit: usize,
    ) -> Result<Chunk, EngineError> {
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
                None => spoken(decoder.push(token))?,
                Some(_) => None,
            };
            if let Some(piece) = piece {
                let output = self.stop.push(&piece);
                text.push_str(&output.text);
                finish_reason = output.stopped.map(FinishReason::StopString);
            }
        }
        if finish_reason.is_none() && self.history.generated().len() >= limit {
            finish_reason =
                Some(if limit < params.max_new_tokens { FinishReason::Context } else { FinishReason::Length });
        }
        if finish_reason.is_some() && !matches!(finish_reason, Some(FinishReason::StopString(_))) {
            self.flush(&mut text, &mut finish_reason)?;
        }
        let logprobs = if params.logprobs.is_some() { vec![sampled] } else { Vec::new() };
        Ok(Chunk { sequence: self.index, text, token_ids: vec![token], logprobs, finish_reason })
    }

    /// Gives out what was held back for half a character or half a stop string.
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

/// The text of a token. Embeddings are often padded to a round number of rows; a row past the tokenizer's ids says nothing.
fn spoken(piece: Result<Option<String>, TextError>) -> Result<Option<String>, EngineError> {
    match piece {
        Err(TextError::UnknownId { .. }) => Ok(None),
        other => Ok(other?),
    }
}
