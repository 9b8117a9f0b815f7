//! The part of a step that computes prompts: which requests are admitted, and how much of each prompt is computed.

use std::collections::BTreeMap;

use super::scheduler::Work;
use super::sequence::State;
use super::{Admission, BatchScheduler, Plan, Swap};
use crate::kv::Lookup;
use crate::policy::Observation;
use crate::{BlockId, ModelId, Wait};

/// The most requests that do not fit and are passed over in a step.
const LOOK: usize = 16;
/// The most requests that wait for an adapter and are passed over in a step.
const LOOK_FOR_ADAPTERS: usize = 64;

/// What the victims of a preemption would give up for a waiting sequence.
#[derive(Debug, Default)]
struct Relief {
    slots: usize,
    /// Blocks that would become available to the waiting sequence. Blocks of its own prompt do not count: it finds
    /// them.
    blocks: usize,
    /// Blocks that no sequence would hold any more, blocks of the waiting sequence's prompt included.
    unheld: usize,
    promised: usize,
    /// How many owners would give up each block that has several.
    shared: BTreeMap<BlockId, u32>,
}

impl BatchScheduler {
    /// Gives the step's remaining tokens to prompts in the policy's order.
    pub(super) fn plan_prompts(&mut self, plan: &mut Plan, budget: &mut usize) {
        let mut open = true;
        let mut prompts = 0;
        let mut stuck: Vec<u32> = Vec::new();
        let mut passed: Vec<u32> = Vec::new();
        let mut aside: Vec<u32> = Vec::new();
        while *budget > 0 && !self.draining {
            let waiting = if open { self.waiting.first(self.policy.as_ref(), self.now) } else { None };
            let held = self.held.first(self.policy.as_ref(), self.now);
            match (waiting, held) {
                (waiting, Some((key, slot))) if waiting.is_none_or(|(other, _)| key <= other) => {
                    self.held.remove(slot, self.policy.as_ref(), self.now);
                    if let Err(wait) = self.plan_chunk(slot, plan, budget, &mut prompts) {
                        self.note_wait(slot, wait);
                        stuck.push(slot);
                    }
                }
                (Some((_, slot)), _) => match self.admit_past(&aside, slot, plan, budget, &mut prompts) {
                    Ok(()) => {
                        let rivals = aside.iter().filter(|&&other| self.want_adapters(slot, other));
                        for other in rivals.chain(&passed).copied().collect::<Vec<u32>>() {
                            self.sequences[other as usize].passed += 1;
                        }
                    }
                    Err(wait) => {
                        let for_adapter = matches!(wait, Wait::Adapters { .. } | Wait::Behind { .. });
                        self.note_wait(slot, wait);
                        if for_adapter && aside.len() < LOOK_FOR_ADAPTERS {
                            self.waiting.remove(slot, self.policy.as_ref(), self.now);
                            aside.push(slot);
                        } else if self.sequences[slot as usize].passed >= self.config.lookahead || passed.len() >= LOOK
                        {
                            open = false;
                        } else {
                            // Out of the queue until the end of this loop, to see the next sequence. The policy is not
                            // told.
                            self.waiting.remove(slot, self.policy.as_ref(), self.now);
                            passed.push(slot);
                        }
                    }
                },
                (None, _) => break,
            }
            open = open && passed.iter().all(|&slot| self.sequences[slot as usize].passed < self.config.lookahead);
        }
        // Where the loop ended early, the sequences at the front of the queues were not looked at.
        let held = self.held.first(self.policy.as_ref(), self.now);
        let waiting = if open { self.waiting.first(self.policy.as_ref(), self.now) } else { None };
        for (_, slot) in held.into_iter().chain(waiting) {
            let needed = self.sequences[slot as usize].remaining();
            let wait = if self.draining { Wait::Draining } else { Wait::Tokens { needed, left: *budget } };
            self.note_wait(slot, wait);
        }
        for slot in stuck {
            self.enqueue_held(slot);
        }
        for slot in passed.into_iter().chain(aside) {
            let task = self.candidate(slot);
            self.waiting.insert(slot, task, self.policy.as_ref(), self.now);
        }
    }

