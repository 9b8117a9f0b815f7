//! How fast a model reads prompts and continues them on this machine: what llama-bench measures for llama.cpp. It samples
//! nothing and needs no tokenizer; printing is its caller's matter.

use std::time::Instant;

use burn::tensor::{Int, Tensor};
use fornax_models::AutoModel;
use fornax_nn::KvCache;

use crate::EngineError;
use crate::error::to_host;
use crate::generator::{PREFILL_CHUNK, last_logits, token_tensor};

/// What to measure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BenchOptions {
    /// Tokens of each prompt.
    pub prompt_tokens: usize,
    /// Tokens that each sequence grows by.
    pub new_tokens: usize,
    /// Sequences side by side.
    pub batch: usize,
}

impl Default for BenchOptions {
    /// A prompt of 512 tokens and 64 new ones, one sequence.
    fn default() -> Self {
        Self { prompt_tokens: 512, new_tokens: 64, batch: 1 }
    }
}

/// One measurement.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BenchRun {
    /// Prompt tokens read in a second, those of all sequences together.
    pub prefill_tokens_per_s: f64,
    /// New tokens made in a second, those of all sequences together.
    pub decode_tokens_per_s: f64,
    /// Seconds from the prompts to the first logits after them.
    pub first_token_s: f64,
    /// Bytes of weights, keys and values that a new token makes the device read at the least, in the mean over the run;
    /// the weights are read once for all sequences.
    pub bytes_per_token: f64,
}

/// More sequences than this are surely a mistake in the call.
const MAX_BATCH: usize = 4096;

/// Measures once. The first measurement of a process is slower than those that follow, for memory is touched the first
/// time; callers throw one away.
///
/// # Errors
/// [`EngineError`]: a model that is no causal language model, an option of 0, more tokens than the model's context.
pub fn bench(model: &AutoModel, options: &BenchOptions) -> Result<BenchRun, EngineError> {
    let decoder = model.decoder()?;
    let BenchOptions { prompt_tokens, new_tokens, batch } = *options;
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
    let vocab_size = decoder.config().vocab_size;
    // Any tokens will do; different ones, so that their vectors come from different places.
    let token = |index: usize| ((index * 7 + 3) % vocab_size) as u32;
    let piece = |from: usize, len: usize| -> Tensor<2, Int> {
        let tokens: Vec<u32> =
            (0..batch).flat_map(|sequence| (from..from + len).map(move |at| token(at + 31 * sequence))).collect();
        token_tensor(decoder, &tokens, batch)
    };

    let mut cache: KvCache = decoder.new_cache(batch, length);
    let start = Instant::now();
    let mut hidden = None;
    for from in (0..prompt_tokens).step_by(PREFILL_CHUNK) {
        let len = PREFILL_CHUNK.min(prompt_tokens - from);
        hidden = Some(decoder.forward_piece(piece(from, len), Some(&mut cache), prompt_tokens));
    }
    let logits = last_logits(decoder, hidden.ok_or(EngineError::EmptyPrompt)?)?;
    let first_token_s = start.elapsed().as_secs_f64();
    debug_assert_eq!(logits.len(), batch * vocab_size);

    let start = Instant::now();
    for at in 0..new_tokens {
        let hidden = decoder.forward(piece(prompt_tokens + at, 1), Some(&mut cache));
        to_host(decoder.logits(hidden))?;
    }
    let decode_s = start.elapsed().as_secs_f64();

    let mean_context = prompt_tokens + new_tokens.div_ceil(2);
    let cache_bytes = decoder.cache_config(1, mean_context).bytes();
    Ok(BenchRun {
        prefill_tokens_per_s: (batch * prompt_tokens) as f64 / first_token_s,
        decode_tokens_per_s: (batch * new_tokens) as f64 / decode_s,
        first_token_s,
        bytes_per_token: decoder.step_bytes() as f64 / batch as f64 + cache_bytes as f64,
    })
}
