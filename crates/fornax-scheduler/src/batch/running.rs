//! Those that decode, side by side: all that a step reads and writes of one that gets its next token and nothing else.
//!
//! A plain step counts up and keeps a token, for each of a thousand sequences; so that takes two neighbouring lines of the
//! processor's cache and no look at the [`Sequence`](super::sequence::Sequence), which hears of it when a block is full or
//! something else happens. What happens then is decided elsewhere.

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
    /// What the sequence takes for computed. Its `tokens`, `computed` and `produced` lag behind by the tokens after these.
    settled: u32,
    pub(super) tenant: TenantId,
    /// Those tokens, each in the place of its position; what they begin and end with is in one piece.
    tail: [Token; TAIL],
}

const _: () = assert!(size_of::<Decoding>() == 128);

impl Decoding {
    /// One token more; before one whose position is a multiple of [`TAIL`], the sequence takes those that are there.
    pub(super) fn push(&mut self, token: Token) {
        self.item.start += 1;
        self.tail[self.item.start as usize % TAIL] = token;
    }

    /// How many tokens the sequence has not taken yet.
    pub(super) fn fresh(&self) -> u32 {
        self.item.start - self.settled
    }

    /// The tokens that the sequence has not taken yet.
    pub(super) fn tail(&self) -> &[Token] {
        let end = self.item.start as usize % TAIL + 1;
        &self.tail[end - self.fresh() as usize..end]
    }
}

impl BatchScheduler {
    /// Takes in the results of those items, from the first on, that are tokens of sequences with nothing else to do.
    /// Gives how many they are.
    pub(super) fn take_plain(&mut self, first: usize, items: &[Flown], outputs: &[Output], tokens: &[Token]) -> usize {
        let mut taken = 0;
        let running = self.running.get_mut(first..).unwrap_or_default();
        for (((one, item), output), &token) in running.iter_mut().zip(items).zip(outputs).zip(tokens) {
            if one.item.slot != item.slot || one.item.start + 1 >= one.until || output.finished {
                break;
            }
            // Nobody grants guesses to one whose `until` is not zero, so that it has put out one token.
            one.push(token);
            taken += 1;
        }
        if self.wants_service {
            for one in &running[..taken] {
                serve(&mut self.served, &mut self.served_tenants, one.tenant, 1);
            }
        }
        self.stats.output_tokens += taken as u64;
        taken
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
        self.running.push(Decoding { item, until: 0, settled: item.start, tenant, tail: [0; TAIL] });
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
        sequence.computed += one.fresh();
        sequence.produced += one.fresh();
        one.settled = one.item.start;
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
        (one.item.start, one.settled, one.until) = (sequence.computed + one.fresh(), sequence.computed, until);
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
        let start = self.running[sequence.place as usize].fresh() + sequence.computed;
        let tail = (start as usize / TAIL + 1) * TAIL;
        let last = sequence.prompt + sequence.max_new - 1;
        u32::try_from(room.min(commit).min(tail)).map_or(last, |until| until.min(last))
    }

    /// Those that decode know who they are, and look closer no later than they need to.
    pub(super) fn audit_running(&self) {
        for (place, one) in self.running.iter().enumerate() {
            let sequence = &self.sequences[one.item.slot as usize];
            assert_eq!(sequence.place as usize, place, "{}: its place", sequence.id);
            assert_eq!(one.item.sequence, sequence.id, "whose tokens these are");
            assert_eq!(one.item.start, sequence.computed + one.fresh(), "{}: where it goes on", sequence.id);
            assert!(one.until <= self.until(one.item.slot), "{}: nobody looks at it in time", sequence.id);
            assert!(one.fresh() == 0 || sequence.speculation == 0, "{}: tokens beside guesses", sequence.id);
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
