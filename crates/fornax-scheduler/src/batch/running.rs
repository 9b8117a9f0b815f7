//! The decoding sequences, in the order in which a step gives them their tokens, and the deferred sequences.

use super::BatchScheduler;
use super::sequence::State;
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
    pub(super) fn swap(&mut self, one: usize, other: usize) {
        self.slots.swap(one, other);
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
        let sequence = &mut self.sequences[slot as usize];
        sequence.state = State::Decoding;
        sequence.place = self.running.len() as u32;
        self.running.slots.push(slot);
    }

    /// Takes a sequence out of the decoding sequences; the last of them takes its place.
    pub(super) fn stop_decoding(&mut self, slot: u32) {
        let place = self.sequences[slot as usize].place as usize;
        assert!(self.running.slot(place) == Some(slot), "a decoding sequence knows its place");
        self.running.slots.swap_remove(place);
        self.update_place(place);
    }

    /// Puts a sequence at the end of the deferred sequences.
    pub(super) fn start_deferring(&mut self, slot: u32) {
        let sequence = &mut self.sequences[slot as usize];
        sequence.state = State::Deferred;
        sequence.place = self.deferred.len() as u32;
        self.deferred.slots.push(slot);
    }

    /// Takes a sequence out of the deferred sequences; the last of them takes its place.
    pub(super) fn stop_deferring(&mut self, slot: u32) {
        let place = self.sequences[slot as usize].place as usize;
        assert!(self.deferred.slot(place) == Some(slot), "a deferred sequence knows its place");
        self.deferred.slots.swap_remove(place);
        if let Some(moved) = self.deferred.slot(place) {
            self.sequences[moved as usize].place = place as u32;
        }
    }

    /// Stores its place in the decoding sequence at `place`, if there is one.
    pub(super) fn update_place(&mut self, place: usize) {
        if let Some(slot) = self.running.slot(place) {
            self.sequences[slot as usize].place = place as u32;
        }
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
