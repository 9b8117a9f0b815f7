//! What can be wrong with sampling parameters, logits, stop strings and beam searches.
//!
//! Nothing about devices, files or tokenizers: those errors belong to the generator.

/// An error of the host-side part of generation. Each variant names the thing, what was found and what is allowed.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum SamplingError {
    /// A parameter lies outside its closed range, or is not a number.
    #[error("{parameter} is {found}, but must be {allowed}; change {parameter}")]
    OutOfRange {
        /// The parameter's name, as spelled in [`SamplingParams`](super::SamplingParams).
        parameter: &'static str,
        /// The value given.
        found: String,
        /// The values allowed.
        allowed: String,
    },
    /// Beam search was asked for together with random sampling.
    #[error(
        "num_beams is {num_beams} with temperature {temperature}: beam search draws nothing at random; set \
         temperature to 0 for beam search, or num_beams to 1 for sampling"
    )]
    BeamsWithTemperature {
        /// The number of beams asked for.
        num_beams: usize,
        /// The temperature asked for.
        temperature: f32,
    },
    /// More sequences were asked for than beams can give.
    #[error(
        "num_return_sequences is {num_return_sequences}, but num_beams is {num_beams} and a beam search returns at \
         most one sequence a beam; raise num_beams or ask for fewer sequences"
    )]
    MoreSequencesThanBeams {
        /// The number of sequences asked for.
        num_return_sequences: usize,
        /// The number of beams.
        num_beams: usize,
    },
    /// A stop string is empty, so it would stop every text before its first character.
    #[error("stop string {index} is empty, but must have at least one character; remove it")]
    EmptyStop {
        /// The position in the list of stop strings.
        index: usize,
    },
    /// A token id does not exist in the model's vocabulary.
    #[error("{parameter} names token {token}, but the vocabulary has {vocab_size} tokens (ids from 0); remove it")]
    TokenOutOfVocabulary {
        /// The parameter that names the token.
        parameter: &'static str,
        /// The id given.
        token: u32,
        /// The number of tokens of the model.
        vocab_size: usize,
    },
    /// The logits do not have the length the sampler or the beam search was made for.
    #[error("got {found} logits, but expected {expected}; pass whole rows of the model's vocabulary")]
    LogitsLength {
        /// The length expected.
        expected: usize,
        /// The length given.
        found: usize,
    },
    /// A logit is NaN or positive infinity, so that no distribution is defined.
    #[error(
        "the logit of token {token} is {found}, but must be a number below infinity; the model's arithmetic \
         overflowed: check its weights, or use a wider dtype"
    )]
    InvalidLogit {
        /// The position of the first such logit in its row.
        token: usize,
        /// The value found.
        found: f32,
    },
    /// Every logit is negative infinity: no token is possible.
    #[error("every token's logit is -inf, but at least one must be finite; loosen the masks and biases on the logits")]
    NoCandidate,
    /// A beam search was stepped after it had ended.
    #[error("the beam search has ended, but was stepped again; call finish instead once a step says done")]
    BeamSearchDone,
}
