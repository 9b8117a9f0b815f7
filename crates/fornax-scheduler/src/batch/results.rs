//! Results of plans: output tokens, blocks that became full, draft tokens that were not accepted, samples that failed.

use super::scheduler::{Flight, Work};
use super::sequence::{Sequence, State};
use super::{BatchScheduler, EndReason, Output, OutputStatus, PENDING, Plan, Token};
use crate::kv::After;
use crate::policy::Observation;
use crate::{PlanId, SchedulerError, SequenceId, Time};

impl BatchScheduler {
    /// Takes in the results of the oldest plan in flight.
    pub(super) fn done(
        &mut self,
        id: PlanId,
        outputs: &[Output],
        tokens: &[Token],
        plan: &mut Plan,
    ) -> Result<(), SchedulerError> {
        self.check_plan(id)?;
        self.check_outputs(outputs, tokens)?;
        let flight = self.land();
        let (mut outputs, mut tokens) = (outputs, tokens);
        for work in &flight.items {
            let (of_item, others) = outputs.split_at(work.samples.max(1) as usize);
            let count: u32 = of_item.iter().map(|output| output.tokens).sum();
            let (new, later) = tokens.split_at(count as usize);
            self.take_results(work, of_item, new, plan);
            (outputs, tokens) = (others, later);
        }
        self.spare_work.push(flight.items);
        self.tell_service();
        Ok(())
    }

    /// Takes in that the oldest plan in flight failed. The plan after it fails too.
    pub(super) fn failed(&mut self, id: PlanId) -> Result<(), SchedulerError> {
        self.check_plan(id)?;
        let mut flights = Vec::new();
        while !self.flights.is_empty() {
            flights.push(self.land());
        }
        for work in flights.iter().flat_map(|flight| &flight.items) {
            let sequence = &mut self.sequences[work.slot as usize];
            if sequence.epoch != work.epoch {
                continue;
            }
            // The tokens of all its items: the item of a later plan no longer counts once this one is forgotten.
            self.stats.lost_tokens += u64::from(sequence.ahead);
            self.forget_flights(work.slot);
            self.sequences[work.slot as usize].drafts.clear();
            self.go_back(work.slot);
        }
        for &(slot, serial) in flights.iter().flat_map(|flight| &flight.moved) {
            let sequence = &self.sequences[slot as usize];
            if sequence.serial != serial {
                continue;
            }
            match sequence.state {
                State::Waiting if !sequence.host.is_empty() => self.lose_host(slot),
                State::Held => {
                    self.held.remove(slot, self.policy.as_ref(), self.now);
                    self.start_over(slot);
                }
                State::Decoding => {
                    self.stop_decoding(slot);
                    self.start_over(slot);
                }
                State::Deferred => {
                    self.stop_deferring(slot);
                    self.start_over(slot);
                }
                State::Waiting => {}
                State::Planned | State::NotReady | State::Vacant => unreachable!("no plan is in flight"),
            }
        }
        Ok(())
    }

    /// Puts a sequence whose item failed back to where it was before the item was planned.
    fn go_back(&mut self, slot: u32) {
        let sequence = &self.sequences[slot as usize];
        match sequence.state {
            State::Planned => self.enqueue_held(slot),
            State::Held => {
                // Its remaining work is more than when it was queued, so queue it again.
                self.held.remove(slot, self.policy.as_ref(), self.now);
                self.enqueue_held(slot);
            }
            State::Decoding if sequence.remaining() > 1 || sequence.produced == 0 => {
                self.stop_decoding(slot);
                self.enqueue_held(slot);
            }
            State::Decoding => self.trim(slot),
            State::Deferred | State::Waiting | State::NotReady | State::Vacant => {
                unreachable!("a sequence in flight holds blocks and is not deferred")
            }
        }
    }

    /// Makes the items of a sequence in flight no longer count.
    fn forget_flights(&mut self, slot: u32) {
        let epoch = self.next_number();
        let sequence = &mut self.sequences[slot as usize];
        (sequence.epoch, sequence.flights, sequence.ahead, sequence.pending) = (epoch, 0, 0, 0);
    }

    fn check_plan(&self, id: PlanId) -> Result<(), SchedulerError> {
        let expected = self.flights.front().map(|flight| flight.plan);
        if expected == Some(id) {
            return Ok(());
        }
        Err(SchedulerError::StalePlan { expected: expected.map(|plan| plan.0), found: id.0 })
    }

