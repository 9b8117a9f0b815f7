//! Events: how requests come, end, and fork. Results of plans are in `results.rs`.

use super::sequence::State;
use super::{Admission, BatchEvent, BatchScheduler, FinishReason, Finished, Plan, Request, Token};
use crate::kv::Scope;
use crate::policy::{Candidate, Observation};
use crate::{SchedulerError, SequenceId, Time};

impl BatchScheduler {
    /// Takes one event in, or refuses it and changes nothing.
    pub(super) fn apply(&mut self, event: BatchEvent, plan: &mut Plan) -> Result<(), SchedulerError> {
        match event {
            BatchEvent::Submit(request) => self.submit(request),
            BatchEvent::Cancel(request) => {
                let slots = self.ids.slots(request);
                if slots.is_empty() {
                    return Err(SchedulerError::UnknownRequest { id: request });
                }
                for slot in slots {
                    self.end(slot, FinishReason::Cancelled, plan);
                }
                Ok(())
            }
            BatchEvent::Stop(id) => {
                let slot = self.slot_of(id)?;
                self.end(slot, FinishReason::Stopped, plan);
                Ok(())
            }
            BatchEvent::Fork { from, index, last } => self.fork(from, index, last),
            BatchEvent::Done { plan: id, outputs, tokens } => self.done(id, &outputs, &tokens, plan),
            BatchEvent::Failed { plan: id } => self.failed(id, plan),
            BatchEvent::SwapLost(id) => {
                let slot = self.slot_of(id)?;
                let sequence = &self.sequences[slot as usize];
                if sequence.state != State::Waiting || sequence.host.is_empty() {
                    return Err(SchedulerError::NotSwapped { id });
                }
                self.lose_host(slot);
                Ok(())
            }
        }
    }

    /// Ends what is past its deadline.
    pub(super) fn expire(&mut self, plan: &mut Plan) {
        while self.config.drop_late
            && let Some(&(deadline, slot)) = self.deadlines.first()
            && deadline < self.now
        {
            self.deadlines.remove(&(deadline, slot));
            self.end(slot, FinishReason::Late, plan);
        }
    }

    /// Ends a sequence now, or after the plan under way if that computes it.
    pub(super) fn end(&mut self, slot: u32, reason: FinishReason, plan: &mut Plan) {
        let sequence = &mut self.sequences[slot as usize];
        match sequence.state {
            State::Waiting => self.dequeue_waiting(slot),
            State::Held => {
                self.held.remove(slot, self.policy.as_ref(), self.now);
            }
            State::Planned | State::Decoding if self.flight.is_some() => {
                // The first reason stands.
                sequence.doomed.get_or_insert(reason);
                if sequence.state == State::Decoding {
                    self.watch(slot);
                }
                return;
            }
            State::Decoding => self.stop_decoding(slot),
            State::Planned | State::Vacant => unreachable!("a sequence that is to end is there"),
        }
        self.finish(slot, reason, plan);
    }

    /// Gives up all that a sequence has, which is in no queue any more, and forgets it.
    pub(super) fn finish(&mut self, slot: u32, reason: FinishReason, plan: &mut Plan) {
        self.release_all(slot);
        let sequence = &mut self.sequences[slot as usize];
        let (id, task, new_tokens) = (sequence.id, sequence.candidate, sequence.produced);
        let prompt = (sequence.tokens.len() - new_tokens as usize) as f64;
        let cost = prompt * self.config.seconds_per_prompt_token
            + f64::from(new_tokens) * self.config.seconds_per_output_token;
        let waited = sequence.first_token.unwrap_or(self.now).secs_since(task.arrival);
        if task.deadline != Time::NEVER {
            self.deadlines.remove(&(task.deadline, slot));
        }
        sequence.clear(&mut self.spare_buffers);
        self.vacant.push(slot);
        self.ids.remove(id);
        self.policy.observe(&Observation::Ended { task, cost, waited });
        plan.finished.push(Finished { sequence: id, reason, new_tokens });
    }

