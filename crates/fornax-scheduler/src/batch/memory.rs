//! Preemption, and giving up the blocks, running slots and adapters that sequences hold.

use super::sequence::State;
use super::{BatchScheduler, Plan, Preempted, Preemption, Swap};
use crate::{BlockId, ModelId};

impl BatchScheduler {
    /// Preempts a sequence: removes its item from the plan being made and takes its blocks; it waits again.
    pub(super) fn preempt(&mut self, slot: u32, plan: &mut Plan, budget: &mut usize) {
        if let Some(at) = self.work.iter().position(|work| work.slot == slot) {
            *budget += self.work.remove(at).tokens as usize;
        }
        let sequence = &self.sequences[slot as usize];
        let id = sequence.id;
        match sequence.state {
            State::Decoding => self.stop_decoding(slot),
            State::Held => {
                self.held.remove(slot, self.policy.as_ref(), self.now);
            }
            State::Deferred => {
                self.stop_deferring(slot);
                // Its last token is computed again, so that its row is sampled again.
                self.sequences[slot as usize].computed -= 1;
            }
            _ => unreachable!("a preempted sequence decodes, is deferred, or holds blocks"),
        }
        self.sequences[slot as usize].drafts.clear();
        self.sequences[slot as usize].preempted = self.plans + 1;
        self.stats.preemptions += 1;
        let swapped = self.swap_out(slot, plan);
        if swapped {
            self.stats.swaps += 1;
            self.release_device(slot);
            self.enqueue_waiting(slot);
        } else {
            self.start_over(slot);
        }
        plan.preempted.push(Preempted { sequence: id, swapped });
    }

    /// Takes all blocks of a sequence and lets it wait to be computed again. The sequence is in no queue.
    pub(super) fn start_over(&mut self, slot: u32) {
        self.release_device(slot);
        let sequence = &mut self.sequences[slot as usize];
        self.stats.lost_tokens += u64::from(std::mem::take(&mut sequence.computed));
        self.enqueue_waiting(slot);
    }

    /// Takes the host blocks of a waiting sequence; it will be computed again.
    pub(super) fn lose_host(&mut self, slot: u32) {
        self.dequeue_waiting(slot);
        self.release_host(slot);
        let sequence = &mut self.sequences[slot as usize];
        self.stats.lost_tokens += u64::from(std::mem::take(&mut sequence.computed));
        sequence.committed = 0;
        self.enqueue_waiting(slot);
    }

    /// Gives up all that a sequence holds on the device and in host memory.
    pub(super) fn release_all(&mut self, slot: u32) {
        self.release_device(slot);
        self.release_host(slot);
    }

    /// Releases blocks that the sequence's tokens do not need: the blocks of draft tokens that were not accepted.
    pub(super) fn trim(&mut self, slot: u32) {
        let sequence = &mut self.sequences[slot as usize];
        let model = &mut self.models[usize::from(sequence.model)];
        let needed = sequence.tokens.len().div_ceil(model.kv.block_size());
        let surplus = sequence.table.len().saturating_sub(needed);
        for block in sequence.table.drain(sequence.table.len() - surplus..).rev() {
            model.kv.release(block);
        }
        let (tenant, resource) = (sequence.candidate.tenant, usize::from(sequence.model));
        self.tell_holding(tenant, resource, -(surplus as f64));
    }

    /// Moves the blocks of a sequence to host memory, if swapping is configured and there is room.
    fn swap_out(&mut self, slot: u32, plan: &mut Plan) -> bool {
        let sequence = &mut self.sequences[slot as usize];
        let model = &mut self.models[usize::from(sequence.model)];
        // Where this very plan copies or moves a block of the sequence, the block does not have its content yet.
        if self.config.preemption != Preemption::Swap || sequence.moved > self.plans || sequence.computed == 0 {
            return false;
        }
        let host = model.host.as_mut().expect("the configuration has host memory");
        let blocks = (sequence.computed as usize).div_ceil(model.kv.block_size());
        if host.available() < blocks {
            return false;
        }
        sequence.host.extend((0..blocks).map(|_| host.allocate().expect("as many are available")));
        plan.swap_out.push(Swap {
            sequence: sequence.id,
            model: ModelId(sequence.model),
            device: sequence.table[..blocks].to_vec(),
            host: sequence.host.clone(),
        });
        sequence.moved = self.plans + 1;
        self.moves.push((slot, sequence.serial));
        true
    }

    /// Gives up a sequence's device blocks, running slots, adapter, promises and reservations.
    fn release_device(&mut self, slot: u32) {
        let sequence = &mut self.sequences[slot as usize];
        let model = &mut self.models[usize::from(sequence.model)];
        let blocks = sequence.table.len();
        model.kv.release_all(&sequence.table);
        sequence.table.clear();
        sequence.shared_tail = false;
        sequence.committed = 0;
        model.promised -= std::mem::take(&mut sequence.promised);
        model.reserved -= std::mem::take(&mut sequence.reserved);
        if !std::mem::take(&mut sequence.holds_slots) {
            return;
        }
        self.running_slots -= sequence.samples as usize;
        let slots = f64::from(sequence.samples);
        sequence.samples += std::mem::take(&mut sequence.rest);
        if let Some(adapter) = sequence.adapter {
            let users = model.adapters.get_mut(&adapter).expect("a running sequence holds its adapter");
            *users -= 1;
            if *users == 0 {
                model.adapters.remove(&adapter);
            }
        }
        let (tenant, resource) = (sequence.candidate.tenant, usize::from(sequence.model));
        self.tell_holding(tenant, resource, -(blocks as f64));
        self.tell_holding(tenant, self.models.len(), -slots);
    }

    fn release_host(&mut self, slot: u32) {
        let sequence = &mut self.sequences[slot as usize];
        let blocks: Vec<BlockId> = std::mem::take(&mut sequence.host);
        if let Some(host) = self.models[usize::from(sequence.model)].host.as_mut() {
            blocks.into_iter().for_each(|block| host.release(block));
        }
    }
}