    /// Whether results match the oldest plan in flight.
    fn check_outputs(&self, outputs: &[Output], tokens: &[Token]) -> Result<(), SchedulerError> {
        let flight = self.flights.front().expect("a plan is in flight");
        let plan = flight.plan.0;
        let refuse = |what, expected, found| Err(SchedulerError::WrongOutputs { plan, what, expected, found });
        let expected = flight.items.iter().map(|work| work.samples.max(1) as usize).sum();
        if outputs.len() != expected {
            return refuse("the number of outputs", expected, outputs.len());
        }
        let total = outputs.iter().map(|output| output.tokens as usize).sum();
        if total != tokens.len() {
            return refuse("the number of tokens", total, tokens.len());
        }
        if tokens.contains(&PENDING) {
            return refuse("the largest token", PENDING as usize - 1, PENDING as usize);
        }
        let (mut outputs, mut tokens) = (outputs, tokens);
        for work in &flight.items {
            let (of_item, others) = outputs.split_at(work.samples.max(1) as usize);
            let most = work.samples.min(1) + work.drafts;
            let drafted = || Some(&self.sequences[work.slot as usize]).filter(|sequence| sequence.epoch == work.epoch);
            let drafts = if work.drafts == 0 { None } else { drafted().map(|sequence| &sequence.drafts) };
            if work.samples == 0 && of_item[0].status == OutputStatus::Ended {
                return refuse("the samples that end in an item without samples", 0, 1);
            }
            for output in of_item {
                let most = if output.status == OutputStatus::Failed { 0 } else { most };
                if output.tokens > most {
                    return refuse("the tokens of a sample", most as usize, output.tokens as usize);
                }
                let (new, later) = tokens.split_at(output.tokens as usize);
                // Only accepted draft tokens have their keys and values computed, so all but the last token must be
                // such.
                let accepted = new.split_last().map_or(&[][..], |(_, accepted)| accepted);
                let drafts = drafts.into_iter().flatten();
                if let Some((new, draft)) = accepted.iter().zip(drafts).find(|(new, draft)| new != draft) {
                    return refuse("an accepted draft token", *draft as usize, *new as usize);
                }
                tokens = later;
            }
            outputs = others;
        }
        Ok(())
    }

    /// Removes the oldest plan in flight and releases the host blocks that it read.
    fn land(&mut self) -> Flight {
        let mut flight = self.flights.pop_front().expect("a plan is in flight");
        for (model, block) in flight.host.drain(..) {
            let host = self.models[usize::from(model)].host.as_mut().expect("a model that swaps has host memory");
            host.release(block);
        }
        flight
    }

    /// Takes in the results of one item, unless its sequence has ended, failed or been deferred since.
    fn take_results(&mut self, work: &Work, outputs: &[Output], new: &[Token], plan: &mut Plan) {
        let slot = work.slot;
        let sequence = &mut self.sequences[slot as usize];
        if sequence.epoch != work.epoch {
            return;
        }
        sequence.flights -= 1;
        sequence.ahead -= work.tokens;
        if work.samples == 1 {
            sequence.pending -= 1;
        }
        if outputs.iter().all(|output| output.status == OutputStatus::Failed) {
            self.end(slot, EndReason::Failed, plan);
            return;
        }
        // All output tokens but the last are accepted draft tokens.
        let accepted = if work.drafts > 0 { (new.len() as u32).saturating_sub(1) } else { 0 };
        sequence.computed += work.tokens;
        if work.prompt {
            self.stats.prompt_tokens += u64::from(work.tokens);
        }
        let rest = if work.last { std::mem::take(&mut sequence.rest) } else { 0 };
        if rest > 0 {
            let next = SequenceId { index: sequence.id.index + sequence.samples, ..sequence.id };
            self.put_off(slot, next, rest);
        }
        match work.samples {
            0 => {
                self.commit_blocks(slot);
                if work.last {
                    self.finish(slot, EndReason::Computed, plan);
                }
            }
            1 if work.drafts > 0 => {
                self.sequences[slot as usize].drafts.clear();
                self.stats.draft_tokens += u64::from(work.drafts);
                self.stats.accepted_tokens += u64::from(accepted);
                self.take_sample(slot, outputs[0], new, plan);
                if self.sequences[slot as usize].epoch == work.epoch {
                    self.trim(slot);
                }
            }
            1 => self.take_sample(slot, outputs[0], new, plan),
            _ => self.become_several(slot, outputs, new, plan),
        }
    }

    /// Takes in the result of a decoding sequence's sample, which may end the sequence. The keys and values of all new
    /// tokens but the last are computed.
    fn take_sample(&mut self, slot: u32, output: Output, new: &[Token], plan: &mut Plan) {
        self.sequences[slot as usize].computed += (new.len() as u32).saturating_sub(1);
        match (output.status, new) {
            (OutputStatus::Failed, _) => self.end(slot, EndReason::Failed, plan),
            (OutputStatus::Ended, []) => {
                self.commit_blocks(slot);
                self.end(slot, EndReason::Stopped, plan);
            }
            (OutputStatus::GoesOn, []) => {
                self.commit_blocks(slot);
                // A later item of the sequence may be in flight, for the token that was not sampled.
                self.forget_flights(slot);
                self.trim(slot);
                self.stop_decoding(slot);
                self.start_deferring(slot);
            }
            (status, new) => self.append(slot, new, status == OutputStatus::Ended, plan),
        }
    }

