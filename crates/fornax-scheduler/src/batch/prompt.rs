//! The part of a step that computes prompts: which are admitted, which go on, and by how much.

use super::scheduler::Work;
use super::sequence::State;
use super::{Admission, BatchScheduler, Plan, Swap};
use crate::kv::Lookup;
use crate::policy::Observation;
use crate::{ModelId, Wait};

/// How many requests are looked at behind one that does not fit.
const LOOK: usize = 16;

impl BatchScheduler {
    /// Gives the step's remaining tokens to prompts in the policy's order.
    pub(super) fn plan_prompts(&mut self, plan: &mut Plan, budget: &mut usize) {
        let mut open = true;
        let mut prompts = 0;
        let mut stuck: Vec<u32> = Vec::new();
        let mut passed: Vec<u32> = Vec::new();
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
                (Some((_, slot)), _) => match self.admit(slot, plan, budget, &mut prompts) {
                    Ok(()) => {
                        for &other in &passed {
                            self.sequences[other as usize].passed += 1;
                        }
                    }
                    Err(wait) => {
                        self.note_wait(slot, wait);
                        if self.sequences[slot as usize].passed >= self.config.lookahead || passed.len() >= LOOK {
                            open = false;
                        } else {
                            // Taken out for the time being, to see the next; the policy is not told.
                            self.waiting.remove(slot, self.policy.as_ref(), self.now);
                            passed.push(slot);
                        }
                    }
                },
                (None, _) => break,
            }
            open = open && passed.iter().all(|&slot| self.sequences[slot as usize].passed < self.config.lookahead);
        }
        for slot in stuck {
            self.enqueue_held(slot);
        }
        for slot in passed {
            let task = self.candidate(slot);
            self.waiting.insert(slot, task, self.policy.as_ref(), self.now);
        }
    }

    /// Makes room where nothing can be computed because requests with deferred sequences lack others of their sequences:
    /// one request at a time gets what the deferred sequences of all such others hold. So two beam searches of which each
    /// lacks a beam do not wait for each other for ever. A request whose sequences are all deferred keeps what it has, as it
    /// can go on once it is continued.
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
                // Why it did not go on before is no longer true, or will be said again.
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
            let Some(last) = others.max_by_key(|&slot| (self.key(slot), slot)) else { break };
            self.preempt(last, plan, budget);
        }
        self.unblocking = false;
    }

    /// Admits a waiting sequence and computes the first piece of its prompt, or says why not.
    fn admit(&mut self, slot: u32, plan: &mut Plan, budget: &mut usize, prompts: &mut usize) -> Result<(), Wait> {
        loop {
            let refused = match self.check_admission(slot, *budget, *prompts) {
                Ok(found) => {
                    self.admit_with(slot, found, plan);
                    let planned = self.plan_chunk(slot, plan, budget, prompts);
                    assert!(planned.is_ok(), "a sequence that was admitted does not fit: {planned:?}");
                    return Ok(());
                }
                Err(refused) => refused,
            };
            // One that may preempt takes room from those behind it, as long as there are any.
            // Among tenants, what one holds counts against it: two would take turns for ever and get nowhere.
            let may_preempt = self.config.preemptive && !self.policy.by_tenant();
            let victim = match (&refused, may_preempt) {
                (Wait::Slots { .. }, true) => self.last_holder(None, Some(self.key(slot))),
                (Wait::Blocks { .. }, true) => {
                    self.last_holder(Some(self.sequences[slot as usize].model), Some(self.key(slot)))
                }
                _ => None,
            };
            let Some(victim) = victim else { return Err(refused) };
            if self.is_in_flight(victim) {
                return Err(refused);
            }
            self.preempt(victim, plan, budget);
        }
    }

    /// Whether a waiting sequence can be admitted, and what of its prompt is cached.
    fn check_admission(&mut self, slot: u32, budget: usize, prompts: usize) -> Result<Lookup, Wait> {
        let sequence = &mut self.sequences[slot as usize];
        let samples = sequence.samples as usize;
        if self.running_slots + samples > self.config.max_running {
            return Err(Wait::Slots { needed: samples, most: self.config.max_running });
        }
        let model = &self.models[usize::from(sequence.model)];
        let adapters = self.config.models[usize::from(sequence.model)].adapters;
        if let Some(adapter) = sequence.adapter
            && !model.adapters.contains_key(&adapter)
            && model.adapters.len() >= adapters
        {
            return Err(Wait::Adapters { adapter, most: adapters });
        }
        let available = model.kv.available();
        let idle = model.kv.held() == 0;
        let size = model.kv.block_size();
        // The last token is computed in any case, for what follows it.
        let most = (sequence.len() - 1) / size;
        let found = if self.config.prefix_caching && sequence.reuse_prefix && sequence.host.is_empty() {
            sequence.hash_blocks(size, most);
            model.kv.lookup(sequence.scope, &sequence.hashes, &sequence.tokens, most)
        } else {
            Lookup::default()
        };
        let computed = if sequence.host.is_empty() { found.blocks.len() * size } else { sequence.computed as usize };
        let sequence = &self.sequences[slot as usize];
        let remaining = sequence.len() - computed;
        let alone = prompts == 0 && remaining > self.config.max_tokens;
        if !self.config.chunked && remaining > budget && !alone {
            return Err(Wait::Tokens { needed: remaining, left: budget });
        }
        let fresh = sequence.len().div_ceil(size) - found.blocks.len();
        match self.config.admission {
            Admission::Optimistic => {
                let watermark = if self.unblocking { 0 } else { self.config.watermark };
                let aside = if idle { 0 } else { model.promised + watermark };
                let needed = fresh + found.unheld + aside;
                if needed > available {
                    return Err(Wait::Blocks { needed: fresh, free: available.saturating_sub(aside + found.unheld) });
                }
            }
            Admission::Reserved => {
                let needed = self.reservation(slot);
                let free = model.kv.total() - model.reserved;
                if needed > free {
                    return Err(Wait::Blocks { needed, free });
                }
            }
        }
        Ok(found)
    }

    /// The blocks that a sequence, and those that it is to become, may ever hold.
    fn reservation(&self, slot: u32) -> usize {
        let sequence = &self.sequences[slot as usize];
        let size = self.models[usize::from(sequence.model)].kv.block_size();
        (sequence.prompt as usize + sequence.max_new as usize).div_ceil(size) * sequence.samples as usize
    }

    /// Gives a waiting sequence its running slots, and what is cached or swapped out of it.
    fn admit_with(&mut self, slot: u32, found: Lookup, plan: &mut Plan) {
        self.dequeue_waiting(slot);
        let reserved = if self.config.admission == Admission::Reserved { self.reservation(slot) } else { 0 };
        let sequence = &mut self.sequences[slot as usize];
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

    /// Plans the next piece of a prompt, as much as there are tokens and blocks for. The sequence is in no queue.
    fn plan_chunk(&mut self, slot: u32, plan: &mut Plan, budget: &mut usize, prompts: &mut usize) -> Result<(), Wait> {
        let sequence = &self.sequences[slot as usize];
        let (computed, remaining) = (sequence.next_position() as usize, sequence.remaining());
        let size = self.models[usize::from(sequence.model)].kv.block_size();
        let mut tokens = remaining;
        if self.config.chunked {
            tokens = remaining.min(*budget).min(self.config.max_chunk);
        } else if remaining > *budget && (*prompts > 0 || remaining <= self.config.max_tokens) {
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
