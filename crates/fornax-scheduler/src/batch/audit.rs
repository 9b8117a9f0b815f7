//! The invariants: cheap ones are checked after every step, in release builds too, all of them on demand.

use std::collections::BTreeMap;

use super::sequence::State;
use super::{BatchScheduler, Plan};
use crate::{AdapterId, BlockId};

impl BatchScheduler {
    /// The cheap checks: counts of blocks, and budgets.
    pub(super) fn check_step(&self, plan: &Plan) {
        let tokens = plan.tokens.len();
        // Without chunks, one prompt and the decoding sequences beside it may exceed the budget.
        let prompts = plan.items.iter().filter(|item| item.tokens > 1).count();
        assert!(
            (!self.config.chunked && prompts <= 1) || tokens <= self.config.max_tokens,
            "a step of {tokens} tokens exceeds {}",
            self.config.max_tokens
        );
        assert!(
            self.running_slots <= self.config.max_running,
            "{} running slots of {}",
            self.running_slots,
            self.config.max_running
        );
        for (model, config) in self.models.iter().zip(&self.config.models) {
            model.kv.check_counts();
            assert!(model.reserved <= model.kv.total(), "{} blocks are reserved", model.reserved);
            assert!(model.adapters.len() <= config.adapters, "{} adapters are in use", model.adapters.len());
        }
    }

    /// Recounts everything: blocks and their owners, running slots, promises and queues. Checks that no block that a
    /// sequence may write to has another owner or can be found by its content.
    ///
    /// # Panics
    /// If the books do not balance, which is a fault of this crate.
    pub fn audit(&self) {
        for (number, model) in self.models.iter().enumerate() {
            let of_model = || self.sequences.iter().filter(move |sequence| usize::from(sequence.model) == number);
            model.kv.audit(of_model().flat_map(|sequence| sequence.table.iter().copied()));
            if let Some(host) = &model.host {
                let read: Vec<BlockId> = self
                    .flights
                    .iter()
                    .flat_map(|flight| &flight.host)
                    .filter(|(other, _)| usize::from(*other) == number)
                    .map(|(_, block)| *block)
                    .collect();
                host.audit(of_model().flat_map(|sequence| sequence.host.iter().copied()).chain(read));
            }
            assert_eq!(model.promised, of_model().map(|sequence| sequence.promised).sum::<usize>(), "promises");
            assert_eq!(model.reserved, of_model().map(|sequence| sequence.reserved).sum::<usize>(), "reservations");
            let mut adapters: BTreeMap<AdapterId, u32> = BTreeMap::new();
            for adapter in of_model().filter(|sequence| sequence.holds_slots).filter_map(|sequence| sequence.adapter) {
                *adapters.entry(adapter).or_insert(0) += 1;
            }
            assert_eq!(model.adapters, adapters, "adapters in use");
        }
        let holders = self.sequences.iter().filter(|sequence| sequence.holds_slots);
        let slots: usize = holders.map(|sequence| sequence.samples as usize).sum();
        assert_eq!(self.running_slots, slots, "running slots");
        assert!(self.running_slots <= self.config.max_running, "{} running slots", self.running_slots);
        self.audit_places();
        for slot in 0..self.sequences.len() as u32 {
            self.audit_blocks(slot);
        }
    }

    /// Checks that each sequence is in the queue or list that its state says, and in no other.
    fn audit_places(&self) {
        let mut counts = [0usize; 7];
        for (slot, sequence) in self.sequences.iter().enumerate() {
            let slot = slot as u32;
            counts[sequence.state as usize] += 1;
            assert_eq!(self.waiting.contains(slot), sequence.state == State::Waiting, "{slot} in the waiting queue");
            assert_eq!(self.held.contains(slot), sequence.state == State::Held, "{slot} in the held queue");
            let place = sequence.place as usize;
            match sequence.state {
                State::Decoding => assert_eq!(self.running.slot(place), Some(slot), "{slot} among the decoding ones"),
                State::Deferred => assert_eq!(self.deferred.slot(place), Some(slot), "{slot} among the deferred ones"),
                _ => {}
            }
            let named = self.ids.slot(sequence.id) == Some(slot);
            assert_eq!(named, sequence.state != State::Vacant, "{slot} by its name");
            assert_eq!(
                sequence.holds_slots,
                !matches!(sequence.state, State::Vacant | State::Waiting | State::NotReady)
            );
            assert!(
                sequence.rest == 0 || (sequence.holds_slots && sequence.produced == 0),
                "{} leaves some",
                sequence.id
            );
            self.audit_flights(slot);
        }
        let [vacant, waiting, held, planned, decoding, deferred, not_ready] = counts;
        assert_eq!(vacant, self.vacant.len(), "vacant slots");
        assert_eq!((waiting, held, decoding), (self.waiting.len(), self.held.len(), self.running.len()));
        assert_eq!((deferred, not_ready), (self.deferred.len(), self.not_ready));
        assert!(self.flights.len() <= self.config.plans_in_flight, "{} plans are in flight", self.flights.len());
        let live = waiting + held + planned + decoding + deferred + not_ready;
        assert_eq!(self.ids.len(), live, "ids");
        self.audit_running();
    }

