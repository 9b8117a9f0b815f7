//! The invariants, held in release builds too: cheap ones after every step, all of them on demand.

use std::collections::BTreeMap;

use super::sequence::State;
use super::{BatchScheduler, Plan};
use crate::{AdapterId, BlockId};

impl BatchScheduler {
    /// What costs next to nothing: counts of blocks, and budgets.
    pub(super) fn check_step(&self, plan: &Plan, tokens: usize) {
        let whole = !self.config.chunked && plan.items.iter().any(|item| item.tokens as usize > self.config.max_tokens);
        assert!(
            whole || tokens <= self.config.max_tokens,
            "a step of {tokens} tokens exceeds {}",
            self.config.max_tokens
        );
        assert!(self.seats <= self.config.max_running, "{} seats of {}", self.seats, self.config.max_running);
        for (model, config) in self.models.iter().zip(&self.config.models) {
            model.kv.check_counts();
            assert!(model.reserved <= model.kv.total(), "{} blocks are reserved", model.reserved);
            assert!(model.adapters.len() <= config.adapters, "{} adapters are in use", model.adapters.len());
        }
    }

    /// Recounts everything: blocks and their owners, seats, promises, queues, and that no block that a sequence may write
    /// to has another owner or can be found by its content.
    ///
    /// # Panics
    /// If the books do not balance, which is a fault of this crate.
    pub fn audit(&self) {
        for (number, model) in self.models.iter().enumerate() {
            let of_model = || self.sequences.iter().filter(move |sequence| usize::from(sequence.model) == number);
            model.kv.audit(of_model().flat_map(|sequence| sequence.table.iter().copied()));
            if let Some(host) = &model.host {
                let read: Vec<BlockId> = self
                    .flight
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
            for adapter in of_model().filter(|sequence| sequence.seated).filter_map(|sequence| sequence.adapter) {
                *adapters.entry(adapter).or_insert(0) += 1;
            }
            assert_eq!(model.adapters, adapters, "adapters in use");
        }
        let seated = self.sequences.iter().filter(|sequence| sequence.seated);
        assert_eq!(self.seats, seated.map(|sequence| sequence.samples as usize).sum::<usize>(), "seats");
        assert!(self.seats <= self.config.max_running, "{} seats", self.seats);
        self.audit_places();
        for slot in 0..self.sequences.len() as u32 {
            self.audit_blocks(slot);
        }
    }

    /// Each sequence is where its state says, and nowhere else.
    fn audit_places(&self) {
        let mut counts = [0usize; 5];
        for (slot, sequence) in self.sequences.iter().enumerate() {
            let slot = slot as u32;
            counts[sequence.state as usize] += 1;
            assert_eq!(self.waiting.contains(slot), sequence.state == State::Waiting, "{slot} among those that wait");
            assert_eq!(self.held.contains(slot), sequence.state == State::Held, "{slot} among those that hold");
            if sequence.state == State::Decoding {
                assert_eq!(self.running.slot(sequence.place as usize), Some(slot), "{slot} among those that decode");
            }
            let named = self.ids.slot(sequence.id) == Some(slot);
            assert_eq!(named, sequence.state != State::Vacant, "{slot} by its name");
            assert_eq!(sequence.seated, matches!(sequence.state, State::Held | State::Planned | State::Decoding));
        }
        let [vacant, waiting, held, planned, decoding] = counts;
        assert_eq!(vacant, self.vacant.len(), "vacant slots");
        assert_eq!((waiting, held, decoding), (self.waiting.len(), self.held.len(), self.running.len()));
        assert!(planned == 0 || self.flight.is_some(), "{planned} are planned and no plan is under way");
        assert_eq!(self.ids.len(), waiting + held + planned + decoding, "names");
        self.audit_running();
    }

    /// A sequence's blocks hold what is computed of it, and what it may write to is its own.
    fn audit_blocks(&self, slot: u32) {
        let sequence = &self.sequences[slot as usize];
        if sequence.state == State::Vacant {
            assert!(sequence.table.is_empty() && sequence.host.is_empty(), "a vacant slot holds blocks");
            return;
        }
        let model = &self.models[usize::from(sequence.model)];
        let (size, computed) = (model.kv.block_size(), sequence.computed as usize);
        let (len, produced) = (sequence.len(), sequence.produced);
        assert!(computed < len, "{}: the last token is always still to be computed", sequence.id);
        assert!(computed + 1 == len || sequence.state != State::Decoding, "{}: more than the last token", sequence.id);
        assert!(produced <= sequence.max_new, "{}: too many tokens", sequence.id);
        assert_eq!(len, (sequence.prompt + produced) as usize, "{}: tokens", sequence.id);
        if sequence.state == State::Waiting {
            assert!(sequence.table.is_empty(), "{} waits and holds blocks of the device", sequence.id);
            assert_eq!(sequence.host.len(), computed.div_ceil(size), "{}: host blocks", sequence.id);
            return;
        }
        assert!(sequence.host.is_empty(), "{} runs and holds host blocks", sequence.id);
        assert!(sequence.table.len() * size >= computed, "{}: computed tokens without blocks", sequence.id);
        let full = computed / size;
        assert!(sequence.committed as usize <= full, "{}: blocks are findable before they are full", sequence.id);
        for (at, &block) in sequence.table.iter().enumerate().skip(full) {
            assert!(!model.kv.is_indexed(block), "{}: block {block} can be found and written to", sequence.id);
            // A shared block is copied before it is written to, which the flag sees to.
            let shared = model.kv.owners(block) > 1;
            assert!(!shared || (sequence.shared_tail && at + 1 == sequence.table.len()), "{}: {block}", sequence.id);
        }
        // While a plan is under way, whatever it computes has been made the sequence's own.
        if self.flight.is_some() && matches!(sequence.state, State::Planned | State::Decoding) {
            let written = sequence.table.iter().skip(full);
            assert!(written.clone().all(|&block| model.kv.owners(block) == 1), "{}: a shared block", sequence.id);
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

    /// A plan whose items compute so many tokens each.
    fn plan(items: &[u32]) -> Plan {
        let item = |&tokens: &u32| Item {
            sequence: SequenceId::default(),
            slot: 0,
            model: ModelId(0),
            adapter: None,
            start: 0,
            tokens,
            speculative: 0,
            samples: 1,
        };
        Plan { items: items.iter().map(item).collect(), ..Plan::default() }
    }

    #[test]
    fn a_step_of_too_many_tokens_is_caught() {
        let passes = |chunked, items: &[u32]| {
            let (scheduler, plan) = (scheduler(chunked), plan(items));
            catch_unwind(AssertUnwindSafe(|| scheduler.check_step(&plan, plan.tokens()))).is_ok()
        };
        assert!(passes(true, &[7, 1]) && !passes(true, &[8, 1]) && !passes(true, &[9]));
        // One prompt that is longer than a step goes whole where prompts are not cut; many that are shorter do not.
        assert!(passes(false, &[7, 1]) && passes(false, &[1, 9]));
        assert!(!passes(false, &[8, 1]) && !passes(false, &[5, 4]));
    }
}
