//! What a caller may ask of generation, and the closed range of each wish.
//!
//! It only describes: the sampler, the stop checker and the beam search carry it out. What needs the model (its
//! context length, its end tokens) is checked where the model is known.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::ops::RangeInclusive;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::SamplingError;
use crate::stop;

/// How to choose tokens and when to stop.
///
/// The default is what transformers' `generate` does without arguments: greedy, one sequence, no penalties; but up
/// to 128 new tokens instead of 20. Raise `temperature` above 0 to sample: `top_k`, `top_p`, `min_p` and `seed`
/// matter only then. Unlike transformers, sampling starts from the whole distribution (`top_k` is 0, not 50).
///
/// ```
/// use fornax_engine::sampling::SamplingParams;
///
/// let params = SamplingParams::default().temperature(0.7).top_p(0.9).seed(7).stop(["\n\n"]).max_new_tokens(64);
/// params.validate()?;
/// assert!(params.top_p(1.5).validate().is_err());
/// # Ok::<(), fornax_engine::sampling::SamplingError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SamplingParams {
    /// Divides the logits before the draw; 0 takes the most likely token instead of drawing. 0 to 100; default 0.
    pub temperature: f32,
    /// Draws from this many most likely tokens (and from tokens that tie with the last of them); 0 from all. Default 0.
    pub top_k: usize,
    /// Draws from the fewest most likely tokens whose probabilities reach this sum; 1 from all. 0 to 1; default 1.
    pub top_p: f32,
    /// Draws from the tokens at least this many times as likely as the likeliest; 0 from all. 0 to 1; default 0.
    pub min_p: f32,
    /// Divides positive and multiplies negative logits of tokens in prompt or generation; 1 leaves them. 0.01 to
    /// 100; default 1. See [CTRL](https://arxiv.org/abs/1909.05858).
    pub repetition_penalty: f32,
    /// Subtracted from a token's logit once for each time it was generated. -2 to 2; default 0.
    pub frequency_penalty: f32,
    /// Subtracted from a token's logit if it was generated at all. -2 to 2; default 0.
    pub presence_penalty: f32,
    /// Equal seeds give equal tokens for equal logits; without one a random seed is taken. Default none.
    pub seed: Option<u64>,
    /// The most tokens to generate a sequence. 1 to 16,777,216; default 128.
    pub max_new_tokens: usize,
    /// End and stop tokens are banned until this many tokens were generated. 0 to `max_new_tokens`; default 0.
    pub min_new_tokens: usize,
    /// Texts that end generation and are cut from it. At most 64, each of 1 to 4,096 bytes; default none.
    pub stop: Vec<String>,
    /// Tokens that end generation, beside the model's own. At most 1,024; default none.
    pub stop_token_ids: Vec<u32>,
    /// Goes on past the model's end tokens. Default false.
    pub ignore_eos: bool,
    /// How many sequences to return. 1 to 1,024, with beams at most `num_beams`; default 1.
    pub num_return_sequences: usize,
    /// The width of the beam search; 1 for none. 1 to 256; default 1.
    pub num_beams: usize,
    /// A beam's score is its log-probability over its length to this power: above 0 favours long sequences, below 0
    /// short ones. -10 to 10; default 1.
    pub length_penalty: f32,
    /// When a beam search ends. Default [`EarlyStopping::Heuristic`].
    pub early_stopping: EarlyStopping,
    /// How many of the likeliest tokens to report at each step with their log-probabilities. At most 256; default
    /// none.
    pub logprobs: Option<usize>,
    /// Added to the logits of single tokens before everything else. Each -100 to 100; default none.
    pub logit_bias: BTreeMap<u32, f32>,
}

impl Default for SamplingParams {
    fn default() -> Self {
        Self {
            temperature: 0.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            frequency_penalty: 0.0,
            presence_penalty: 0.0,
            seed: None,
            max_new_tokens: 128,
            min_new_tokens: 0,
            stop: Vec::new(),
            stop_token_ids: Vec::new(),
            ignore_eos: false,
            num_return_sequences: 1,
            num_beams: 1,
            length_penalty: 1.0,
            early_stopping: EarlyStopping::default(),
            logprobs: None,
            logit_bias: BTreeMap::new(),
        }
    }
}

