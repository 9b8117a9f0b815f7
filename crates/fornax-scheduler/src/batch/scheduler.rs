//! The batch scheduler itself: its state, and the step.

use std::collections::{BTreeMap, BTreeSet};

use super::holders::Holders;
use super::id_map::IdMap;
use super::running::Running;
use super::sequence::{Buffers, Sequence, State};
use super::{BatchConfig, BatchEvent, Item, Plan, Token};
use crate::kv::KvMemory;
use crate::policy::{Candidate, Observation, Policy};
use crate::queue::Queue;
use crate::tasks::Rejected;
use crate::tenants::Tenants;
use crate::{AdapterId, BlockId, PlanId, SchedulerError, SequenceId, TenantId, Time, Wait};

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
/// assert_eq!(scheduler.tokens(&plan.items[0]), [42]);
///
/// let (outputs, tokens) = plan.plain_outputs(43);
/// let done = BatchEvent::Done { plan: plan.id.unwrap(), outputs, tokens };
/// let plan = scheduler.step([done], Time::from_secs_f64(0.02));
/// assert_eq!(plan.finished[0].new_tokens, 2);
/// assert_eq!(plan.id, None);
/// # Ok::<(), fornax_scheduler::SchedulerError>(())
/// ```
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
    /// Those that hold no blocks.
    pub(super) waiting: Queue,
    /// Those that hold blocks and wait for the next piece of their prompts.
    pub(super) held: Queue,
    /// Those that decode.
    pub(super) running: Running,
    pub(super) holders: Holders,
    pub(super) seats: usize,
    /// How many of those that decode can use speculative tokens.
    pub(super) speculators: usize,
    pub(super) deadlines: BTreeSet<(Time, u32)>,
    pub(super) flight: Option<Flight>,
    pub(super) spare_flight: Vec<Flown>,
    pub(super) spare_buffers: Vec<Buffers>,
    pub(super) plans: u64,
    /// Tokens that tenants got in the results being read, to be told to the policy.
    pub(super) served: Vec<f64>,
    pub(super) served_tenants: Vec<TenantId>,
    pub(super) waits: Vec<(u32, Wait)>,
    pub(super) stats: BatchStats,
}

/// A model's memory and adapters.
#[derive(Clone, Debug)]
pub(super) struct Model {
    pub(super) kv: KvMemory,
    pub(super) host: Option<KvMemory>,
    /// Blocks that prompts under way will need.
    pub(super) promised: usize,
    /// Blocks set aside by reserved admission.
    pub(super) reserved: usize,
    /// How many sequences use each adapter.
    pub(super) adapters: BTreeMap<AdapterId, u32>,
}

/// A plan under way.
#[derive(Clone, Debug)]
pub(super) struct Flight {
    pub(super) plan: PlanId,
    /// Its items.
    pub(super) items: Vec<Flown>,
    /// Host blocks that are read by it.
    pub(super) host: Vec<(u16, BlockId)>,
    /// Sequences of which it moves blocks.
    pub(super) moved: Vec<(u32, SequenceId)>,
}

/// An item of a plan under way.
#[derive(Clone, Copy, Debug)]
pub(super) struct Flown {
    pub(super) slot: u32,
    pub(super) tokens: u32,
    pub(super) speculative: u32,
    pub(super) samples: u32,
}

/// Counts since the beginning.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BatchStats {
    /// Plans made.
    pub plans: u64,
    /// Tokens of prompts computed, again after preemption included.
    pub prompt_tokens: u64,
    /// Tokens put out.
    pub output_tokens: u64,
    /// Speculative tokens granted.
    pub speculative_tokens: u64,
    /// Speculative tokens that were right.
    pub accepted_tokens: u64,
    /// Sequences preempted.
    pub preemptions: u64,
    /// Preemptions that moved blocks to host memory.
    pub swaps: u64,
    /// Tokens that had been computed and were given up.
    pub lost_tokens: u64,
    /// Prompts whose beginnings were looked for.
    pub lookups: u64,
    /// Full blocks of prompts that were looked for: when taken on, and again after each preemption.
    pub looked_up_blocks: u64,
    /// Full blocks of prompts that were found.
    pub hit_blocks: u64,
    /// Blocks not found that had made room for others.
    pub evicted_misses: u64,
    /// Blocks copied before they were written to.
    pub copies: u64,
}

