//! Events: how requests are submitted, end and fork. Results of plans are in `results.rs`.

use super::sequence::State;
use super::{Admission, BatchEvent, BatchScheduler, EndReason, Finished, PENDING, Plan, Request, Token};
use crate::kv::Scope;
use crate::policy::{Candidate, Observation};
use crate::{RequestId, SchedulerError, SequenceId, Time};

impl BatchScheduler {
    /// Takes in one event, or refuses it and changes nothing.
    pub(super) fn apply(&mut self, event: BatchEvent, plan: &mut Plan) -> Result<(), SchedulerError> {
        match event {
            BatchEvent::Submit(request) => self.submit(request),
            BatchEvent::Ready(request) => self.ready(request),
            BatchEvent::Cancel(request) => {
                let slots = self.ids.slots(request);
                if slots.is_empty() {
                    return Err(SchedulerError::UnknownRequest { id: request });
                }
                for slot in slots {
                    self.end(slot, EndReason::Cancelled, plan);
                }
                Ok(())
            }
            BatchEvent::Stop(id) => {
                let slot = self.slot_of(id)?;
                self.end(slot, EndReason::Stopped, plan);
                Ok(())
            }
            BatchEvent::Continue { sequence, token, ended } => self.continue_deferred(sequence, token, ended, plan),
            BatchEvent::Fork { from, index, last } => self.fork(from, index, last, plan),
            BatchEvent::Drafts { sequence, tokens } => self.take_drafts(sequence, tokens),
            BatchEvent::Done { plan: id, outputs, tokens } => self.done(id, &outputs, &tokens, plan),
            BatchEvent::Failed { plan: id } => self.failed(id),
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

    /// Ends all sequences past their deadlines, if [`drop_late`](super::BatchConfig::drop_late) says so.
    pub(super) fn expire(&mut self, plan: &mut Plan) {
        while self.config.drop_late
            && let Some(&(deadline, slot)) = self.deadlines.first()
            && deadline < self.now
        {
            self.deadlines.remove(&(deadline, slot));
            self.end(slot, EndReason::Late, plan);
        }
    }

    /// Ends a sequence. Its results in flight will be ignored. Other sequences write to its blocks only in later plans.
    pub(super) fn end(&mut self, slot: u32, reason: EndReason, plan: &mut Plan) {
        match self.sequences[slot as usize].state {
            State::Waiting => self.dequeue_waiting(slot),
            State::NotReady => self.not_ready -= 1,
            State::Held => {
                self.held.remove(slot, self.policy.as_ref(), self.now);
            }
            State::Planned => {}
            State::Decoding => self.stop_decoding(slot),
            State::Deferred => self.stop_deferring(slot),
            State::Vacant => unreachable!("a sequence that is to end is there"),
        }
        self.finish(slot, reason, plan);
    }

    /// Gives up all that a sequence holds, and forgets it. The sequence is in no queue.
    pub(super) fn finish(&mut self, slot: u32, reason: EndReason, plan: &mut Plan) {
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

    /// The blocks that a request's sequences hold together once each has put out `new_tokens` tokens, if they share
    /// only the prompt. With reserved admission nothing counts as shared. Without prefix caching, a sequence that is
    /// computed again after preemption shares nothing.
    fn blocks_with(&self, request: &Request, new_tokens: u32) -> usize {
        let block_size = self.models[usize::from(request.model.0)].kv.block_size();
        let prompt = request.prompt.len();
        let all = (prompt + new_tokens as usize).div_ceil(block_size);
        let sequences = request.sequences as usize;
        match self.config.admission {
            Admission::Optimistic if self.config.prefix_caching && request.reuse_prefix => {
                let shared = prompt / block_size;
                (all - shared).saturating_mul(sequences).saturating_add(shared)
            }
            Admission::Optimistic | Admission::Reserved => all.saturating_mul(sequences),
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
        let many = if request.max_new_tokens == 0 { 1 } else { u32::MAX };
        if !(1..=many).contains(&request.sequences) {
            return Err(SchedulerError::InvalidNumber {
                what: "sequences",
                found: request.sequences.to_string(),
                expected: "at least 1, and 1 where no token is put out",
            });
        }
        check_tokens("a token of the prompt", &request.prompt)?;
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
            return Err(never("running slots", request.sequences as usize, self.config.max_running));
        }
        let model = &self.models[usize::from(request.model.0)];
        let worst = self.blocks_with(request, request.max_new_tokens);
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
        // At most 1, as `check` refuses a request whose longest outputs do not fit.
        let demand = self.blocks_with(&request, predicted) as f64 / kv.total() as f64;
        let (root, block_size) = (kv.root(scope), kv.block_size());
        let slot = self.vacant_slot();
        let (serial, epoch) = (self.next_number(), self.next_number());
        let sequence = &mut self.sequences[slot as usize];
        (sequence.serial, sequence.epoch) = (serial, epoch);
        sequence.id = SequenceId::first(request.id);
        sequence.model = request.model.0;
        sequence.adapter = request.adapter;
        sequence.max_new = request.max_new_tokens;
        sequence.reuse_prefix = request.reuse_prefix;
        sequence.plan_ahead = request.plan_ahead;
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
            arrival: request.arrival.map_or(self.now, |arrival| arrival.min(self.now)),
            priority: request.priority,
            demand,
            cost: 1.0,
            deadline: request.deadline.unwrap_or(Time::NEVER),
        };
        self.submitted += 1;
        self.ids.insert(SequenceId::first(request.id), slot);
        if let Some(deadline) = request.deadline {
            self.deadlines.insert((deadline, slot));
        }
        self.sequences[slot as usize].candidate.cost = self.candidate(slot).cost;
        if request.ready {
            self.enqueue_waiting(slot);
        } else {
            self.sequences[slot as usize].state = State::NotReady;
            self.not_ready += 1;
        }
        Ok(())
    }

    fn ready(&mut self, request: RequestId) -> Result<(), SchedulerError> {
        let slot = *self.ids.slots(request).first().ok_or(SchedulerError::UnknownRequest { id: request })?;
        if self.sequences[slot as usize].state != State::NotReady {
            return Err(SchedulerError::AlreadyReady { id: request });
        }
        self.not_ready -= 1;
        self.enqueue_waiting(slot);
        Ok(())
    }

    /// A number for a new sequence or epoch, never used before.
    pub(super) fn next_number(&mut self) -> u64 {
        self.numbers += 1;
        self.numbers
    }

    pub(super) fn vacant_slot(&mut self) -> u32 {
        self.vacant.pop().unwrap_or_else(|| {
            self.sequences.push(super::sequence::Sequence::default());
            self.sequences.len() as u32 - 1
        })
    }

    fn take_drafts(&mut self, id: SequenceId, tokens: Vec<Token>) -> Result<(), SchedulerError> {
        check_tokens("a draft token", &tokens)?;
        let slot = self.slot_of(id)?;
        let sequence = &mut self.sequences[slot as usize];
        if sequence.state != State::Decoding || sequence.flights > 0 {
            return Err(SchedulerError::CannotDraft { id });
        }
        sequence.drafts = tokens;
        self.drafted.push((slot, sequence.serial));
        Ok(())
    }

    fn continue_deferred(
        &mut self,
        id: SequenceId,
        token: Token,
        ended: bool,
        plan: &mut Plan,
    ) -> Result<(), SchedulerError> {
        check_tokens("the token of a deferred sequence", &[token])?;
        let slot = self.slot_of(id)?;
        if self.sequences[slot as usize].state != State::Deferred {
            return Err(SchedulerError::NotDeferred { id });
        }
        self.stop_deferring(slot);
        self.start_decoding(slot);
        self.append(slot, &[token], ended, plan);
        self.tell_service();
        Ok(())
    }

    fn fork(
        &mut self,
        from: SequenceId,
        index: u32,
        last: Option<Token>,
        plan: &mut Plan,
    ) -> Result<(), SchedulerError> {
        check_tokens("the last token of a fork", last.as_slice())?;
        let slot = self.slot_of(from)?;
        let id = SequenceId { request: from.request, index };
        // One waiting sequence stands for all continuations that lack running slots: all their indices are taken.
        let taken = |&other: &u32| {
            let other = &self.sequences[other as usize];
            index.checked_sub(other.id.index).is_some_and(|after| after < other.samples + other.rest)
        };
        if self.ids.slots(from.request).iter().any(taken) {
            return Err(SchedulerError::DuplicateSequence { id });
        }
        let refuse = |reason| Err(SchedulerError::CannotFork { id: from, reason });
        let sequence = &self.sequences[slot as usize];
        let deferred = sequence.state == State::Deferred;
        if !deferred && sequence.state != State::Decoding {
            return refuse("it does not decode; fork once its prompt is computed");
        }
        if sequence.flights > 0 {
            return refuse("its results are not in yet; fork after them");
        }
        if self.running_slots >= self.config.max_running {
            return refuse("no running slot is free; stop another first");
        }
        if self.config.admission == Admission::Reserved {
            let model = &self.models[usize::from(sequence.model)];
            if model.reserved + sequence.reserved > model.kv.total() {
                return refuse("its blocks cannot be reserved; stop another first");
            }
        }
        let child = self.branch(slot, id);
        match last {
            None if deferred => self.start_deferring(child),
            Some(token) if deferred => {
                self.start_decoding(child);
                self.append(child, &[token], false, plan);
                self.tell_service();
            }
            last => {
                let sequence = &mut self.sequences[child as usize];
                if let (Some(last), Some(token)) = (last, sequence.tokens.last_mut()) {
                    // The last token can be replaced, as its keys and values are not computed yet.
                    *token = last;
                }
                self.start_decoding(child);
            }
        }
        Ok(())
    }

    /// Makes a copy of a sequence that shares its blocks and has a running slot and a reservation of its own. Returns
    /// the slot of the copy, which is not yet among the decoding or the deferred sequences.
    pub(super) fn branch(&mut self, slot: u32, id: SequenceId) -> u32 {
        let child = self.vacant_slot();
        let (serial, epoch) = (self.next_number(), self.next_number());
        let mut copy = self.sequences[slot as usize].clone();
        let model = &mut self.models[usize::from(copy.model)];
        for &block in &copy.table {
            model.kv.share(block);
        }
        model.reserved += copy.reserved;
        // Both sequences would write to a last block that is not full.
        let partial = copy.table.len() * model.kv.block_size() > copy.computed as usize;
        if let Some(adapter) = copy.adapter {
            *model.adapters.get_mut(&adapter).expect("a running sequence holds its adapter") += 1;
        }
        copy.id = id;
        copy.samples = 1;
        copy.candidate.number = self.submitted;
        copy.shared_tail = partial;
        (copy.serial, copy.epoch) = (serial, epoch);
        copy.drafts.clear();
        self.sequences[slot as usize].shared_tail = partial;
        self.submitted += 1;
        let (tenant, model, blocks, deadline) =
            (copy.candidate.tenant, usize::from(copy.model), copy.table.len(), copy.candidate.deadline);
        self.sequences[child as usize] = copy;
        self.ids.insert(id, child);
        if deadline != Time::NEVER {
            self.deadlines.insert((deadline, child));
        }
        self.running_slots += 1;
        self.tell_holding(tenant, model, blocks as f64);
        self.tell_holding(tenant, self.models.len(), 1.0);
        child
    }
}

/// Refuses [`PENDING`], which is no token.
fn check_tokens(what: &'static str, tokens: &[Token]) -> Result<(), SchedulerError> {
    if tokens.contains(&PENDING) {
        let expected = "less than 2^32 - 1";
        return Err(SchedulerError::InvalidNumber { what, found: PENDING.to_string(), expected });
    }
    Ok(())
}
