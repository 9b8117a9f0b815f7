//! Those that decode, side by side: all that a step reads and writes of one that gets its next token and nothing else.
//!
//! A plain step counts up and keeps a token, for each of a thousand sequences; so that takes two neighbouring lines of the
//! processor's cache and no look at the [`Sequence`](super::sequence::Sequence), which hears of it when a block is full or
//! something else happens. What happens then is decided elsewhere.

use std::hint::black_box;

use super::scheduler::Flown;
use super::sequence::State;
use super::{BatchScheduler, Item, Output, Token};
use crate::{ModelId, TenantId};

/// How many tokens are kept before the sequence takes them.
const TAIL: usize = 16;

/// One that decodes.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub(super) struct Decoding {
    /// What it is to compute next.
    pub(super) item: Item,
    /// As long as the next item starts before this, there is nothing to do but to count: no block is full, no token is the
    /// last, nobody cancelled. Zero has every step look closer.
    pub(super) until: u32,
    /// How many tokens the sequence has not taken yet: its `tokens`, `computed` and `produced` lag behind by as many.
    pub(super) fresh: u32,
    pub(super) tenant: TenantId,
    /// These tokens.
    tail: [Token; TAIL],
}

const _: () = assert!(size_of::<Decoding>() == 128);

impl Decoding {
    /// One token more.
    pub(super) fn push(&mut self, token: Token) {
        self.tail[self.fresh as usize % TAIL] = token;
        self.fresh += 1;
        self.item.start += 1;
    }

    /// The tokens that the sequence has not taken yet.
    pub(super) fn tail(&self) -> &[Token] {
        &self.tail[..self.fresh as usize]
    }
}

impl BatchScheduler {
    /// Takes in the results of those items, from the first on, that are tokens of sequences with nothing else to do.
    /// Gives how many they are.
    pub(super) fn take_plain(&mut self, first: usize, items: &[Flown], outputs: &[Output], tokens: &[Token]) -> usize {
        let mut taken = 0;
        let (mut tenant, mut served) = (TenantId::DEFAULT, 0);
        let running = self.running.get_mut(first..).unwrap_or_default();
        for (((one, item), output), &token) in running.iter_mut().zip(items).zip(outputs).zip(tokens) {
            if one.item.slot != item.slot || one.item.start + 1 >= one.until || output.finished {
                break;
            }
            // Nobody grants guesses to one whose `until` is not zero, so that it has put out one token.
            one.push(token);
            taken += 1;
            if one.tenant != tenant {
                if self.wants_service {
                    serve(&mut self.served, &mut self.served_tenants, tenant, served);
                }
                (tenant, served) = (one.tenant, 0);
            }
            served += 1;
        }
        if self.wants_service {
            serve(&mut self.served, &mut self.served_tenants, tenant, served);
        }
        self.stats.output_tokens += taken as u64;
        taken
    }

    /// Reads what is going to be needed for those whose blocks are full with the results that are there now, so that the
    /// memory is asked for all of it at once and not, by one after the other, waited for.
    pub(super) fn read_ahead(&mut self) {
        for one in self.running.iter().filter(|one| one.item.start + 1 >= one.until) {
            let sequence = &mut self.sequences[one.item.slot as usize];
            let model = &mut self.models[usize::from(sequence.model)];
            let (size, at) = (model.kv.block_size(), sequence.committed as usize);
            black_box(sequence.tokens.last());
            model.kv.read_ahead(&sequence.table[at.saturating_sub(1).min(sequence.table.len())..]);
            model.expected += 1;
            let ahead = (at * size).wrapping_sub(sequence.tokens.len());
            if let Some(content) = one.tail().get(ahead..ahead.wrapping_add(size))
                && self.config.prefix_caching
                && sequence.hashed as usize == at
            {
                sequence.last_hash = sequence.hash_of(at, content);
                sequence.hashed += 1;
                model.kv.read_ahead_of_commit(sequence.last_hash);
            }
        }
    }

    /// Takes note of tokens that a tenant got, for policies that want to hear of it.
    pub(super) fn serve(&mut self, tenant: TenantId, tokens: u32) {
        if self.wants_service {
            serve(&mut self.served, &mut self.served_tenants, tenant, tokens);
        }
    }

