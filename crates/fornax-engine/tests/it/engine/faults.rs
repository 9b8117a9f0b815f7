//! A panic in the middle of a model's batch ends the request that it belongs to, and no other.

use std::collections::HashMap;
use std::panic::resume_unwind;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use fornax_engine::executor::{Executor, ModelExecutor, StepOutput, Work};
use fornax_engine::{EngineError, EngineHandle};
use fornax_models::AutoModel;
use fornax_nn::{CacheType, KvPoolConfig};
use fornax_scheduler::{BatchConfig, BatchScheduler, ModelConfig, ModelId, Plan, Preemption, policy};

use super::{Case, Random, alone, expect_empty};
use crate::common::{fixture, load};

/// The first token of a prompt whose request has to panic.
const MARK: u32 = 63;

/// A model that panics at marked requests, after it has computed the work before them.
struct Panics {
    model: ModelExecutor,
    /// How often a marked request is still computed before it panics, by its first block.
    marked: HashMap<u32, usize>,
    /// The same for requests in host memory.
    away: HashMap<u32, usize>,
    lives: usize,
    panics: Arc<AtomicUsize>,
}

impl Executor for Panics {
    fn move_blocks(&mut self, plan: &Plan) -> Result<(), EngineError> {
        self.model.move_blocks(plan)?;
        for swap in &plan.swap_out {
            let left = self.marked.get(&swap.device[0].0).copied();
            left.map(|left| self.away.insert(swap.host[0].0, left));
        }
        for swap in &plan.swap_in {
            match self.away.remove(&swap.host[0].0) {
                Some(left) => self.marked.insert(swap.device[0].0, left),
                None => self.marked.remove(&swap.device[0].0),
            };
        }
        Ok(())
    }

    fn compute(&mut self, model: ModelId, work: &[Work<'_>]) -> Result<StepOutput, EngineError> {
        for (at, one) in work.iter().enumerate() {
            let first = one.blocks[0];
            if one.start == 0 && one.tokens[0] == MARK {
                self.lives += 1;
                self.marked.entry(first).or_insert(self.lives % 4);
            } else if one.start == 0 {
                self.marked.remove(&first);
            }
            let Some(left) = self.marked.get_mut(&first) else { continue };
            if *left == 0 {
                if at > 0 {
                    self.model.compute(model, &work[..at])?;
                }
                self.panics.fetch_add(1, Ordering::Relaxed);
                resume_unwind(Box::new("a kernel failed"));
            }
            *left -= 1;
        }
        self.model.compute(model, work)
    }
}

fn check(model: &Arc<AutoModel>, preemption: Preemption, seed: u64) {
    let mut random = Random::new(seed);
    let mut cases: Vec<Case> = (0..24).map(|_| random.case(model, 40, 23)).collect();
    for (at, case) in cases.iter_mut().enumerate() {
        case.prompt[0] = if at % 4 == 3 { MARK } else { case.prompt[0] % MARK };
        // Long enough for a second block, and to be computed as often as the marked requests.
        case.params.max_new_tokens = 23;
        case.params.ignore_eos = true;
    }
    let wanted = alone(model, &cases, CacheType::F32);
    let decoder = model.decoder().expect("a decoder");
    let kv = decoder.kv_config().with_type(CacheType::F32, &decoder.device()).expect("the CPU keeps all types");
    let blocks = 4;
    let host_blocks = if preemption == Preemption::Swap { 20 } else { 0 };
    let pool = kv.init(blocks, &decoder.device()).expect("memory");
    let panics = Arc::new(AtomicUsize::new(0));
    let executor = Panics {
        model: ModelExecutor::new(vec![(Arc::clone(model), pool)]),
        marked: HashMap::new(),
        away: HashMap::new(),
        lives: 0,
        panics: Arc::clone(&panics),
    };
    let models =
        vec![ModelConfig { blocks, block_size: KvPoolConfig::BLOCK_TOKENS, host_blocks, ..ModelConfig::default() }];
    let config = BatchConfig {
        models,
        watermark: 0,
        preemption,
        prefix_caching: false,
        max_tokens: 64,
        ..BatchConfig::default()
    };
    let scheduler = BatchScheduler::new(config, policy("fcfs").expect("known")).expect("valid");
    let engine = EngineHandle::start_with(vec![Arc::clone(model)], scheduler, executor).expect("it starts");
    let found = super::together(&engine, &cases);
    let mut failed = 0;
    for (at, (found, wanted)) in found.into_iter().zip(wanted).enumerate() {
        match found {
            Ok(found) => assert_eq!(found, wanted, "request {at}"),
            Err(error) => {
                assert_eq!(at % 4, 3, "request {at}: {error}");
                assert!(error.to_string().contains("a kernel failed"), "{error}");
                failed += 1;
            }
        }
    }
    assert_eq!(failed, 6);
    assert!(panics.load(Ordering::Relaxed) > failed);
    expect_empty(&engine);
    let stats = engine.stats().expect("it runs").scheduler;
    assert!(stats.preemptions > 0 && (preemption != Preemption::Swap || stats.swaps > 0), "{stats:?}");
}

#[test]
fn a_panic_ends_its_request_alone() {
    for case in ["llama", "gemma2"] {
        let model = Arc::new(load(&fixture(case)));
        for seed in 0..5 {
            check(&model, Preemption::Recompute, seed);
            check(&model, Preemption::Swap, seed);
        }
    }
}
