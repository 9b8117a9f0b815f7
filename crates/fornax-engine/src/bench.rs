//! How fast a model reads prompts and continues them on this machine: what llama-bench measures for llama.cpp. It samples
//! nothing and needs no tokenizer; printing is its caller's matter.

use std::time::Instant;

use fornax_models::AutoModel;
use fornax_nn::{Batch, BatchSequence, KvPoolConfig, Outputs};

use crate::EngineError;
use crate::error::to_host;

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

/// Tokens of each prompt that run through the layers at once.
const PREFILL_CHUNK: usize = 512;

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
    let texts: Vec<Vec<u32>> =
        (0..batch).map(|sequence| (0..length).map(|at| token(at + 31 * sequence)).collect()).collect();
    let config = decoder.kv_config();
    let each = length.div_ceil(KvPoolConfig::BLOCK_TOKENS);
    let mut pool = config.init(batch * each, &decoder.device())?;
    let tables: Vec<Vec<u32>> =
        (0..batch).map(|sequence| ((sequence * each) as u32..((sequence + 1) * each) as u32).collect()).collect();
    let piece = |from: usize, len: usize, outputs: Outputs| {
        Batch::cached(texts.iter().zip(&tables).map(|(text, blocks)| BatchSequence {
            tokens: &text[from..from + len],
            past: from,
            blocks,
            len: prompt_tokens,
            outputs,
        }))
    };

    let start = Instant::now();
    let mut hidden = None;
    for from in (0..prompt_tokens).step_by(PREFILL_CHUNK) {
        let len = PREFILL_CHUNK.min(prompt_tokens - from);
        let outputs = if from + len == prompt_tokens { Outputs::Last } else { Outputs::None };
        hidden = Some(decoder.forward(&piece(from, len, outputs), Some(&mut pool)));
    }
    let logits = to_host(decoder.logits(hidden.ok_or(EngineError::EmptyPrompt)?))?;
    let first_token_s = start.elapsed().as_secs_f64();
    debug_assert_eq!(logits.len(), batch * vocab_size);

    let start = Instant::now();
    for at in 0..new_tokens {
        let hidden = decoder.forward(&piece(prompt_tokens + at, 1, Outputs::Last), Some(&mut pool));
        to_host(decoder.logits(hidden))?;
    }
    let decode_s = start.elapsed().as_secs_f64();

    let mean_context = prompt_tokens + new_tokens.div_ceil(2);
    let cache_bytes = config.block_bytes() * mean_context.div_ceil(KvPoolConfig::BLOCK_TOKENS);
    Ok(BenchRun {
        prefill_tokens_per_s: (batch * prompt_tokens) as f64 / first_token_s,
        decode_tokens_per_s: (batch * new_tokens) as f64 / decode_s,
        first_token_s,
        bytes_per_token: decoder.step_bytes() as f64 / batch as f64 + cache_bytes as f64,
    })
}
