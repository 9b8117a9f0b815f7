//! The batch scheduler itself: its state, and the step.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::holders::Holders;
use super::id_map::IdMap;
use super::running::Running;
use super::sequence::{Buffers, Sequence, State};
use super::{BatchConfig, BatchEvent, Item, PENDING, Plan, PlanStatus};
use crate::kv::KvMemory;
use crate::policy::{Candidate, Observation, Policy};
use crate::queue::Queue;
use crate::tasks::Rejected;
use crate::tenants::Tenants;
use crate::{AdapterId, BlockId, ModelId, PlanId, RequestId, SchedulerError, SequenceId, TenantId, Time, Wait};

/// Decides what a replica computes, step by step.
///
/// ```
/// use fornax_scheduler::{BatchConfig, BatchEvent, BatchScheduler, Request, Time, policy};
///
/// let mut scheduler = BatchScheduler::new(BatchConfig::default(), policy("fcfs")?)?;
/// let request = Request::new(1, vec![5, 6, 7], 2);
/// let plan = scheduler.step([BatchEvent::Submit(request)], Time::ZERO);
/// assert_eq!((plan.items[0].tokens, plan.items[0].samples), (3, 1));
///
/// // The engine computes what the plan says, and reports the token that it sampled.
/// let (outputs, tokens) = plan.plain_outputs(42);
/// let done = BatchEvent::Done { plan: plan.id.unwrap(), outputs, tokens };
/// let plan = scheduler.step([done], Time::from_secs_f64(0.01));
/// assert_eq!(plan.tokens_of(&plan.items[0]), [42]);
///
/// let (outputs, tokens) = plan.plain_outputs(43);
/// let done = BatchEvent::Done { plan: plan.id.unwrap(), outputs, tokens };
/// let plan = scheduler.step([done], Time::from_secs_f64(0.02));
/// assert_eq!(plan.finished[0].new_tokens, 2);
/// assert_eq!(plan.status, fornax_scheduler::PlanStatus::Idle);
/// # Ok::<(), fornax_scheduler::SchedulerError>(())
/// ```
///
/// # Plans in flight
/// A plan is in flight from when it is made until its results are in. With [`BatchConfig::plans_in_flight`] of 2, the next
/// plan is made while one is in flight, as if each sample in flight gave one token:
/// * A decoding sequence whose last token is not known yet has [`PENDING`] in its place: the token that the sequence's
///   item in the previous plan samples. Of a prompt, the next chunk is planned.
/// * Results come in the order of the plans. If the results of one plan end, fail or defer a sequence, the results of
///   the next plan for that sequence are ignored.
/// * Some sequences wait for their results, since these may be other than one token: sequences with draft tokens,
///   prompts with several samples, and requests without [`plan_ahead`](super::Request::plan_ahead). Only sequences
///   whose results are in can be forked or get draft tokens.
/// * No sequence in flight is preempted. When that would be needed, no plan is made until all results are in.
/// * If a plan fails, the plan after it fails with it.
#[derive(Clone, Debug)]
pub struct BatchScheduler {
    pub(super) config: BatchConfig,
    pub(super) policy: Box<dyn Policy>,
    pub(super) wants_service: bool,
    pub(super) wants_holdings: bool,
    pub(super) tenants: Tenants,
    pub(super) models: Vec<Model>,
    pub(super) now: Time,
    pub(super) submitted: u64,
    pub(super) sequences: Vec<Sequence>,
    pub(super) vacant: Vec<u32>,
    pub(super) ids: IdMap,
    /// The last number given to a sequence or an epoch.
    pub(super) numbers: u64,
    /// The sequences that can be admitted; they hold no blocks of the device.
    pub(super) waiting: Queue,
    /// The first waiting sequence, as of the last step.
    pub(super) front: Option<u32>,
    /// How many sequences wait to become ready.
    pub(super) not_ready: usize,
    /// The sequences that hold blocks and wait for the next chunks of their prompts.
    pub(super) held: Queue,
    /// The decoding sequences.
    pub(super) running: Running,
    /// The deferred sequences.
    pub(super) deferred: Running,
    pub(super) holders: Holders,
    /// How many running slots are held.
    pub(super) running_slots: usize,
    /// The sequences that have draft tokens for the next plan, by slot and serial.
    pub(super) drafted: Vec<(u32, u64)>,
    pub(super) deadlines: BTreeSet<(Time, u32)>,
    /// The items of the plan being made.
    pub(super) work: Vec<Work>,
    /// The sequences whose blocks the plan being made copies or moves, by slot and serial.
    pub(super) moves: Vec<(u32, u64)>,
    /// The plans in flight, the oldest first.
    pub(super) flights: VecDeque<Flight>,
    pub(super) spare_work: Vec<Vec<Work>>,
    /// Whether no plan is made until all results are in, as a sequence in flight has to be preempted.
    pub(super) draining: bool,
    /// The request for which deferred sequences of other requests make room, where no other sequence can go on.
    pub(super) preferred: Option<RequestId>,
    /// Whether `unblock` is under way, which admits requests without the watermark.
    pub(super) unblocking: bool,
    pub(super) spare_buffers: Vec<Buffers>,
    pub(super) plans: u64,
    /// The most tokens of prompts in a plan that has decoding sequences.
    pub(super) prompt_limit: Option<usize>,
    /// Output tokens of each tenant in the results being read, to be told to the policy.
    pub(super) served: Vec<f64>,
    /// The tenants whose number in `served` is not 0.
    pub(super) served_tenants: Vec<TenantId>,
    /// Why sequences wait, for all that the last plan looked at, by serial.
    pub(super) waits: Vec<(u64, SequenceId, Wait)>,
    pub(super) stats: BatchStats,
}

