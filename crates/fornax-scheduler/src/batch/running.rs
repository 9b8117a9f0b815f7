//! Those that decode, side by side: all that a step reads and writes of one that gets its next token and nothing else.
//!
//! A plain step counts up and keeps a token, for each of a thousand sequences; so that takes a line of the processor's cache
//! and a quarter, and no look at the [`Sequence`](super::sequence::Sequence), which hears of it when a block is full or
//! something else happens. What happens then is decided elsewhere.

use std::ops::Range;

use super::sequence::State;
use super::{BatchScheduler, Item, Output, Token};
use crate::{ModelId, TenantId};

/// How many tokens are kept before the sequence takes them.
const TAIL: usize = 16;

/// How far one that decodes has come, and when it needs a closer look.
#[derive(Clone, Copy, Debug)]
struct Clock {
    slot: u32,
    /// The position of its last token, which it is to compute next.
    start: u32,
    /// As long as `start` is before this, there is nothing to do but to count: no block is full, no token is the last,
    /// nobody cancelled. Zero has every step look closer.
    until: u32,
    /// What the sequence takes for computed. Its `tokens`, `computed` and `produced` lag behind by the tokens after these.
    settled: u32,
}

impl Clock {
    /// How many tokens the sequence has not taken yet.
    fn fresh(self) -> u32 {
        self.start - self.settled
    }
}

/// The tokens that the sequence has not taken yet, each in the place of its position; what they begin and end with is in
/// one piece. One line of the processor's cache.
#[derive(Clone, Copy, Debug)]
#[repr(align(64))]
struct Tail([Token; TAIL]);

impl Tail {
    fn put(&mut self, position: u32, token: Token) {
        self.0[position as usize % TAIL] = token;
    }
}

/// Those that decode, each in a place of its own; what every step goes through stands apart from what it does not.
#[derive(Clone, Debug, Default)]
pub(super) struct Running {
    clocks: Vec<Clock>,
    tails: Vec<Tail>,
    /// What each computes next; where it starts is with its clock.
    items: Vec<Item>,
    tenants: Vec<TenantId>,
}

impl Running {
    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.clocks.len()
    }

    /// Their slots by place.
    pub(super) fn slots(&self) -> impl Iterator<Item = u32> {
        self.clocks.iter().map(|clock| clock.slot)
    }

    /// Who is in a place.
    pub(super) fn slot(&self, place: usize) -> Option<u32> {
        self.clocks.get(place).map(|clock| clock.slot)
    }

    /// What the one in a place computes next.
    pub(super) fn item(&self, place: usize) -> Item {
        Item { start: self.clocks[place].start, ..self.items[place] }
    }

    /// Adds what those in some places compute next.
    pub(super) fn add_items(&self, places: Range<usize>, items: &mut Vec<Item>) {
        let at = items.len();
        items.extend_from_slice(&self.items[places.clone()]);
        for (item, clock) in items[at..].iter_mut().zip(&self.clocks[places]) {
            item.start = clock.start;
        }
    }

    /// The first place from `from` on that needs a closer look before its next token but `ahead`; the end if none does.
    pub(super) fn due(&self, from: usize, ahead: u32) -> usize {
        let rest = &self.clocks[from..];
        from + rest.iter().position(|clock| clock.start + ahead >= clock.until).unwrap_or(rest.len())
    }

    /// Whose sequence is in a place.
    pub(super) fn tenant(&self, place: usize) -> TenantId {
        self.tenants[place]
    }

    /// How many tokens the sequence in a place has not taken yet.
    pub(super) fn fresh(&self, place: usize) -> u32 {
        self.clocks[place].fresh()
    }

    /// The tokens that a sequence has not taken yet; none if another is in the place.
    pub(super) fn tail(&self, place: usize, slot: u32) -> &[Token] {
        let Some(clock) = self.clocks.get(place).filter(|clock| clock.slot == slot) else { return &[] };
        let end = clock.start as usize % TAIL + 1;
        &self.tails[place].0[end - clock.fresh() as usize..end]
    }

    /// One token more; before one whose position is a multiple of [`TAIL`], the sequence takes those that are there.
    pub(super) fn put(&mut self, place: usize, token: Token) {
        let clock = &mut self.clocks[place];
        clock.start += 1;
        self.tails[place].put(clock.start, token);
    }

    /// Lets two change places.
    pub(super) fn swap(&mut self, one: usize, other: usize) {
        self.clocks.swap(one, other);
        self.tails.swap(one, other);
        self.items.swap(one, other);
        self.tenants.swap(one, other);
    }

    fn push(&mut self, item: Item, tenant: TenantId) {
        self.clocks.push(Clock { slot: item.slot, start: item.start, until: 0, settled: item.start });
        self.tails.push(Tail([0; TAIL]));
        self.items.push(item);
        self.tenants.push(tenant);
    }

    /// Takes out the one in a place; the last one takes it.
    fn remove(&mut self, place: usize) {
        self.clocks.swap_remove(place);
        self.tails.swap_remove(place);
        self.items.swap_remove(place);
        self.tenants.swap_remove(place);
    }
}