    /// Admits a waiting sequence past the sequences `aside`, which wait for adapters. A sequence without an adapter
    /// does not delay them. A sequence that wants an adapter of the same model does, so that it is admitted only if
    /// none of them was overtaken as often as [`lookahead`](super::BatchConfig::lookahead) allows.
    fn admit_past(
        &mut self,
        aside: &[u32],
        slot: u32,
        plan: &mut Plan,
        budget: &mut usize,
        prompts: &mut usize,
    ) -> Result<(), Wait> {
        let mut rivals = aside.iter().filter(|&&other| self.want_adapters(slot, other));
        if let Some(&first) = rivals.find(|&&other| self.sequences[other as usize].passed >= self.config.lookahead) {
            let first = self.sequences[first as usize].id.request.0;
            return Err(Wait::Behind { first, policy: self.policy.name() });
        }
        self.admit(slot, plan, budget, prompts)
    }

    /// Whether two sequences want adapters of the same model.
    fn want_adapters(&self, slot: u32, other: u32) -> bool {
        let [one, other] = [slot, other].map(|slot| &self.sequences[slot as usize]);
        one.adapter.is_some() && other.adapter.is_some() && one.model == other.model
    }

    /// Resolves a deadlock between requests that have deferred sequences and also sequences that wait for room, such as
    /// two beam searches of which each lacks a beam. One request at a time is preferred: deferred sequences of the
    /// other such requests are preempted until the preferred request can go on. A request whose sequences are all
    /// deferred keeps its blocks, as it can go on once it is continued.
    pub(super) fn unblock(&mut self, plan: &mut Plan, budget: &mut usize) {
        self.unblocking = true;
        while self.work.is_empty() && self.flights.is_empty() {
            let held = self.held.first(self.policy.as_ref(), self.now);
            let first = held.or_else(|| self.waiting.first(self.policy.as_ref(), self.now)).map(|(_, slot)| slot);
            let lacking = |this: &Self, request| {
                let mut slots = this.ids.slots(request);
                slots.retain(|&slot| matches!(this.sequences[slot as usize].state, State::Held | State::Waiting));
                slots
            };
            self.preferred = self.preferred.filter(|&request| !lacking(self, request).is_empty());
            let first = first.map(|slot| self.sequences[slot as usize].id.request);
            let Some(request) = self.preferred.or(first) else { break };
            self.preferred = Some(request);
            let mut prompts = 0;
            for slot in lacking(self, request) {
                if *budget == 0 {
                    break;
                }
                // An earlier reason why it waits no longer holds, or is recorded again below.
                let serial = self.sequences[slot as usize].serial;
                self.waits.retain(|(other, ..)| *other != serial);
                if self.sequences[slot as usize].state == State::Waiting {
                    let outcome = self.admit(slot, plan, budget, &mut prompts);
                    outcome.unwrap_or_else(|wait| self.note_wait(slot, wait));
                    continue;
                }
                self.held.remove(slot, self.policy.as_ref(), self.now);
                if let Err(wait) = self.plan_chunk(slot, plan, budget, &mut prompts) {
                    self.note_wait(slot, wait);
                    self.enqueue_held(slot);
                }
            }
            if !self.work.is_empty() {
                break;
            }
            let others = self.deferred.slots().filter(|&slot| {
                let other = self.sequences[slot as usize].id.request;
                other != request && !lacking(self, other).is_empty()
            });
            if let Some(last) = others.max_by_key(|&slot| (self.key(slot), slot)) {
                self.preempt(last, plan, budget);
                continue;
            }
            // A sequence that is swapped in shares no blocks. Computed again, it finds the blocks of its request's
            // other sequences in the cache, and needs fewer.
            let swapped = |&slot: &u32| !self.sequences[slot as usize].host.is_empty();
            let Some(slot) = lacking(self, request).into_iter().find(swapped) else { break };
            if !self.config.prefix_caching {
                break;
            }
            self.lose_host(slot);
        }
        self.unblocking = false;
    }

