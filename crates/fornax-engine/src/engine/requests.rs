//! The requests of an engine that have not ended: the state of each, its part in the results of a plan, and its end. As the
//! [`Client`] of the scheduler's loop, they hear of its decisions.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::mpsc::Sender;

use fornax_models::AutoModel;
use fornax_scheduler::{
    BatchEvent, Client, EndReason, Finished, Item, ModelId, Output, PlanResults, Preempted, RequestId, SchedulerError,
    ServingLoop,
};

use super::beams::{Beams, BeamsStep};
use super::sequence::{Limits, Sequence};
use crate::executor::Wanted;
use crate::sampling::SamplingParams;
use crate::{Chunk, EngineError, Generation, Pooling};

/// What is to be done with a prompt.
#[derive(Debug, Clone)]
pub(crate) enum EngineTask {
    /// Continue it, by at most this many tokens.
    Generate(SamplingParams, usize),
    /// The log-probability of each token but the first.
    Score,
    /// One vector for it.
    Embed(Pooling),
}

/// What comes back.
#[derive(Debug)]
pub(crate) enum Answer {
    /// A piece of a sequence.
    Chunk(Chunk),
    /// All sequences of a beam search.
    Beams(Vec<Generation>),
    /// The numbers of a score or an embedding.
    Values(Vec<f32>),
    /// The request has ended for this reason.
    Failed(EngineError),
}

/// A request that has not ended.
pub(super) struct Active {
    pub(super) model: ModelId,
    pub(super) prompt: Vec<u32>,
    pub(super) kind: Kind,
    pub(super) answers: Sender<Answer>,
}

pub(super) enum Kind {
    Generate { limits: Limits, sequences: Vec<Option<Sequence>> },
    Beams { limits: Limits, beams: Box<Beams> },
    Score { logprobs: Vec<f32> },
    Embed { pooling: Pooling, vector: Vec<f32> },
}

/// The requests that have not ended.
pub(super) struct Requests {
    models: Vec<Arc<AutoModel>>,
    active: HashMap<RequestId, Active>,
}

impl Requests {
    pub(super) fn new(models: Vec<Arc<AutoModel>>) -> Self {
        Self { models, active: HashMap::new() }
    }

    pub(super) fn models(&self) -> &[Arc<AutoModel>] {
        &self.models
    }

    pub(super) fn len(&self) -> usize {
        self.active.len()
    }

    pub(super) fn add(&mut self, id: RequestId, active: Active) {
        self.active.insert(id, active);
    }

    /// Ends a request without an answer, if it has not ended.
    pub(super) fn cancel(&mut self, id: RequestId, serving: &mut ServingLoop) {
        if self.active.remove(&id).is_some() {
            serving.push(BatchEvent::Cancel(id));
        }
    }

    /// Answers a request with an error, and ends it.
    pub(super) fn fail(&mut self, id: RequestId, error: EngineError, serving: &mut ServingLoop) {
        if let Some(active) = self.active.remove(&id) {
            let _ = active.answers.send(Answer::Failed(error));
            serving.push(BatchEvent::Cancel(id));
        }
    }

    /// Answers all requests with this error, and ends them.
    pub(super) fn fail_all(&mut self, reason: &str, serving: &mut ServingLoop) {
        for id in self.active.keys().copied().collect::<Vec<_>>() {
            self.fail(id, EngineError::failed(reason), serving);
        }
    }