    pub(super) fn slot_of(&self, id: SequenceId) -> Result<u32, SchedulerError> {
        self.ids.slot(id).ok_or(SchedulerError::UnknownSequence { id })
    }

    /// The most blocks that a request's sequences ever hold together, if nothing is shared but the prompt; with reserved
    /// admission, nothing at all.
    fn worst_case(&self, request: &Request) -> usize {
        let block_size = self.models[usize::from(request.model.0)].kv.block_size();
        let prompt = request.prompt.len();
        let all = (prompt + request.max_new_tokens as usize).div_ceil(block_size);
        let sequences = request.sequences as usize;
        match self.config.admission {
            Admission::Reserved => all.saturating_mul(sequences),
            Admission::Optimistic => {
                let shared = prompt / block_size;
                (all - shared).saturating_mul(sequences).saturating_add(shared)
            }
        }
    }

    fn check(&self, request: &Request) -> Result<(), SchedulerError> {
        let id = request.id;
        if self.ids.has(id) {
            return Err(SchedulerError::DuplicateRequest { id });
        }
        self.tenants.check(request.tenant)?;
        if usize::from(request.model.0) >= self.models.len() {
            return Err(SchedulerError::UnknownModel { found: request.model.0, models: self.models.len() });
        }
        if request.prompt.is_empty() {
            return Err(SchedulerError::EmptyPrompt { id });
        }
        for (what, value) in [("max_new_tokens", request.max_new_tokens), ("sequences", request.sequences)] {
            if value == 0 {
                return Err(SchedulerError::InvalidNumber { what, found: "0".into(), expected: "at least 1" });
            }
        }
        if request.prompt.len() + request.max_new_tokens as usize > u32::MAX as usize {
            return Err(SchedulerError::InvalidNumber {
                what: "the tokens of a sequence",
                found: (request.prompt.len() + request.max_new_tokens as usize).to_string(),
                expected: "fewer than 2^32",
            });
        }
        let never = |resource: &str, needed: usize, capacity: usize| SchedulerError::NeverFits {
            resource: resource.to_owned(),
            needed: needed as u64,
            capacity: capacity as u64,
        };
        if request.sequences as usize > self.config.max_running {
            return Err(never("seats", request.sequences as usize, self.config.max_running));
        }
        let model = &self.models[usize::from(request.model.0)];
        let worst = self.worst_case(request);
        if worst > model.kv.total() {
            return Err(never("KV blocks", worst, model.kv.total()));
        }
        if request.adapter.is_some() && self.config.models[usize::from(request.model.0)].adapters == 0 {
            return Err(never("adapters", 1, 0));
        }
        Ok(())
    }

    fn submit(&mut self, request: Request) -> Result<(), SchedulerError> {
        self.check(&request)?;
        let kv = &self.models[usize::from(request.model.0)].kv;
        let scope = Scope::of(request.tenant, request.cache_group, request.adapter);
        let predicted = request.predicted_new_tokens.unwrap_or(request.max_new_tokens).min(request.max_new_tokens);
        let blocks = (request.prompt.len() + predicted as usize).div_ceil(kv.block_size());
        let (root, total) = (kv.root(scope), kv.total() as f64);
        let block_size = kv.block_size();
        let slot = self.vacant_slot();
        let sequence = &mut self.sequences[slot as usize];
        sequence.id = SequenceId::first(request.id);
        sequence.model = request.model.0;
        sequence.adapter = request.adapter;
        sequence.max_new = request.max_new_tokens;
        sequence.speculation = request.speculation;
        sequence.samples = request.sequences;
        sequence.prompt = request.prompt.len() as u32;
        sequence.predicted = predicted.max(1);
        sequence.scope = scope;
        sequence.root = root;
        sequence.tokens = request.prompt;
        if self.config.prefix_caching {
            sequence.hash_blocks(block_size, usize::MAX);
        }
        sequence.candidate = Candidate {
            number: self.submitted,
            tenant: request.tenant,
            arrival: self.now,
            priority: request.priority,
            demand: blocks as f64 * f64::from(request.sequences) / total,
            cost: 1.0,
            deadline: request.deadline.unwrap_or(Time::NEVER),
        };
        self.submitted += 1;
        self.ids.insert(SequenceId::first(request.id), slot);
        if let Some(deadline) = request.deadline {
            self.deadlines.insert((deadline, slot));
        }
        self.sequences[slot as usize].candidate.cost = self.candidate(slot).cost;
        self.enqueue_waiting(slot);
        Ok(())
    }