    /// Admits a waiting sequence and plans the first chunk of its prompt, or says why not.
    fn admit(&mut self, slot: u32, plan: &mut Plan, budget: &mut usize, prompts: &mut usize) -> Result<(), Wait> {
        // A sequence that was preempted in this step would take back the room that it made, so it waits. But where the
        // plan has no other items, it may go on.
        if self.sequences[slot as usize].preempted > self.plans && !self.work.is_empty() {
            return Err(Wait::Preempted);
        }
        let mut outcome = self.check_admission(slot, *budget, *prompts);
        if let Err(refused) = &outcome
            && let Some(victims) = self.who_would_make_room(slot, refused, *budget, *prompts)
            && !victims.iter().any(|&victim| self.is_in_flight(victim))
        {
            victims.into_iter().for_each(|victim| self.preempt(victim, plan, budget));
            outcome = self.check_admission(slot, *budget, *prompts);
            debug_assert!(outcome.is_ok(), "sequences were preempted in vain: {outcome:?}");
        }
        self.admit_with(slot, outcome?, plan);
        let planned = self.plan_chunk(slot, plan, budget, prompts);
        assert!(planned.is_ok(), "a sequence that was admitted does not fit: {planned:?}");
        Ok(())
    }

    /// The sequences to preempt so that a refused waiting sequence can be admitted: as many as are needed, from the end of
    /// the policy's order, and none that precedes it there. None if all of them together would not make enough room, or
    /// if it may not preempt.
    fn who_would_make_room(&mut self, slot: u32, refused: &Wait, budget: usize, prompts: usize) -> Option<Vec<u32>> {
        // With a policy that shares among tenants, blocks that a tenant holds count against it: two tenants would
        // preempt each other for ever and get nowhere.
        if !self.config.preemptive || self.policy.by_tenant() {
            return None;
        }
        let mut lacks = refused.clone();
        let mut behind = self.holders_behind(self.holder_key(slot));
        let mut victims = Vec::new();
        let mut found = None;
        let mut relief = Relief::default();
        loop {
            let model = match lacks {
                Wait::Slots { .. } => None,
                Wait::Blocks { .. } => Some(self.sequences[slot as usize].model),
                _ => return None,
            };
            let helps = |&other: &u32| model.is_none_or(|model| self.sequences[other as usize].model == model);
            let victim = behind.remove(behind.iter().position(helps)?);
            victims.push(victim);
            let found = found.get_or_insert_with(|| self.look_up(slot));
            self.relieve(slot, victim, found, &mut relief);
            match self.refusal(slot, found, budget, prompts, &relief) {
                Some(wait) => lacks = wait,
                None => return Some(victims),
            }
        }
    }

    /// Adds to `relief` what `victim` would give up for the waiting sequence in `slot`.
    fn relieve(&self, slot: u32, victim: u32, found: &Lookup, relief: &mut Relief) {
        let sequence = &self.sequences[victim as usize];
        relief.slots += sequence.samples as usize;
        if sequence.model != self.sequences[slot as usize].model {
            return;
        }
        let kv = &self.models[usize::from(sequence.model)].kv;
        relief.promised += sequence.promised;
        for (at, &block) in sequence.table.iter().enumerate() {
            let owners = kv.owners(block);
            let released = owners == 1 || {
                let count = relief.shared.entry(block).or_insert(0);
                *count += 1;
                *count == owners
            };
            relief.unheld += usize::from(released);
            // A block that the waiting sequence finds in the cache is not available to it for anything else.
            relief.blocks += usize::from(released && found.blocks.get(at) != Some(&block));
        }
    }

    /// The cached blocks of a waiting sequence's prompt if it can be admitted, or why it cannot.
    fn check_admission(&mut self, slot: u32, budget: usize, prompts: usize) -> Result<Lookup, Wait> {
        let relief = Relief::default();
        if let Some(wait) = self.lacks_slots(slot, &relief) {
            return Err(wait);
        }
        let found = self.look_up(slot);
        match self.refusal(slot, &found, budget, prompts, &relief) {
            None => Ok(found),
            Some(wait) => Err(wait),
        }
    }

    /// Why a waiting sequence lacks a running slot or an adapter, once the victims have given up their slots; none if
    /// it lacks neither.
    fn lacks_slots(&self, slot: u32, relief: &Relief) -> Option<Wait> {
        let sequence = &self.sequences[slot as usize];
        let (samples, free) = (self.least_samples(slot), self.free_slots(relief));
        if samples > free {
            return Some(Wait::Slots { needed: samples, most: self.config.max_running });
        }
        let in_use = &self.models[usize::from(sequence.model)].adapters;
        let most = self.config.models[usize::from(sequence.model)].adapters;
        let adapter = sequence.adapter.filter(|adapter| !in_use.contains_key(adapter) && in_use.len() >= most)?;
        Some(Wait::Adapters { adapter, most })
    }