    /// Checks that a sequence's counts agree with its items in flight.
    fn audit_flights(&self, slot: u32) {
        let sequence = &self.sequences[slot as usize];
        let items = self.flights.iter().flat_map(|flight| &flight.items);
        let (mut flights, mut ahead, mut pending) = (0, 0, 0);
        for work in items.filter(|work| work.slot == slot && work.epoch == sequence.epoch) {
            assert_eq!(work.start, sequence.computed + ahead, "{}: an item goes on where the last ends", sequence.id);
            flights += 1;
            ahead += work.tokens;
            pending += u32::from(work.samples == 1);
        }
        let found = (sequence.flights, sequence.ahead, sequence.pending);
        assert_eq!(found, (flights, ahead, pending), "{}: items, tokens and samples in flight", sequence.id);
        match sequence.state {
            State::Vacant | State::Waiting | State::NotReady | State::Deferred => assert_eq!(flights, 0),
            State::Planned => assert_ne!(flights, 0, "{} is planned and not in flight", sequence.id),
            State::Held => assert_ne!(sequence.remaining(), 0, "{}: nothing is left of its prompt", sequence.id),
            State::Decoding => assert_eq!(sequence.remaining(), 1, "{}: more than the last token", sequence.id),
        }
        assert!(sequence.drafts.is_empty() || sequence.state == State::Decoding, "{}: draft tokens", sequence.id);
    }

    /// Checks that a sequence has blocks for all its computed tokens, and owns alone the blocks that it may write to.
    fn audit_blocks(&self, slot: u32) {
        let sequence = &self.sequences[slot as usize];
        if sequence.state == State::Vacant {
            assert!(sequence.table.is_empty() && sequence.host.is_empty(), "a vacant slot holds blocks");
            return;
        }
        let model = &self.models[usize::from(sequence.model)];
        let (size, computed) = (model.kv.block_size(), sequence.computed as usize);
        let (len, produced) = (sequence.len(), sequence.produced);
        let deferred = sequence.state == State::Deferred;
        assert!(computed + usize::from(!deferred) <= len, "{}: the last token is still to be computed", sequence.id);
        assert!(computed == len || !deferred, "{}: it is deferred before its last token is computed", sequence.id);
        assert!(produced <= sequence.max_new, "{}: too many tokens", sequence.id);
        assert_eq!(len, (sequence.prompt + produced) as usize, "{}: tokens", sequence.id);
        if matches!(sequence.state, State::Waiting | State::NotReady) {
            assert!(sequence.table.is_empty(), "{} waits and holds blocks of the device", sequence.id);
            assert_eq!(sequence.host.len(), computed.div_ceil(size), "{}: host blocks", sequence.id);
            return;
        }
        assert!(sequence.host.is_empty(), "{} runs and holds host blocks", sequence.id);
        let reach = sequence.next_position() as usize;
        assert!(sequence.table.len() * size >= reach, "{}: computed tokens without blocks", sequence.id);
        let full = computed / size;
        assert!(sequence.committed as usize <= full, "{}: blocks are findable before they are full", sequence.id);
        for (at, &block) in sequence.table.iter().enumerate().skip(full) {
            assert!(!model.kv.is_indexed(block), "{}: block {block} can be found and written to", sequence.id);
            // Only a last block may be shared, with the flag set: it is then copied before it is written to.
            let shared = model.kv.owners(block) > 1;
            assert!(!shared || (sequence.shared_tail && at + 1 == sequence.table.len()), "{}: {block}", sequence.id);
        }
        // The sequence alone owns the blocks that a plan in flight writes to.
        if sequence.flights > 0 {
            let mut written = sequence.table.iter().skip(full);
            assert!(written.all(|&block| model.kv.owners(block) == 1), "{}: a shared block", sequence.id);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use super::super::{BatchConfig, Item};
    use super::*;
    use crate::{ModelId, SequenceId, policy};

    /// A scheduler whose steps have eight tokens at most.
    fn scheduler(chunked: bool) -> BatchScheduler {
        let config = BatchConfig { max_running: 4, max_tokens: 8, chunked, ..BatchConfig::default() };
        BatchScheduler::new(config, policy("fcfs").expect("a policy")).expect("a sound configuration")
    }

    /// A plan with an item for each number of tokens in `items`.
    fn plan(items: &[u32]) -> Plan {
        let item = |&tokens: &u32| Item {
            sequence: SequenceId::default(),
            model: ModelId(0),
            adapter: None,
            start: 0,
            tokens,
            drafts: 0,
            samples: 1,
            prompt_len: tokens,
            len: tokens,
            first_token: 0,
            first_block: 0,
            blocks: 1,
        };
        let tokens = vec![0; items.iter().sum::<u32>() as usize];
        Plan { items: items.iter().map(item).collect(), tokens, ..Plan::default() }
    }

    #[test]
    fn a_step_of_too_many_tokens_is_caught() {
        let passes = |chunked, items: &[u32]| {
            let (scheduler, plan) = (scheduler(chunked), plan(items));
            catch_unwind(AssertUnwindSafe(|| scheduler.check_step(&plan))).is_ok()
        };
        assert!(passes(true, &[7, 1]) && !passes(true, &[8, 1]) && !passes(true, &[9]));
        // Without chunks, one prompt beside decoding sequences may exceed the budget; several prompts may not.
        assert!(passes(false, &[7, 1]) && passes(false, &[1, 9]) && passes(false, &[8, 1, 1]));
        assert!(!passes(false, &[5, 4]) && !passes(false, &[1, 9, 2]));
    }
}
