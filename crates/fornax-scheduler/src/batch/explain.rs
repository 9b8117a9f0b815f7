//! Why a sequence waits.

use super::BatchScheduler;
use super::sequence::State;
use crate::{SequenceId, Wait};

impl BatchScheduler {
    /// Records why a sequence waits, for the plan and for [`why`](Self::why).
    pub(super) fn note_wait(&mut self, slot: u32, wait: Wait) {
        let sequence = &self.sequences[slot as usize];
        self.waits.push((sequence.serial, sequence.id, wait));
    }

    /// Why a sequence waits; none if it does not wait, or if there is no such sequence.
    pub fn why(&self, id: SequenceId) -> Option<Wait> {
        let slot = self.ids.slot(id)?;
        let state = self.sequences[slot as usize].state;
        match state {
            State::NotReady => return Some(Wait::NotReady),
            State::Deferred => return Some(Wait::Deferred),
            State::Waiting | State::Held => {}
            State::Planned | State::Decoding | State::Vacant => return None,
        }
        let serial = self.sequences[slot as usize].serial;
        if let Some((.., wait)) = self.waits.iter().find(|(other, ..)| *other == serial) {
            return Some(wait.clone());
        }
        if state == State::Held && self.sequences[slot as usize].flights > 0 {
            return None;
        }
        if state == State::Held {
            let needed = self.sequences[slot as usize].remaining();
            return Some(if self.draining { Wait::Draining } else { Wait::Tokens { needed, left: 0 } });
        }
        let first = self.front?;
        if first == slot {
            return Some(if self.draining { Wait::Draining } else { Wait::NextStep });
        }
        let tenant = self.sequences[slot as usize].candidate.tenant;
        let front = &self.sequences[first as usize];
        if self.policy.by_tenant() && front.candidate.tenant != tenant {
            let other = front.candidate.tenant;
            let (used, least) = (self.policy.tenant_rank(tenant), self.policy.tenant_rank(other));
            if used > least {
                return Some(Wait::Share { tenant, used, first: other, least });
            }
        }
        Some(Wait::Behind { first: front.id.request.0, policy: self.policy.name() })
    }
}
