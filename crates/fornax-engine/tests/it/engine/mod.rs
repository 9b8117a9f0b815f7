//! The engine: each request gets the same result as alone, whatever runs beside it, and a bad request disturbs no
//! other. Random schedules with a mock executor are in the crate itself, beside the loop that they test.

mod bad_input;
mod faults;
mod same_tokens;
mod together;

use std::sync::Arc;

use fornax_engine::{EngineConfig, EngineError, EngineHandle, Generation, SamplingParams};
use fornax_models::AutoModel;
use fornax_nn::{CacheType, KvPoolConfig};

/// A request: a prompt and its parameters.
pub struct Case {
    pub prompt: Vec<u32>,
    pub params: SamplingParams,
}

/// Numbers that look random, the same ones for a seed.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    /// From zero up to below `end`.
    pub fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        ((self.0 >> 11) % end as u64) as usize
    }

    /// A request of a prompt with up to `longest` tokens, greedy or seeded.
    pub fn case(&mut self, model: &AutoModel, longest: usize, new: usize) -> Case {
        let vocab_size = model.network().vocab_size();
        let prompt = (0..1 + self.below(longest)).map(|_| self.below(vocab_size) as u32).collect();
        let params = SamplingParams::default().max_new_tokens(1 + self.below(new));
        let seed = self.below(1 << 20) as u64;
        let params = if self.below(2) == 0 { params } else { params.temperature(0.8).top_p(0.9).seed(seed) };
        Case { prompt, params: params.logprobs(0) }
    }
}

/// The bytes of `blocks` blocks of a model's keys and values.
pub fn memory(model: &AutoModel, kv_type: CacheType, blocks: usize) -> usize {
    let decoder = model.decoder().expect("a decoder");
    let kv: KvPoolConfig = decoder.kv_config().with_type(kv_type, &decoder.device()).expect("the CPU keeps all types");
    kv.block_bytes() * blocks
}

pub fn start(model: &Arc<AutoModel>, config: &EngineConfig) -> EngineHandle {
    EngineHandle::start(Arc::clone(model), config).expect("it starts")
}

/// All cases at once, their results in their order.
pub fn together(engine: &EngineHandle, cases: &[Case]) -> Vec<Result<Vec<Generation>, EngineError>> {
    let streams: Vec<_> = cases.iter().map(|case| engine.stream(case.prompt.clone(), &case.params)).collect();
    streams.into_iter().map(|stream| stream?.finish()).collect()
}

/// Each case in an engine of its own.
pub fn alone(model: &Arc<AutoModel>, cases: &[Case], kv_type: CacheType) -> Vec<Vec<Generation>> {
    let config = EngineConfig {
        max_running: 8,
        kv_type: Some(kv_type),
        prefix_caching: false,
        max_step_tokens: 1024,
        ..EngineConfig::default()
    };
    let generate = |case: &Case| start(model, &config).generate(case.prompt.clone(), &case.params);
    cases.iter().map(|case| generate(case).expect("it generates alone")).collect()
}

/// Waits until the engine has ended dropped requests, and checks that no blocks are held.
pub fn expect_empty(engine: &EngineHandle) {
    for _ in 0..1000 {
        let stats = engine.stats().expect("it runs");
        if stats.requests + stats.running + stats.waiting + stats.held_blocks == 0 {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
    panic!("left over: {:?}", engine.stats());
}
