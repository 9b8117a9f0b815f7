//! The part of a step that decodes: a token for every sequence that is past its prompt, and guesses with what is left.

use super::sequence::State;
use super::{BatchScheduler, CopyBlock, Item, Plan};
use crate::ModelId;

impl BatchScheduler {
    /// Gives every decoding sequence its token. Where a block lacks, the last by the policy gives up its own.
    pub(super) fn plan_decodes(&mut self, plan: &mut Plan, budget: &mut usize) {
        plan.items.reserve(self.running.len());
        let mut next = 0;
        while let Some(slot) = self.running.slot(next) {
            next += 1;
            let sequence = &self.sequences[slot as usize];
            let size = self.models[usize::from(sequence.model)].kv.block_size();
            let full = sequence.table.len() * size <= sequence.computed as usize;
            if (full || sequence.shared_tail) && !self.make_room(slot, full, &mut next, plan, budget) {
                continue;
            }
            let sequence = &self.sequences[slot as usize];
            plan.items.push(Item {
                sequence: sequence.id,
                slot,
                model: ModelId(sequence.model),
                adapter: sequence.adapter,
                start: sequence.computed,
                tokens: 1,
                speculative: 0,
                samples: 1,
            });
            *budget -= 1;
        }
    }

    /// A block for the next token of `slot`, of its own: a new one, or a copy of one that is shared. False if it was
    /// itself the one to be preempted.
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
                    sequence.moved = true;
                    self.stats.copies += 1;
                }
                if full && self.wants_holdings {
                    self.tell_holding(self.sequences[slot as usize].candidate.tenant, resource, 1.0);
                }
                return true;
            }
            let name = sequence.model;
            let victim = self.last_holder(Some(name), None).expect("the sequence itself holds blocks");
            let sequence = &self.sequences[victim as usize];
            if sequence.state == State::Decoding && (sequence.place as usize) < *next {
                // Whoever takes the place of the victim is one that has not had its turn.
                let place = sequence.place as usize;
                *next -= 1;
                self.running.swap(place, *next);
                self.update_place(place);
                self.update_place(*next);
            }
            self.preempt(victim, plan, budget);
            if victim == slot {
                return false;
            }
        }
    }

    /// Lets decoding sequences guess, with tokens and blocks that nobody else wants.
    pub(super) fn plan_speculation(&mut self, plan: &mut Plan, mut budget: usize) {
        if self.speculators == 0 {
            return;
        }
        for item in &mut plan.items {
            if budget == 0 {
                return;
            }
            let sequence = &mut self.sequences[item.slot as usize];
            if sequence.state != State::Decoding || sequence.speculation == 0 {
                continue;
            }
            let model = &mut self.models[usize::from(sequence.model)];
            let size = model.kv.block_size();
            let spare = model.kv.available().saturating_sub(model.promised + self.config.watermark);
            // The token that follows the guesses needs no guess, nor does one beyond the end.
            let room = (sequence.table.len() + spare) * size - sequence.computed as usize - 1;
            let ahead = (sequence.max_new - sequence.produced) as usize - 1;
            let granted = (sequence.speculation as usize).min(budget).min(room).min(ahead);
            let blocks = (sequence.computed as usize + 1 + granted).div_ceil(size);
            let tenant = sequence.candidate.tenant;
            let (before, id) = (sequence.table.len(), usize::from(sequence.model));
            while sequence.table.len() < blocks {
                sequence.table.push(model.kv.allocate().expect("what is spare was counted"));
            }
            item.speculative = granted as u32;
            budget -= granted;
            self.tell_holding(tenant, id, blocks.saturating_sub(before) as f64);
        }
    }
}
