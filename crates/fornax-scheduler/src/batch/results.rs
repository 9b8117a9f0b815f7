//! Results of plans: tokens put out, blocks that became full, guesses that were wrong.

use super::scheduler::Flown;
use super::sequence::State;
use super::{BatchScheduler, FinishReason, Output, Plan, Token};
use crate::kv::After;
use crate::policy::Observation;
use crate::{PlanId, SchedulerError, SequenceId};

impl BatchScheduler {
    /// Takes in the results of the plan under way.
    pub(super) fn done(
        &mut self,
        id: PlanId,
        outputs: &[Output],
        tokens: &[Token],
        plan: &mut Plan,
    ) -> Result<(), SchedulerError> {
        let items = self.check_outputs(id, outputs, tokens)?;
        self.land();
        let mut rest = tokens;
        for (item, output) in items.iter().zip(outputs) {
            let (new, later) = rest.split_at(output.tokens as usize);
            self.take_output(item, new, output.finished, plan);
            rest = later;
        }
        self.spare_flight = items;
        self.tell_service();
        Ok(())
    }

    /// Takes in that the plan under way came to nothing.
    pub(super) fn failed(&mut self, id: PlanId, plan: &mut Plan) -> Result<(), SchedulerError> {
        self.check_plan(id)?;
        let flight = self.flight.as_mut().expect("a plan is under way");
        let items = std::mem::take(&mut flight.items);
        let moved = std::mem::take(&mut flight.moved);
        self.land();
        for slot in items.iter().map(|item| item.slot) {
            let sequence = &mut self.sequences[slot as usize];
            if let Some(reason) = sequence.doomed.take() {
                if sequence.state == State::Decoding {
                    self.stop_decoding(slot);
                }
                self.finish(slot, reason, plan);
            } else if sequence.state == State::Planned {
                self.enqueue_held(slot);
            } else {
                self.trim(slot);
            }
        }
        for (slot, sequence) in moved {
            if self.ids.slot(sequence) != Some(slot) {
                continue;
            }
            match self.sequences[slot as usize].state {
                State::Waiting => self.lose_host(slot),
                State::Held => {
                    self.held.remove(slot, self.policy.as_ref(), self.now);
                    self.start_over(slot);
                }
                State::Decoding => {
                    self.stop_decoding(slot);
                    self.start_over(slot);
                }
                State::Planned | State::Vacant => unreachable!("no plan is under way"),
            }
        }
        self.spare_flight = items;
        Ok(())
    }

    fn check_plan(&self, id: PlanId) -> Result<(), SchedulerError> {
        match &self.flight {
            Some(flight) if flight.plan == id => Ok(()),
            other => {
                Err(SchedulerError::StalePlan { expected: other.as_ref().map(|flight| flight.plan.0), found: id.0 })
            }
        }
    }

    /// The items of the plan under way, if the results match them.
    fn check_outputs(
        &mut self,
        id: PlanId,
        outputs: &[Output],
        tokens: &[Token],
    ) -> Result<Vec<Flown>, SchedulerError> {
        self.check_plan(id)?;
        let flight = self.flight.as_mut().expect("a plan is under way");
        let refuse = |what, expected, found| Err(SchedulerError::WrongOutputs { plan: id.0, what, expected, found });
        if outputs.len() != flight.items.len() {
            return refuse("the number of outputs", flight.items.len(), outputs.len());
        }
        let mut total = 0;
        for (item, output) in flight.items.iter().zip(outputs) {
            if output.tokens.wrapping_sub(item.samples) > item.speculative {
                let most = item.samples + item.speculative;
                return refuse("the tokens of an item", most as usize, output.tokens as usize);
            }
            total += output.tokens as usize;
        }
        if total != tokens.len() {
            return refuse("the number of tokens", total, tokens.len());
        }
        Ok(std::mem::take(&mut flight.items))
    }

    /// The plan under way is over: what it read in host memory is free.
    fn land(&mut self) {
        let flight = self.flight.take().expect("a plan is under way");
        for (model, block) in flight.host {
            let host = self.models[usize::from(model)].host.as_mut().expect("a model that swaps has host memory");
            host.release(block);
        }
        for (slot, _) in flight.moved {
            self.sequences[slot as usize].moved = false;
        }
    }

    /// Takes in what one item gave.
    fn take_output(&mut self, item: &Flown, new: &[Token], finished: bool, plan: &mut Plan) {
        let slot = item.slot;
        let sequence = &mut self.sequences[slot as usize];
        if let Some(reason) = sequence.doomed.take() {
            if sequence.state == State::Decoding {
                self.stop_decoding(slot);
            }
            self.finish(slot, reason, plan);
            return;
        }
        if sequence.state == State::Decoding {
            let ended = self.take_tokens(item, new, finished);
            if let Some(reason) = ended {
                self.stop_decoding(slot);
                self.finish(slot, reason, plan);
            }
            return;
        }
        sequence.computed += item.tokens;
        self.stats.prompt_tokens += u64::from(item.tokens);
        self.commit_blocks(slot);
        if item.samples == 0 {
            self.enqueue_held(slot);
            return;
        }
        self.start_decoding(slot);
        self.become_several(slot, new, finished, plan);
        let ended = self.append(slot, &new[..1], finished);
        if let Some(reason) = ended {
            self.stop_decoding(slot);
            self.finish(slot, reason, plan);
        }
    }