/// A model's memory and adapters.
#[derive(Clone, Debug)]
pub(super) struct Model {
    pub(super) kv: KvMemory,
    pub(super) host: Option<KvMemory>,
    /// Blocks that admitted prompts still need.
    pub(super) promised: usize,
    /// Blocks set aside by reserved admission.
    pub(super) reserved: usize,
    /// How many sequences use each adapter.
    pub(super) adapters: BTreeMap<AdapterId, u32>,
}

/// A plan in flight.
#[derive(Clone, Debug)]
pub(super) struct Flight {
    pub(super) plan: PlanId,
    pub(super) items: Vec<Work>,
    /// The host blocks that it reads, with their models.
    pub(super) host: Vec<(u16, BlockId)>,
    /// The sequences whose blocks it copies or moves, by slot and serial.
    pub(super) moved: Vec<(u32, u64)>,
}

/// An item of a plan that is being made or in flight.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Work {
    pub(super) slot: u32,
    /// The sequence's epoch when the item was planned: the item counts while the sequence is still in it.
    pub(super) epoch: u64,
    pub(super) start: u32,
    pub(super) tokens: u32,
    pub(super) drafts: u32,
    pub(super) samples: u32,
    /// Whether it is a chunk of a prompt.
    pub(super) prompt: bool,
    /// Whether it is the last chunk.
    pub(super) last: bool,
}

/// Counts since the beginning.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BatchStats {
    /// Plans made.
    pub plans: u64,
    /// Tokens of prompts computed, those computed again after preemption included.
    pub prompt_tokens: u64,
    /// Output tokens.
    pub output_tokens: u64,
    /// Draft tokens computed.
    pub draft_tokens: u64,
    /// Draft tokens accepted.
    pub accepted_tokens: u64,
    /// Sequences preempted.
    pub preemptions: u64,
    /// Preemptions that moved blocks to host memory.
    pub swaps: u64,
    /// Tokens whose keys and values have to be computed again: the computed tokens of sequences whose blocks were given up
    /// or lost, and the tokens of items in plans that failed, without draft tokens.
    pub lost_tokens: u64,
    /// Prompts that were looked up in the prefix cache, each when its request was first admitted.
    pub lookups: u64,
    /// Full blocks of these prompts.
    pub looked_up_blocks: u64,
    /// Full blocks of these prompts that were found.
    pub hit_blocks: u64,
    /// Blocks that preempted sequences, and continuations that began later, found when they were admitted.
    pub found_again_blocks: u64,
    /// Lookups that ended at a block that had been evicted.
    pub evicted_misses: u64,
    /// Blocks copied before they were written to.
    pub copies: u64,
}

