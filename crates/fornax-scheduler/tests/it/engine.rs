//! An engine without a model, which carries plans out with nothing but their contents. Its KV memory records, for each
//! place of a block, which token was computed there and in which scope. So each item's whole context can be compared
//! with the known tokens of its sequence.

use std::collections::{BTreeMap, BTreeSet};

use fornax_scheduler::kv::{KvEvent, Scope};
use fornax_scheduler::{
    AdapterId, BatchConfig, BatchEvent, BlockId, EndReason, Item, ModelId, Output, OutputStatus, PENDING, Plan, Random,
    Request, RequestId, SequenceId, Token,
};

/// The content of one place of a block: a token, its position, and the scope in which it was computed.
type Place = Option<(Token, u32, Scope)>;

/// The KV memory of one model.
#[derive(Clone, Debug)]
struct Memory {
    block_size: usize,
    device: Vec<Vec<Place>>,
    host: Vec<Vec<Place>>,
}

/// The state of a sequence as the engine knows it.
#[derive(Clone, Debug)]
struct Known {
    text: Vec<Token>,
    /// Tells it from other sequences that had its id before.
    life: u64,
    deferred: bool,
    /// How many tokens of the prompt were computed, for requests that reuse no prefix and want every token computed.
    seen: u32,
}

/// A plan in flight, with the lives of its items' sequences.
#[derive(Clone, Debug)]
pub(super) struct Flight {
    pub(super) plan: Plan,
    lives: Vec<u64>,
}

/// The results of a plan.
#[derive(Clone, Debug)]
pub(super) struct Results {
    pub(super) outputs: Vec<Output>,
    pub(super) tokens: Vec<Token>,
    /// For each item, whether its sequence was still there.
    alive: Vec<bool>,
}

/// The chances of what happens to samples.
#[derive(Clone, Copy, Debug)]
pub(super) struct Chances {
    pub(super) ended: f64,
    pub(super) failed: f64,
    pub(super) deferred: f64,
}

/// The engine.
#[derive(Clone, Debug)]
pub(super) struct Engine {
    models: Vec<Memory>,
    requests: BTreeMap<RequestId, Request>,
    /// How many sequences of each request have begun.
    begun: BTreeMap<RequestId, u32>,
    known: BTreeMap<SequenceId, Known>,
    lives: u64,
    /// What each item of the last plan sampled.
    sampled: BTreeMap<SequenceId, Token>,
    /// The blocks that were stored and not removed since, with their hashes.
    stored: BTreeMap<(ModelId, BlockId), u64>,
    pub(super) flights: std::collections::VecDeque<Flight>,
    /// How many places of contexts were compared.
    pub(super) compared: u64,
}

impl Engine {
    pub(super) fn new(config: &BatchConfig) -> Self {
        let memory = |model: &fornax_scheduler::ModelConfig| Memory {
            block_size: model.block_size,
            device: vec![vec![None; model.block_size]; model.blocks],
            host: vec![vec![None; model.block_size]; model.host_blocks],
        };
        Self {
            models: config.models.iter().map(memory).collect(),
            requests: BTreeMap::new(),
            begun: BTreeMap::new(),
            known: BTreeMap::new(),
            lives: 0,
            sampled: BTreeMap::new(),
            stored: BTreeMap::new(),
            flights: std::collections::VecDeque::new(),
            compared: 0,
        }
    }

    /// The sequences that are deferred.
    pub(super) fn deferred(&self) -> Vec<SequenceId> {
        self.known.iter().filter(|(_, known)| known.deferred).map(|(id, _)| *id).collect()
    }

    /// The requests that have not become ready.
    pub(super) fn not_ready(&self) -> Vec<RequestId> {
        self.requests.values().filter(|request| !request.ready).map(|request| request.id).collect()
    }

    /// How many blocks are stored, by the KV events so far.
    pub(super) fn stored(&self) -> usize {
        self.stored.len()
    }

    fn scope(&self, item: &Item) -> Option<Scope> {
        let request = self.requests.get(&item.sequence.request)?;
        Some(Scope::of(request.tenant, request.cache_group, item.adapter))
    }

