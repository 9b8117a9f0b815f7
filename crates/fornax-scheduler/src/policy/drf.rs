//! Dominant resource fairness: the game-theoretic share of several resources (Ghodsi et al., NSDI 2011,
//! <https://www.usenix.org/legacy/event/nsdi11/tech/full_papers/Ghodsi.pdf>).
//!
//! A tenant's *dominant share* is the largest part of any resource that it holds, divided by its weight. The tenant
//! with the smallest goes first. For tasks that can be divided this has four properties, which the tests check on small
//! worlds: no tenant would be better off with an equal part of the machine (sharing incentive), no tenant gains by
//! asking for more than it needs (strategy-proofness), no tenant prefers another's part (envy-freeness), and no tenant
//! can have more without another having less (Pareto efficiency). With whole tasks the properties hold up to one task.

use super::{Bound, Candidate, Observation, Policy, PolicyEntry};
use crate::{TenantId, Time};

/// The list's line.
pub const ENTRY: PolicyEntry = PolicyEntry {
    name: "drf",
    summary: "the tenant with the smallest dominant share first (dominant resource fairness)",
    options: &[],
    make: |_| Ok(Box::new(DominantShare::default())),
};

/// The tenant with the smallest dominant share first, and within a tenant first come, first served.
#[derive(Clone, Debug, Default)]
pub struct DominantShare {
    tenants: Vec<Holdings>,
}

/// What a tenant holds.
#[derive(Clone, Debug)]
struct Holdings {
    weight: f64,
    shares: Vec<f64>,
}

impl DominantShare {
    fn holdings(&mut self, tenant: TenantId) -> &mut Holdings {
        let at = tenant.0 as usize;
        if at >= self.tenants.len() {
            self.tenants.resize(at + 1, Holdings { weight: 1.0, shares: Vec::new() });
        }
        &mut self.tenants[at]
    }
}

impl Policy for DominantShare {
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
        let Some(holdings) = self.tenants.get(tenant.0 as usize) else { return 0.0 };
        let dominant = holdings.shares.iter().copied().fold(0.0, f64::max) / holdings.weight;
        // Shares go up and down in many small parts: what is left of their rounding decides no order.
        (dominant * 1e9).round() * 1e-9
    }

    fn observe(&mut self, observation: &Observation) {
        match *observation {
            Observation::Tenant { tenant, weight } => self.holdings(tenant).weight = weight,
            Observation::Held { tenant, resource, share } => {
                let shares = &mut self.holdings(tenant).shares;
                if resource >= shares.len() {
                    shares.resize(resource + 1, 0.0);
                }
                shares[resource] += share;
            }
            _ => {}
        }
    }

    fn wants_holdings(&self) -> bool {
        true
    }
}

/// The fair division of a machine among tenants whose tasks can be divided: how many tasks each gets to run.
///
/// `demands[tenant][resource]` is what one task needs, `weights` are the tenants' weights. Dominant shares rise
/// together until a resource is used up; from then on, only the shares of tenants that need none of it rise. A tenant
/// that needs nothing gets nothing.
///
/// ```
/// use fornax_scheduler::policy::drf::divide;
/// // The paper's example: 9 CPUs and 18 GB, tasks of ⟨1, 4⟩ and ⟨3, 1⟩.
/// let tasks = divide(&[9.0, 18.0], &[vec![1.0, 4.0], vec![3.0, 1.0]], &[1.0, 1.0]);
/// assert!((tasks[0] - 3.0).abs() < 1e-9 && (tasks[1] - 2.0).abs() < 1e-9);
/// ```
pub fn divide(capacity: &[f64], demands: &[Vec<f64>], weights: &[f64]) -> Vec<f64> {
    let dominant: Vec<f64> = demands
        .iter()
        .map(|demand| demand.iter().zip(capacity).map(|(need, all)| need / all).fold(0.0, f64::max))
        .collect();
    // How many tasks a tenant gets for each unit of its weighted dominant share.
    let rate: Vec<f64> =
        dominant.iter().zip(weights).map(|(&share, &weight)| if share > 0.0 { weight / share } else { 0.0 }).collect();
    let mut tasks = vec![0.0; demands.len()];
    let mut left = capacity.to_vec();
    let mut active: Vec<usize> = (0..demands.len()).filter(|&tenant| rate[tenant] > 0.0).collect();
    while !active.is_empty() {
        let used: Vec<f64> = (0..capacity.len())
            .map(|resource| active.iter().map(|&tenant| rate[tenant] * demands[tenant][resource]).sum())
            .collect();
        let rise = (0..capacity.len())
            .filter(|&resource| used[resource] > 0.0)
            .map(|resource| left[resource] / used[resource])
            .fold(f64::INFINITY, f64::min);
        for &tenant in &active {
            tasks[tenant] += rise * rate[tenant];
        }
        let spent: Vec<bool> = (0..capacity.len())
            .map(|resource| {
                left[resource] -= rise * used[resource];
                left[resource] <= 1e-9 * capacity[resource]
            })
            .collect();
        active
            .retain(|&tenant| !(0..capacity.len()).any(|resource| spent[resource] && demands[tenant][resource] > 0.0));
    }
    tasks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_share_counts_by_weight() {
        let mut drf = DominantShare::default();
        let mut hold = |tenant, resource, share| {
            drf.observe(&Observation::Held { tenant: TenantId(tenant), resource, share });
            drf.tenant_rank(TenantId(tenant))
        };
        assert_eq!(hold(2, 3, 0.25), 0.25);
        assert_eq!(hold(2, 0, 0.5), 0.5);
        assert_eq!(hold(2, 3, 0.5), 0.75);
        assert_eq!(hold(2, 3, -0.5), 0.5);
        drf.observe(&Observation::Tenant { tenant: TenantId(2), weight: 4.0 });
        assert_eq!(drf.tenant_rank(TenantId(2)), 0.125);
        assert_eq!([0, 1, 9].map(|tenant| drf.tenant_rank(TenantId(tenant))), [0.0; 3]);
    }

    #[test]
    fn the_units_of_resources_change_no_division() {
        for unit in [1e-12, 1.0, 1e12] {
            // Two share the first resource; when it is used up, the third goes on to the end of the second.
            let demands = [[1.0, 0.0], [2.0, 0.0], [0.0, 5.0]].map(|demand| demand.map(|need| need * unit).to_vec());
            let tasks = divide(&[12.0 * unit, 100.0 * unit], &demands, &[1.0; 3]);
            for (found, expected) in tasks.iter().zip([6.0, 3.0, 20.0]) {
                assert!((found - expected).abs() < 1e-9, "{found} for {expected} in units of {unit}");
            }
        }
    }

    #[test]
    fn what_is_left_of_rounding_decides_nothing() {
        let mut drf = DominantShare::default();
        for _ in 0..10 {
            drf.observe(&Observation::Held { tenant: TenantId(0), resource: 0, share: 0.1 });
        }
        drf.observe(&Observation::Held { tenant: TenantId(1), resource: 0, share: 1.0 });
        assert_eq!(drf.tenant_rank(TenantId(0)), drf.tenant_rank(TenantId(1)));
        drf.observe(&Observation::Held { tenant: TenantId(1), resource: 0, share: 1e-6 });
        assert!(drf.tenant_rank(TenantId(0)) < drf.tenant_rank(TenantId(1)));
    }
}
