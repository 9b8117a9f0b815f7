//! The errors of running a model.

use burn::tensor::{Tensor, TensorData};

/// Why a call could not be answered.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EngineError {
    /// A text was given, but the model came without a tokenizer.
    #[error(
        "the model has no tokenizer (no tokenizer.json beside its weights); give token ids instead of text, or put the tokenizer there"
    )]
    NoTokenizer,
    /// The tokenizer has no chat template.
    #[error(
        "the model has no chat template, so it was not trained for conversations; use `generate` with a prompt, or a model whose name ends in Instruct or Chat"
    )]
    NoChatTemplate,
    /// A prompt without tokens, for a model without a begin-of-sequence token.
    #[error("the prompt is empty and the model has no begin-of-sequence token; give at least one token")]
    EmptyPrompt,
    /// A token id beyond the vocabulary.
    #[error(
        "token id {found} at position {position} is not in the vocabulary, which has {vocab_size} tokens (ids from 0)"
    )]
    TokenOutOfVocabulary {
        /// The id.
        found: u32,
        /// Where in the prompt.
        position: usize,
        /// Tokens of the model.
        vocab_size: usize,
    },
    /// A prompt that leaves no room for an answer.
    #[error(
        "the prompt has {found} tokens, but the model's context holds {context}, one of which must be left for the answer; shorten the prompt"
    )]
    PromptTooLong {
        /// Tokens of the prompt.
        found: usize,
        /// Tokens of the context.
        context: usize,
    },
    /// An option outside its range.
    #[error("{option}: found {found}, expected {expected}")]
    Option {
        /// Its name.
        option: &'static str,
        /// The value given.
        found: String,
        /// The values allowed.
        expected: String,
    },
    /// A sampling parameter, or logits that are no numbers.
    #[error(transparent)]
    Sampling(#[from] crate::sampling::SamplingError),
    /// The tokenizer or the template failed.
    #[error(transparent)]
    Text(#[from] fornax_text::TextError),
    /// The model is not of the kind that the call needs.
    #[error(transparent)]
    Model(#[from] fornax_models::ModelError),
    /// The scheduler refused the request: it can never be computed, or its options contradict each other.
    #[error(transparent)]
    Refused(#[from] fornax_scheduler::SchedulerError),
    /// The request was not done by its deadline.
    #[error("the deadline passed before the request was done; give it more time, or a higher priority")]
    Deadline,
    /// The engine is gone.
    #[error("the engine has ended")]
    Ended,
    /// Computing the request failed. Other requests go on.
    #[error("the request failed while it was computed: {reason}")]
    Failed {
        /// What happened.
        reason: String,
    },
    /// There is no memory for keys and values.
    #[error(transparent)]
    Kv(#[from] fornax_nn::KvError),
    /// The device failed while computing.
    #[error("the device {device} failed: {reason}")]
    Device {
        /// The device.
        device: String,
        /// What its driver says.
        reason: String,
    },
}

impl EngineError {
    pub(crate) fn failed(reason: impl Into<String>) -> Self {
        Self::Failed { reason: reason.into() }
    }
}

/// Waits for a tensor's numbers and brings them to the host as `f32`.
pub(crate) fn to_host<const D: usize>(tensor: Tensor<D>) -> Result<Vec<f32>, EngineError> {
    let device = format!("{:?}", tensor.device());
    let failed = |reason: String| EngineError::Device { device, reason };
    let data: TensorData = match tensor.try_into_data() {
        Ok(data) => data,
        Err(error) => return Err(failed(error.to_string())),
    };
    data.convert::<f32>().try_into_vec::<f32>().map_err(|error| failed(format!("{error:?}")))
}