    fn sequences_of(&self, request: RequestId) -> impl Iterator<Item = SequenceId> {
        let any = SequenceId { request, index: 0 }..=SequenceId { request, index: u32::MAX };
        self.known.range(any).map(|(id, _)| *id)
    }

    fn born(&mut self, id: SequenceId, text: Vec<Token>, deferred: bool) {
        self.lives += 1;
        self.known.insert(id, Known { text, life: self.lives, deferred, seen: 0 });
    }

    /// Carries out the moves of a plan, at most `most` of them.
    fn move_blocks(&mut self, plan: &Plan, mut most: usize) {
        let mut left = || {
            most = most.saturating_sub(1);
            most > 0
        };
        for swap in plan.swap_out.iter().filter(|_| left()) {
            let memory = &mut self.models[usize::from(swap.model.0)];
            for (device, host) in swap.device.iter().zip(&swap.host) {
                memory.host[host.0 as usize] = memory.device[device.0 as usize].clone();
            }
        }
        for copy in &plan.copy {
            let memory = &mut self.models[usize::from(copy.model.0)];
            memory.device[copy.to.0 as usize] = memory.device[copy.from.0 as usize].clone();
        }
        for swap in plan.swap_in.iter() {
            let memory = &mut self.models[usize::from(swap.model.0)];
            for (device, host) in swap.device.iter().zip(&swap.host) {
                memory.device[device.0 as usize] = memory.host[host.0 as usize].clone();
            }
        }
    }

    /// Writes the tokens that an item computes; where `scope` is none, writes garbage.
    fn write(&mut self, plan: &Plan, item: &Item, tokens: &[Token], scope: Option<Scope>) {
        let memory = &mut self.models[usize::from(item.model.0)];
        for (position, &token) in (item.start..).zip(tokens) {
            let block = plan.blocks_of(item)[position as usize / memory.block_size];
            let place = &mut memory.device[block.0 as usize][position as usize % memory.block_size];
            *place = scope.map(|scope| (token, position, scope));
        }
    }

    /// Begins the oldest plan in flight and breaks it off: everything that it wrote is garbage.
    pub(super) fn break_off(&mut self, random: &mut Random) {
        let flight = self.flights.pop_front().expect("a plan is in flight");
        self.move_blocks(&flight.plan, random.below(4) as usize);
        for item in &flight.plan.items {
            self.write(&flight.plan, item, flight.plan.tokens_of(item), None);
        }
        self.flights.clear();
        self.sampled.clear();
    }

    /// Carries out the oldest plan in flight, and compares the context of each item.
    pub(super) fn carry_out(&mut self, random: &mut Random, chances: Chances) -> Results {
        let Flight { plan, lives } = self.flights.pop_front().expect("a plan is in flight");
        self.move_blocks(&plan, usize::MAX);
        let before = std::mem::take(&mut self.sampled);
        let mut results = Results { outputs: Vec::new(), tokens: Vec::new(), alive: Vec::new() };
        for (item, life) in plan.items.iter().zip(lives) {
            let mut tokens = plan.tokens_of(item).to_vec();
            let resolved = if tokens[0] == PENDING { before.get(&item.sequence).copied() } else { Some(tokens[0]) };
            tokens[0] = resolved.unwrap_or(PENDING);
            let alive = resolved.is_some() && self.known.get(&item.sequence).is_some_and(|known| known.life == life);
            let failed = random.chance(chances.failed);
            let scope = self.scope(item).filter(|_| alive);
            if alive {
                self.compare(&plan, item, &tokens);
            }
            self.write(&plan, item, &tokens, scope.filter(|_| !failed));
            results.alive.push(alive);
            if failed {
                results.outputs.extend((0..item.outputs()).map(|_| Output::FAILED));
                continue;
            }
            if item.samples == 0 {
                results.outputs.push(Output::NONE);
            }
            for _ in 0..item.samples {
                self.sample(random, chances, item, &tokens[item.tokens as usize..], &mut results);
            }
        }
        self.take(&plan, &results);
        results
    }