impl BatchScheduler {
    /// An idle scheduler.
    ///
    /// # Errors
    /// Those of [`BatchConfig::check_with`], and [`SchedulerError::InvalidConfig`] for a size or a number of blocks
    /// that [`KvMemory::new`] refuses.
    pub fn new(config: BatchConfig, policy: Box<dyn Policy>) -> Result<Self, SchedulerError> {
        config.check_with(policy.as_ref())?;
        let mut models = Vec::with_capacity(config.models.len());
        for model in &config.models {
            let host = match model.host_blocks {
                0 => None,
                blocks => Some(KvMemory::new(blocks, model.block_size, config.hash_seed)?),
            };
            let mut kv = KvMemory::new(model.blocks, model.block_size, config.hash_seed)?;
            kv.record_events(config.kv_events);
            models.push(Model { kv, host, promised: 0, reserved: 0, adapters: BTreeMap::new() });
        }
        let (wants_service, wants_holdings) = (policy.wants_service(), policy.wants_holdings());
        let mut scheduler = Self {
            config,
            policy,
            wants_service,
            wants_holdings,
            tenants: Tenants::default(),
            models,
            now: Time::ZERO,
            submitted: 0,
            sequences: Vec::new(),
            vacant: Vec::new(),
            ids: IdMap::default(),
            numbers: 0,
            waiting: Queue::default(),
            front: None,
            not_ready: 0,
            held: Queue::default(),
            running: Running::default(),
            deferred: Running::default(),
            holders: Holders::default(),
            running_slots: 0,
            drafted: Vec::new(),
            deadlines: BTreeSet::new(),
            work: Vec::new(),
            moves: Vec::new(),
            flights: VecDeque::new(),
            spare_work: Vec::new(),
            draining: false,
            preferred: None,
            unblocking: false,
            spare_buffers: Vec::new(),
            plans: 0,
            prompt_limit: None,
            served: Vec::new(),
            served_tenants: Vec::new(),
            waits: Vec::new(),
            stats: BatchStats::default(),
        };
        scheduler.policy.observe(&Observation::Tenant { tenant: TenantId::DEFAULT, weight: 1.0 });
        Ok(scheduler)
    }

    /// Declares a tenant, or changes its weight. With a policy that shares, a tenant of twice the weight gets twice as
    /// much.
    ///
    /// # Errors
    /// [`SchedulerError::InvalidNumber`] for a weight that is not above zero, [`SchedulerError::TenantTooLarge`].
    pub fn declare_tenant(&mut self, tenant: TenantId, weight: f64) -> Result<(), SchedulerError> {
        self.tenants.declare(tenant, weight)?;
        self.policy.observe(&Observation::Tenant { tenant, weight });
        self.touch(tenant);
        self.front = self.waiting.first(self.policy.as_ref(), self.now).map(|(_, slot)| slot);
        Ok(())
    }

    /// Limits the tokens of prompts in a plan that has decoding sequences, from the next plan on, so that these do not
    /// wait long for their tokens. `None` removes the limit. An engine that measures its device adjusts the limit as it
    /// learns.
    pub fn limit_prompts(&mut self, tokens: Option<usize>) {
        self.prompt_limit = tokens.map(|tokens| tokens.max(1));
    }

    /// Takes in what happened and says what to do. Time does not go back: an earlier `now` counts as the latest one, as does
    /// [`Time::NEVER`].
    pub fn step(&mut self, events: impl IntoIterator<Item = BatchEvent>, now: Time) -> Plan {
        let mut plan = Plan::default();
        self.step_into(events, now, &mut plan);
        plan
    }

    /// [`BatchScheduler::step`] into an existing plan, whose buffers it reuses.
    pub fn step_into(&mut self, events: impl IntoIterator<Item = BatchEvent>, now: Time, plan: &mut Plan) {
        plan.clear();
        self.now.advance(now);
        self.policy.observe(&Observation::Step { now: self.now });
        for (event, what) in events.into_iter().enumerate() {
            let outcome = self.apply(what, plan);
            plan.rejected.extend(outcome.err().map(|error| Rejected { event, error }));
        }
        self.expire(plan);
        self.draining &= !self.flights.is_empty();
        if self.flights.len() < self.config.plans_in_flight && !self.draining {
            self.plan(plan);
        }
        self.front = self.waiting.first(self.policy.as_ref(), self.now).map(|(_, slot)| slot);
        plan.status = match plan.id {
            Some(_) => PlanStatus::Work,
            None if !self.flights.is_empty() => PlanStatus::InFlight,
            None if self.ids.is_empty() => PlanStatus::Idle,
            None => PlanStatus::Blocked,
        };
        for (model, number) in self.models.iter_mut().zip(0..) {
            plan.kv_events.extend(model.kv.take_events().map(|event| (ModelId(number), event)));
        }
    }