impl BatchScheduler {
    /// An idle scheduler.
    ///
    /// # Errors
    /// What [`BatchConfig::check`] finds, and blocks of no size.
    pub fn new(config: BatchConfig, policy: Box<dyn Policy>) -> Result<Self, SchedulerError> {
        config.check()?;
        let mut models = Vec::with_capacity(config.models.len());
        for model in &config.models {
            let host = match model.host_blocks {
                0 => None,
                blocks => Some(KvMemory::new(blocks, model.block_size, config.hash_seed)?),
            };
            models.push(Model {
                kv: KvMemory::new(model.blocks, model.block_size, config.hash_seed)?,
                host,
                promised: 0,
                reserved: 0,
                adapters: BTreeMap::new(),
            });
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
            waiting: Queue::default(),
            held: Queue::default(),
            running: Running::default(),
            holders: Holders::default(),
            seats: 0,
            speculators: 0,
            deadlines: BTreeSet::new(),
            flight: None,
            spare_flight: Vec::new(),
            spare_buffers: Vec::new(),
            plans: 0,
            served: Vec::new(),
            served_tenants: Vec::new(),
            waits: Vec::new(),
            stats: BatchStats::default(),
        };
        scheduler.policy.observe(&Observation::Tenant { tenant: TenantId::DEFAULT, weight: 1.0 });
        Ok(scheduler)
    }

    /// Declares a tenant, or changes its weight: with a policy that shares, twice the weight gets twice as much.
    ///
    /// # Errors
    /// [`SchedulerError::InvalidNumber`] for a weight that is not above zero, [`SchedulerError::TenantTooLarge`].
    pub fn declare_tenant(&mut self, tenant: TenantId, weight: f64) -> Result<(), SchedulerError> {
        self.tenants.declare(tenant, weight)?;
        self.policy.observe(&Observation::Tenant { tenant, weight });
        self.touch(tenant);
        Ok(())
    }

    /// Takes in what happened and says what to do. Time does not go back: an earlier `now` counts as the latest one.
    pub fn step(&mut self, events: impl IntoIterator<Item = BatchEvent>, now: Time) -> Plan {
        let mut plan = Plan::default();
        self.step_into(events, now, &mut plan);
        plan
    }

    /// [`BatchScheduler::step`] into a plan whose buffers are used again.
    pub fn step_into(&mut self, events: impl IntoIterator<Item = BatchEvent>, now: Time, plan: &mut Plan) {
        plan.clear();
        self.now = self.now.max(now);
        self.policy.observe(&Observation::Step { now: self.now });
        for (event, what) in events.into_iter().enumerate() {
            let outcome = self.apply(what, plan);
            plan.rejected.extend(outcome.err().map(|error| Rejected { event, error }));
        }
        self.expire(plan);
        if self.flight.is_some() {
            return;
        }
        self.waits.clear();
        self.holders.clear();
        let mut budget = self.config.max_tokens;
        self.plan_decodes(plan, &mut budget);
        self.plan_prompts(plan, &mut budget);
        self.plan_speculation(plan, budget);
        let tokens = self.launch(plan);
        plan.waiting.extend(self.waits.iter().map(|(slot, wait)| (self.sequences[*slot as usize].id, wait.clone())));
        self.check_step(plan, tokens);
    }

    /// The tokens that an item of the plan under way computes.
    pub fn tokens(&self, item: &Item) -> &[Token] {
        &self.sequences[item.slot as usize].tokens[item.positions()]
    }

    /// The blocks of an item's sequence, in the order of positions: position `p` lies in block `p / block_size`.
    pub fn block_table(&self, item: &Item) -> &[BlockId] {
        &self.sequences[item.slot as usize].table
    }

    /// Where a sequence's blocks are; none if there is no such sequence.
    pub fn blocks_of(&self, sequence: SequenceId) -> Option<&[BlockId]> {
        self.ids.slot(sequence).map(|slot| self.sequences[slot as usize].table.as_slice())
    }

    /// A model's memory; none if there is no such model.
    pub fn memory(&self, model: crate::ModelId) -> Option<&KvMemory> {
        self.models.get(usize::from(model.0)).map(|model| &model.kv)
    }