    fn sample(&mut self, random: &mut Random, chances: Chances, item: &Item, drafts: &[Token], results: &mut Results) {
        if random.chance(chances.deferred) {
            results.outputs.push(Output::NONE);
            return;
        }
        if item.samples > 1 && random.chance(chances.failed) {
            results.outputs.push(Output::FAILED);
            return;
        }
        let accepted = random.below(drafts.len() as u64 + 1) as usize;
        let token = random.below(3) as u32;
        results.tokens.extend(&drafts[..accepted]);
        results.tokens.push(token);
        self.sampled.insert(item.sequence, token);
        let count = accepted as u32 + 1;
        let ended = random.chance(chances.ended);
        results.outputs.push(if ended { Output::ended(count) } else { Output::tokens(count) });
    }

    /// Compares an item's tokens and its context with the known tokens of its sequence.
    fn compare(&mut self, plan: &Plan, item: &Item, tokens: &[Token]) {
        let scope = self.scope(item).expect("its request is known");
        let known = self.known.get_mut(&item.sequence).expect("it is alive");
        let memory = &self.models[usize::from(item.model.0)];
        let start = item.start as usize;
        assert_eq!(tokens[..item.tokens as usize], known.text[start..][..item.tokens as usize], "{item:?}");
        for (position, token) in known.text[..start].iter().enumerate() {
            let block = plan.blocks_of(item)[position / memory.block_size];
            let place = memory.device[block.0 as usize][position % memory.block_size];
            assert_eq!(place, Some((*token, position as u32, scope)), "position {position} of {item:?}");
        }
        if item.start == 0 || item.start == known.seen {
            known.seen = item.start + item.tokens;
        }
        self.compared += start as u64;
    }

    /// Takes in the events of a step, in their order with results first, and the plan that the step made.
    pub(super) fn follow(&mut self, events: &[BatchEvent], plan: &Plan) {
        // Sequences that ended in this step, and whose ids other sequences got in it.
        let mut replaced = Vec::new();
        for (at, event) in events.iter().enumerate() {
            if plan.rejected.iter().any(|rejected| rejected.event == at) {
                continue;
            }
            match event {
                BatchEvent::Submit(request) => {
                    let before: Vec<SequenceId> = self.sequences_of(request.id).collect();
                    before.iter().for_each(|id| drop(self.known.remove(id)));
                    replaced.extend(before);
                    self.requests.insert(request.id, request.clone());
                    self.begun.insert(request.id, 0);
                    self.born(SequenceId::first(request.id), request.prompt.clone(), false);
                }
                BatchEvent::Ready(id) => self.requests.get_mut(id).expect("it is there").ready = true,
                BatchEvent::Continue { sequence, token, .. } => {
                    let known = self.known.get_mut(sequence).expect("it is there");
                    assert!(std::mem::take(&mut known.deferred), "{sequence} was not deferred");
                    known.text.push(*token);
                }
                BatchEvent::Fork { from, index, last } => {
                    let known = &self.known[from];
                    let (mut text, deferred) = (known.text.clone(), known.deferred);
                    match last {
                        Some(token) if deferred => text.push(*token),
                        Some(token) => *text.last_mut().expect("a sequence has tokens") = *token,
                        None => {}
                    }
                    let id = SequenceId { request: from.request, index: *index };
                    replaced.extend(self.known.remove(&id).map(|_| id));
                    self.born(id, text, deferred && last.is_none());
                }
                _ => {}
            }
        }
        for preempted in &plan.preempted {
            if let Some(known) = self.known.get_mut(&preempted.sequence) {
                known.deferred = false;
            }
        }
        for finished in &plan.finished {
            if let Some(at) = replaced.iter().position(|id| *id == finished.sequence) {
                replaced.remove(at);
                continue;
            }
            let known = self.known.remove(&finished.sequence).expect("it was there");
            let id = finished.sequence.request;
            let request = &self.requests[&id];
            if finished.reason == EndReason::Computed {
                assert!(request.max_new_tokens == 0 && finished.new_tokens == 0);
                let all = request.prompt.len() as u32;
                assert!(request.reuse_prefix || known.seen == all, "{} of {all} tokens were seen", known.seen);
            }
            if finished.reason == EndReason::Length {
                assert_eq!(known.text.len(), request.prompt.len() + request.max_new_tokens as usize);
            }
            if self.sequences_of(id).next().is_none() {
                self.requests.remove(&id);
            }
        }
        assert_eq!(replaced, [], "they did not end");
        self.follow_blocks(plan);
        if plan.id.is_some() {
            self.check(plan);
            let lives = plan.items.iter().map(|item| self.known[&item.sequence].life).collect();
            self.flights.push_back(Flight { plan: plan.clone(), lives });
        }
    }

