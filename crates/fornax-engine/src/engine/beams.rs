//! A beam search as a request: its beams are sequences of the scheduler that wait for each other's logits, and then end, fork
//! or go on together. The bookkeeping on log-probabilities is in [`beam`](crate::beam).

use std::collections::BTreeMap;

use fornax_models::AutoModel;
use fornax_scheduler::{BatchEvent, RequestId, SequenceId};
use fornax_text::Tokenizer;

use super::sequence::Limits;
use crate::beam::{BeamConfig, BeamSearch, Hypothesis};
use crate::sampling::{History, Sampler, log_softmax};
use crate::stop::StopChecker;
use crate::{EngineError, FinishReason, Generation};

/// A beam search under way.
#[derive(Debug)]
pub(crate) struct Beams {
    search: BeamSearch,
    processor: Sampler,
    vocab_size: usize,
    /// The scheduler's sequence of each beam, and the beam's tokens.
    beams: Vec<(u32, History)>,
    /// The logits of the beams that were computed since the last step.
    logits: BTreeMap<u32, Vec<f32>>,
    next_index: u32,
    ends: Vec<u32>,
}

/// The result of a step of the search.
#[derive(Debug)]
pub(crate) enum BeamsStep {
    /// Other beams have not been computed yet.
    Waiting,
    /// The beams go on by these events.
    GoOn(Vec<BatchEvent>),
    /// The search has ended with these sequences.
    Done(Vec<Generation>),
}

impl Beams {
    pub(crate) fn new(model: &AutoModel, prompt: &[u32], limits: &Limits) -> Result<Self, EngineError> {
        let vocab_size = model.network().vocab_size();
        let mut config = BeamConfig::from_params(&limits.params, &limits.eos, vocab_size);
        config.max_new_tokens = limits.limit;
        let ends = config.eos_token_ids.clone();
        let count = config.num_beams;
        Ok(Self {
            search: BeamSearch::new(config)?,
            processor: Sampler::new(&limits.params, vocab_size, 0)?.with_eos(&ends),
            vocab_size,
            beams: (0..count as u32).map(|index| (index, History::new(prompt))).collect(),
            logits: BTreeMap::new(),
            next_index: count as u32,
            ends,
        })
    }

    /// Takes in the logits of a beam.
    pub(crate) fn computed(&mut self, index: u32, logits: &[f32]) {
        self.logits.insert(index, logits.to_vec());
    }

    /// Forgets the logits of a beam that was preempted: it cannot go on before it has been computed again.
    pub(crate) fn preempted(&mut self, index: u32) {
        self.logits.remove(&index);
    }

    /// Makes a step of the search once the logits of all beams are there.
    pub(crate) fn step(
        &mut self,
        request: RequestId,
        model: &AutoModel,
        limits: &Limits,
    ) -> Result<BeamsStep, EngineError> {
        if self.beams.iter().any(|(index, _)| !self.logits.contains_key(index)) {
            return Ok(BeamsStep::Waiting);
        }
        let mut rows = Vec::with_capacity(self.beams.len() * self.vocab_size);
        for (index, history) in &self.beams {
            let mut row = self.logits.remove(index).unwrap_or_default();
            // transformers feeds the log-probabilities, not the logits, to the processors of a beam search.
            log_softmax(&mut row)?;
            self.processor.process(&mut row, history)?;
            rows.extend(row);
        }
        self.logits.clear();
        let step = self.search.step_with(&rows, |tokens| meets_stop_string(model, tokens, limits))?;
        if step.done {
            let generations = self.search.clone().finish().into_iter().map(|beam| self.generation(beam, model, limits));
            return Ok(BeamsStep::Done(generations.collect::<Result<_, _>>()?));
        }
        let sequence = |index: u32| SequenceId { request, index };
        let (mut stops, mut forks, mut continues) = (Vec::new(), Vec::new(), Vec::new());
        for (beam, (index, _)) in self.beams.iter().enumerate() {
            if !step.parents.contains(&beam) {
                stops.push(BatchEvent::Stop(sequence(*index)));
            }
        }
        let mut taken = vec![false; self.beams.len()];
        let mut beams = Vec::with_capacity(step.parents.len());
        for (&parent, &token) in step.parents.iter().zip(&step.tokens) {
            let (from, history) = &self.beams[parent];
            let mut history = history.clone();
            history.push(token);
            // The first child continues its parent's sequence, after its siblings were forked from it.
            let index = if std::mem::replace(&mut taken[parent], true) {
                let index = self.next_index;
                self.next_index += 1;
                forks.push(BatchEvent::Fork { from: sequence(*from), index, last: Some(token) });
                index
            } else {
                continues.push(BatchEvent::Continue { sequence: sequence(*from), token, ended: false });
                *from
            };
            beams.push((index, history));
        }
        self.beams = beams;
        stops.extend(forks);
        stops.extend(continues);
        Ok(BeamsStep::GoOn(stops))
    }

    fn generation(&self, beam: Hypothesis, model: &AutoModel, limits: &Limits) -> Result<Generation, EngineError> {
        let Hypothesis { tokens: token_ids, score } = beam;
        let last = token_ids.last().copied().filter(|token| self.ends.contains(token));
        // The token that ends a sequence is not part of its text.
        let own = &token_ids[..token_ids.len() - usize::from(last.is_some())];
        let mut text = match model.tokenizer() {
            Some(tokenizer) => decode(tokenizer, own)?,
            None => String::new(),
        };
        let params = &limits.params;
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
            (None, None) if limits.limit < params.max_new_tokens => FinishReason::Context,
            (None, None) => FinishReason::Length,
        };
        Ok(Generation { text, token_ids, finish_reason, logprobs: Vec::new(), beam_score: Some(score) })
    }
}

/// Whether the text of these tokens contains a stop string. A text that does not decode contains none.
fn meets_stop_string(model: &AutoModel, tokens: &[u32], limits: &Limits) -> bool {
    if limits.params.stop.is_empty() {
        return false;
    }
    let text = model.tokenizer().and_then(|tokenizer| decode(tokenizer, tokens).ok());
    text.is_some_and(|text| limits.params.stop.iter().any(|stop| text.contains(stop)))
}

/// The text of the tokens that the tokenizer knows; an embedding may have more rows than that.
fn decode(tokenizer: &Tokenizer, tokens: &[u32]) -> Result<String, EngineError> {
    let known: Vec<u32> = tokens.iter().copied().filter(|&token| tokenizer.id_to_token(token).is_some()).collect();
    Ok(tokenizer.decode(&known, true)?)
}
