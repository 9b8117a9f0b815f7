//! Which slot a sequence has: a hash table with linear probing that is at most half full.
//!
//! Where a search begins is a matter of the request alone, so that the sequences of one lie in one run of entries, and
//! requests that are numbered one after another lie four to a line of the processor's cache. It knows nothing of what is
//! in the slots, and its order means nothing.

use crate::probing::vacate;
use crate::random::mix;
use crate::{RequestId, SequenceId};

/// In place of a slot: the entry is vacant.
const NOWHERE: u32 = u32::MAX;

/// Slots by sequence.
#[derive(Clone, Debug, Default)]
pub(super) struct Names {
    entries: Vec<Entry>,
    len: usize,
}

/// A sequence and its slot, or [`NOWHERE`].
#[derive(Clone, Copy, Debug)]
struct Entry {
    request: u64,
    index: u32,
    slot: u32,
}

const VACANT: Entry = Entry { request: 0, index: 0, slot: NOWHERE };

impl Names {
    /// How many sequences there are.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Whether there is none.
    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The slot of a sequence.
    pub(super) fn slot(&self, id: SequenceId) -> Option<u32> {
        self.of(id.request).find(|entry| entry.index == id.index).map(|entry| entry.slot)
    }

    /// Whether a request has sequences.
    pub(super) fn has(&self, request: RequestId) -> bool {
        self.of(request).next().is_some()
    }

    /// The slots of a request's sequences, in the order of their indices.
    pub(super) fn slots(&self, request: RequestId) -> Vec<u32> {
        let mut found: Vec<(u32, u32)> = self.of(request).map(|entry| (entry.index, entry.slot)).collect();
        found.sort_unstable();
        found.into_iter().map(|(_, slot)| slot).collect()
    }

    /// Names a sequence that has no name yet.
    pub(super) fn insert(&mut self, id: SequenceId, slot: u32) {
        assert!(self.slot(id).is_none(), "{id} is named twice");
        self.len += 1;
        if self.len * 2 > self.entries.len() {
            let larger = vec![VACANT; (self.len * 4).next_power_of_two()];
            let before = std::mem::replace(&mut self.entries, larger);
            before.into_iter().filter(|entry| entry.slot != NOWHERE).for_each(|entry| self.put(entry));
        }
        self.put(Entry { request: id.request.0, index: id.index, slot });
    }

    /// Forgets a sequence.
    pub(super) fn remove(&mut self, id: SequenceId) {
        let last = self.entries.len() - 1;
        let mut hole = home(id.request.0, self.entries.len());
        loop {
            let entry = self.entries[hole];
            assert!(entry.slot != NOWHERE, "{id} has no name");
            if entry.request == id.request.0 && entry.index == id.index {
                break;
            }
            hole = (hole + 1) & last;
        }
        let home = |entry: &Entry| (entry.slot != NOWHERE).then(|| home(entry.request, last + 1));
        vacate(&mut self.entries, hole, VACANT, home);
        self.len -= 1;
    }

    /// All sequences in order.
    #[cfg(test)]
    pub(super) fn sorted(&self) -> Vec<(SequenceId, u32)> {
        let named = self.entries.iter().filter(|entry| entry.slot != NOWHERE);
        let id = |entry: &Entry| SequenceId { request: RequestId(entry.request), index: entry.index };
        let mut all: Vec<(SequenceId, u32)> = named.map(|entry| (id(entry), entry.slot)).collect();
        all.sort_unstable();
        all
    }

    /// The entries of a request, in no order that means anything.
    fn of(&self, request: RequestId) -> impl Iterator<Item = &Entry> {
        let last = self.entries.len().wrapping_sub(1);
        let mut place = home(request.0, self.entries.len());
        let run = std::iter::from_fn(move || {
            let entry = self.entries.get(place).filter(|entry| entry.slot != NOWHERE)?;
            place = (place + 1) & last;
            Some(entry)
        });
        run.filter(move |entry| entry.request == request.0)
    }

    /// Puts an entry into the first vacant place.
    fn put(&mut self, entry: Entry) {
        let last = self.entries.len() - 1;
        let mut place = home(entry.request, self.entries.len());
        while self.entries[place].slot != NOWHERE {
            place = (place + 1) & last;
        }
        self.entries[place] = entry;
    }
}

/// Where the search for a request begins, in a table of so many entries.
fn home(request: u64, entries: usize) -> usize {
    (mix(request >> 2) << 2 | request & 3) as usize & entries.wrapping_sub(1)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::Random;

    /// It agrees with an ordered map, whatever is put in and taken out.
    #[test]
    fn names_are_those_of_an_ordered_map() {
        for seed in 0..20 {
            let mut random = Random::new(seed);
            let (mut names, mut map) = (Names::default(), BTreeMap::new());
            let spread = [1, 4, 1 << 20, 1 << 40][seed as usize % 4];
            for slot in 0..2000 {
                let request = RequestId(random.below(60) * spread);
                let id = SequenceId { request, index: random.below(3) as u32 };
                let full = random.chance(if slot < 1000 { 0.7 } else { 0.3 });
                assert_eq!(names.slot(id), map.get(&id).copied());
                if full && !map.contains_key(&id) {
                    names.insert(id, slot);
                    map.insert(id, slot);
                } else if map.remove(&id).is_some() {
                    names.remove(id);
                }
                let of: Vec<u32> =
                    (0..3).filter_map(|index| map.get(&SequenceId { request, index }).copied()).collect();
                assert_eq!((names.has(request), names.slots(request)), (!of.is_empty(), of));
                assert_eq!((names.len(), names.is_empty()), (map.len(), map.is_empty()));
                assert!(
                    2 * names.len() <= names.entries.len(),
                    "a search is short while half of the entries are vacant"
                );
                assert_eq!(names.slot(id), map.get(&id).copied());
            }
        }
    }

    #[test]
    #[should_panic(expected = "named twice")]
    fn no_sequence_is_named_twice() {
        let mut names = Names::default();
        names.insert(SequenceId::default(), 0);
        names.insert(SequenceId::default(), 1);
    }
}
