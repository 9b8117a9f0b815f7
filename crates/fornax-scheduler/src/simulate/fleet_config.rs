//! The configuration of a fleet: its replicas, their policy, the routing, and which settings are valid.

use super::{Class, CostModel};
use crate::kv::KvMemory;
use crate::{BatchConfig, SchedulerError, TenantId, policy, routing};

/// The configuration of a [`Fleet`](super::Fleet).
#[derive(Clone, Debug)]
pub struct FleetConfig {
    /// Its name in reports.
    pub name: String,
    /// How many replicas it has, all alike.
    pub replicas: usize,
    /// The strategy of the router, by name.
    pub routing: String,
    /// The policy of each replica, by name and options.
    pub policy: String,
    /// The scheduler of each replica. Its estimates of time are set from `cost`. A replica carries out one plan at a time,
    /// whatever [`plans_in_flight`](BatchConfig::plans_in_flight) says.
    pub batch: BatchConfig,
    /// How long steps take.
    pub cost: CostModel,
    /// Weights of tenants; all others have 1.
    pub weights: Vec<(TenantId, f64)>,
    /// The names of tenants in reports, for tenants that have names.
    pub tenants: Vec<(u32, String)>,
    /// How wrong predictions of output lengths are: the standard deviation of their logarithm. With 0 predictions are
    /// perfect; with none, a request is predicted the mean output length of the ended requests of its class. No
    /// prediction is above a request's limit. Nothing else that a scheduler or a router is told depends on the true
    /// length of an output.
    pub prediction: Option<f64>,
    /// Seconds between a replica's reports to the router.
    pub report_interval: f64,
    /// The seed of randomness in predictions, speculation and routing.
    pub seed: u64,
    /// Whether it is the oracle that other variants are compared with.
    pub oracle: bool,
}

impl Default for FleetConfig {
    fn default() -> Self {
        Self {
            name: "fcfs".into(),
            replicas: 1,
            routing: "least-loaded".into(),
            policy: "fcfs".into(),
            batch: BatchConfig::default(),
            cost: CostModel::Roofline(super::Roofline::GPU_8B),
            weights: Vec::new(),
            tenants: Vec::new(),
            prediction: Some(0.5),
            report_interval: 0.1,
            seed: 1,
            oracle: false,
        }
    }
}

/// The most blocks that all replicas have together, so that a simulation fits into memory.
const MOST_BLOCKS: usize = 100_000_000;
/// The most pairs of a replica and a tenant, for the same reason.
pub(super) const MOST_TENANTS: usize = 10_000_000;

impl FleetConfig {
    /// Checks that the settings are valid for requests of `classes`, and that the numbers of these are in their ranges.
    ///
    /// # Errors
    /// [`SchedulerError::InvalidConfig`] naming the field, and the errors of the policy, the routing, the scheduler,
    /// the memory and the cost model.
    pub fn check(&self, classes: &[Class]) -> Result<(), SchedulerError> {
        let policy = policy(&self.policy)?;
        routing(&self.routing, self.seed)?;
        self.cost.check()?;
        self.batch.check_with(policy.as_ref())?;
        if !(1..=100_000).contains(&self.replicas) {
            return Err(SchedulerError::config("replicas", self.replicas, "give 1 to 100000"));
        }
        if !(0.0..=1e9).contains(&self.report_interval) {
            return Err(SchedulerError::config("report_interval", self.report_interval, "give seconds, from 0 to 1e9"));
        }
        if let Some(sigma) = self.prediction.filter(|sigma| !(0.0..=10.0).contains(sigma)) {
            return Err(SchedulerError::config(
                "prediction",
                sigma,
                "give the standard deviation of a logarithm, from 0 to 10",
            ));
        }
        let mut blocks = 0usize;
        for model in &self.batch.models {
            // A memory of one block is made for its check of the block size.
            KvMemory::new(1, model.block_size, 0)?;
            blocks = blocks.saturating_add(model.blocks).saturating_add(model.host_blocks);
        }
        if blocks.saturating_mul(self.replicas) > MOST_BLOCKS {
            let found = blocks.saturating_mul(self.replicas);
            return Err(SchedulerError::config("blocks", found, "give all replicas together at most 100 million"));
        }
        classes.iter().try_for_each(Class::check)?;
        let tenants: usize = classes.iter().map(|class| class.tenants as usize).sum();
        if tenants.saturating_mul(self.replicas) > MOST_TENANTS {
            let found = tenants.saturating_mul(self.replicas);
            return Err(SchedulerError::config("class.tenants", found, "times the replicas, give at most 10 million"));
        }
        for (at, &(tenant, weight)) in self.weights.iter().enumerate() {
            let of = |class: &Class| (class.tenant..class.tenant.saturating_add(class.tenants)).contains(&tenant.0);
            if !classes.iter().any(of) && !self.tenants.iter().any(|(number, _)| *number == tenant.0) {
                return Err(SchedulerError::config(
                    "weights",
                    tenant.0,
                    "no class has this tenant; give weights to tenants of classes",
                ));
            }
            if self.weights[..at].iter().any(|(other, _)| *other == tenant) {
                return Err(SchedulerError::config("weights", tenant.0, "the tenant is weighed twice; do so once"));
            }
            if !(1e-9..=1e9).contains(&weight) {
                return Err(SchedulerError::config("weights", weight, "give a weight of 1e-9 to 1e9"));
            }
        }
        Ok(())
    }
}
