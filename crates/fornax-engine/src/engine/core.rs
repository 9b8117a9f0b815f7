//! The loop of an engine: events go to the scheduler, its plan to the executor, and what was computed to the requests. It has
//! no thread, and is told the time, so that tests drive it step by step.

use std::any::Any;
use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

use fornax_models::AutoModel;
use fornax_scheduler::{
    BatchEvent, BatchScheduler, BatchStats, EndReason, Item, ModelId, Output, Plan, PlanStatus, Request, RequestId,
    TenantId, Time,
};

use super::beams::{Beams, BeamsStep};
use super::pace::Pace;
use super::sequence::{Limits, Sequence};
use crate::executor::{Executor, StepOutput, Wanted, Work};
use crate::sampling::SamplingParams;
use crate::{Chunk, EngineError, Generation, Pooling};

/// What is asked of an engine, checked.
#[derive(Debug)]
pub(crate) struct Submission {
    pub(crate) model: ModelId,
    /// At least one token, all of them in the vocabulary.
    pub(crate) prompt: Vec<u32>,
    pub(crate) task: EngineTask,
    pub(crate) tenant: TenantId,
    pub(crate) priority: i32,
    /// From now on.
    pub(crate) deadline: Option<Duration>,
    pub(crate) answers: Sender<Answer>,
}

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

/// Counts of an engine.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct EngineStats {
    /// Requests that have not ended.
    pub requests: usize,
    /// Sequences that are computed.
    pub running: usize,
    /// Sequences that wait.
    pub waiting: usize,
    /// Blocks of all pools.
    pub blocks: usize,
    /// Blocks that hold sequences.
    pub held_blocks: usize,
    /// Counts since the beginning.
    pub scheduler: BatchStats,
}

/// A request that has not ended.
struct Active {
    model: ModelId,
    prompt: Vec<u32>,
    kind: Kind,
    answers: Sender<Answer>,
}

enum Kind {
    Generate { limits: Limits, sequences: Vec<Option<Sequence>> },
    Beams { limits: Limits, beams: Box<Beams> },
    Score { logprobs: Vec<f32> },
    Embed { pooling: Pooling, vector: Vec<f32> },
}

/// Scheduler, executor and requests of an engine.
pub(crate) struct Core<E> {
    models: Vec<Arc<AutoModel>>,
    scheduler: BatchScheduler,
    executor: E,
    requests: HashMap<RequestId, Active>,
    /// Those that the scheduler knows.
    tenants: HashSet<TenantId>,
    events: Vec<BatchEvent>,
    /// Of each event, the request that cannot go on if it is refused.
    owners: Vec<Option<RequestId>>,
    plan: Plan,
    /// None where plans are not to depend on how long steps take.
    pace: Option<Pace>,
}

impl<E: Executor> Core<E> {
    pub(crate) fn new(models: Vec<Arc<AutoModel>>, scheduler: BatchScheduler, executor: E) -> Self {
        Self {
            models,
            scheduler,
            executor,
            requests: HashMap::new(),
            tenants: HashSet::new(),
            events: Vec::new(),
            owners: Vec::new(),
            plan: Plan::default(),
            pace: Some(Pace::default()),
        }
    }

    /// Takes a request, under a number that no other has; what goes wrong with it is its answer.
    pub(crate) fn submit(&mut self, id: RequestId, submission: Submission, now: Time) {
        let Submission { model, prompt, task, tenant, priority, deadline, answers } = submission;
        let known = if self.tenants.contains(&tenant) { Ok(()) } else { self.declare_tenant(tenant, 1.0) };
        let kind = || Kind::new(&self.models[usize::from(model.0)], &prompt, task);
        let kind = match known.and_then(|()| guarded(kind)) {
            Ok(kind) => kind,
            Err(error) => {
                let _ = answers.send(Answer::Failed(error));
                return;
            }
        };
        let (new_tokens, sequences) = match &kind {
            Kind::Generate { limits, sequences } => (limits.limit, sequences.len()),
            Kind::Beams { limits, .. } => (limits.limit, limits.params.num_beams),
            Kind::Score { .. } | Kind::Embed { .. } => (0, 1),
        };
        let mut request = Request::new(id.0, prompt.clone(), new_tokens as u32);
        request.model = model;
        request.tenant = tenant;
        request.priority = priority;
        request.sequences = sequences as u32;
        request.reuse_prefix = new_tokens > 0;
        request.deadline = deadline.map(|deadline| {
            let micros = u64::try_from(deadline.as_micros()).unwrap_or(u64::MAX);
            Time::from_micros(now.as_micros().saturating_add(micros))
        });
        self.requests.insert(id, Active { model, prompt, kind, answers });
        self.push(BatchEvent::Submit(request), Some(id));
    }

    /// Gives a tenant its weight; those that come without are given 1.
    pub(crate) fn declare_tenant(&mut self, tenant: TenantId, weight: f64) -> Result<(), EngineError> {
        self.scheduler.declare_tenant(tenant, weight)?;
        self.tenants.insert(tenant);
        Ok(())
    }