    /// The numbers that an item's request wants.
    pub(super) fn wanted(&self, item: &Item) -> Wanted<'_> {
        let (start, rows) = (item.start as usize, item.rows() as usize);
        match self.active.get(&item.sequence.request) {
            _ if item.samples > 0 => Wanted::Logits,
            Some(Active { kind: Kind::Score { .. }, prompt, .. }) => {
                Wanted::Logprobs(&prompt[(start + 1).min(prompt.len())..(start + rows + 1).min(prompt.len())])
            }
            Some(Active { kind: Kind::Embed { .. }, .. }) => Wanted::States,
            _ => Wanted::Nothing,
        }
    }

    /// Hands an item's numbers to its request, and appends its outputs and tokens, and what they lead to.
    pub(super) fn take(
        &mut self,
        item: &Item,
        values: &mut [f32],
        results: &mut PlanResults,
        serving: &mut ServingLoop,
    ) -> Result<(), EngineError> {
        let PlanResults { outputs, tokens, then } = results;
        let id = item.sequence.request;
        let Some(active) = self.active.get_mut(&id) else { return Ok(()) };
        let model = &self.models[usize::from(active.model.0)];
        let mut gone = false;
        match &mut active.kind {
            Kind::Generate { .. } | Kind::Beams { .. } if item.samples == 0 => outputs.push(Output::NONE),
            Kind::Generate { limits, sequences } => {
                let first = item.sequence.index as usize;
                for index in first..first + item.samples as usize {
                    let Some(sequence) = sequences.get_mut(index) else { continue };
                    let Some(running) = sequence else {
                        outputs.push(Output::ended(0));
                        continue;
                    };
                    let chunk = running.advance(values, limits)?;
                    tokens.extend(chunk.token_ids.last());
                    let ended = chunk.finish_reason.is_some();
                    outputs.push(if ended { Output::ended(1) } else { Output::tokens(1) });
                    gone |= active.answers.send(Answer::Chunk(chunk)).is_err();
                    if ended {
                        *sequence = None;
                    }
                }
                if sequences.iter().all(Option::is_none) {
                    self.active.remove(&id);
                }
            }
            Kind::Beams { limits, beams } => {
                let first = item.sequence.index;
                for index in first..first + item.samples {
                    beams.computed(index, values);
                    outputs.push(Output::NONE);
                }
                match beams.step(id, model, limits)? {
                    BeamsStep::Waiting => {}
                    BeamsStep::GoOn(events) => then.extend(events),
                    BeamsStep::Done(generations) => {
                        let _ = active.answers.send(Answer::Beams(generations));
                        gone = true;
                    }
                }
            }
            Kind::Score { logprobs } => {
                let start = item.start as usize;
                logprobs[start..start + values.len()].copy_from_slice(values);
                outputs.push(Output::NONE);
            }
            Kind::Embed { pooling, vector } => {
                let (start, rows) = (item.start as usize, item.rows() as usize);
                pooling.add(vector, values, [start, rows, active.prompt.len()]);
                outputs.push(Output::NONE);
            }
        }
        if gone {
            self.cancel(id, serving);
        }
        Ok(())
    }
}

impl Client for Requests {
    fn refused(&mut self, request: Option<RequestId>, error: SchedulerError, serving: &mut ServingLoop) {
        if let Some(id) = request {
            self.fail(id, EngineError::Refused(error), serving);
        }
    }

    fn finished(&mut self, finished: Finished, serving: &mut ServingLoop) {
        let id = finished.sequence.request;
        match finished.reason {
            EndReason::Computed => {
                let Some(active) = self.active.remove(&id) else { return };
                if let Kind::Score { logprobs: values } | Kind::Embed { vector: values, .. } = active.kind {
                    let _ = active.answers.send(Answer::Values(values));
                }
            }
            EndReason::Late => self.fail(id, EngineError::Deadline, serving),
            EndReason::Stopped | EndReason::Length | EndReason::Cancelled | EndReason::Failed => {}
        }
    }

    fn preempted(&mut self, preempted: Preempted, _: &mut ServingLoop) {
        let active = self.active.get_mut(&preempted.sequence.request);
        if let Some(Active { kind: Kind::Beams { beams, .. }, .. }) = active {
            beams.preempted(preempted.sequence.index);
        }
    }
}

impl Kind {
    pub(super) fn new(model: &AutoModel, prompt: &[u32], task: EngineTask) -> Result<Self, EngineError> {
        let (params, limit) = match task {
            EngineTask::Generate(params, limit) => (params.with_fixed_seed(), limit),
            EngineTask::Score => return Ok(Self::Score { logprobs: vec![0.0; prompt.len() - 1] }),
            EngineTask::Embed(pooling) => return Ok(Self::Embed { pooling, vector: Vec::new() }),
        };
        let eos = if params.ignore_eos { Vec::new() } else { model.generation_defaults().eos_token_ids.clone() };
        let limits = Limits { params, eos, limit };
        if limits.params.num_beams > 1 {
            let beams = Box::new(Beams::new(model, prompt, &limits)?);
            return Ok(Self::Beams { limits, beams });
        }
        let sequence = |index| Sequence::new(model, prompt, &limits, index).map(Some);
        let sequences = (0..limits.params.num_return_sequences).map(sequence).collect::<Result<_, _>>()?;
        Ok(Self::Generate { limits, sequences })
    }
}
