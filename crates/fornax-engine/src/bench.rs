//! Measures how fast a model computes prompts and continues them on this machine, as llama-bench does for llama.cpp. It
//! samples nothing and needs no tokenizer; printing is its caller's task.

use std::time::Instant;

use fornax_models::AutoModel;
use fornax_nn::{Batch, BatchSequence, KvPoolConfig, Outputs};

use crate::EngineError;
use crate::error::to_host;

/// What to measure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BenchOptions {
    /// Tokens of each prompt; with `unequal`, of the longest prompt.
    pub prompt_tokens: usize,
    /// New tokens of each sequence.
    pub new_tokens: usize,
    /// Sequences in the batch.
    pub batch: usize,
    /// Whether the prompts are of evenly rising lengths: the first of `batch` prompts has `1 / batch` of `prompt_tokens`, the
    /// second `2 / batch`, the last all of them.
    pub unequal: bool,
}

impl Default for BenchOptions {
    /// One sequence of 512 prompt tokens and 64 new tokens.
    fn default() -> Self {
        Self { prompt_tokens: 512, new_tokens: 64, batch: 1, unequal: false }
    }
}

/// One measurement.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BenchRun {
    /// Prompt tokens a second, of all sequences together.
    pub prefill_tokens_per_s: f64,
    /// New tokens a second, of all sequences together.
    pub decode_tokens_per_s: f64,
    /// Seconds until all prompts are computed, with the logits after them.
    pub first_token_s: f64,
    /// The least bytes of weights, keys and values that the device reads for a new token, in the mean over the run. A
    /// step reads the weights once for all sequences.
    pub bytes_per_token: f64,
}

/// Tokens of each prompt that run through the layers at once.
const PREFILL_CHUNK: usize = 512;

/// The most sequences of a batch; a larger number is taken for a mistake.
const MAX_BATCH: usize = 4096;

/// Measures once. The first measurement of a process is slower than later ones, as it touches memory for the first
/// time. Callers should discard it.
///
/// # Errors
/// [`EngineError`]: a model that is no causal language model, an option of 0, more tokens than the model's context.
pub fn bench(model: &AutoModel, options: &BenchOptions) -> Result<BenchRun, EngineError> {
    let decoder = model.decoder()?;
    let BenchOptions { prompt_tokens, new_tokens, batch, .. } = *options;
    for (option, value) in [("prompt_tokens", prompt_tokens), ("new_tokens", new_tokens), ("batch", batch)] {
        if value == 0 {
            return Err(EngineError::Option { option, found: "0".into(), expected: "at least 1".into() });
        }
    }
    if batch > MAX_BATCH {
        return Err(EngineError::Option {
            option: "batch",
            found: batch.to_string(),
            expected: format!("1 to {MAX_BATCH}"),
        });
    }
    let context = decoder.config().context_length();
    let length = prompt_tokens.saturating_add(new_tokens);
    if length > context {
        return Err(EngineError::Option {
            option: "prompt_tokens and new_tokens",
            found: format!("{length} together"),
            expected: format!("at most {context}, the model's context"),
        });
    }
    let prompts = options.prompts();
    let vocab_size = decoder.config().vocab_size;
    // Any tokens will do; different ones, so that their vectors come from different places.
    let token = |index: usize| ((index * 7 + 3) % vocab_size) as u32;
    let config = decoder.kv_config();
    let mut blocks = 0;
    let sequences: Vec<BenchSequence> = prompts
        .iter()
        .enumerate()
        .map(|(sequence, &prompt)| {
            let first = blocks;
            blocks += (prompt + new_tokens).div_ceil(KvPoolConfig::BLOCK_TOKENS) as u32;
            let tokens = (0..prompt + new_tokens).map(|at| token(at + 31 * sequence)).collect();
            BenchSequence { prompt, tokens, blocks: (first..blocks).collect() }
        })
        .collect();
    let mut pool = config.init(blocks as usize, &decoder.device())?;

    let start = Instant::now();
    for from in (0..prompt_tokens).step_by(PREFILL_CHUNK) {
        let rest = sequences.iter().filter(|sequence| sequence.prompt > from);
        let batch = Batch::cached(rest.map(|sequence| sequence.piece(from, PREFILL_CHUNK.min(sequence.prompt - from))));
        let hidden = decoder.forward(&batch, Some(&mut pool));
        if batch.output_rows() > 0 {
            to_host(decoder.logits(hidden))?;
        }
    }
    let first_token_s = start.elapsed().as_secs_f64();

    let start = Instant::now();
    for at in 0..new_tokens {
        let batch = Batch::cached(sequences.iter().map(|sequence| sequence.piece(sequence.prompt + at, 1)));
        let logits = to_host(decoder.logits(decoder.forward(&batch, Some(&mut pool))))?;
        debug_assert_eq!(logits.len(), sequences.len() * vocab_size);
    }
    let decode_s = start.elapsed().as_secs_f64();

    let mean_blocks = |prompt: &usize| (prompt + new_tokens.div_ceil(2)).div_ceil(KvPoolConfig::BLOCK_TOKENS);
    let cache_bytes = config.block_bytes() * prompts.iter().map(mean_blocks).sum::<usize>();
    Ok(BenchRun {
        prefill_tokens_per_s: prompts.iter().sum::<usize>() as f64 / first_token_s,
        decode_tokens_per_s: (batch * new_tokens) as f64 / decode_s,
        first_token_s,
        bytes_per_token: (decoder.step_bytes() + cache_bytes) as f64 / batch as f64,
    })
}

impl BenchOptions {
    /// Tokens of each sequence's prompt.
    pub fn prompts(&self) -> Vec<usize> {
        let prompt = |sequence: usize| match self.unequal {
            true => (self.prompt_tokens * (sequence + 1)).div_ceil(self.batch),
            false => self.prompt_tokens,
        };
        (0..self.batch).map(prompt).collect()
    }
}

/// A sequence of the measurement.
struct BenchSequence {
    /// Tokens of its prompt.
    prompt: usize,
    tokens: Vec<u32>,
    blocks: Vec<u32>,
}

impl BenchSequence {
    /// `len` of its tokens from position `from` on, with the logits after them once the prompt is computed.
    fn piece(&self, from: usize, len: usize) -> BatchSequence<'_> {
        let outputs = if from + len >= self.prompt { Outputs::Last } else { Outputs::None };
        BatchSequence {
            tokens: &self.tokens[from..from + len],
            past: from,
            blocks: &self.blocks,
            len: self.prompt,
            outputs,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unequal_prompts_rise_evenly_to_the_longest() {
        let options = BenchOptions { prompt_tokens: 512, batch: 8, unequal: true, ..BenchOptions::default() };
        assert_eq!(options.prompts(), [64, 128, 192, 256, 320, 384, 448, 512]);
        // Never empty, even where there are more sequences than tokens.
        let options = BenchOptions { prompt_tokens: 2, batch: 5, ..options };
        assert_eq!(options.prompts(), [1, 1, 2, 2, 2]);
        assert_eq!(BenchOptions { unequal: false, ..options }.prompts(), [2; 5]);
    }
}
