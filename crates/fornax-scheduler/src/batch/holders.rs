//! The order in which sequences that hold blocks are preempted: the last by the policy goes first.

use std::collections::BinaryHeap;

use super::BatchScheduler;
use super::sequence::State;
use crate::queue::{self, Key};

/// The sequences that hold blocks, gathered when a step first asks for the last of them. From then on a preemption
/// costs `O(log n)`.
#[derive(Clone, Debug, Default)]
pub(super) struct Holders {
    /// By model, the last sequence on top. Some sequences may no longer hold blocks.
    heaps: Vec<BinaryHeap<(Key, u32)>>,
    /// The policy's revision when they were gathered; none if they were not.
    revision: Option<u64>,
}

impl Holders {
    /// Forgets all sequences, as a step begins.
    pub(super) fn clear(&mut self) {
        self.revision = None;
    }
}

impl BatchScheduler {
    /// The last of the sequences that hold blocks of `model`, or of any model; none if it does not come after `key`.
    pub(super) fn last_holder(&mut self, model: Option<u16>, key: Option<Key>) -> Option<u32> {
        // With a policy that shares among tenants, each preemption changes the order: gather again.
        let revision = Some(self.policy.revision()).filter(|_| !self.policy.by_tenant());
        if revision.is_none() || self.holders.revision != revision {
            self.gather();
            self.holders.revision = revision;
        }
        let mut holders = std::mem::take(&mut self.holders.heaps);
        let models = model.map_or(0..holders.len(), |model| usize::from(model)..usize::from(model) + 1);
        for heap in &mut holders[models.clone()] {
            while heap.peek().is_some_and(|&(_, slot)| !self.holds(slot)) {
                heap.pop();
            }
        }
        let last = holders[models].iter().filter_map(BinaryHeap::peek).max().copied();
        self.holders.heaps = holders;
        last.filter(|(last, _)| key.is_none_or(|key| *last > key)).map(|(_, slot)| slot)
    }

    /// All sequences that hold blocks and come after `key`, the last first.
    pub(super) fn holders_behind(&mut self, key: Key) -> Vec<u32> {
        if self.last_holder(None, Some(key)).is_none() {
            return Vec::new();
        }
        let all = self.holders.heaps.iter().flatten().filter(|(other, slot)| *other > key && self.holds(*slot));
        let mut behind: Vec<(Key, u32)> = all.copied().collect();
        behind.sort_unstable_by(|one, other| other.cmp(one));
        behind.into_iter().map(|(_, slot)| slot).collect()
    }

    /// The place of a sequence in the order of preemption: its place by the policy.
    ///
    /// With a policy that shares among tenants, the blocks that a tenant holds count against it. A long prompt would
    /// grow until its tenant is last, be preempted, be first again since its tenant then holds nothing, and be computed
    /// again, for ever. So with such a policy, sequences that were preempted before stand in front of all others, by
    /// arrival.
    pub(super) fn holder_key(&self, slot: u32) -> Key {
        let sequence = &self.sequences[slot as usize];
        if self.policy.by_tenant() && sequence.preempted > 0 {
            return Key::before_ranks(sequence.candidate.number);
        }
        self.key(slot)
    }

    /// The place of a sequence by the policy.
    pub(super) fn key(&self, slot: u32) -> Key {
        queue::key(self.policy.as_ref(), &self.candidate(slot), self.now)
    }

    /// Whether a sequence that would be preempted is in flight. If so, nothing is preempted, and no plan is made until
    /// all results are in.
    pub(super) fn is_in_flight(&mut self, slot: u32) -> bool {
        self.draining |= self.sequences[slot as usize].flights > 0;
        self.draining
    }

    /// Whether a sequence can be preempted: it decodes, is deferred, or holds blocks and waits for its next chunk.
    fn holds(&self, slot: u32) -> bool {
        match self.sequences[slot as usize].state {
            State::Decoding | State::Deferred => true,
            State::Held => self.held.contains(slot),
            State::Planned | State::Waiting | State::NotReady | State::Vacant => false,
        }
    }