/// Declares the plain setters, each named as its field.
macro_rules! setters {
    ($($name:ident: $kind:ty),* $(,)?) => {
        $(
            #[doc = concat!("Sets [`", stringify!($name), "`](Self#structfield.", stringify!($name), ").")]
            #[must_use]
            pub fn $name(mut self, $name: $kind) -> Self {
                self.$name = $name;
                self
            }
        )*
    };
}

impl SamplingParams {
    setters! {
        temperature: f32,
        top_k: usize,
        top_p: f32,
        min_p: f32,
        repetition_penalty: f32,
        frequency_penalty: f32,
        presence_penalty: f32,
        max_new_tokens: usize,
        min_new_tokens: usize,
        ignore_eos: bool,
        num_return_sequences: usize,
        num_beams: usize,
        length_penalty: f32,
        early_stopping: EarlyStopping,
    }

    /// Sets [`seed`](Self#structfield.seed); `None` for a random one.
    #[must_use]
    pub fn seed(mut self, seed: impl Into<Option<u64>>) -> Self {
        self.seed = seed.into();
        self
    }

    /// Sets [`logprobs`](Self#structfield.logprobs); `None` for no report.
    #[must_use]
    pub fn logprobs(mut self, logprobs: impl Into<Option<usize>>) -> Self {
        self.logprobs = logprobs.into();
        self
    }

    /// Sets [`stop`](Self#structfield.stop), replacing what was there.
    #[must_use]
    pub fn stop(mut self, stop: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.stop = stop.into_iter().map(Into::into).collect();
        self
    }

    /// Sets [`stop_token_ids`](Self#structfield.stop_token_ids), replacing what was there.
    #[must_use]
    pub fn stop_token_ids(mut self, ids: impl IntoIterator<Item = u32>) -> Self {
        self.stop_token_ids = ids.into_iter().collect();
        self
    }

    /// Sets [`logit_bias`](Self#structfield.logit_bias), replacing what was there.
    #[must_use]
    pub fn logit_bias(mut self, bias: impl IntoIterator<Item = (u32, f32)>) -> Self {
        self.logit_bias = bias.into_iter().collect();
        self
    }

    /// Fixes a random seed where none was given, so that the sequences of one request share it and a caller can
    /// report it.
    #[must_use]
    pub fn with_fixed_seed(mut self) -> Self {
        self.seed = Some(self.seed_or_random());
        self
    }

    /// Whether the most likely token is taken instead of drawing one.
    pub fn is_greedy(&self) -> bool {
        self.temperature == 0.0
    }

    /// Checks every parameter against its closed range; NaN is in none.
    ///
    /// # Errors
    /// The first parameter found outside its range, or the first two that exclude each other.
    pub fn validate(&self) -> Result<(), SamplingError> {
        within("temperature", self.temperature, 0.0..=100.0)?;
        within("top_p", self.top_p, 0.0..=1.0)?;
        within("min_p", self.min_p, 0.0..=1.0)?;
        within("repetition_penalty", self.repetition_penalty, 0.01..=100.0)?;
        within("frequency_penalty", self.frequency_penalty, -2.0..=2.0)?;
        within("presence_penalty", self.presence_penalty, -2.0..=2.0)?;
        within("max_new_tokens", self.max_new_tokens, 1..=1 << 24)?;
        within("min_new_tokens", self.min_new_tokens, 0..=self.max_new_tokens)?;
        stop::validate(&self.stop)?;
        within("the number of stop_token_ids", self.stop_token_ids.len(), 0..=1024)?;
        within("num_return_sequences", self.num_return_sequences, 1..=1024)?;
        within("num_beams", self.num_beams, 1..=256)?;
        within("length_penalty", self.length_penalty, -10.0..=10.0)?;
        within("logprobs", self.logprobs.unwrap_or_default(), 0..=256)?;
        for &bias in self.logit_bias.values() {
            within("logit_bias", bias, -100.0..=100.0)?;
        }
        if self.num_beams > 1 {
            if !self.is_greedy() {
                return Err(SamplingError::BeamsWithTemperature {
                    num_beams: self.num_beams,
                    temperature: self.temperature,
                });
            }
            if self.num_return_sequences > self.num_beams {
                return Err(SamplingError::MoreSequencesThanBeams {
                    num_return_sequences: self.num_return_sequences,
                    num_beams: self.num_beams,
                });
            }
        }
        Ok(())
    }

