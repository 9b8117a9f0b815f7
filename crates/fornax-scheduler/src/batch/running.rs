//! The decoding sequences, in the order in which a step gives them their tokens, and the deferred sequences.

use super::BatchScheduler;
use super::sequence::{Sequence, State};
use crate::TenantId;

/// The slots of the decoding or of the deferred sequences. Each sequence knows its place in this list.
#[derive(Clone, Debug, Default)]
pub(super) struct Running {
    slots: Vec<u32>,
}

impl Running {
    /// How many sequences there are.
    pub(super) fn len(&self) -> usize {
        self.slots.len()
    }

    /// Whether there is none.
    pub(super) fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// Their slots by place.
    pub(super) fn slots(&self) -> impl Iterator<Item = u32> {
        self.slots.iter().copied()
    }

    /// The slot of the sequence in a place.
    pub(super) fn slot(&self, place: usize) -> Option<u32> {
        self.slots.get(place).copied()
    }

    /// Lets two sequences change places.
    pub(super) fn swap(&mut self, one: usize, other: usize, sequences: &mut [Sequence]) {
        self.slots.swap(one, other);
        self.tell_place(one, sequences);
        self.tell_place(other, sequences);
    }

    /// Adds a sequence at the end.
    fn push(&mut self, slot: u32, sequences: &mut [Sequence]) {
        self.slots.push(slot);
        self.tell_place(self.len() - 1, sequences);
    }

    /// Removes a sequence; the last one takes its place.
    fn remove(&mut self, slot: u32, sequences: &mut [Sequence]) {
        let place = sequences[slot as usize].place as usize;
        assert!(self.slot(place) == Some(slot), "a decoding or deferred sequence knows its place");
        self.slots.swap_remove(place);
        self.tell_place(place, sequences);
    }

    /// Tells the sequence at `place` its place, if there is one.
    fn tell_place(&self, place: usize, sequences: &mut [Sequence]) {
        if let Some(slot) = self.slot(place) {
            sequences[slot as usize].place = place as u32;
        }
    }
}

impl BatchScheduler {
    /// Counts output tokens of a tenant, for policies that want to know.
    pub(super) fn serve(&mut self, tenant: TenantId, tokens: u32) {
        let at = tenant.0 as usize;
        if at >= self.served.len() {
            self.served.resize(at + 1, 0.0);
        }
        if self.served[at] == 0.0 {
            self.served_tenants.push(tenant);
        }
        self.served[at] += f64::from(tokens);
    }

    /// Puts a sequence at the end of the decoding sequences.
    pub(super) fn start_decoding(&mut self, slot: u32) {
        self.sequences[slot as usize].state = State::Decoding;
        self.running.push(slot, &mut self.sequences);
    }

    /// Takes a sequence out of the decoding sequences; the last of them takes its place.
    pub(super) fn stop_decoding(&mut self, slot: u32) {
        self.running.remove(slot, &mut self.sequences);
    }

    /// Puts a sequence at the end of the deferred sequences.
    pub(super) fn start_deferring(&mut self, slot: u32) {
        self.sequences[slot as usize].state = State::Deferred;
        self.deferred.push(slot, &mut self.sequences);
    }

    /// Takes a sequence out of the deferred sequences; the last of them takes its place.
    pub(super) fn stop_deferring(&mut self, slot: u32) {
        self.deferred.remove(slot, &mut self.sequences);
    }

    /// The decoding and the deferred sequences know their places.
    pub(super) fn audit_running(&self) {
        for places in [&self.running, &self.deferred] {
            for (place, slot) in places.slots().enumerate() {
                let sequence = &self.sequences[slot as usize];
                assert_eq!(sequence.place as usize, place, "{}: its place", sequence.id);
            }
        }
    }
}