    /// Ends a request, if it has not ended.
    pub(crate) fn cancel(&mut self, id: RequestId) {
        if self.requests.remove(&id).is_some() {
            self.push(BatchEvent::Cancel(id), None);
        }
    }

    pub(crate) fn stats(&self) -> EngineStats {
        let memories = || (0..self.models.len()).filter_map(|model| self.scheduler.memory(ModelId(model as u16)));
        EngineStats {
            requests: self.requests.len(),
            running: self.scheduler.running(),
            waiting: self.scheduler.waiting(),
            blocks: memories().map(|memory| memory.total()).sum(),
            held_blocks: memories().map(|memory| memory.held()).sum(),
            scheduler: self.scheduler.stats(),
        }
    }

    /// Lets the scheduler decide on what happened, and carries its plan out. Says whether there may be more to do at once; if
    /// not, no request is left.
    pub(crate) fn step(&mut self, now: Time) -> bool {
        if let Some(pace) = &self.pace {
            self.scheduler.limit_prompts(pace.prompt_tokens());
        }
        let mut plan = std::mem::take(&mut self.plan);
        self.scheduler.step_into(self.events.drain(..), now, &mut plan);
        let owners = std::mem::take(&mut self.owners);
        for rejected in &plan.rejected {
            if let Some(id) = owners[rejected.event] {
                self.fail(id, EngineError::Refused(rejected.error.clone()));
            }
        }
        for finished in &plan.finished {
            self.ended(finished.sequence.request, finished.reason);
        }
        for preempted in &plan.preempted {
            let active = self.requests.get_mut(&preempted.sequence.request);
            if let Some(Active { kind: Kind::Beams { beams, .. }, .. }) = active {
                beams.preempted(preempted.sequence.index);
            }
        }
        if let Some(id) = plan.id {
            match guarded(|| self.executor.move_blocks(&plan)) {
                Ok(()) => {
                    let start = Instant::now();
                    let (outputs, tokens) = self.carry_out(&plan);
                    if let Some(pace) = &mut self.pace {
                        pace.observe(&plan, start.elapsed());
                    }
                    // Results come before what they led to.
                    self.events.insert(0, BatchEvent::Done { plan: id, outputs, tokens });
                    self.owners.insert(0, None);
                }
                Err(error) => {
                    // Whoever is to have the moved blocks ends. The others are planned anew: what was to be moved out of their
                    // way is computed again.
                    self.push(BatchEvent::Failed { plan: id }, None);
                    for request in receivers(&plan) {
                        self.fail(request, again(&error));
                    }
                }
            }
        }
        if plan.status == PlanStatus::Blocked && self.events.is_empty() {
            // No event that could help is to come, so an error is better than silence.
            for id in self.requests.keys().copied().collect::<Vec<_>>() {
                self.fail(id, EngineError::failed("the scheduler finds no way to go on"));
            }
        }
        let busy = plan.status == PlanStatus::Work || !self.events.is_empty();
        self.plan = plan;
        busy
    }

    fn push(&mut self, event: BatchEvent, owner: Option<RequestId>) {
        self.events.push(event);
        self.owners.push(owner);
    }

    /// Takes note that the scheduler ended a sequence.
    fn ended(&mut self, id: RequestId, reason: EndReason) {
        let error = match reason {
            EndReason::Computed => {
                let Some(active) = self.requests.remove(&id) else { return };
                if let Kind::Score { logprobs: values } | Kind::Embed { vector: values, .. } = active.kind {
                    let _ = active.answers.send(Answer::Values(values));
                }
                return;
            }
            EndReason::Late => EngineError::Deadline,
            EndReason::Stopped | EndReason::Length | EndReason::Cancelled | EndReason::Failed => return,
        };
        self.fail(id, error);
    }

    /// Answers a request with an error, and ends it.
    fn fail(&mut self, id: RequestId, error: EngineError) {
        if let Some(active) = self.requests.remove(&id) {
            let _ = active.answers.send(Answer::Failed(error));
            self.push(BatchEvent::Cancel(id), None);
        }
    }