    /// How many running slots are free once the victims have given up theirs.
    fn free_slots(&self, relief: &Relief) -> usize {
        self.config.max_running - (self.running_slots - relief.slots)
    }

    /// How many of a request's continuations have to begin together. One is enough where the others can find the prompt
    /// in the cache later.
    fn least_samples(&self, slot: u32) -> usize {
        let sequence = &self.sequences[slot as usize];
        if self.config.prefix_caching && sequence.reuse_prefix { 1 } else { sequence.samples as usize }
    }

    /// The cached blocks of a waiting sequence's tokens.
    fn look_up(&mut self, slot: u32) -> Lookup {
        let sequence = &mut self.sequences[slot as usize];
        if !self.config.prefix_caching || !sequence.reuse_prefix || !sequence.host.is_empty() {
            return Lookup::default();
        }
        let kv = &self.models[usize::from(sequence.model)].kv;
        // The last token is always computed, to sample the token after it.
        let most = (sequence.len() - 1) / kv.block_size();
        sequence.hash_blocks(kv.block_size(), most);
        kv.lookup(sequence.scope, &sequence.hashes, &sequence.tokens, most)
    }

    /// Why a waiting sequence cannot be admitted, with `found` of its prompt cached and once the victims have made
    /// room; none if it can.
    fn refusal(&self, slot: u32, found: &Lookup, budget: usize, prompts: usize, relief: &Relief) -> Option<Wait> {
        if let Some(wait) = self.lacks_slots(slot, relief) {
            return Some(wait);
        }
        let sequence = &self.sequences[slot as usize];
        let model = &self.models[usize::from(sequence.model)];
        let size = model.kv.block_size();
        let computed = if sequence.host.is_empty() { found.blocks.len() * size } else { sequence.computed as usize };
        let remaining = sequence.len() - computed;
        if !self.config.chunked && remaining > budget && prompts > 0 {
            return Some(Wait::Tokens { needed: remaining, left: budget });
        }
        let fresh = sequence.len().div_ceil(size) - found.blocks.len();
        match self.config.admission {
            Admission::Optimistic => {
                let watermark = if self.unblocking { 0 } else { self.config.watermark };
                let idle = model.kv.held() == relief.unheld;
                let aside = if idle { 0 } else { model.promised - relief.promised + watermark };
                let available = model.kv.available() + relief.blocks;
                let refused = fresh + found.unheld + aside > available;
                let free = available.saturating_sub(aside + found.unheld);
                refused.then_some(Wait::Blocks { needed: fresh, free })
            }
            Admission::Reserved => {
                let needed = self.reservation(slot, self.free_slots(relief));
                let free = model.kv.total() - model.reserved;
                (needed > free).then_some(Wait::Blocks { needed, free })
            }
        }
    }

    /// The most blocks that a sequence may ever hold, together with the continuations that begin with it when `free`
    /// running slots are free.
    fn reservation(&self, slot: u32, free: usize) -> usize {
        let sequence = &self.sequences[slot as usize];
        let samples = free.min(sequence.samples as usize);
        let size = self.models[usize::from(sequence.model)].kv.block_size();
        (sequence.prompt as usize + sequence.max_new as usize).div_ceil(size) * samples
    }