    fn vacant_slot(&mut self) -> u32 {
        self.vacant.pop().unwrap_or_else(|| {
            self.sequences.push(super::sequence::Sequence::default());
            self.sequences.len() as u32 - 1
        })
    }

    fn fork(&mut self, from: SequenceId, index: u32, last: Option<Token>) -> Result<(), SchedulerError> {
        let slot = self.slot_of(from)?;
        let id = SequenceId { request: from.request, index };
        if self.ids.slot(id).is_some() {
            return Err(SchedulerError::DuplicateSequence { id });
        }
        let refuse = |reason| Err(SchedulerError::CannotFork { id: from, reason });
        if self.flight.is_some() {
            return refuse("a plan is under way; fork after its results");
        }
        if self.sequences[slot as usize].state != State::Decoding {
            return refuse("it does not decode; fork once its prompt is computed");
        }
        if self.seats >= self.config.max_running {
            return refuse("no seat is free; stop another first");
        }
        if self.config.admission == Admission::Reserved {
            let sequence = &self.sequences[slot as usize];
            let model = &self.models[usize::from(sequence.model)];
            if model.reserved + sequence.reserved > model.kv.total() {
                return refuse("its blocks cannot be reserved; stop another first");
            }
        }
        let child = self.branch(slot, id);
        let sequence = &mut self.sequences[child as usize];
        if let (Some(last), Some(slot)) = (last, sequence.tokens.last_mut()) {
            // The last token's keys and values are not computed, so that it can still be another.
            *slot = last;
        }
        Ok(())
    }

    /// Makes a copy of a sequence that decodes, sharing its blocks, with a seat and a reservation of its own. Gives its slot.
    pub(super) fn branch(&mut self, slot: u32, id: SequenceId) -> u32 {
        self.settle(slot);
        let child = self.vacant_slot();
        let mut copy = self.sequences[slot as usize].clone();
        let model = &mut self.models[usize::from(copy.model)];
        for &block in &copy.table {
            model.kv.share(block);
        }
        model.reserved += copy.reserved;
        // A last block with room left is one that both would write to.
        let partial = copy.table.len() * model.kv.block_size() > copy.computed as usize;
        if let Some(adapter) = copy.adapter {
            *model.adapters.get_mut(&adapter).expect("a seated sequence holds its adapter") += 1;
        }
        copy.id = id;
        copy.samples = 1;
        copy.candidate.number = self.submitted;
        copy.shared_tail = partial;
        copy.doomed = None;
        copy.moved = false;
        self.sequences[slot as usize].shared_tail = partial;
        self.resume(slot);
        self.submitted += 1;
        let (tenant, model, blocks, deadline) =
            (copy.candidate.tenant, usize::from(copy.model), copy.table.len(), copy.candidate.deadline);
        self.sequences[child as usize] = copy;
        self.ids.insert(id, child);
        if deadline != Time::NEVER {
            self.deadlines.insert((deadline, child));
        }
        self.seats += 1;
        self.tell_holding(tenant, model, blocks as f64);
        self.tell_holding(tenant, self.models.len(), 1.0);
        self.start_decoding(child);
        child
    }
}
