//! The slot of each sequence. It knows nothing of the slots' contents.

use crate::hash::NumberMap;
use crate::{RequestId, SequenceId};

/// Slots by request and index.
#[derive(Clone, Debug, Default)]
pub(super) struct IdMap {
    /// Each request's sequences as (index, slot), in the order of their indices.
    requests: NumberMap<RequestId, Vec<(u32, u32)>>,
    len: usize,
}

impl IdMap {
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
        self.requests.get(&id.request)?.iter().find(|(index, _)| *index == id.index).map(|(_, slot)| *slot)
    }

    /// Whether a request has sequences.
    pub(super) fn has(&self, request: RequestId) -> bool {
        self.requests.contains_key(&request)
    }

    /// The slots of a request's sequences, in the order of their indices.
    pub(super) fn slots(&self, request: RequestId) -> Vec<u32> {
        self.requests.get(&request).into_iter().flatten().map(|(_, slot)| *slot).collect()
    }

    /// Adds a sequence that is not in the map.
    pub(super) fn insert(&mut self, id: SequenceId, slot: u32) {
        let sequences = self.requests.entry(id.request).or_default();
        let place = sequences.binary_search_by_key(&id.index, |(index, _)| *index);
        let Err(place) = place else { panic!("{id} is in the map already") };
        sequences.insert(place, (id.index, slot));
        self.len += 1;
    }

    /// Removes a sequence.
    pub(super) fn remove(&mut self, id: SequenceId) {
        let sequences = self.requests.get_mut(&id.request);
        let sequences = sequences.unwrap_or_else(|| panic!("{id} is not in the map"));
        let place = sequences.binary_search_by_key(&id.index, |(index, _)| *index);
        sequences.remove(place.unwrap_or_else(|_| panic!("{id} is not in the map")));
        if sequences.is_empty() {
            self.requests.remove(&id.request);
        }
        self.len -= 1;
    }

    /// All sequences in order.
    #[cfg(test)]
    pub(super) fn sorted(&self) -> Vec<(SequenceId, u32)> {
        let id = |request: &RequestId, index: u32| SequenceId { request: *request, index };
        let sequences = self.requests.iter();
        let all =
            sequences.flat_map(|(request, all)| all.iter().map(move |(index, slot)| (id(request, *index), *slot)));
        let mut all: Vec<(SequenceId, u32)> = all.collect();
        all.sort_unstable();
        all
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::Random;

    /// It agrees with an ordered map, whatever is put in and taken out.
    #[test]
    fn slots_are_those_of_an_ordered_map() {
        for seed in 0..20 {
            let mut random = Random::new(seed);
            let (mut ids, mut map) = (IdMap::default(), BTreeMap::new());
            let spread = [1, 4, 1 << 20, 1 << 40][seed as usize % 4];
            for slot in 0..2000 {
                let request = RequestId(random.below(60) * spread);
                let id = SequenceId { request, index: random.below(3) as u32 };
                let full = random.chance(if slot < 1000 { 0.7 } else { 0.3 });
                assert_eq!(ids.slot(id), map.get(&id).copied());
                if full && !map.contains_key(&id) {
                    ids.insert(id, slot);
                    map.insert(id, slot);
                } else if map.remove(&id).is_some() {
                    ids.remove(id);
                }
                let of: Vec<u32> =
                    (0..3).filter_map(|index| map.get(&SequenceId { request, index }).copied()).collect();
                assert_eq!((ids.has(request), ids.slots(request)), (!of.is_empty(), of));
                assert_eq!((ids.len(), ids.is_empty()), (map.len(), map.is_empty()));
                assert_eq!(ids.slot(id), map.get(&id).copied());
            }
            assert_eq!(ids.sorted(), map.into_iter().collect::<Vec<_>>());
        }
    }

    #[test]
    #[should_panic(expected = "in the map already")]
    fn no_sequence_has_two_slots() {
        let mut ids = IdMap::default();
        ids.insert(SequenceId::default(), 0);
        ids.insert(SequenceId::default(), 1);
    }
}
