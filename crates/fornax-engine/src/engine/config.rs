//! The configuration of an engine, and how much memory it takes for keys and values.

use std::path::Path;

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
        let refuse = |option, found: usize, expected: &str| Err(EngineError::option(option, found, expected));
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

/// Bytes of main memory that this program could take, as far as the system says: of the machine, and of the container.
fn free_memory() -> Option<usize> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let machine = line.trim().strip_suffix("kB")?.trim().parse::<usize>().ok()?.checked_mul(1024)?;
    Some(container_memory(Path::new("/sys/fs/cgroup")).map_or(machine, |container| container.min(machine)))
}

/// Bytes that a control group (version 2) leaves to its programs. A container sees its own group here. None without a limit.
fn container_memory(group: &Path) -> Option<usize> {
    let read = |name: &str| std::fs::read_to_string(group.join(name)).ok();
    let limit: usize = read("memory.max")?.trim().parse().ok()?;
    let used: usize = read("memory.current")?.trim().parse().ok()?;
    // Pages of files that nobody reads at present are given back when memory is short.
    let stat = read("memory.stat").unwrap_or_default();
    let cached = stat.lines().find_map(|line| line.strip_prefix("inactive_file ")?.trim().parse().ok()).unwrap_or(0);
    Some(limit.saturating_sub(used.saturating_sub(cached)))
}

#[cfg(test)]
mod tests {
    use std::fs::{create_dir_all, remove_dir_all, write};

    use super::*;

    #[test]
    fn a_container_has_what_its_limit_leaves() {
        let group = std::env::temp_dir().join(format!("fornax-group-{}", std::process::id()));
        create_dir_all(&group).expect("a folder");
        let put = |name: &str, text: &str| write(group.join(name), text).expect("a file");
        assert_eq!(container_memory(&group), None);
        put("memory.max", "1000\n");
        put("memory.current", "700\n");
        assert_eq!(container_memory(&group), Some(300));
        put("memory.stat", "anon 500\ninactive_file 150\n");
        assert_eq!(container_memory(&group), Some(450));
        put("memory.current", "5000\n");
        assert_eq!(container_memory(&group), Some(0));
        put("memory.max", "max\n");
        assert_eq!(container_memory(&group), None);
        remove_dir_all(&group).expect("an empty folder");
    }
}