    /// What was chosen.
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

    /// How many sequences wait to be taken on.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// How many sequences hold seats: those that decode, and those whose prompts are under way.
    pub fn running(&self) -> usize {
        self.seats
    }

    /// How many sequences there are in all.
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    /// The plan under way.
    pub fn under_way(&self) -> Option<PlanId> {
        self.flight.as_ref().map(|flight| flight.plan)
    }

    /// Gives the plan its name and keeps what its results will be held against. Gives how many tokens it computes.
    fn launch(&mut self, plan: &mut Plan) -> usize {
        if plan.items.is_empty() && plan.swap_out.is_empty() && plan.copy.is_empty() && plan.swap_in.is_empty() {
            return 0;
        }
        self.plans += 1;
        self.stats.plans += 1;
        let id = PlanId(self.plans);
        plan.id = Some(id);
        let mut items = std::mem::take(&mut self.spare_flight);
        items.clear();
        let mut tokens = 0;
        items.extend(plan.items.iter().map(|item| {
            tokens += (item.tokens + item.speculative) as usize;
            Flown { slot: item.slot, tokens: item.tokens, speculative: item.speculative, samples: item.samples }
        }));
        let host = plan.swap_in.iter().flat_map(|swap| swap.host.iter().map(|&block| (swap.model.0, block))).collect();
        let mut moved = Vec::new();
        for sequence in plan.swap_out.iter().chain(&plan.swap_in).map(|swap| swap.sequence) {
            moved.extend(self.ids.slot(sequence).map(|slot| (slot, sequence)));
        }
        if !plan.copy.is_empty() {
            let copied = plan.items.iter().filter(|item| self.sequences[item.slot as usize].moved);
            moved.extend(copied.map(|item| (item.slot, item.sequence)));
        }
        self.flight = Some(Flight { plan: id, items, host, moved });
        tokens
    }

    /// What the policy sees of a sequence now.
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

    /// Tells the policy that a tenant holds more or less of a resource: the blocks of each model, then the seats.
    pub(super) fn tell_holding(&mut self, tenant: TenantId, resource: usize, change: f64) {
        if self.wants_holdings && change != 0.0 {
            let whole = self.models.get(resource).map_or(self.config.max_running, |model| model.kv.total());
            self.policy.observe(&Observation::Held { tenant, resource, share: change / whole as f64 });
            self.touch(tenant);
        }
    }

    /// Puts a sequence among those that wait, without blocks.
    pub(super) fn enqueue_waiting(&mut self, slot: u32) {
        let task = self.candidate(slot);
        let front = self.waiting.front(self.policy.as_ref(), self.now);
        self.policy.observe(&Observation::Queued { task, front });
        self.touch(task.tenant);
        self.sequences[slot as usize].state = State::Waiting;
        self.waiting.insert(slot, task, self.policy.as_ref(), self.now);
    }

    /// Puts a sequence among those that hold blocks and wait for the next piece.
    pub(super) fn enqueue_held(&mut self, slot: u32) {
        let task = self.candidate(slot);
        self.sequences[slot as usize].state = State::Held;
        self.held.insert(slot, task, self.policy.as_ref(), self.now);
    }

    /// Takes a sequence out of those that wait without blocks.
    pub(super) fn dequeue_waiting(&mut self, slot: u32) {
        let task = self.waiting.remove(slot, self.policy.as_ref(), self.now).expect("the sequence waits");
        self.policy.observe(&Observation::Unqueued { task });
        self.touch(task.tenant);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ModelId, policy};

    #[test]
    fn guesses_are_among_the_tokens_that_are_counted() {
        let config = BatchConfig::default();
        let mut scheduler = BatchScheduler::new(config, policy("fcfs").expect("a policy")).expect("sound");
        let (model, sequence) = (ModelId(0), SequenceId::default());
        let items = [(3, 2), (1, 0), (1, 4)].map(|(tokens, speculative)| Item {
            sequence,
            slot: 0,
            model,
            adapter: None,
            start: 0,
            tokens,
            speculative,
            samples: 1,
        });
        let mut plan = Plan { items: items.to_vec(), ..Plan::default() };
        assert_eq!((scheduler.launch(&mut plan), plan.tokens()), (11, 11));
    }
}
