//! Generated sequences as JSON.

use fornax::engine::sampling::Sampled;
use fornax::prelude::*;
use serde::Serialize;

/// One sequence as JSON.
#[derive(Serialize)]
pub struct JsonSequence<'a> {
    /// Its number, if the prompt has several sequences.
    #[serde(skip_serializing_if = "Option::is_none")]
    sequence: Option<usize>,
    text: &'a str,
    token_ids: &'a [u32],
    finish_reason: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    logprobs: Option<Vec<JsonToken<'a>>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    score: Option<f32>,
}

/// One token as JSON.
#[derive(Serialize)]
struct JsonToken<'a> {
    token_id: u32,
    logprob: f32,
    /// The most likely tokens, as pairs of id and log-probability.
    top_logprobs: &'a [(u32, f32)],
}

impl<'a> JsonSequence<'a> {
    /// A sequence, with its log-probabilities if they were asked for.
    pub fn new(generation: &'a Generation, logprobs: bool) -> Self {
        Self {
            sequence: None,
            text: &generation.text,
            token_ids: &generation.token_ids,
            finish_reason: generation.finish_reason.as_str(),
            logprobs: logprobs.then(|| generation.logprobs.iter().map(JsonToken::from).collect()),
            score: generation.beam_score,
        }
    }

    /// The sequences of one prompt, numbered if there are several.
    pub fn all(generations: &'a [Generation], logprobs: bool) -> Vec<Self> {
        let sequence = |(index, generation)| Self {
            sequence: (generations.len() > 1).then_some(index),
            ..Self::new(generation, logprobs)
        };
        generations.iter().enumerate().map(sequence).collect()
    }
}

impl<'a> From<&'a Sampled> for JsonToken<'a> {
    fn from(sampled: &'a Sampled) -> Self {
        Self { token_id: sampled.token, logprob: sampled.logprob, top_logprobs: &sampled.top_logprobs }
    }
}