    /// Makes the next plan.
    fn plan(&mut self, plan: &mut Plan) {
        self.waits.clear();
        self.holders.clear();
        let mut budget = self.config.max_tokens;
        self.plan_decodes(plan, &mut budget);
        let beside_decodes = self.prompt_limit.filter(|_| !self.work.is_empty());
        let kept = beside_decodes.map_or(0, |limit| budget.saturating_sub(limit));
        budget -= kept;
        self.plan_prompts(plan, &mut budget);
        budget += kept;
        if self.work.is_empty() && !self.deferred.is_empty() {
            self.unblock(plan, &mut budget);
        }
        self.plan_drafts(budget);
        self.launch(plan);
        plan.waiting.extend(self.waits.iter().map(|(_, id, wait)| (*id, wait.clone())));
        self.check_step(plan);
    }

    /// A sequence's block table; none if there is no such sequence.
    pub fn blocks_of(&self, sequence: SequenceId) -> Option<&[BlockId]> {
        self.ids.slot(sequence).map(|slot| self.sequences[slot as usize].table.as_slice())
    }

    /// A model's KV memory; none if there is no such model.
    pub fn memory(&self, model: crate::ModelId) -> Option<&KvMemory> {
        self.models.get(usize::from(model.0)).map(|model| &model.kv)
    }

    /// The configuration.
    pub fn config(&self) -> &BatchConfig {
        &self.config
    }

    /// The policy.
    pub fn policy(&self) -> &dyn Policy {
        self.policy.as_ref()
    }

    /// Counts since the beginning.
    pub fn stats(&self) -> BatchStats {
        self.stats
    }

    /// How many sequences wait to be admitted. Sequences that are not ready do not count.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// How many sequences wait to become ready.
    pub fn not_ready(&self) -> usize {
        self.not_ready
    }

    /// How many sequences are deferred.
    pub fn deferred(&self) -> usize {
        self.deferred.len()
    }

    /// How many running slots are held, by decoding and deferred sequences and by sequences whose prompts are begun.
    pub fn running(&self) -> usize {
        self.running_slots
    }

    /// How many sequences there are in all.
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// Whether there are no sequences.
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    /// The plans in flight, the oldest first: the order in which their results are to come.
    pub fn in_flight(&self) -> impl Iterator<Item = PlanId> {
        self.flights.iter().map(|flight| flight.plan)
    }

    /// Gives the plan its id, writes its items, and keeps the record that its results are checked against.
    fn launch(&mut self, plan: &mut Plan) {
        if self.work.is_empty() && plan.swap_out.is_empty() && plan.copy.is_empty() && plan.swap_in.is_empty() {
            self.drop_drafts();
            return;
        }
        self.plans += 1;
        self.stats.plans += 1;
        let id = PlanId(self.plans);
        plan.id = Some(id);
        if self.models.len() > 1 || !self.models[0].adapters.is_empty() {
            let sequences = &self.sequences;
            self.work.sort_by_key(|work| {
                let sequence = &sequences[work.slot as usize];
                (sequence.model, sequence.adapter)
            });
        }
        let mut items = self.spare_work.pop().unwrap_or_default();
        items.clear();
        std::mem::swap(&mut items, &mut self.work);
        plan.items.reserve(items.len());
        for work in &items {
            self.write_item(work, plan);
            self.set_off(work);
        }
        self.drop_drafts();
        let host = plan.swap_in.iter().flat_map(|swap| swap.host.iter().map(|&block| (swap.model.0, block))).collect();
        let moved = std::mem::take(&mut self.moves);
        self.flights.push_back(Flight { plan: id, items, host, moved });
    }