    /// Queues the `rest` continuations for which no running slots were free when the sequence in `slot` was admitted.
    /// Its prompt is now computed. Until slots come free, one waiting sequence stands for them, in the place of its
    /// request.
    fn put_off(&mut self, slot: u32, id: SequenceId, rest: u32) {
        let later = self.vacant_slot();
        let (serial, epoch) = (self.next_number(), self.next_number());
        let sequence = &self.sequences[slot as usize];
        let deadline = sequence.candidate.deadline;
        let size = self.models[usize::from(sequence.model)].kv.block_size();
        self.sequences[later as usize] = Sequence {
            serial,
            epoch,
            id,
            samples: rest,
            tokens: sequence.tokens[..sequence.prompt as usize].to_vec(),
            hashes: sequence.hashes[..sequence.hashes.len().min(sequence.prompt as usize / size)].to_vec(),
            // The policy was told of its input already, and the blocks that it finds are no hits: they are its
            // request's own.
            admitted: true,
            model: sequence.model,
            adapter: sequence.adapter,
            prompt: sequence.prompt,
            max_new: sequence.max_new,
            reuse_prefix: sequence.reuse_prefix,
            plan_ahead: sequence.plan_ahead,
            predicted: sequence.predicted,
            scope: sequence.scope,
            root: sequence.root,
            candidate: sequence.candidate,
            ..Sequence::default()
        };
        self.ids.insert(id, later);
        if deadline != Time::NEVER {
            self.deadlines.insert((deadline, later));
        }
        self.enqueue_waiting(later);
    }

    /// Turns a sequence whose prompt is computed into one sequence for each sample.
    fn become_several(&mut self, slot: u32, outputs: &[Output], new: &[Token], plan: &mut Plan) {
        self.start_decoding(slot);
        let sequence = &mut self.sequences[slot as usize];
        let samples = std::mem::replace(&mut sequence.samples, 1) as usize;
        let (id, tenant) = (sequence.id, sequence.candidate.tenant);
        // The slots and the reservation were held for all samples; each copy takes its part of them.
        self.running_slots -= samples - 1;
        self.tell_holding(tenant, self.models.len(), -(samples as f64 - 1.0));
        let sequence = &mut self.sequences[slot as usize];
        let all = std::mem::replace(&mut sequence.reserved, 0);
        sequence.reserved = all / samples;
        self.models[usize::from(sequence.model)].reserved -= all - all / samples;
        self.commit_blocks(slot);
        let (first, mut rest) = new.split_at(outputs[0].tokens as usize);
        for (index, output) in outputs.iter().enumerate().skip(1) {
            let child = self.branch(slot, SequenceId { index: id.index + index as u32, ..id });
            self.start_decoding(child);
            let (new, later) = rest.split_at(output.tokens as usize);
            self.take_sample(child, *output, new, plan);
            rest = later;
        }
        self.take_sample(slot, outputs[0], first, plan);
    }

    /// Adds tokens to a decoding sequence. It ends if `ended`, or if it then has the most tokens that it may. The keys
    /// and values of all new tokens but the last are computed.
    pub(super) fn append(&mut self, slot: u32, new: &[Token], ended: bool, plan: &mut Plan) {
        let sequence = &mut self.sequences[slot as usize];
        let taken = new.len() as u32;
        sequence.tokens.extend_from_slice(new);
        if sequence.produced == 0 {
            sequence.first_token = Some(self.now);
        }
        sequence.produced += taken;
        self.stats.output_tokens += u64::from(taken);
        // A plan computes no draft tokens beyond the end of the sequence.
        assert!(sequence.produced <= sequence.max_new, "{}: more tokens than it asked for", sequence.id);
        let full = sequence.produced == sequence.max_new;
        if self.wants_service {
            let tenant = sequence.candidate.tenant;
            self.serve(tenant, taken);
        }
        self.commit_blocks(slot);
        if ended || full {
            self.end(slot, if ended { EndReason::Stopped } else { EndReason::Length }, plan);
        }
    }

    /// Tells the policy the output tokens of each tenant that got any.
    pub(super) fn tell_service(&mut self) {
        for tenant in std::mem::take(&mut self.served_tenants) {
            let output = std::mem::take(&mut self.served[tenant.0 as usize]);
            self.policy.observe(&Observation::Served { tenant, output });
            self.touch(tenant);
        }
    }

    /// Makes full computed blocks findable. Where another block has the same content, the sequence uses that block
    /// instead.
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