    /// Takes in the results of a plan for sequences that are still there.
    fn take(&mut self, plan: &Plan, results: &Results) {
        let (mut outputs, mut tokens) = (results.outputs.as_slice(), results.tokens.as_slice());
        for (item, alive) in plan.items.iter().zip(&results.alive) {
            let (of_item, others) = outputs.split_at(item.outputs() as usize);
            outputs = others;
            let failed = of_item.iter().all(|output| output.status == OutputStatus::Failed);
            if let Some(known) = self.known.get_mut(&item.sequence).filter(|_| failed && *alive) {
                // It ends, whatever another plan in flight computes of it.
                known.life = 0;
            }
            let base = self.known.get(&item.sequence).map(|known| known.text.clone()).unwrap_or_default();
            if *alive && !failed {
                self.put_off(item, &base);
            }
            for (index, output) in of_item.iter().enumerate() {
                let (new, later) = tokens.split_at(output.tokens as usize);
                tokens = later;
                if !alive || failed || item.samples == 0 {
                    continue;
                }
                let deferred = output.tokens == 0 && output.status == OutputStatus::GoesOn;
                if index == 0 {
                    let known = self.known.get_mut(&item.sequence).expect("it is alive");
                    known.text.extend_from_slice(new);
                    known.deferred = deferred;
                } else {
                    let id = SequenceId { index: item.sequence.index + index as u32, ..item.sequence };
                    self.born(id, [base.as_slice(), new].concat(), deferred);
                }
            }
        }
    }

    /// The sequences of a request that do not begin with the item of its first samples wait for running slots.
    fn put_off(&mut self, item: &Item, prompt: &[Token]) {
        let request = item.sequence.request;
        let (next, begun) = (item.sequence.index + item.samples, self.begun.get_mut(&request).expect("it is known"));
        if item.samples > 0 && item.sequence.index == *begun {
            *begun = next;
            if next < self.requests[&request].sequences {
                self.born(SequenceId { request, index: next }, prompt.to_vec(), false);
            }
        }
    }

    /// Checks that a plan is complete in itself, and correct about its sequences.
    fn check(&self, plan: &Plan) {
        let mut written = BTreeSet::new();
        let order: Vec<(ModelId, Option<AdapterId>)> =
            plan.items.iter().map(|item| (item.model, item.adapter)).collect();
        assert!(order.is_sorted(), "{order:?}");
        for item in &plan.items {
            let (known, request) = (&self.known[&item.sequence], &self.requests[&item.sequence.request]);
            let (tokens, pending) = (plan.tokens_of(item), plan.is_pending(item));
            assert!(!known.deferred, "{item:?} is deferred");
            assert_eq!(item.len as usize, known.text.len() + usize::from(pending), "{item:?}");
            assert_eq!(item.prompt_len as usize, request.prompt.len());
            assert!(!pending || (request.plan_ahead && item.rows() == 1), "{item:?}");
            assert!(!tokens[1..].contains(&PENDING), "{item:?}");
            assert!(item.samples == 0 || item.start + item.tokens == item.len, "{item:?}");
            let size = self.models[usize::from(item.model.0)].block_size as u32;
            for position in item.start..item.start + item.rows() {
                let block = plan.blocks_of(item)[(position / size) as usize];
                assert!(written.insert((item.model, block, position % size)), "two write to {block}");
            }
        }
    }

    fn follow_blocks(&mut self, plan: &Plan) {
        for (model, event) in &plan.kv_events {
            match event {
                KvEvent::Stored { block, hash, parent, tokens } => {
                    assert_eq!(*hash, fornax_scheduler::kv::block_hash(*parent, tokens));
                    let before = self.stored.insert((*model, *block), *hash);
                    assert_eq!(before, None, "block {block} is stored twice");
                }
                KvEvent::Removed { block, hash } => {
                    assert_eq!(self.stored.remove(&(*model, *block)), Some(*hash), "block {block} was not stored");
                }
            }
        }
    }
}
