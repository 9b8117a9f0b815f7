//! Generation by one call: whole results, or a stream of pieces. How a step is computed is the stream's matter.

use std::fmt;

use fornax_models::AutoModel;
use fornax_nn::Decoder;
use fornax_text::Tokenizer;

use crate::beam::{BeamConfig, BeamSearch};
use crate::local::LocalSequences;
use crate::sampling::{History, Sampled, Sampler, SamplingParams, log_softmax};
use crate::stop::StopChecker;
use crate::stream::Stream;
use crate::{EngineError, Prompt};

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
    /// The tokens after the prompt, with the one that ended the sequence.
    pub token_ids: Vec<u32>,
    /// Why it ended.
    pub finish_reason: FinishReason,
    /// Each token with its log-probability, and the likeliest others if they were asked for. Empty unless
    /// [`SamplingParams::logprobs`] is set.
    pub logprobs: Vec<Sampled>,
    /// The score that a beam search ranked it by.
    pub beam_score: Option<f32>,
}

/// Continues prompts.
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
#[derive(Debug, Clone, Copy)]
pub struct Generator<'a> {
    model: &'a AutoModel,
}

impl<'a> Generator<'a> {
    /// A generator of this model.
    pub fn new(model: &'a AutoModel) -> Self {
        Self { model }
    }

    /// Continues the prompt and returns all sequences, in their order or, from a beam search, the best first.
    ///
    /// # Errors
    /// [`EngineError`]: a prompt that does not fit, a parameter out of range, a device that fails.
    pub fn generate(&self, prompt: impl Into<Prompt>, params: &SamplingParams) -> Result<Vec<Generation>, EngineError> {
        let mut stream = self.stream(prompt, params)?;
        stream.by_ref().try_for_each(|chunk| chunk.map(drop))?;
        Ok(stream.into_generations())
    }

    /// Continues the prompt and yields the text as it is made. Sequences that run side by side are told apart by
    /// [`Chunk::sequence`](crate::Chunk::sequence). A beam search yields whole sequences, for until its end it does not
    /// know them.
    ///
    /// # Errors
    /// As [`generate`](Self::generate); errors of later steps come out of the stream, which ends with them.
    pub fn stream(&self, prompt: impl Into<Prompt>, params: &SamplingParams) -> Result<Stream<'a>, EngineError> {
        let decoder = self.model.decoder()?;
        params.validate_for(decoder.config().vocab_size)?;
        let prompt = prompt.into().admitted(self.model)?;
        if !params.stop.is_empty() && self.model.tokenizer().is_none() {
            return Err(EngineError::NoTokenizer);
        }
        let room = decoder.config().context_length() - prompt.len();
        let limit = params.max_new_tokens.min(room);
        if params.num_beams > 1 {
            if params.logprobs.is_some() {
                return Err(EngineError::Option {
                    option: "logprobs",
                    found: format!("a number, with num_beams {}", params.num_beams),
                    expected: "none with a beam search; its score says how likely a sequence is".into(),
                });
            }
            let generations = self.beam_search(decoder, &prompt, params, limit)?;
            return Ok(Stream::finished(generations));
        }
        Stream::start(self.model, decoder, &prompt, params, limit)
    }

    fn beam_search(
        &self,
        decoder: &Decoder,
        prompt: &[u32],
        params: &SamplingParams,
        limit: usize,
    ) -> Result<Vec<Generation>, EngineError> {
        let vocab_size = decoder.config().vocab_size;
        let eos = &self.model.generation_defaults().eos_token_ids;
        let mut config = BeamConfig::from_params(params, eos, vocab_size);
        config.max_new_tokens = limit;
        let ends = config.eos_token_ids.clone();
        let mut search = BeamSearch::new(config)?;
        let mut processor = Sampler::new(params, vocab_size, 0)?.with_eos(&ends);

        let mut sequences = LocalSequences::new(decoder, params.num_beams, prompt.len() + limit)?;
        let mut rows = sequences.prefill(prompt)?.repeat(params.num_beams);
        sequences.select(&vec![0; params.num_beams]);
        // transformers feeds the log-probabilities, not the logits, to the processors of a beam search.
        loop {
            let histories: Vec<History> = search.running().map(|tokens| history(prompt, tokens)).collect();
            for (row, history) in rows.chunks_exact_mut(vocab_size).zip(&histories) {
                log_softmax(row)?;
                processor.process(row, history)?;
            }
            let step = search.step_with(&rows, |tokens| self.meets_stop_string(tokens, params))?;
            if step.done {
                break;
            }
            sequences.select(&step.parents);
            rows = sequences.step(&step.tokens)?;
        }
        search
            .finish()
            .into_iter()
            .map(|beam| self.beam_result(beam.tokens, beam.score, params, &ends, limit))
            .collect()
    }

    fn beam_result(
        &self,
        token_ids: Vec<u32>,
        score: f32,
        params: &SamplingParams,
        ends: &[u32],
        limit: usize,
    ) -> Result<Generation, EngineError> {
        let last = token_ids.last().copied().filter(|token| ends.contains(token));
        // The token that ends a sequence is not part of its text.
        let spoken = &token_ids[..token_ids.len() - usize::from(last.is_some())];
        let mut text = match self.model.tokenizer() {
            Some(tokenizer) => decode(tokenizer, spoken)?,
            None => String::new(),
        };
        let mut stopped = None;
        if !params.stop.is_empty() {
            let mut checker = StopChecker::new(&params.stop, false)?;
            let output = checker.push(&text);
            stopped = output.stopped;
            text = output.text + &checker.finish();
        }
        let finish_reason = match (last, stopped) {
            (Some(token), _) if params.stop_token_ids.contains(&token) => FinishReason::StopToken(token),
            (Some(_), _) => FinishReason::EndOfSequence,
            (None, Some(index)) => FinishReason::StopString(index),
            (None, None) if limit < params.max_new_tokens => FinishReason::Context,
            (None, None) => FinishReason::Length,
        };
        Ok(Generation { text, token_ids, finish_reason, logprobs: Vec::new(), beam_score: Some(score) })
    }

    /// Whether the text of these tokens contains a stop string. A text that does not decode contains none.
    fn meets_stop_string(&self, tokens: &[u32], params: &SamplingParams) -> bool {
        if params.stop.is_empty() {
            return false;
        }
        let text = self.model.tokenizer().and_then(|tokenizer| decode(tokenizer, tokens).ok());
        text.is_some_and(|text| params.stop.iter().any(|stop| text.contains(stop)))
    }
}

/// The text of the tokens that the tokenizer knows; an embedding may have more rows than that.
fn decode(tokenizer: &Tokenizer, tokens: &[u32]) -> Result<String, EngineError> {
    let known: Vec<u32> = tokens.iter().copied().filter(|&token| tokenizer.id_to_token(token).is_some()).collect();
    Ok(tokenizer.decode(&known, true)?)
}

fn history(prompt: &[u32], generated: &[u32]) -> History {
    let mut history = History::new(prompt);
    generated.iter().for_each(|&token| history.push(token));
    history
}
