//! The configuration of batching, and which settings contradict each other.

use crate::SchedulerError;
use crate::error::positive;
use crate::policy::Policy;

/// The memory and the adapters of a model.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelConfig {
    /// How many KV blocks the device has room for.
    pub blocks: usize,
    /// Tokens in a block.
    pub block_size: usize,
    /// How many KV blocks host memory has room for; 0 disables swapping.
    pub host_blocks: usize,
    /// How many adapters may be in use at once.
    pub adapters: usize,
}

impl Default for ModelConfig {
    fn default() -> Self {
        Self { blocks: 1024, block_size: 16, host_blocks: 0, adapters: 8 }
    }
}

/// When a request is admitted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Admission {
    /// When there is room for its prompt and for [`BatchConfig::watermark`] blocks more. Outputs may then outgrow the
    /// memory; the sequence that is last by the policy is preempted.
    #[default]
    Optimistic,
    /// When there is room for its prompt and the longest output that it may have. No sequence is preempted for lack of
    /// blocks, but fewer run at once.
    Reserved,
}

/// What happens to the blocks of a preempted sequence.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Preemption {
    /// They are given up, and their tokens are computed again later.
    #[default]
    Recompute,
    /// They move to host memory, and back later. Where host memory has no room, they are given up.
    Swap,
}

/// The configuration of a [`BatchScheduler`](super::BatchScheduler).
#[derive(Clone, Debug, PartialEq)]
pub struct BatchConfig {
    /// The models, numbered from zero.
    pub models: Vec<ModelConfig>,
    /// The number of running slots: the most sequences that hold blocks at once.
    pub max_running: usize,
    /// The most tokens in a step; at least `max_running`.
    pub max_tokens: usize,
    /// The most tokens of one prompt in a step, so that a long one leaves room for others.
    pub max_chunk: usize,
    /// Whether a prompt may be computed in several steps. If not, a step's first prompt is computed whole, even where
    /// that exceeds `max_tokens`, and further prompts only while they fit into the remaining tokens. So a long prompt
    /// need not wait for a step without other sequences.
    pub chunked: bool,
    /// When a request is admitted.
    pub admission: Admission,
    /// Optimistic admission leaves this many blocks free for outputs to grow.
    pub watermark: usize,
    /// What preemption does.
    pub preemption: Preemption,
    /// Whether a waiting request may preempt sequences that come after it by the policy, rather than wait for room.
    /// Meant for orders that do not change while a request runs: priorities, deadlines, remaining work. With a policy
    /// that shares among tenants it has no effect; with a policy that learns it is refused.
    pub preemptive: bool,
    /// Whether full blocks are kept and found by content.
    pub prefix_caching: bool,
    /// How often a request that does not fit may be overtaken by requests that do; 0 keeps strict order. A request that
    /// waits for an adapter may be overtaken any number of times by requests without an adapter: they do not delay it.
    pub lookahead: u32,
    /// Whether sequences past their deadlines are ended.
    pub drop_late: bool,
    /// The estimated seconds to compute a token of a prompt, for the policies' costs.
    pub seconds_per_prompt_token: f64,
    /// The estimated seconds to compute a token of an output.
    pub seconds_per_output_token: f64,
    /// How many plans may be in flight at once, 1 or 2. With 2 the next plan is made before the last results are in, so
    /// that the device need not wait for the scheduler. See [plans in flight](crate::BatchScheduler#plans-in-flight).
    pub plans_in_flight: usize,
    /// Whether plans report which blocks become findable by content, and which are evicted.
    pub kv_events: bool,
    /// The seed of the hashes of prefixes. A secret seed keeps clients from making hashes collide.
    pub hash_seed: u64,
}

impl Default for BatchConfig {
    fn default() -> Self {
        Self {
            models: vec![ModelConfig::default()],
            max_running: 64,
            max_tokens: 512,
            max_chunk: usize::MAX,
            chunked: true,
            admission: Admission::default(),
            watermark: 8,
            preemption: Preemption::default(),
            preemptive: false,
            prefix_caching: true,
            lookahead: 0,
            drop_late: true,
            seconds_per_prompt_token: 1e-4,
            seconds_per_output_token: 1e-2,
            plans_in_flight: 1,
            kv_events: false,
            hash_seed: 0,
        }
    }
}

