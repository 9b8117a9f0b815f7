//! What can be chosen about batching, and which choices contradict each other.

use crate::SchedulerError;
use crate::error::positive;
use crate::policy::Policy;

/// A model's memory.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelConfig {
    /// How many KV blocks its device has room for.
    pub blocks: usize,
    /// Tokens in a block.
    pub block_size: usize,
    /// How many blocks host memory has room for; 0 is no swapping.
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
    /// When there is room for its prompt and some blocks more. Outputs may then outgrow the memory, and the last by the
    /// policy is preempted.
    #[default]
    Optimistic,
    /// When there is room for all it may ever become. Nothing is preempted for lack of blocks, and fewer run.
    Reserved,
}

/// What becomes of the blocks of a sequence that is preempted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Preemption {
    /// They are given up, and computed again.
    #[default]
    Recompute,
    /// They move to host memory as long as there is room, and back.
    Swap,
}

/// What can be chosen about batching.
#[derive(Clone, Debug, PartialEq)]
pub struct BatchConfig {
    /// The models, numbered from zero.
    pub models: Vec<ModelConfig>,
    /// The number of running slots: the most sequences that hold blocks at once.
    pub max_running: usize,
    /// The most tokens in a step; at least as many as may run.
    pub max_tokens: usize,
    /// The most tokens of one prompt in a step, so that a long one leaves room for others.
    pub max_chunk: usize,
    /// Whether a prompt may be computed in several steps. If not, a step's first prompt is computed whole, also where that
    /// exceeds `max_tokens`, and others only as far as there are tokens left: nobody waits for a step without others.
    pub chunked: bool,
    /// When a request is admitted.
    pub admission: Admission,
    /// Optimistic admission leaves this many blocks free for outputs to grow.
    pub watermark: usize,
    /// What preemption does.
    pub preemption: Preemption,
    /// Whether one that waits may preempt those that come after it by the policy, rather than wait for room. Meant for
    /// orders that do not change while a task runs: priorities, deadlines, remaining work. A policy that shares among
    /// tenants never preempts so, and one that learns cannot be had with it.
    pub preemptive: bool,
    /// Whether full blocks are kept and found by content.
    pub prefix_caching: bool,
    /// How often a request that does not fit may be passed over by others that do; 0 keeps strict order. Requests that need
    /// no adapter pass over one that waits for an adapter as often as there are any: they keep nothing from it.
    pub lookahead: u32,
    /// Whether what is past its deadline is ended.
    pub drop_late: bool,
    /// The estimated time of a prompt's token in seconds, for the policies' costs.
    pub seconds_per_prompt_token: f64,
    /// The estimated time of an output's token in seconds.
    pub seconds_per_output_token: f64,
    /// How many plans may be in flight at once, 1 or 2. With 2 the next plan is made before the last results are in, so
    /// that a device need not wait for the scheduler: see the [module's](crate::BatchScheduler#plans-in-flight) rules.
    pub plans_in_flight: usize,
    /// Whether plans tell which blocks become findable by content and which cease to be.
    pub kv_events: bool,
    /// Goes into the hashes of prefixes; a number that strangers do not know keeps them from making hashes collide.
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
    /// Whether the choices fit together.
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
                "give at least max_running, so that every one that decodes gets its token, and at most 2^31",
            ));
        }
        if self.max_chunk == 0 {
            return Err(refuse("max_chunk", 0, "let a chunk have at least one token"));
        }
        if !(1..=2).contains(&self.plans_in_flight) {
            return Err(refuse("plans_in_flight", self.plans_in_flight, "give 1, or 2 to plan a step ahead"));
        }
        for model in &self.models {
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

    /// Whether the choices fit together, and to a policy.
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
