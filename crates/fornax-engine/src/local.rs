//! Sequences that one call runs side by side, in a pool of their own. Requests of many callers are the engine's matter.

use fornax_nn::{Batch, BatchSequence, Decoder, KvPool, KvPoolConfig, Outputs};

use crate::EngineError;
use crate::error::to_host;

/// Tokens of a prompt that run through the layers at once: enough for the widest kernels, and what lies between layers stays
/// small.
pub(crate) const PREFILL_CHUNK: usize = 512;

/// Some sequences of one model, each with room for `capacity` tokens.
#[derive(Debug)]
pub(crate) struct LocalSequences<'a> {
    decoder: &'a Decoder,
    pool: KvPool,
    tables: Vec<Vec<u32>>,
    lens: Vec<usize>,
    free: Vec<u32>,
}

impl<'a> LocalSequences<'a> {
    /// One empty sequence; there is room for `most` at a time.
    pub(crate) fn new(decoder: &'a Decoder, most: usize, capacity: usize) -> Result<Self, EngineError> {
        let each = capacity.div_ceil(KvPoolConfig::BLOCK_TOKENS);
        let blocks = (2 * most).saturating_mul(each);
        let pool = decoder.kv_config().init(blocks, &decoder.device())?;
        let mut free: Vec<u32> = (0..blocks as u32).rev().collect();
        let tables = vec![free.split_off(free.len() - each)];
        Ok(Self { decoder, pool, tables, lens: vec![0], free })
    }

    /// Feeds the prompt to the only sequence and returns the logits after its last token.
    pub(crate) fn prefill(&mut self, prompt: &[u32]) -> Result<Vec<f32>, EngineError> {
        let mut last = None;
        for (index, tokens) in prompt.chunks(PREFILL_CHUNK).enumerate() {
            let end = index * PREFILL_CHUNK + tokens.len();
            let outputs = if end == prompt.len() { Outputs::Last } else { Outputs::None };
            let past = self.lens[0];
            let blocks = &self.tables[0];
            let batch = Batch::cached([BatchSequence { tokens, past, blocks, len: prompt.len(), outputs }]);
            last = Some(self.decoder.forward(&batch, Some(&mut self.pool)));
            self.lens[0] += tokens.len();
        }
        to_host(self.decoder.logits(last.ok_or(EngineError::EmptyPrompt)?))
    }

    /// Feeds a token to each sequence and returns the logits after it, one row after another.
    pub(crate) fn step(&mut self, tokens: &[u32]) -> Result<Vec<f32>, EngineError> {
        let sequences = tokens.chunks(1).enumerate().map(|(index, tokens)| BatchSequence {
            tokens,
            past: self.lens[index],
            blocks: &self.tables[index],
            len: 0,
            outputs: Outputs::Last,
        });
        let hidden = self.decoder.forward(&Batch::cached(sequences), Some(&mut self.pool));
        self.lens.iter_mut().for_each(|len| *len += 1);
        to_host(self.decoder.logits(hidden))
    }

    /// Sequence `i` continues from what sequence `from[i]` was.
    pub(crate) fn select(&mut self, from: &[usize]) {
        let mut taken = vec![false; self.tables.len()];
        let (mut tables, mut lens) = (Vec::new(), Vec::new());
        for &from in from {
            lens.push(self.lens[from]);
            if !std::mem::replace(&mut taken[from], true) {
                tables.push(self.tables[from].clone());
                continue;
            }
            let (table, used) = (&self.tables[from], self.lens[from].div_ceil(KvPoolConfig::BLOCK_TOKENS));
            let copy = self.free.split_off(self.free.len() - table.len());
            table.iter().zip(&copy).take(used).for_each(|(&from, &to)| self.pool.copy_block(from, to));
            tables.push(copy);
        }
        let dropped = self.tables.iter().zip(&taken).filter(|(_, taken)| !**taken);
        self.free.extend(dropped.flat_map(|(table, _)| table));
        (self.tables, self.lens) = (tables, lens);
    }
}