    /// Gives a waiting sequence its running slots and adapter, and the cached or swapped-out blocks of its tokens.
    fn admit_with(&mut self, slot: u32, found: Lookup, plan: &mut Plan) {
        self.dequeue_waiting(slot);
        let free = self.free_slots(&Relief::default());
        let reserved = if self.config.admission == Admission::Reserved { self.reservation(slot, free) } else { 0 };
        let sequence = &mut self.sequences[slot as usize];
        sequence.rest = (sequence.samples as usize).saturating_sub(free) as u32;
        sequence.samples -= sequence.rest;
        let model = &mut self.models[usize::from(sequence.model)];
        let size = model.kv.block_size();
        sequence.take_buffers(&mut self.spare_buffers);
        if sequence.host.is_empty() {
            if sequence.admitted {
                self.stats.found_again_blocks += found.blocks.len() as u64;
            } else if self.config.prefix_caching && sequence.reuse_prefix {
                self.stats.lookups += 1;
                self.stats.looked_up_blocks += (sequence.len() / size) as u64;
                self.stats.hit_blocks += found.blocks.len() as u64;
                self.stats.evicted_misses += u64::from(found.evicted);
            }
            found.blocks.iter().for_each(|&block| model.kv.share(block));
            sequence.computed = (found.blocks.len() * size) as u32;
            sequence.committed = found.blocks.len() as u32;
            sequence.table.extend_from_slice(&found.blocks);
        } else {
            let host = std::mem::take(&mut sequence.host);
            sequence.table.extend(host.iter().map(|_| model.kv.allocate().expect("as many were counted")));
            let device = sequence.table.clone();
            plan.swap_in.push(Swap { sequence: sequence.id, model: ModelId(sequence.model), device, host });
            sequence.moved = self.plans + 1;
            self.moves.push((slot, sequence.serial));
            sequence.committed = 0;
        }
        sequence.promised = sequence.len().div_ceil(size) - sequence.table.len();
        model.promised += sequence.promised;
        sequence.reserved = reserved;
        model.reserved += reserved;
        sequence.holds_slots = true;
        self.running_slots += sequence.samples as usize;
        if let Some(adapter) = sequence.adapter {
            *model.adapters.entry(adapter).or_insert(0) += 1;
        }
        let (task, input) = (sequence.candidate, f64::from(sequence.prompt));
        let first = !std::mem::replace(&mut sequence.admitted, true);
        let (resource, blocks, slots) =
            (usize::from(sequence.model), sequence.table.len() as f64, f64::from(sequence.samples));
        if first {
            self.policy.observe(&Observation::Admitted { task, input });
            self.touch(task.tenant);
        }
        self.tell_holding(task.tenant, resource, blocks);
        self.tell_holding(task.tenant, self.models.len(), slots);
    }

    /// Plans the next chunk of a prompt, as long as the remaining tokens and the blocks allow. The sequence is in no
    /// queue.
    fn plan_chunk(&mut self, slot: u32, plan: &mut Plan, budget: &mut usize, prompts: &mut usize) -> Result<(), Wait> {
        let sequence = &self.sequences[slot as usize];
        let (computed, remaining) = (sequence.next_position() as usize, sequence.remaining());
        let size = self.models[usize::from(sequence.model)].kv.block_size();
        let mut tokens = remaining;
        if self.config.chunked {
            tokens = remaining.min(*budget).min(self.config.max_chunk);
        } else if remaining > *budget && *prompts > 0 {
            return Err(Wait::Tokens { needed: remaining, left: *budget });
        }
        loop {
            let sequence = &self.sequences[slot as usize];
            let available = self.models[usize::from(sequence.model)].kv.available();
            let lacking = (computed + tokens).div_ceil(size).saturating_sub(sequence.table.len());
            if lacking <= available {
                break;
            }
            let reach = (sequence.table.len() + available) * size;
            if self.config.chunked && reach > computed {
                tokens = reach - computed;
                break;
            }
            let Some(victim) = self.last_holder(Some(sequence.model), Some(self.holder_key(slot))) else {
                return Err(Wait::Blocks { needed: lacking, free: available });
            };
            if self.is_in_flight(victim) {
                return Err(Wait::Blocks { needed: lacking, free: available });
            }
            self.preempt(victim, plan, budget);
        }
        let sequence = &mut self.sequences[slot as usize];
        let model = &mut self.models[usize::from(sequence.model)];
        let lacking = (computed + tokens).div_ceil(size).saturating_sub(sequence.table.len());
        for _ in 0..lacking {
            sequence.table.push(model.kv.allocate().expect("as many are available"));
        }
        let kept = lacking.min(sequence.promised);
        sequence.promised -= kept;
        model.promised -= kept;
        sequence.state = State::Planned;
        let last = tokens == remaining;
        let samples = if last && sequence.max_new > 0 { sequence.samples } else { 0 };
        let (epoch, start, tokens) = (sequence.epoch, computed as u32, tokens as u32);
        self.work.push(Work { slot, epoch, start, tokens, drafts: 0, samples, prompt: true, last });
        *budget = budget.saturating_sub(tokens as usize);
        *prompts += 1;
        let (tenant, resource) = (sequence.candidate.tenant, usize::from(sequence.model));
        self.tell_holding(tenant, resource, lacking as f64);
        Ok(())
    }
}