    /// As [`validate`](Self::validate), and that every token id named exists in a vocabulary of `vocab_size` tokens.
    ///
    /// # Errors
    /// As [`validate`](Self::validate), and [`SamplingError::TokenOutOfVocabulary`].
    pub fn validate_for(&self, vocab_size: usize) -> Result<(), SamplingError> {
        self.validate()?;
        let stops = self.stop_token_ids.iter().map(|&token| ("stop_token_ids", token));
        let biased = self.logit_bias.keys().map(|&token| ("logit_bias", token));
        for (parameter, token) in stops.chain(biased) {
            if token as usize >= vocab_size {
                return Err(SamplingError::TokenOutOfVocabulary { parameter, token, vocab_size });
            }
        }
        Ok(())
    }

    pub(crate) fn seed_or_random(&self) -> u64 {
        use std::hash::{BuildHasher, Hasher, RandomState};
        // The keys of the standard library's hash maps come from the system's entropy and differ at each call.
        self.seed.unwrap_or_else(|| RandomState::new().build_hasher().finish())
    }
}

/// When a beam search ends. In serialized form `false`, `true` and `"never"`, as transformers spells them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(try_from = "EarlyStoppingForm", into = "EarlyStoppingForm")]
pub enum EarlyStopping {
    /// Once no running beam, scored at its present length, beats the worst finished one (`false`).
    #[default]
    Heuristic,
    /// As soon as `num_beams` sequences have finished (`true`).
    WhenFull,
    /// Only when no running beam could beat the worst finished one at any length (`"never"`).
    Never,
}

impl FromStr for EarlyStopping {
    type Err = SamplingError;

    /// Reads `false`, `true` or `never`.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "false" => Ok(Self::Heuristic),
            "true" => Ok(Self::WhenFull),
            "never" => Ok(Self::Never),
            other => Err(SamplingError::OutOfRange {
                parameter: "early_stopping",
                found: format!("{other:?}"),
                allowed: "false, true or \"never\"".into(),
            }),
        }
    }
}

/// How [`EarlyStopping`] is written: a truth value or a word.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum EarlyStoppingForm {
    Flag(bool),
    Word(String),
}

impl TryFrom<EarlyStoppingForm> for EarlyStopping {
    type Error = SamplingError;

    fn try_from(form: EarlyStoppingForm) -> Result<Self, Self::Error> {
        match form {
            EarlyStoppingForm::Flag(false) => Ok(Self::Heuristic),
            EarlyStoppingForm::Flag(true) => Ok(Self::WhenFull),
            EarlyStoppingForm::Word(word) => word.parse(),
        }
    }
}

impl From<EarlyStopping> for EarlyStoppingForm {
    fn from(value: EarlyStopping) -> Self {
        match value {
            EarlyStopping::Heuristic => Self::Flag(false),
            EarlyStopping::WhenFull => Self::Flag(true),
            EarlyStopping::Never => Self::Word("never".into()),
        }
    }
}

