//! The configuration of an engine, and how much memory it takes for keys and values.

use fornax_nn::{CacheType, KvPoolConfig};
use fornax_scheduler::{Admission, Preemption};
use sysinfo::System;

use crate::EngineError;

/// The configuration of an engine.
#[derive(Debug, Clone, PartialEq)]
pub struct EngineConfig {
    /// The most sequences that run at once.
    pub max_running: usize,
    /// The most tokens of a step, over all sequences.
    pub max_step_tokens: usize,
    /// Bytes for the keys and values of each model. Without it, the models share a half of the free memory. A model
    /// never takes more than `max_running` sequences of its full context need.
    pub kv_memory: Option<usize>,
    /// The type in which keys and values are kept. Without it, the type that suits the model's weights.
    pub kv_type: Option<CacheType>,
    /// Whether the keys and values of prompts are kept for later requests with the same beginning.
    pub prefix_caching: bool,
    /// The order of requests: the name of a policy of [`fornax_scheduler::POLICIES`].
    pub policy: String,
    /// The most that prompts may delay the next token of sequences that decode beside them, as a multiple of a step that
    /// only decodes. The engine measures its steps and cuts prompts accordingly. None sets no bound: a step computes up to
    /// `max_step_tokens`, which gives the most tokens a second if nobody reads along.
    pub prompt_delay: Option<f64>,
    /// When a request is admitted.
    pub admission: Admission,
    /// What happens to the blocks of a preempted sequence.
    pub preemption: Preemption,
    /// Bytes of host memory for blocks that are swapped out.
    pub swap_memory: usize,
}

impl Default for EngineConfig {
    /// 64 sequences, steps of 512 tokens, prompts that delay others by at most three steps, first come, first served.
    fn default() -> Self {
        Self {
            max_running: 64,
            max_step_tokens: 512,
            kv_memory: None,
            kv_type: None,
            prefix_caching: true,
            policy: "fcfs".into(),
            prompt_delay: Some(3.0),
            admission: Admission::Optimistic,
            preemption: Preemption::Recompute,
            swap_memory: 0,
        }
    }
}

/// The memory that is assumed to be free where the system does not say.
const UNKNOWN_FREE: usize = 4 << 30;

/// The largest `max_running` and `max_step_tokens`, so that counts of tokens do not overflow.
const MOST_TOKENS: usize = 1 << 30;
/// The most blocks of a pool that the scheduler can number.
const MOST_BLOCKS: usize = u32::MAX as usize - 2;

impl EngineConfig {
    /// Checks that the settings are in their ranges.
    pub(crate) fn check(&self) -> Result<(), EngineError> {
        let refuse = |option, found: usize, expected: &str| Err(EngineError::option(option, found, expected));
        if !(1..=MOST_TOKENS).contains(&self.max_running) {
            return refuse("max_running", self.max_running, "1 to 2^30 sequences");
        }
        if self.max_step_tokens > MOST_TOKENS {
            return refuse("max_step_tokens", self.max_step_tokens, "at most 2^30 tokens");
        }
        if let Some(delay) = self.prompt_delay.filter(|delay| !(delay.is_finite() && *delay > 0.0)) {
            return Err(EngineError::option("prompt_delay", delay, "a number of steps above 0, or none for no bound"));
        }
        if self.preemption == Preemption::Swap && self.swap_memory == 0 {
            return refuse("swap_memory", 0, "memory to swap to; or let preemption compute again");
        }
        Ok(())
    }

    /// The number of blocks of a model's pool, in an engine of `models` models.
    pub(crate) fn blocks(&self, kv: &KvPoolConfig, context: usize, models: usize) -> Result<usize, EngineError> {
        let block = kv.block_bytes().max(1);
        let wanted = context.div_ceil(KvPoolConfig::BLOCK_TOKENS).saturating_mul(self.max_running).max(1);
        let blocks = match self.kv_memory {
            Some(bytes) => bytes / block,
            None => free_memory().unwrap_or(UNKNOWN_FREE) / 2 / models / block,
        };
        if blocks == 0 {
            let found = self.kv_memory.map_or("too little free memory".into(), |bytes| format!("{bytes} bytes"));
            return Err(EngineError::option("kv_memory", found, at_least(block)));
        }
        let blocks = blocks.min(wanted).min(MOST_BLOCKS);
        match (self.kv_memory, free_memory()) {
            // The system would grant the memory, and kill the program when it uses it.
            (Some(bytes), Some(free)) if blocks.saturating_mul(block) > free / models => {
                let expected = format!("at most {} bytes, the free main memory for each model", free / models);
                Err(EngineError::option("kv_memory", format!("{bytes} bytes"), expected))
            }
            _ => Ok(blocks),
        }
    }

    /// The number of blocks that a model can swap out to host memory.
    pub(crate) fn host_blocks(&self, kv: &KvPoolConfig) -> Result<usize, EngineError> {
        let block = kv.block_bytes().max(1);
        if self.preemption == Preemption::Swap && self.swap_memory < block {
            return Err(EngineError::option("swap_memory", format!("{} bytes", self.swap_memory), at_least(block)));
        }
        Ok(self.swap_memory / block)
    }
}

/// The least memory for keys and values.
fn at_least(block: usize) -> String {
    format!("at least {block} bytes, a block of {} tokens", KvPoolConfig::BLOCK_TOKENS)
}

/// Bytes of main memory that this program could take, as far as the system says: of the machine, and of the container, whose
/// limit leaves what its programs have not taken for themselves. Cached files are given back when memory is short.
fn free_memory() -> Option<usize> {
    let mut system = System::new();
    system.refresh_memory();
    let container = system.cgroup_limits().map(|limits| limits.total_memory.saturating_sub(limits.rss));
    let free = container.map_or(system.available_memory(), |container| container.min(system.available_memory()));
    usize::try_from(free).ok().filter(|&free| free > 0)
}