    /// Takes in the next token of a decoding sequence, and guesses that were right; says whether it ends, and why.
    fn take_tokens(&mut self, item: &Flown, new: &[Token], finished: bool) -> Option<FinishReason> {
        // Of a token and its guesses, as many are computed for good as tokens came out.
        self.sequences[item.slot as usize].computed += new.len() as u32;
        self.stats.speculative_tokens += u64::from(item.speculative);
        self.stats.accepted_tokens += new.len() as u64 - 1;
        let ended = self.append(item.slot, new, finished);
        self.commit_blocks(item.slot);
        if item.speculative > 0 {
            self.trim(item.slot);
        }
        ended
    }

    /// Lets a sequence whose prompt is computed become as many as were asked for, each with its first token.
    fn become_several(&mut self, slot: u32, new: &[Token], finished: bool, plan: &mut Plan) {
        let sequence = &mut self.sequences[slot as usize];
        let samples = std::mem::replace(&mut sequence.samples, 1) as usize;
        if samples == 1 {
            return;
        }
        let (request, tenant) = (sequence.id.request, sequence.candidate.tenant);
        // Each copy takes a seat and a reservation of its own out of those that were held for all.
        self.seats -= samples - 1;
        self.tell_holding(tenant, self.models.len(), -(samples as f64 - 1.0));
        let sequence = &mut self.sequences[slot as usize];
        let all = std::mem::replace(&mut sequence.reserved, 0);
        sequence.reserved = all / samples;
        self.models[usize::from(sequence.model)].reserved -= all - all / samples;
        for (index, token) in new.iter().enumerate().skip(1) {
            let id = SequenceId { request, index: index as u32 };
            let child = self.branch(slot, id);
            let ended = self.append(child, &[*token], finished);
            if let Some(reason) = ended {
                self.stop_decoding(child);
                self.finish(child, reason, plan);
            }
        }
    }

    /// Adds tokens that were put out; says whether the sequence ends, and why.
    fn append(&mut self, slot: u32, new: &[Token], finished: bool) -> Option<FinishReason> {
        let sequence = &mut self.sequences[slot as usize];
        let taken = new.len() as u32;
        sequence.tokens.extend_from_slice(new);
        if sequence.produced == 0 {
            sequence.first_token = Some(self.now);
        }
        sequence.produced += taken;
        self.stats.output_tokens += u64::from(taken);
        // No more guesses are granted than lead to the end.
        assert!(sequence.produced <= sequence.max_new, "{}: more tokens than it asked for", sequence.id);
        let ended = match (finished, sequence.produced == sequence.max_new) {
            (true, _) => Some(FinishReason::Stopped),
            (false, true) => Some(FinishReason::Length),
            (false, false) => None,
        };
        let tenant = sequence.candidate.tenant;
        self.serve(tenant, taken);
        ended
    }

    /// Tells the policy what its tenants got, each once.
    fn tell_service(&mut self) {
        for tenant in std::mem::take(&mut self.served_tenants) {
            let output = std::mem::take(&mut self.served[tenant.0 as usize]);
            self.policy.observe(&Observation::Served { tenant, output });
            self.touch(tenant);
        }
    }

    /// Makes the blocks that are full and computed findable. Where another has the same content, that one is used.
    fn commit_blocks(&mut self, slot: u32) {
        let sequence = &mut self.sequences[slot as usize];
        let model = &mut self.models[usize::from(sequence.model)];
        let size = model.kv.block_size();
        let full = sequence.computed as usize / size;
        let committed = sequence.committed as usize;
        if !self.config.prefix_caching || committed >= full {
            return;
        }
        let mut after = match committed.checked_sub(1) {
            Some(last) => After::Block(sequence.table[last]),
            None => After::Nothing(sequence.scope),
        };
        for at in committed..full {
            let content = &sequence.tokens[at * size..(at + 1) * size];
            sequence.last_hash = sequence.hash_of(at, content);
            let block = &mut sequence.table[at];
            let same = model.kv.commit(after, sequence.last_hash, content, *block);
            if let Some(other) = same.filter(|other| other != block) {
                model.kv.share(other);
                model.kv.release(std::mem::replace(block, other));
            }
            after = After::Block(*block);
        }
        sequence.committed = full as u32;
    }
}