/// Refuses a value outside a closed range; NaN lies in no range.
pub(crate) fn within<T: PartialOrd + Display>(
    parameter: &'static str,
    found: T,
    range: RangeInclusive<T>,
) -> Result<(), SamplingError> {
    if range.contains(&found) {
        return Ok(());
    }
    Err(SamplingError::OutOfRange {
        parameter,
        found: found.to_string(),
        allowed: format!("from {} to {}", range.start(), range.end()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parameter_of(params: &SamplingParams) -> &'static str {
        match params.validate() {
            Err(SamplingError::OutOfRange { parameter, .. }) => parameter,
            other => panic!("expected a range error, got {other:?}"),
        }
    }

    #[test]
    fn the_default_is_valid_and_greedy() {
        let params = SamplingParams::default();
        params.validate_for(1).unwrap();
        assert!(params.is_greedy());
    }

    #[test]
    fn every_float_refuses_nan_infinity_and_both_sides() {
        type Setter = fn(SamplingParams, f32) -> SamplingParams;
        let floats: [(&str, Setter, f32, f32); 7] = [
            ("temperature", SamplingParams::temperature, 0.0, 100.0),
            ("top_p", SamplingParams::top_p, 0.0, 1.0),
            ("min_p", SamplingParams::min_p, 0.0, 1.0),
            ("repetition_penalty", SamplingParams::repetition_penalty, 0.01, 100.0),
            ("frequency_penalty", SamplingParams::frequency_penalty, -2.0, 2.0),
            ("presence_penalty", SamplingParams::presence_penalty, -2.0, 2.0),
            ("length_penalty", SamplingParams::length_penalty, -10.0, 10.0),
        ];
        for (name, set, low, high) in floats {
            let base = SamplingParams::default;
            for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, low - 0.001, high + 0.001] {
                assert_eq!(parameter_of(&set(base(), bad)), name, "{bad}");
            }
            for good in [low, high] {
                set(base(), good).validate().unwrap();
            }
        }
    }

    #[test]
    fn every_count_has_a_ceiling() {
        let base = SamplingParams::default;
        for (params, name) in [
            (base().max_new_tokens(0), "max_new_tokens"),
            (base().max_new_tokens(usize::MAX), "max_new_tokens"),
            (base().max_new_tokens(4).min_new_tokens(5), "min_new_tokens"),
            (base().num_return_sequences(0), "num_return_sequences"),
            (base().num_return_sequences(1025), "num_return_sequences"),
            (base().num_beams(0), "num_beams"),
            (base().num_beams(257), "num_beams"),
            (base().logprobs(257), "logprobs"),
            (base().stop_token_ids(vec![0; 1025]), "the number of stop_token_ids"),
            (base().stop(vec!["x"; 65]), "the number of stop strings"),
            (base().stop(["x".repeat(4097)]), "the length of a stop string in bytes"),
            (base().logit_bias([(0, f32::NAN)]), "logit_bias"),
        ] {
            assert_eq!(parameter_of(&params), name);
        }
        assert_eq!(base().stop(["a", ""]).validate(), Err(SamplingError::EmptyStop { index: 1 }));
    }

    #[test]
    fn errors_name_parameter_found_and_allowed() {
        let error = SamplingParams::default().top_p(1.5).validate().unwrap_err();
        assert_eq!(error.to_string(), "top_p is 1.5, but must be from 0 to 1; change top_p");
    }

    #[test]
    fn beams_exclude_sampling_and_bound_the_sequences() {
        let beams = SamplingParams::default().num_beams(4);
        beams.clone().num_return_sequences(4).validate().unwrap();
        let error = beams.clone().num_return_sequences(5).validate().unwrap_err();
        assert!(matches!(error, SamplingError::MoreSequencesThanBeams { .. }));
        let error = beams.temperature(1.0).validate().unwrap_err();
        assert!(matches!(error, SamplingError::BeamsWithTemperature { .. }));
    }

    #[test]
    fn tokens_outside_the_vocabulary_are_refused() {
        let base = SamplingParams::default;
        base().stop_token_ids([9]).logit_bias([(9, 1.0)]).validate_for(10).unwrap();
        for params in [base().stop_token_ids([10]), base().logit_bias([(10, 1.0)])] {
            let error = params.validate_for(10).unwrap_err();
            assert!(matches!(error, SamplingError::TokenOutOfVocabulary { token: 10, .. }));
        }
    }

    #[test]
    fn reads_and_writes_json() {
        let text = r#"{"temperature":0.5,"seed":3,"early_stopping":"never","logit_bias":{"7":-1.5},"stop":["x"]}"#;
        let params: SamplingParams = serde_json::from_str(text).unwrap();
        let expected = SamplingParams::default()
            .temperature(0.5)
            .seed(3)
            .early_stopping(EarlyStopping::Never)
            .logit_bias([(7, -1.5)])
            .stop(["x"]);
        assert_eq!(params, expected);
        for stopping in [EarlyStopping::Heuristic, EarlyStopping::WhenFull, EarlyStopping::Never] {
            let params = SamplingParams::default().early_stopping(stopping);
            let back: SamplingParams = serde_json::from_str(&serde_json::to_string(&params).unwrap()).unwrap();
            assert_eq!(back, params);
        }
        for bad in [r#"{"temprature":1}"#, r#"{"early_stopping":"maybe"}"#, r#"{"top_k":-1}"#] {
            assert!(serde_json::from_str::<SamplingParams>(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn random_seeds_differ_and_given_ones_stay() {
        let base = SamplingParams::default;
        assert_ne!(base().with_fixed_seed().seed, base().with_fixed_seed().seed);
        assert_eq!(base().seed(5).with_fixed_seed().seed, Some(5));
    }
}