impl BatchConfig {
    /// Checks that the settings are in range and do not contradict each other.
    ///
    /// # Errors
    /// [`SchedulerError::InvalidConfig`] naming the field, or [`SchedulerError::InvalidNumber`].
    pub fn check(&self) -> Result<(), SchedulerError> {
        let refuse = SchedulerError::config;
        if self.models.is_empty() || self.models.len() > usize::from(u16::MAX) {
            return Err(refuse("models", self.models.len(), "give 1 to 65535 models"));
        }
        if self.max_running == 0 {
            return Err(refuse("max_running", 0, "let at least one sequence run"));
        }
        if self.max_tokens < self.max_running || self.max_tokens > u32::MAX as usize / 2 {
            return Err(refuse(
                "max_tokens",
                self.max_tokens,
                "give at least max_running, so that every decoding sequence gets its token, and less than 2^31",
            ));
        }
        if self.max_chunk == 0 {
            return Err(refuse("max_chunk", 0, "let a chunk have at least one token"));
        }
        if !(1..=2).contains(&self.plans_in_flight) {
            return Err(refuse("plans_in_flight", self.plans_in_flight, "give 1, or 2 to plan a step ahead"));
        }
        for model in &self.models {
            if model.blocks == 0 {
                return Err(refuse("blocks", 0, "give each model at least one KV block"));
            }
            if self.watermark >= model.blocks {
                return Err(refuse("watermark", self.watermark, "leave fewer blocks free than a model has"));
            }
            if self.preemption == Preemption::Swap && model.host_blocks == 0 {
                return Err(refuse("host_blocks", 0, "give host memory to swap to, or preempt by recompute"));
            }
        }
        if self.admission == Admission::Reserved && self.preemptive {
            return Err(SchedulerError::config(
                "preemptive",
                true,
                "reserved admission promises not to preempt; choose one",
            ));
        }
        positive("seconds_per_prompt_token", self.seconds_per_prompt_token)?;
        positive("seconds_per_output_token", self.seconds_per_output_token)?;
        Ok(())
    }

    /// The same, and that they suit a policy.
    ///
    /// # Errors
    /// As [`check`](Self::check).
    pub fn check_with(&self, policy: &dyn Policy) -> Result<(), SchedulerError> {
        self.check()?;
        if self.preemptive && !policy.learns_from().is_empty() {
            return Err(SchedulerError::config(
                "preemptive",
                true,
                "a policy that learns changes its order while tasks run, so that two could preempt each other for ever; \
                 choose another policy",
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::policy;

    #[test]
    fn contradictions_are_named() {
        assert!(BatchConfig::default().check().is_ok());
        let model = ModelConfig::default;
        let cases: Vec<(&str, BatchConfig)> = vec![
            ("models", BatchConfig { models: Vec::new(), ..Default::default() }),
            ("models", BatchConfig { models: vec![model(); 1 << 16], ..Default::default() }),
            ("max_running", BatchConfig { max_running: 0, ..Default::default() }),
            ("max_tokens", BatchConfig { max_running: 9, max_tokens: 8, ..Default::default() }),
            ("max_tokens", BatchConfig { max_tokens: 1 << 31, ..Default::default() }),
            ("max_chunk", BatchConfig { max_chunk: 0, ..Default::default() }),
            ("plans_in_flight", BatchConfig { plans_in_flight: 0, ..Default::default() }),
            ("plans_in_flight", BatchConfig { plans_in_flight: 3, ..Default::default() }),
            ("blocks", BatchConfig { models: vec![ModelConfig { blocks: 0, ..model() }], ..Default::default() }),
            ("watermark", BatchConfig { watermark: 1024, ..Default::default() }),
            ("host_blocks", BatchConfig { preemption: Preemption::Swap, ..Default::default() }),
            ("preemptive", BatchConfig { admission: Admission::Reserved, preemptive: true, ..Default::default() }),
            ("seconds_per_prompt_token", BatchConfig { seconds_per_prompt_token: 0.0, ..Default::default() }),
            ("seconds_per_output_token", BatchConfig { seconds_per_output_token: f64::NAN, ..Default::default() }),
        ];
        for (field, config) in cases {
            let error = config.check().expect_err(field).to_string();
            assert!(error.starts_with(field), "{field}: {error}");
        }
        let preemptive = BatchConfig { preemptive: true, ..Default::default() };
        let with = |name: &str| preemptive.check_with(policy(name).expect("a policy").as_ref());
        assert!(with("bandit").expect_err("it learns").to_string().starts_with("preemptive is true"));
        assert!(with("shortest").is_ok() && with("aged-ratio").is_ok());
        let swap = vec![ModelConfig { host_blocks: 1, ..model() }];
        assert!(BatchConfig { models: swap, preemption: Preemption::Swap, ..Default::default() }.check().is_ok());
        assert!(BatchConfig { max_running: 8, max_tokens: 8, ..Default::default() }.check().is_ok());
        assert!(BatchConfig { watermark: 1023, ..Default::default() }.check().is_ok());
    }
}
