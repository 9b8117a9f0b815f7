//! A request gets the same tokens, bit for bit, alone and in batches of every kind. `FORNAX_PROMPTS` gives the number
//! of prompts, and `FORNAX_TEST_MODEL` a further model.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use fornax_engine::EngineConfig;
use fornax_nn::{CacheType, KvPoolConfig};
use fornax_scheduler::Preemption;

use super::{Case, Random, alone, expect_empty, memory, start, together};
use crate::common::{fixture, load, notice, test_data};

/// The conditions that vary, besides the type of keys and values.
struct Company {
    max_running: usize,
    max_step_tokens: usize,
    prefix_caching: bool,
    /// The kind of preemption, in a pool of little more than the longest request's blocks.
    small: Option<Preemption>,
}

const COMPANIES: &[Company] = &[
    Company { max_running: 2, max_step_tokens: 2, prefix_caching: false, small: None },
    Company { max_running: 8, max_step_tokens: 8, prefix_caching: true, small: None },
    Company { max_running: 8, max_step_tokens: 37, prefix_caching: false, small: Some(Preemption::Recompute) },
    Company { max_running: 8, max_step_tokens: 100, prefix_caching: false, small: Some(Preemption::Swap) },
    Company { max_running: 8, max_step_tokens: 64, prefix_caching: true, small: Some(Preemption::Recompute) },
    Company { max_running: 8, max_step_tokens: 512, prefix_caching: true, small: Some(Preemption::Swap) },
    Company { max_running: 64, max_step_tokens: 64, prefix_caching: true, small: None },
    Company { max_running: 64, max_step_tokens: 512, prefix_caching: false, small: None },
];

fn prompts(default: usize) -> usize {
    std::env::var("FORNAX_PROMPTS").map_or(default, |text| text.parse().expect("FORNAX_PROMPTS is a number"))
}

/// Compares the results of `count` random prompts under all conditions with the results of each prompt alone.
fn check(path: &Path, count: usize, kv_type: CacheType, longest: usize, new: usize) {
    let model = Arc::new(load(path));
    let mut random = Random::new(count as u64 + kv_type as u64);
    let mut cases: Vec<Case> = (0..count).map(|_| random.case(&model, longest, new)).collect();
    // Some prompts share their beginnings.
    for at in (3..count).step_by(3) {
        let (before, own) = cases.split_at_mut(at);
        let prompt: Vec<u32> = before[at - 1].prompt.iter().chain(&own[0].prompt).copied().take(longest).collect();
        own[0].prompt = prompt;
    }
    let wanted = alone(&model, &cases, kv_type);
    let blocks = (longest + new).div_ceil(KvPoolConfig::BLOCK_TOKENS) + 1;
    let (mut preemptions, mut swaps, mut hits) = (0, 0, 0);
    for company in COMPANIES {
        let &Company { max_running, max_step_tokens, prefix_caching, small } = company;
        let config = EngineConfig {
            max_running,
            max_step_tokens,
            prefix_caching,
            kv_type: Some(kv_type),
            kv_memory: small.map(|_| memory(&model, kv_type, blocks)),
            preemption: small.unwrap_or_default(),
            swap_memory: if small == Some(Preemption::Swap) { memory(&model, kv_type, 4 * blocks) } else { 0 },
            ..EngineConfig::default()
        };
        let engine = start(&model, &config);
        for (at, (found, wanted)) in together(&engine, &cases).into_iter().zip(&wanted).enumerate() {
            let found = found.unwrap_or_else(|error| panic!("{}: prompt {at}: {error}", path.display()));
            assert_eq!(&found, wanted, "{}: prompt {at} with {kv_type} and {config:?}", path.display());
        }
        expect_empty(&engine);
        let stats = engine.stats().expect("it runs").scheduler;
        if count >= 20 && blocks > 2 && small.is_some() {
            assert!(stats.preemptions > 0, "nobody was preempted with {config:?}: {stats:?}");
            assert!(small != Some(Preemption::Swap) || stats.swaps > 0, "nobody was swapped out: {stats:?}");
        }
        preemptions += stats.preemptions;
        swaps += stats.swaps;
        hits += stats.hit_blocks;
    }
    assert!(count < 20 || longest < 100 || hits > 0, "no prompt was found in the cache");
    let name = path.file_name().unwrap_or_default().display();
    notice(&format!(
        "{name}, {kv_type}: {count} prompts, {} companies: {preemptions} preemptions ({swaps} swapped), {hits} cached blocks",
        COMPANIES.len()
    ));
}

fn types() -> [CacheType; 3] {
    [CacheType::F32, CacheType::F16, CacheType::I8]
}

#[test]
fn of_families() {
    for case in ["llama", "qwen3", "mistral", "gemma2"] {
        for kv_type in types() {
            check(&fixture(case), prompts(30).min(100), kv_type, 40, 23);
        }
    }
    for kv_type in types() {
        check(&fixture("gpt2"), prompts(30).min(100), kv_type, 15, 12);
    }
}

#[test]
fn of_stories() {
    let Some(path) = test_data("data/stories260K.gguf") else { return };
    for kv_type in types() {
        check(&path, prompts(24), kv_type, 200, 40);
    }
}

#[test]
fn of_a_given_model() {
    let Some(path) = std::env::var_os("FORNAX_TEST_MODEL").map(PathBuf::from) else {
        return notice("FORNAX_TEST_MODEL does not name a model: this test checks nothing");
    };
    check(&path, prompts(24), CacheType::F16, 200, 16);
}
