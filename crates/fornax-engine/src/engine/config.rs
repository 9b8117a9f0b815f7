//! The configuration of an engine, and how much memory it takes for keys and values.

use fornax_nn::{CacheType, KvPoolConfig};
use fornax_scheduler::{Admission, Preemption};

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
    /// When a request is admitted.
    pub admission: Admission,
    /// What happens to the blocks of a preempted sequence.
    pub preemption: Preemption,
    /// Bytes of host memory for blocks that are swapped out.
    pub swap_memory: usize,
}

impl Default for EngineConfig {
    /// 64 sequences, steps of 512 tokens, first come, first served.
    fn default() -> Self {
        Self {
            max_running: 64,
            max_step_tokens: 512,
            kv_memory: None,
            kv_type: None,
            prefix_caching: true,
            policy: "fcfs".into(),
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
        let refuse = |option, found: usize, expected: &str| {
            Err(EngineError::Option { option, found: found.to_string(), expected: expected.into() })
        };
        if !(1..=MOST_TOKENS).contains(&self.max_running) {
            return refuse("max_running", self.max_running, "1 to 2^30 sequences");
        }
        if self.max_step_tokens > MOST_TOKENS {
            return refuse("max_step_tokens", self.max_step_tokens, "at most 2^30 tokens");
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
            let expected = format!("at least {block} bytes, a block of {} tokens", KvPoolConfig::BLOCK_TOKENS);
            return Err(EngineError::Option { option: "kv_memory", found, expected });
        }
        let blocks = blocks.min(wanted).min(MOST_BLOCKS);
        match (self.kv_memory, free_memory()) {
            // The system would grant the memory, and kill the program when it uses it.
            (Some(bytes), Some(free)) if blocks.saturating_mul(block) > free / models => Err(EngineError::Option {
                option: "kv_memory",
                found: format!("{bytes} bytes"),
                expected: format!("at most {} bytes, the free main memory for each model", free / models),
            }),
            _ => Ok(blocks),
        }
    }
}

/// Bytes of main memory that a new program could take, as far as the system says.
fn free_memory() -> Option<usize> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<usize>().ok()?.checked_mul(1024)
}
