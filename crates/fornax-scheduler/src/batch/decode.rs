//! The part of a step that decodes: a token for every decoding sequence, and draft tokens with the remaining tokens.

use super::scheduler::Work;
use super::sequence::State;
use super::{BatchScheduler, CopyBlock, Plan};
use crate::ModelId;

impl BatchScheduler {
    /// Gives a token to every decoding sequence that need not wait for results in flight. Where no block is available,
    /// the sequence that is last by the policy is preempted.
    pub(super) fn plan_decodes(&mut self, plan: &mut Plan, budget: &mut usize) {
        self.work.reserve(self.running.len());
        let mut next = 0;
        while let Some(slot) = self.running.slot(next)
            && !self.draining
        {
            next += 1;
            let sequence = &self.sequences[slot as usize];
            if !sequence.can_decode() {
                continue;
            }
            let start = sequence.next_position();
            let size = self.models[usize::from(sequence.model)].kv.block_size();
            let full = sequence.table.len() * size <= start as usize;
            if (full || sequence.shared_tail) && !self.make_room(slot, full, &mut next, plan, budget) {
                continue;
            }
            let epoch = self.sequences[slot as usize].epoch;
            self.work.push(Work { slot, epoch, start, tokens: 1, samples: 1, ..Work::default() });
            *budget -= 1;
        }
    }

    /// Gives the sequence in `slot` a block of its own for its next token: a new block, or a copy of a shared one.
    /// False if the sequence itself was preempted, or if the sequence to preempt is in flight.
    fn make_room(&mut self, slot: u32, full: bool, next: &mut usize, plan: &mut Plan, budget: &mut usize) -> bool {
        loop {
            let sequence = &mut self.sequences[slot as usize];
            let model = &mut self.models[usize::from(sequence.model)];
            let shared = !full && sequence.table.last().is_some_and(|&block| model.kv.owners(block) > 1);
            if !full && !shared {
                sequence.shared_tail = false;
                return true;
            }
            if let Some(block) = model.kv.allocate() {
                let (resource, id) = (usize::from(sequence.model), ModelId(sequence.model));
                sequence.shared_tail = false;
                if full {
                    sequence.table.push(block);
                } else {
                    let last = sequence.table.last_mut().expect("a block that is shared is there");
                    plan.copy.push(CopyBlock { model: id, from: *last, to: block });
                    model.kv.release(std::mem::replace(last, block));
                    sequence.moved = self.plans + 1;
                    self.moves.push((slot, sequence.serial));
                    self.stats.copies += 1;
                }
                if full && self.wants_holdings {
                    self.tell_holding(self.sequences[slot as usize].candidate.tenant, resource, 1.0);
                }
                return true;
            }
            let name = sequence.model;
            let victim = self.last_holder(Some(name), None).expect("the sequence itself holds blocks");
            if self.is_in_flight(victim) {
                return false;
            }
            let sequence = &self.sequences[victim as usize];
            if sequence.state == State::Decoding && (sequence.place as usize) < *next {
                // The last decoding sequence takes the victim's place. The swap makes that the place whose turn is
                // next, so that the last sequence is not skipped.
                let place = sequence.place as usize;
                *next -= 1;
                self.running.swap(place, *next, &mut self.sequences);
            }
            self.preempt(victim, plan, budget);
            if victim == slot {
                return false;
            }
        }
    }

    /// Computes draft tokens, with the tokens and blocks that no other sequence needs.
    pub(super) fn plan_drafts(&mut self, mut budget: usize) {
        if self.drafted.is_empty() {
            return;
        }
        for at in 0..self.work.len() {
            let slot = self.work[at].slot;
            let sequence = &mut self.sequences[slot as usize];
            if sequence.state != State::Decoding || sequence.drafts.is_empty() {
                continue;
            }
            let model = &mut self.models[usize::from(sequence.model)];
            let size = model.kv.block_size();
            let spare = model.kv.available().saturating_sub(model.promised + self.config.watermark);
            // The token that follows the drafts needs no draft, nor does one beyond the end.
            let room = (sequence.table.len() + spare) * size - sequence.computed as usize - 1;
            let left = (sequence.max_new - sequence.produced) as usize - 1;
            let granted = sequence.drafts.len().min(budget).min(room).min(left);
            let blocks = (sequence.computed as usize + 1 + granted).div_ceil(size);
            let tenant = sequence.candidate.tenant;
            let (before, id) = (sequence.table.len(), usize::from(sequence.model));
            while sequence.table.len() < blocks {
                sequence.table.push(model.kv.allocate().expect("what is spare was counted"));
            }
            sequence.drafts.truncate(granted);
            self.work[at].drafts = granted as u32;
            budget -= granted;
            self.tell_holding(tenant, id, blocks.saturating_sub(before) as f64);
        }
    }
}
