//! A step of an engine: the scheduler's [`ServingLoop`] gives a plan, the executor computes it, the requests take what was
//! computed, and the results go back to the loop. It has no thread, and is told the time, so that tests drive it step by step.

use std::any::Any;
use std::collections::HashSet;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

use fornax_models::AutoModel;
use fornax_scheduler::{
    BatchEvent, BatchScheduler, BatchStats, Item, ModelId, Output, Plan, PlanResults, Request, RequestId, ServingLoop,
    TenantId, Time,
};

use super::pace::Pace;
use super::requests::{Active, Answer, EngineTask, Kind, Requests};
use crate::EngineError;
use crate::executor::{Executor, StepOutput, Work};

/// What is asked of an engine, checked.
#[derive(Debug)]
pub(crate) struct Submission {
    pub(crate) model: ModelId,
    /// At least one token, all of them in the vocabulary.
    pub(crate) prompt: Vec<u32>,
    pub(crate) task: EngineTask,
    pub(crate) tenant: TenantId,
    pub(crate) priority: i32,
    /// From the request's arrival on.
    pub(crate) deadline: Option<Duration>,
    pub(crate) answers: Sender<Answer>,
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

/// The scheduler's loop, the executor and the requests of an engine.
pub(crate) struct Core<E> {
    serving: ServingLoop,
    executor: E,
    requests: Requests,
    /// The tenants whose weights the scheduler was told.
    tenants: HashSet<TenantId>,
    /// Limits prompts beside decoding sequences by how long steps take; None if plans do not depend on it.
    pace: Option<Pace>,
}

impl<E: Executor> Core<E> {
    pub(crate) fn new(models: Vec<Arc<AutoModel>>, scheduler: BatchScheduler, executor: E, pace: Option<Pace>) -> Self {
        Self {
            serving: ServingLoop::new(scheduler),
            executor,
            requests: Requests::new(models),
            tenants: HashSet::new(),
            pace,
        }
    }

    /// Takes a request that came at `arrival`, under a number that no other has; what goes wrong with it is its answer.
    pub(crate) fn submit(&mut self, id: RequestId, submission: Submission, arrival: Time) {
        let Submission { model, prompt, task, tenant, priority, deadline, answers } = submission;
        let known = if self.tenants.contains(&tenant) { Ok(()) } else { self.declare_tenant(tenant, 1.0) };
        let kind = || Kind::new(&self.requests.models()[usize::from(model.0)], &prompt, task);
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
        request.arrival = Some(arrival);
        request.deadline = deadline.map(|deadline| arrival.after(deadline));
        self.requests.add(id, Active { model, prompt, kind, answers });
        self.serving.push(BatchEvent::Submit(request));
    }

    /// Gives a tenant its weight. A tenant without a declared weight has weight 1.
    pub(crate) fn declare_tenant(&mut self, tenant: TenantId, weight: f64) -> Result<(), EngineError> {
        self.serving.declare_tenant(tenant, weight)?;
        self.tenants.insert(tenant);
        Ok(())
    }

    /// Ends a request, if it has not ended.
    pub(crate) fn cancel(&mut self, id: RequestId) {
        self.requests.cancel(id, &mut self.serving);
    }

    pub(crate) fn stats(&self) -> EngineStats {
        let scheduler = self.serving.scheduler();
        let models = 0..self.requests.models().len();
        let memories = || models.clone().filter_map(|model| scheduler.memory(ModelId(model as u16)));
        EngineStats {
            requests: self.requests.len(),
            running: scheduler.running(),
            waiting: scheduler.waiting(),
            blocks: memories().map(|memory| memory.total()).sum(),
            held_blocks: memories().map(|memory| memory.held()).sum(),
            scheduler: scheduler.stats(),
        }
    }

    /// Lets the scheduler decide on what happened, and carries its plan out. Says whether there may be more to do at once; if
    /// not, no request is left.
    pub(crate) fn step(&mut self, now: Time) -> bool {
        if let Some(pace) = &self.pace {
            self.serving.limit_prompts(pace.prompt_tokens());
        }
        if let Some(plan) = self.serving.begin(now, &mut self.requests) {
            match guarded(|| self.executor.move_blocks(&plan)) {
                Ok(()) => {
                    let start = Instant::now();
                    let results = self.carry_out(&plan);
                    if let Some(pace) = &mut self.pace {
                        pace.observe(&plan, start.elapsed());
                    }
                    self.serving.finish(plan, results);
                }
                Err(error) => {
                    // Requests that were to have the moved blocks end. The others are planned again: what was to be moved
                    // out of their way is computed again.
                    for request in receivers(&plan) {
                        self.requests.fail(request, again(&error), &mut self.serving);
                    }
                    self.serving.fail(plan);
                }
            }
        }
        if self.serving.is_blocked() {
            // No event that could help is to come, so an error is better than silence.
            self.requests.fail_all("the scheduler finds no way to go on", &mut self.serving);
        }
        self.serving.has_events()
    }

    /// Computes a plan's items and hands the results to their requests: what the scheduler is to be told.
    fn carry_out(&mut self, plan: &Plan) -> PlanResults {
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
                    let mut ranges = run(std::slice::from_ref(work))?;
                    Ok(ranges.next_back().unwrap_or_default())
                })),
            }
        }
        let Self { requests, serving, .. } = self;
        let mut results = PlanResults::default();
        for (item, result) in plan.items.iter().zip(computed) {
            let count = results.outputs.len() + item.outputs() as usize;
            let mut take = |values: &mut [f32]| guarded(|| requests.take(item, values, &mut results, serving));
            if let Err(error) = result.and_then(|range| take(&mut values[range])) {
                requests.fail(item.sequence.request, error, serving);
            }
            // A request that is gone, or failed halfway, puts out nothing more.
            results.outputs.resize(count, Output::FAILED);
        }
        results
    }
}

/// What an item asks of the executor.
fn work<'a>(requests: &'a Requests, plan: &'a Plan, blocks: &'a [u32], item: &Item) -> Work<'a> {
    Work {
        tokens: plan.tokens_of(item),
        start: item.start as usize,
        blocks: &blocks[item.first_block as usize..][..item.blocks as usize],
        len: item.prompt_len as usize,
        wanted: requests.wanted(item),
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
mod arrivals;
#[cfg(test)]
mod mock;
#[cfg(test)]
mod schedules;
