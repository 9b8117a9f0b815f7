//! What can go wrong in training.

/// Why training did not start or broke off.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TrainError {
    /// An argument outside its range.
    #[error("{argument}: found {found}, expected {expected}")]
    Argument {
        /// Its name.
        argument: &'static str,
        /// The value given.
        found: String,
        /// The values allowed.
        expected: String,
    },
    /// Fewer tokens than one training sequence.
    #[error(
        "the text has {found} tokens, but one training sequence needs {needed}; give more text or shorten sequence_length"
    )]
    TooFewTokens {
        /// Tokens there are.
        found: usize,
        /// Tokens a sequence takes, with the one to predict last.
        needed: usize,
    },
    /// A token id that the model has no vector for.
    #[error(
        "token id {found} is not in the model's vocabulary of {vocab_size}; train with the tokenizer that the model was made for"
    )]
    TokenOutOfVocabulary {
        /// The id.
        found: u32,
        /// Tokens of the model.
        vocab_size: usize,
    },
    /// The loss is no longer a number.
    #[error("the loss became {loss} at step {step}; lower the learning rate or warm up longer")]
    Diverged {
        /// The step, from 1.
        step: usize,
        /// The loss.
        loss: f32,
    },
    /// The device failed.
    #[error("the device failed: {reason}")]
    Device {
        /// What its driver says.
        reason: String,
    },
}