    fn gather(&mut self) {
        let mut gathered = vec![Vec::new(); self.models.len()];
        for slot in self.running.slots().chain(self.deferred.slots()).chain(self.held.slots()) {
            gathered[usize::from(self.sequences[slot as usize].model)].push((self.holder_key(slot), slot));
        }
        self.holders.heaps = gathered.into_iter().map(BinaryHeap::from).collect();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::{BatchConfig, BatchEvent, ModelConfig, Plan, Request};
    use crate::{ModelId, Random, TenantId, Time, policy};

    /// The last holder, found by looking at every sequence.
    fn found(scheduler: &BatchScheduler, model: Option<u16>, key: Option<Key>) -> Option<u32> {
        let all = (0..scheduler.sequences.len() as u32).filter(|&slot| scheduler.holds(slot));
        let of_model = all.filter(|&slot| model.is_none_or(|model| scheduler.sequences[slot as usize].model == model));
        let keys = of_model.map(|slot| (scheduler.holder_key(slot), slot));
        keys.filter(|(other, _)| key.is_none_or(|key| *other > key)).max().map(|(_, slot)| slot)
    }

    /// With every policy, after any number of preemptions, the next victim is the last of the remaining holders.
    #[test]
    fn the_victim_is_the_last_of_all_holders() {
        for name in ["fcfs", "priority", "shortest", "aged-ratio", "vtc", "drf"] {
            let mut random = Random::new(5);
            let model = ModelConfig { blocks: 200, block_size: 4, ..ModelConfig::default() };
            let config = BatchConfig {
                models: vec![model.clone(), model],
                max_running: 40,
                max_tokens: 90,
                max_chunk: 4,
                ..BatchConfig::default()
            };
            let mut scheduler = BatchScheduler::new(config, policy(name).expect("a policy")).expect("sound");
            let mut plan = Plan::default();
            for step in 0..12 {
                let mut events: Vec<BatchEvent> = plan.id.into_iter().map(|id| plan_done(id, &plan)).collect();
                for number in 0..6 {
                    let prompt = (0..random.between(2, 60)).map(|_| random.below(9) as u32).collect();
                    let mut request = Request::new(10 * step + number, prompt, 30);
                    request.model = ModelId(random.below(2) as u16);
                    request.priority = random.below(3) as i32;
                    request.tenant = TenantId(random.below(3) as u32);
                    events.push(BatchEvent::Submit(request));
                }
                plan = scheduler.step(events, Time::from_secs_f64(step as f64));
            }
            // The results are in, so that all sequences that hold blocks decode or wait.
            let done = plan_done(plan.id.expect("there is work"), &plan);
            let mut plan = Plan::default();
            scheduler.apply(done, &mut plan).expect("they are those of the plan");
            let (held, decoding) = (scheduler.held.slots().count(), scheduler.running.len());
            assert!(held > 2 && decoding > 5, "{name}: {held} held, {decoding} decode");
            scheduler.holders.clear();
            let mut budget = 0;
            let middle = scheduler.running.slots().nth(2).map(|slot| scheduler.key(slot));
            let mut left = scheduler.running();
            while let Some(last) = scheduler.last_holder(None, None) {
                for (model, key) in [(None, None), (Some(0), None), (Some(1), None), (None, middle), (Some(1), middle)]
                {
                    assert_eq!(scheduler.last_holder(model, key), found(&scheduler, model, key), "{name}: {left} left");
                }
                scheduler.preempt(last, &mut plan, &mut budget);
                left -= 1;
            }
            assert_eq!(left, 0, "{name}");
        }
    }

    fn plan_done(id: crate::PlanId, plan: &Plan) -> BatchEvent {
        let (outputs, tokens) = plan.plain_outputs(3);
        BatchEvent::Done { plan: id, outputs, tokens }
    }
}