impl BatchScheduler {
    /// Takes in the results of sequences from place `first` on, as far as they are one token each and nothing else is to be
    /// done. Gives how many they are.
    pub(super) fn take_plain(&mut self, first: usize, slots: &[u32], outputs: &[Output], tokens: &[Token]) -> usize {
        let mut taken = 0;
        let (clocks, tails) = match (self.running.clocks.get_mut(first..), self.running.tails.get_mut(first..)) {
            (Some(clocks), Some(tails)) => (clocks, tails),
            _ => return 0,
        };
        let results = slots.iter().zip(outputs).zip(tokens);
        for ((clock, tail), ((slot, output), &token)) in clocks.iter_mut().zip(tails).zip(results) {
            if clock.slot != *slot || clock.start + 1 >= clock.until || output.finished {
                break;
            }
            clock.start += 1;
            tail.put(clock.start, token);
            taken += 1;
        }
        if self.wants_service {
            for tenant in &self.running.tenants[first..first + taken] {
                serve(&mut self.served, &mut self.served_tenants, *tenant, 1);
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
        self.running.push(item, tenant);
        self.resume(slot);
    }

    /// Takes a sequence out of those that decode.
    pub(super) fn stop_decoding(&mut self, slot: u32) {
        self.settle(slot);
        let sequence = &self.sequences[slot as usize];
        let place = sequence.place as usize;
        self.speculators -= usize::from(sequence.speculation > 0);
        assert!(self.running.slot(place) == Some(slot), "a sequence that decodes knows its place");
        self.running.remove(place);
        self.settle_in(place);
    }

    /// Tells whoever decodes in `place` that it does, if anyone.
    pub(super) fn settle_in(&mut self, place: usize) {
        if let Some(slot) = self.running.slot(place) {
            self.sequences[slot as usize].place = place as u32;
        }
    }

    /// The tokens that a sequence has not taken yet.
    pub(super) fn tail(&self, slot: u32) -> &[Token] {
        self.running.tail(self.sequences[slot as usize].place as usize, slot)
    }

    /// Lets a sequence that decodes take its fresh tokens: before anyone looks at what it has.
    pub(super) fn settle(&mut self, slot: u32) {
        let sequence = &mut self.sequences[slot as usize];
        sequence.tokens.extend_from_slice(self.running.tail(sequence.place as usize, slot));
        let clock = &mut self.running.clocks[sequence.place as usize];
        sequence.computed += clock.fresh();
        sequence.produced += clock.fresh();
        clock.settled = clock.start;
    }

    /// Has every step look closer at a sequence that decodes, until it is resumed.
    pub(super) fn watch(&mut self, slot: u32) {
        self.running.clocks[self.sequences[slot as usize].place as usize].until = 0;
    }

    /// Lets a sequence that decodes go on from what it has now.
    pub(super) fn resume(&mut self, slot: u32) {
        let until = self.until(slot);
        let sequence = &self.sequences[slot as usize];
        let clock = &mut self.running.clocks[sequence.place as usize];
        (clock.start, clock.settled, clock.until) = (sequence.computed + clock.fresh(), sequence.computed, until);
    }

    /// Where a sequence that decodes needs a closer look.
    fn until(&self, slot: u32) -> u32 {
        let sequence = &self.sequences[slot as usize];
        if sequence.speculation > 0 || sequence.shared_tail || sequence.doomed.is_some() {
            return 0;
        }
        let size = self.models[usize::from(sequence.model)].kv.block_size();
        let room = sequence.table.len() * size;
        let start = self.running.fresh(sequence.place as usize) + sequence.computed;
        let tail = (start as usize / TAIL + 1) * TAIL;
        let last = sequence.prompt + sequence.max_new - 1;
        u32::try_from(room.min(tail)).map_or(last, |until| until.min(last))
    }

    /// Those that decode know who they are, and look closer no later than they need to.
    pub(super) fn audit_running(&self) {
        for (place, clock) in self.running.clocks.iter().enumerate() {
            let sequence = &self.sequences[clock.slot as usize];
            let item = self.running.item(place);
            assert_eq!(sequence.place as usize, place, "{}: its place", sequence.id);
            assert_eq!((item.sequence, item.slot), (sequence.id, clock.slot), "whose tokens these are");
            assert_eq!(self.running.tenants[place], sequence.candidate.tenant, "{}: its tenant", sequence.id);
            assert_eq!(clock.start, sequence.computed + clock.fresh(), "{}: where it goes on", sequence.id);
            assert!(clock.until <= self.until(clock.slot), "{}: nobody looks at it in time", sequence.id);
            assert!(clock.fresh() == 0 || sequence.speculation == 0, "{}: tokens beside guesses", sequence.id);
        }
        let speculates = |slot: &u32| self.sequences[*slot as usize].speculation > 0;
        assert_eq!(self.speculators, self.running.slots().filter(speculates).count(), "those that can speculate");
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
