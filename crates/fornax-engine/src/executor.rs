//! Carrying out plans: moving blocks and computing tokens. [`ModelExecutor`] does it with models; tests and simulations
//! have [`Executor`]s of their own. The scheduler chooses the tokens, and the engine's loop reads the results.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use fornax_backend::ops;
use fornax_models::AutoModel;
use fornax_nn::{Batch, BatchSequence, KvPool, Outputs};
use fornax_scheduler::{ModelId, Plan};

use crate::EngineError;
use crate::error::to_host;
use crate::score::logprobs_of;

/// Tokens of one sequence to compute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Work<'a> {
    /// The tokens.
    pub tokens: &'a [u32],
    /// The position of the first token. The keys and values before it are in the pool.
    pub start: usize,
    /// The blocks of the sequence, in the order of positions.
    pub blocks: &'a [u32],
    /// The number of tokens of the whole prompt.
    pub len: usize,
    /// The output wanted.
    pub wanted: Wanted<'a>,
}

/// The output wanted for computed tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted<'a> {
    /// Nothing but their keys and values.
    Nothing,
    /// The logits after the last token: `[vocab_size]` numbers.
    Logits,
    /// The natural log-probability of each of these tokens, of which the first follows the first computed token: a
    /// number each.
    Logprobs(&'a [u32]),
    /// The hidden states: `[tokens, hidden_size]` numbers.
    States,
}

/// The output of computed work.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct StepOutput {
    /// The numbers of all work.
    pub values: Vec<f32>,
    /// The range of `values` of each piece of work, in their order.
    pub ranges: Vec<Range<usize>>,
}

/// Carries out plans.
pub trait Executor: Send {
    /// Moves and copies blocks as a plan says, before its items are computed.
    ///
    /// # Errors
    /// [`EngineError`] when a device fails. Then the whole plan fails.
    fn move_blocks(&mut self, plan: &Plan) -> Result<(), EngineError>;

    /// Computes tokens of a model's sequences. It may be called again with a part of the same work.
    ///
    /// # Errors
    /// [`EngineError`] when a device fails.
    fn compute(&mut self, model: ModelId, work: &[Work<'_>]) -> Result<StepOutput, EngineError>;
}

/// Carries out plans with models, each with a pool of keys and values.
#[derive(Debug)]
pub struct ModelExecutor {
    models: Vec<(Arc<AutoModel>, KvPool)>,
    /// The contents of blocks in host memory, by model and host block.
    host: HashMap<(ModelId, u32), Vec<u8>>,
}

impl ModelExecutor {
    /// An executor of these models, each a causal language model with its pool.
    pub fn new(models: Vec<(Arc<AutoModel>, KvPool)>) -> Self {
        Self { models, host: HashMap::new() }
    }
}

impl Executor for ModelExecutor {
    fn move_blocks(&mut self, plan: &Plan) -> Result<(), EngineError> {
        for swap in &plan.swap_out {
            let pool = &self.models[usize::from(swap.model.0)].1;
            for (device, host) in swap.device.iter().zip(&swap.host) {
                self.host.insert((swap.model, host.0), pool.save_block(device.0));
            }
        }
        for copy in &plan.copy {
            self.models[usize::from(copy.model.0)].1.copy_block(copy.from.0, copy.to.0);
        }
        for swap in &plan.swap_in {
            let pool = &mut self.models[usize::from(swap.model.0)].1;
            for (device, host) in swap.device.iter().zip(&swap.host) {
                let bytes = self.host.remove(&(swap.model, host.0));
                let bytes = bytes.ok_or_else(|| EngineError::failed(format!("host block {} is gone", host.0)))?;
                pool.restore_block(device.0, &bytes)?;
            }
        }
        Ok(())
    }

    fn compute(&mut self, model: ModelId, work: &[Work<'_>]) -> Result<StepOutput, EngineError> {
        let (model, pool) = &mut self.models[usize::from(model.0)];
        let decoder = model.decoder()?;
        let batch = Batch::cached(work.iter().map(|work| BatchSequence {
            tokens: work.tokens,
            past: work.start,
            blocks: work.blocks,
            len: work.len,
            outputs: match work.wanted {
                Wanted::Nothing => Outputs::None,
                Wanted::Logits => Outputs::Last,
                Wanted::Logprobs(_) | Wanted::States => Outputs::All,
            },
        }));
        let hidden = decoder.forward(&batch, Some(pool));
        // The rows of each piece of work in `hidden`. All logits are computed together, so that the output layer is read once.
        let (mut rows, mut logit_rows) = (Vec::with_capacity(work.len()), Vec::new());
        let mut row = 0;
        for work in work {
            let count = match work.wanted {
                Wanted::Nothing => 0,
                Wanted::Logits => 1,
                Wanted::Logprobs(_) | Wanted::States => work.tokens.len(),
            };
            rows.push(row..row + count);
            if work.wanted == Wanted::Logits {
                logit_rows.push(row as u32);
            }
            row += count;
        }
        let mut values = match logit_rows.len() {
            0 => Vec::new(),
            all if all == row => to_host(decoder.logits(hidden.clone()))?,
            _ => to_host(decoder.logits(ops::rows(hidden.clone(), &logit_rows)))?,
        };
        let (vocab_size, mut logits) = (decoder.config().vocab_size, 0);
        let mut ranges = Vec::with_capacity(work.len());
        for (work, rows) in work.iter().zip(rows) {
            let own = || hidden.clone().narrow(0, rows.start, rows.len());
            let from = values.len();
            match work.wanted {
                Wanted::Nothing => {}
                Wanted::Logits => {
                    ranges.push(logits..logits + vocab_size);
                    logits += vocab_size;
                    continue;
                }
                Wanted::States => values.extend(to_host(own())?),
                Wanted::Logprobs(next) => values.extend(logprobs_of(decoder, own(), next)?),
            }
            ranges.push(from..values.len());
        }
        Ok(StepOutput { values, ranges })
    }
}