    /// Computes a plan's items and hands the results to their requests: what the scheduler is to be told.
    fn carry_out(&mut self, plan: &Plan) -> (Vec<Output>, Vec<u32>) {
        let blocks: Vec<u32> = plan.blocks.iter().map(|block| block.0).collect();
        // The numbers of all items, and which of them are whose.
        let mut values = Vec::new();
        let mut computed: Vec<Result<Range<usize>, EngineError>> = Vec::with_capacity(plan.items.len());
        for (model, items) in plan.by_model() {
            let work: Vec<Work<'_>> = items.iter().map(|item| work(&self.requests, plan, &blocks, item)).collect();
            let executor = &mut self.executor;
            let mut run = |work: &[Work<'_>]| {
                let output = guarded(|| checked(executor.compute(model, work)?, work.len()))?;
                let first = values.len();
                if values.is_empty() {
                    values = output.values;
                } else {
                    values.extend(output.values);
                }
                Ok(output.ranges.into_iter().map(move |range| first + range.start..first + range.end))
            };
            match run(&work) {
                Ok(ranges) => computed.extend(ranges.map(Ok)),
                Err(error) if work.len() == 1 => computed.push(Err(error)),
                // Each for itself, so that only items that fail alone end: keys and values are written again as they were.
                Err(_) => computed.extend(work.iter().map(|work| {
                    let ranges = run(std::slice::from_ref(work))?;
                    Ok(ranges.last().unwrap_or_default())
                })),
            }
        }
        let (mut outputs, mut tokens) = (Vec::new(), Vec::new());
        for (item, result) in plan.items.iter().zip(computed) {
            let count = outputs.len() + item.outputs() as usize;
            let result =
                result.and_then(|range| guarded(|| self.take(item, &mut values[range], &mut outputs, &mut tokens)));
            if let Err(error) = result {
                self.fail(item.sequence.request, error);
            }
            // Whoever is gone, or failed halfway, puts out nothing more.
            outputs.resize(count, Output::FAILED);
        }
        (outputs, tokens)
    }

    /// Hands an item's numbers to its request, and appends its outputs and tokens.
    fn take(
        &mut self,
        item: &Item,
        values: &mut [f32],
        outputs: &mut Vec<Output>,
        tokens: &mut Vec<u32>,
    ) -> Result<(), EngineError> {
        let id = item.sequence.request;
        let Some(active) = self.requests.get_mut(&id) else { return Ok(()) };
        let model = &self.models[usize::from(active.model.0)];
        let mut gone = false;
        let mut then = Vec::new();
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
                    self.requests.remove(&id);
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
                    BeamsStep::GoOn(events) => then = events,
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
        for event in then {
            self.push(event, Some(id));
        }
        if gone {
            self.cancel(id);
        }
        Ok(())
    }
}

impl Kind {
    fn new(model: &AutoModel, prompt: &[u32], task: EngineTask) -> Result<Self, EngineError> {
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

/// What an item asks of the executor.
fn work<'a>(requests: &'a HashMap<RequestId, Active>, plan: &'a Plan, blocks: &'a [u32], item: &Item) -> Work<'a> {
    let (start, rows) = (item.start as usize, item.rows() as usize);
    let wanted = match requests.get(&item.sequence.request) {
        _ if item.samples > 0 => Wanted::Logits,
        Some(Active { kind: Kind::Score { .. }, prompt, .. }) => {
            Wanted::Logprobs(&prompt[(start + 1).min(prompt.len())..(start + rows + 1).min(prompt.len())])
        }
        Some(Active { kind: Kind::Embed { .. }, .. }) => Wanted::States,
        _ => Wanted::Nothing,
    };
    Work {
        tokens: plan.tokens_of(item),
        start,
        blocks: &blocks[item.first_block as usize..][..item.blocks as usize],
        len: item.prompt_len as usize,
        wanted,
    }
}

/// An error once more, for another request.
fn again(error: &EngineError) -> EngineError {
    match error {
        EngineError::Failed { reason } => EngineError::failed(reason.clone()),
        other => EngineError::failed(other.to_string()),
    }
}

/// The requests for which a plan copies blocks or brings them back: they cannot be computed without. All that are computed
/// where no block is moved.
fn receivers(plan: &Plan) -> Vec<RequestId> {
    let moves = !(plan.copy.is_empty() && plan.swap_in.is_empty() && plan.swap_out.is_empty());
    let copied = |item: &&Item| {
        let own = plan.blocks_of(item);
        !moves || plan.copy.iter().any(|copy| copy.model == item.model && own.contains(&copy.to))
    };
    let computed = plan.items.iter().filter(copied).map(|item| item.sequence.request);
    computed.chain(plan.swap_in.iter().map(|swap| swap.sequence.request)).collect()
}

/// What an executor gave, if it gave something for all work.
fn checked(output: StepOutput, work: usize) -> Result<StepOutput, EngineError> {
    let within = output.ranges.iter().all(|range| range.start <= range.end && range.end <= output.values.len());
    if output.ranges.len() == work && within {
        return Ok(output);
    }
    let found = output.ranges.len();
    Err(EngineError::failed(format!("the executor was given {work} pieces of work and answered {found}")))
}

/// Makes a panic an error like any other.
fn guarded<T>(call: impl FnOnce() -> Result<T, EngineError>) -> Result<T, EngineError> {
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(result) => result,
        Err(panic) => Err(EngineError::failed(format!("a panic: {}", message(panic.as_ref())))),
    }
}

/// What a panic says.
fn message(panic: &(dyn Any + Send)) -> &str {
    panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("?")
}

#[cfg(test)]
mod mock;
#[cfg(test)]
mod schedules;
