//! Virtual token counter: fair service among tenants (Sheng et al., OSDI 2024, <https://arxiv.org/abs/2401.00588>).
//!
//! Each tenant has a counter of the service it got, divided by its weight: `input` for each prompt token when a request
//! is admitted, and `output` for each output token. The tenant with the lowest counter goes first. The counter of a
//! tenant that comes after a pause is lifted to the lowest counter of the waiting tenants, so that idling saves nothing
//! up.
//!
//! While two tenants both have work waiting, the services they get differ by at most `2 · max(input · L, output · M)` per
//! weight, with L the tokens of the longest prompt and M the tokens that fit in KV memory. That presumes that the first
//! request is never passed over for lack of room, so a scheduler with this policy should not look ahead.

use super::{Bound, Candidate, Observation, Policy, PolicyEntry};
use crate::{TenantId, Time};

/// The list's line.
pub const ENTRY: PolicyEntry = PolicyEntry {
    name: "vtc",
    summary: "the tenant with the least service first (virtual token counters)",
    options: &[("input", 1.0), ("output", 2.0)],
    make: |options| {
        Ok(Box::new(VirtualTokenCounter::new(options.not_negative("input")?, options.not_negative("output")?)))
    },
};

/// The tenant that got the least service first, and within a tenant first come, first served.
#[derive(Clone, Debug)]
pub struct VirtualTokenCounter {
    input: f64,
    output: f64,
    tenants: Vec<Account>,
    /// Whose work last stopped waiting: the measure for one who comes when nobody waits.
    last: Option<TenantId>,
}

/// What a tenant has used.
#[derive(Clone, Copy, Debug)]
struct Account {
    counter: f64,
    weight: f64,
    waiting: u32,
}

impl VirtualTokenCounter {
    /// Counters at zero: `input` is what a token of a prompt counts, `output` what one put out counts.
    pub fn new(input: f64, output: f64) -> Self {
        Self { input, output, tenants: Vec::new(), last: None }
    }

    fn account(&mut self, tenant: TenantId) -> &mut Account {
        let at = tenant.0 as usize;
        if at >= self.tenants.len() {
            self.tenants.resize(at + 1, Account { counter: 0.0, weight: 1.0, waiting: 0 });
        }
        &mut self.tenants[at]
    }

    fn charge(&mut self, tenant: TenantId, service: f64) {
        let account = self.account(tenant);
        account.counter += service / account.weight;
    }
}

impl Policy for VirtualTokenCounter {
    fn name(&self) -> &'static str {
        ENTRY.name
    }

    fn rank(&self, task: &Candidate, _: Time) -> f64 {
        task.arrival.as_secs_f64()
    }

    fn bound(&self) -> Bound {
        Bound::TenantShare
    }

    fn by_tenant(&self) -> bool {
        true
    }

    fn tenant_rank(&self, tenant: TenantId) -> f64 {
        self.tenants.get(tenant.0 as usize).map_or(0.0, |account| account.counter)
    }

    fn observe(&mut self, observation: &Observation) {
        match *observation {
            Observation::Tenant { tenant, weight } => self.account(tenant).weight = weight,
            Observation::Queued { task, front } => {
                if self.account(task.tenant).waiting == 0
                    && let Some(measure) = front.or(self.last)
                {
                    let least = self.tenant_rank(measure);
                    let account = self.account(task.tenant);
                    account.counter = account.counter.max(least);
                }
                self.account(task.tenant).waiting += 1;
            }
            Observation::Unqueued { task } => {
                let account = self.account(task.tenant);
                account.waiting = account.waiting.saturating_sub(1);
                self.last = Some(task.tenant);
            }
            Observation::Admitted { task, input } => self.charge(task.tenant, self.input * input),
            Observation::Served { tenant, output } => self.charge(tenant, self.output * output),
            _ => {}
        }
    }

    fn wants_service(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn task(tenant: u32) -> Candidate {
        Candidate {
            number: 0,
            tenant: TenantId(tenant),
            arrival: Time::ZERO,
            priority: 0,
            demand: 1.0,
            cost: 1.0,
            deadline: Time::NEVER,
        }
    }

    #[test]
    fn service_counts_by_weight() {
        let mut vtc = VirtualTokenCounter::new(1.0, 2.0);
        vtc.observe(&Observation::Tenant { tenant: TenantId(1), weight: 4.0 });
        for tenant in 0..2 {
            vtc.observe(&Observation::Admitted { task: task(tenant), input: 10.0 });
            vtc.observe(&Observation::Served { tenant: TenantId(tenant), output: 3.0 });
        }
        assert_eq!(vtc.tenant_rank(TenantId(0)), 16.0);
        assert_eq!(vtc.tenant_rank(TenantId(1)), 4.0);
        assert_eq!(vtc.tenant_rank(TenantId(7)), 0.0);
    }

    #[test]
    fn one_who_paused_is_lifted_to_those_who_wait() {
        let mut vtc = VirtualTokenCounter::new(1.0, 1.0);
        vtc.observe(&Observation::Queued { task: task(0), front: None });
        vtc.observe(&Observation::Admitted { task: task(0), input: 50.0 });
        vtc.observe(&Observation::Queued { task: task(1), front: Some(TenantId(0)) });
        assert_eq!(vtc.tenant_rank(TenantId(1)), 50.0);
        // A second of the same tenant lifts nothing.
        vtc.observe(&Observation::Served { tenant: TenantId(0), output: 5.0 });
        vtc.observe(&Observation::Queued { task: task(1), front: Some(TenantId(0)) });
        assert_eq!(vtc.tenant_rank(TenantId(1)), 50.0);
    }

    #[test]
    fn where_nobody_waits_the_last_to_leave_is_the_measure() {
        let mut vtc = VirtualTokenCounter::new(1.0, 1.0);
        vtc.observe(&Observation::Queued { task: task(0), front: None });
        vtc.observe(&Observation::Unqueued { task: task(0) });
        vtc.observe(&Observation::Admitted { task: task(0), input: 30.0 });
        vtc.observe(&Observation::Queued { task: task(1), front: None });
        assert_eq!(vtc.tenant_rank(TenantId(1)), 30.0);
        // A tenant with a higher counter keeps it.
        vtc.observe(&Observation::Served { tenant: TenantId(2), output: 90.0 });
        vtc.observe(&Observation::Queued { task: task(2), front: Some(TenantId(1)) });
        assert_eq!(vtc.tenant_rank(TenantId(2)), 90.0);
    }

    #[test]
    fn one_is_lifted_again_once_all_its_work_has_left() {
        let mut vtc = VirtualTokenCounter::new(1.0, 1.0);
        vtc.observe(&Observation::Admitted { task: task(0), input: 50.0 });
        for _ in 0..2 {
            vtc.observe(&Observation::Queued { task: task(1), front: None });
        }
        vtc.observe(&Observation::Unqueued { task: task(1) });
        vtc.observe(&Observation::Queued { task: task(1), front: Some(TenantId(0)) });
        assert_eq!(vtc.tenant_rank(TenantId(1)), 0.0, "one of two still waited");
        for _ in 0..2 {
            vtc.observe(&Observation::Unqueued { task: task(1) });
        }
        vtc.observe(&Observation::Queued { task: task(1), front: Some(TenantId(0)) });
        assert_eq!(vtc.tenant_rank(TenantId(1)), 50.0);
        // Work that leaves without having come is no debt.
        vtc.observe(&Observation::Unqueued { task: task(3) });
        vtc.observe(&Observation::Queued { task: task(3), front: Some(TenantId(0)) });
        assert_eq!(vtc.tenant_rank(TenantId(3)), 50.0);
    }
}
