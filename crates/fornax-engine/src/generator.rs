//! Generation by one call: whole results, or a stream of chunks, from an engine that is started at the first call.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use fornax_models::AutoModel;

use crate::sampling::{Sampled, SamplingParams};
use crate::{EngineConfig, EngineError, EngineHandle, Prompt, Stream};

/// Why a sequence ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FinishReason {
    /// The model's end-of-sequence token.
    EndOfSequence,
    /// One of the caller's stop tokens.
    StopToken(u32),
    /// The caller's stop string of this index.
    StopString(usize),
    /// `max_new_tokens` were generated.
    Length,
    /// The model's context is full.
    Context,
}

impl FinishReason {
    /// In the words of OpenAI's API: `stop` or `length`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::EndOfSequence | Self::StopToken(_) | Self::StopString(_) => "stop",
            Self::Length | Self::Context => "length",
        }
    }
}

impl fmt::Display for FinishReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One generated sequence.
#[derive(Debug, Clone, PartialEq)]
pub struct Generation {
    /// The text after the prompt, without special tokens and without the stop string. Empty for models without a tokenizer.
    pub text: String,
    /// The tokens after the prompt, an end token included.
    pub token_ids: Vec<u32>,
    /// Why it ended.
    pub finish_reason: FinishReason,
    /// Each token with its log-probability, and the most likely other tokens if they were asked for. Empty unless
    /// [`SamplingParams::logprobs`] is set.
    pub logprobs: Vec<Sampled>,
    /// The score that a beam search ranked it by.
    pub beam_score: Option<f32>,
}

/// Continues prompts. The first call starts an [engine](EngineHandle) on a thread of its own. Later calls from any
/// thread share it. The engine keeps the keys and values of prompts for later prompts with the same beginning.
///
/// ```no_run
/// use fornax_engine::{ModelExt, SamplingParams};
///
/// # fn run(model: fornax_models::AutoModel) -> Result<(), fornax_engine::EngineError> {
/// let params = SamplingParams::default().temperature(0.8).top_p(0.95).num_return_sequences(3).seed(1);
/// for generation in model.generator().generate("Once upon a time", &params)? {
///     println!("{} [{}]", generation.text, generation.finish_reason);
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Generator {
    model: Arc<AutoModel>,
    config: EngineConfig,
    engine: Arc<Mutex<Option<EngineHandle>>>,
}

impl Generator {
    /// A generator of this model, which is shared, not copied.
    pub fn new(model: &AutoModel) -> Self {
        Self::with_config(model.clone(), EngineConfig::default())
    }

    /// A generator on an engine with this configuration.
    pub fn with_config(model: impl Into<Arc<AutoModel>>, config: EngineConfig) -> Self {
        Self { model: model.into(), config, engine: Arc::default() }
    }

    /// The engine; the first call starts it.
    ///
    /// # Errors
    /// As [`EngineHandle::start`].
    pub fn engine(&self) -> Result<EngineHandle, EngineError> {
        let mut engine = self.engine.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(engine) = &*engine {
            return Ok(engine.clone());
        }
        Ok(engine.insert(EngineHandle::start(Arc::clone(&self.model), &self.config)?).clone())
    }

    /// Continues the prompt and returns all sequences, in their order or, from a beam search, the best first.
    ///
    /// # Errors
    /// [`EngineError`]: a prompt that does not fit, a parameter out of range, a device that fails.
    pub fn generate(&self, prompt: impl Into<Prompt>, params: &SamplingParams) -> Result<Vec<Generation>, EngineError> {
        self.stream(prompt, params)?.finish()
    }

    /// Continues many prompts of any lengths together. The results are in the order of the prompts. Each prompt gets
    /// the same tokens as alone, and an error of one prompt is that prompt's result.
    ///
    /// # Errors
    /// As [`EngineHandle::start`].
    pub fn generate_all(
        &self,
        prompts: impl IntoIterator<Item = impl Into<Prompt>>,
        params: &SamplingParams,
    ) -> Result<Vec<Result<Vec<Generation>, EngineError>>, EngineError> {
        let engine = self.engine()?;
        let streams: Vec<_> = prompts.into_iter().map(|prompt| engine.stream(prompt, params)).collect();
        Ok(streams.into_iter().map(|stream| stream.and_then(Stream::finish)).collect())
    }

    /// Continues the prompt and yields the text as it is made. [`Chunk::sequence`](crate::Chunk::sequence) tells
    /// several sequences apart. A beam search yields whole sequences at its end, as it does not know them before.
    ///
    /// # Errors
    /// As [`generate`](Self::generate). Errors of later steps are items of the stream, which ends with them.
    pub fn stream(&self, prompt: impl Into<Prompt>, params: &SamplingParams) -> Result<Stream, EngineError> {
        self.engine()?.stream(prompt, params)
    }
}