    /// Puts a sequence among those that decode.
    pub(super) fn start_decoding(&mut self, slot: u32) {
        let place = self.running.len() as u32;
        let sequence = &mut self.sequences[slot as usize];
        sequence.state = State::Decoding;
        sequence.place = place;
        self.speculators += usize::from(sequence.speculation > 0);
        let item = Item {
            sequence: sequence.id,
            slot,
            model: ModelId(sequence.model),
            adapter: sequence.adapter,
            start: sequence.computed,
            tokens: 1,
            speculative: 0,
            samples: 1,
        };
        let tenant = sequence.candidate.tenant;
        self.running.push(Decoding { item, until: 0, fresh: 0, tenant, tail: [0; TAIL] });
        self.resume(slot);
    }

    /// Takes a sequence out of those that decode.
    pub(super) fn stop_decoding(&mut self, slot: u32) {
        self.settle(slot);
        let sequence = &self.sequences[slot as usize];
        let place = sequence.place as usize;
        self.speculators -= usize::from(sequence.speculation > 0);
        assert!(self.running[place].item.slot == slot, "a sequence that decodes knows its place");
        self.running.swap_remove(place);
        self.settle_in(place);
    }

    /// Tells whoever decodes in `place` that it does, if anyone.
    pub(super) fn settle_in(&mut self, place: usize) {
        if let Some(one) = self.running.get(place) {
            self.sequences[one.item.slot as usize].place = place as u32;
        }
    }

    /// The tokens that a sequence has not taken yet.
    pub(super) fn tail(&self, slot: u32) -> &[Token] {
        let place = self.sequences[slot as usize].place as usize;
        self.running.get(place).filter(|one| one.item.slot == slot).map_or(&[], Decoding::tail)
    }

    /// Lets a sequence that decodes take its fresh tokens: before anyone looks at what it has.
    pub(super) fn settle(&mut self, slot: u32) {
        let sequence = &mut self.sequences[slot as usize];
        let one = &mut self.running[sequence.place as usize];
        sequence.tokens.extend_from_slice(one.tail());
        sequence.computed += one.fresh;
        sequence.produced += one.fresh;
        one.fresh = 0;
    }

    /// Has every step look closer at a sequence that decodes, until it is resumed.
    pub(super) fn watch(&mut self, slot: u32) {
        self.running[self.sequences[slot as usize].place as usize].until = 0;
    }

    /// Lets a sequence that decodes go on from what it has now.
    pub(super) fn resume(&mut self, slot: u32) {
        let until = self.until(slot);
        let sequence = &self.sequences[slot as usize];
        let one = &mut self.running[sequence.place as usize];
        (one.item.start, one.until) = (sequence.computed + one.fresh, until);
    }

    /// Where a sequence that decodes needs a closer look.
    fn until(&self, slot: u32) -> u32 {
        let sequence = &self.sequences[slot as usize];
        if sequence.speculation > 0 || sequence.shared_tail || sequence.doomed.is_some() {
            return 0;
        }
        let size = self.models[usize::from(sequence.model)].kv.block_size();
        let room = sequence.table.len() * size;
        let commit = if self.config.prefix_caching { (sequence.committed as usize + 1) * size } else { usize::MAX };
        // The sequence takes a full tail before one more comes.
        let tail = sequence.computed as usize + TAIL + 1;
        let last = sequence.prompt + sequence.max_new - 1;
        u32::try_from(room.min(commit).min(tail)).map_or(last, |until| until.min(last))
    }

    /// Those that decode know who they are, and look closer no later than they need to.
    pub(super) fn audit_running(&self) {
        for (place, one) in self.running.iter().enumerate() {
            let sequence = &self.sequences[one.item.slot as usize];
            assert_eq!(sequence.place as usize, place, "{}: its place", sequence.id);
            assert_eq!(one.item.sequence, sequence.id, "whose tokens these are");
            assert_eq!(one.item.start, sequence.computed + one.fresh, "{}: where it goes on", sequence.id);
            assert!(one.until <= self.until(one.item.slot), "{}: nobody looks at it in time", sequence.id);
            assert!(one.fresh == 0 || sequence.speculation == 0, "{}: tokens beside guesses", sequence.id);
        }
        let speculates = |one: &&Decoding| self.sequences[one.item.slot as usize].speculation > 0;
        assert_eq!(self.speculators, self.running.iter().filter(speculates).count(), "those that can speculate");
    }
}

fn serve(served: &mut Vec<f64>, tenants: &mut Vec<TenantId>, tenant: TenantId, tokens: u32) {
    if tokens == 0 {
        return;
    }
    let at = tenant.0 as usize;
    if at >= served.len() {
        served.resize(at + 1, 0.0);
    }
    if served[at] == 0.0 {
        tenants.push(tenant);
    }
    served[at] += f64::from(tokens);
}