    /// Drops the draft tokens that the plan does not compute: they do not count for later plans.
    fn drop_drafts(&mut self) {
        while let Some((slot, serial)) = self.drafted.pop() {
            let sequence = &mut self.sequences[slot as usize];
            if sequence.serial == serial && sequence.flights == 0 {
                sequence.drafts.clear();
            }
        }
    }

    /// Writes an item to the plan, with its tokens and block table.
    fn write_item(&self, work: &Work, plan: &mut Plan) {
        let sequence = &self.sequences[work.slot as usize];
        let size = self.models[usize::from(sequence.model)].kv.block_size();
        let blocks = ((work.start + work.tokens + work.drafts) as usize).div_ceil(size);
        plan.items.push(Item {
            sequence: sequence.id,
            model: ModelId(sequence.model),
            adapter: sequence.adapter,
            start: work.start,
            tokens: work.tokens,
            drafts: work.drafts,
            samples: work.samples,
            prompt_len: sequence.prompt,
            len: sequence.len() as u32 + sequence.pending,
            first_token: plan.tokens.len() as u32,
            first_block: plan.blocks.len() as u32,
            blocks: blocks as u32,
        });
        let known = sequence.tokens.get(work.start as usize..(work.start + work.tokens) as usize);
        plan.tokens.extend_from_slice(known.unwrap_or(&[PENDING]));
        if work.drafts > 0 {
            plan.tokens.extend_from_slice(&sequence.drafts[..work.drafts as usize]);
        }
        plan.blocks.extend_from_slice(&sequence.table[..blocks]);
    }

    /// Records that an item is in flight. If another chunk of the prompt is to come, queues the sequence for it; after
    /// a last chunk with one sample, counts the sequence among the decoding ones.
    fn set_off(&mut self, work: &Work) {
        let sequence = &mut self.sequences[work.slot as usize];
        sequence.flights += 1;
        sequence.ahead += work.tokens;
        if work.samples == 1 {
            sequence.pending += 1;
        }
        if work.prompt && !work.last {
            self.enqueue_held(work.slot);
        } else if work.prompt && work.samples == 1 {
            self.start_decoding(work.slot);
        }
    }

    /// A sequence as the policy sees it now.
    pub(super) fn candidate(&self, slot: u32) -> Candidate {
        let sequence = &self.sequences[slot as usize];
        let ahead = sequence.predicted.saturating_sub(sequence.produced).max(1);
        let cost = sequence.remaining() as f64 * self.config.seconds_per_prompt_token
            + f64::from(ahead) * self.config.seconds_per_output_token;
        Candidate { cost, ..sequence.candidate }
    }

    pub(super) fn touch(&mut self, tenant: TenantId) {
        self.waiting.touch(tenant);
        self.held.touch(tenant);
    }

    /// Tells the policy that a tenant holds more or less of a resource. Resources are numbered: the blocks of each
    /// model, then the running slots.
    pub(super) fn tell_holding(&mut self, tenant: TenantId, resource: usize, change: f64) {
        if self.wants_holdings && change != 0.0 {
            let whole = self.models.get(resource).map_or(self.config.max_running, |model| model.kv.total());
            self.policy.observe(&Observation::Held { tenant, resource, share: change / whole as f64 });
            self.touch(tenant);
        }
    }

    /// Queues a sequence to be admitted.
    pub(super) fn enqueue_waiting(&mut self, slot: u32) {
        let task = self.candidate(slot);
        let front = self.waiting.front(self.policy.as_ref(), self.now);
        self.policy.observe(&Observation::Queued { task, front });
        self.touch(task.tenant);
        self.sequences[slot as usize].state = State::Waiting;
        self.waiting.insert(slot, task, self.policy.as_ref(), self.now);
    }

    /// Queues a sequence that holds blocks for the next chunk of its prompt.
    pub(super) fn enqueue_held(&mut self, slot: u32) {
        let task = self.candidate(slot);
        self.sequences[slot as usize].state = State::Held;
        self.held.insert(slot, task, self.policy.as_ref(), self.now);
    }

    /// Takes a sequence out of the queue for admission.
    pub(super) fn dequeue_waiting(&mut self, slot: u32) {
        let task = self.waiting.remove(slot, self.policy.as_ref(), self.now).expect("the sequence waits");
        self.policy.observe(&Observation::Unqueued { task });
        self.touch(task.tenant);
    }
}
