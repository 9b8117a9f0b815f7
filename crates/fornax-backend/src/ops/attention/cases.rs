//! Shapes of attention: whole sequences and chunks, decoding, groups of heads, masks, and norms and rotation of queries
//! and keys.

use fornax_cpu::attention::{Mask, Sequences};

use super::AttentionOptions;
use crate::kv::{BLOCK_TOKENS, CacheType, KvFormat};
use crate::ops::Cost;

/// One call.
#[derive(Debug, Clone, Copy)]
pub struct Case<'a> {
    /// For each sequence, the tokens to compute and the kept tokens before them.
    pub sequences: &'a [[usize; 2]],
    /// Query heads.
    pub heads: usize,
    /// Key and value heads, a divisor of `heads`.
    pub kv_heads: usize,
    /// Size of a head.
    pub head_dim: usize,
    /// Which keys a token sees.
    pub mask: Mask,
    /// Bound of the scores.
    pub soft_cap: Option<f64>,
    /// How many components of a head are rotated; 0 for models without rotary embeddings.
    pub rotary_dim: usize,
    /// Whether the heads of queries and keys are normed.
    pub head_norms: bool,
}

impl<'a> Case<'a> {
    /// Without rotation, norms and soft cap.
    pub const fn new(sequences: &'a [[usize; 2]], [heads, kv_heads]: [usize; 2], head_dim: usize, mask: Mask) -> Self {
        Self { sequences, heads, kv_heads, head_dim, mask, soft_cap: None, rotary_dim: 0, head_norms: false }
    }

    /// With this many components of a head rotated.
    #[must_use]
    pub const fn rotated(self, rotary_dim: usize) -> Self {
        Self { rotary_dim, ..self }
    }

    /// With the heads of queries and keys normed.
    #[must_use]
    pub const fn normed(self) -> Self {
        Self { head_norms: true, ..self }
    }

    /// With bounded scores.
    #[must_use]
    pub const fn capped(self, cap: f64) -> Self {
        Self { soft_cap: Some(cap), ..self }
    }

    /// How the layer attends, with the usual scale.
    pub fn options(&self) -> AttentionOptions {
        let Self { heads, kv_heads, head_dim, mask, soft_cap, .. } = *self;
        AttentionOptions { mask, soft_cap, ..AttentionOptions::bidirectional(heads, kv_heads, head_dim) }
    }

    /// Tokens to compute.
    pub fn rows(&self) -> usize {
        self.sequences.iter().map(|&[rows, _]| rows).sum()
    }

    /// Whether some sequence has kept tokens before those to compute.
    pub fn continues(&self) -> bool {
        self.sequences.iter().any(|&[_, past]| past > 0)
    }

    /// Blocks that hold all tokens.
    pub fn blocks(&self) -> usize {
        self.sequences.iter().map(|[rows, past]| (rows + past).div_ceil(BLOCK_TOKENS)).sum()
    }

    /// The sequences in blocks of their own, the first sequence in the first.
    pub fn cached(&self) -> Sequences {
        let numbers: Vec<u32> = (0..self.blocks() as u32).collect();
        let mut rest = &numbers[..];
        Sequences::cached(self.sequences.iter().map(|&[rows, past]| {
            let (own, others) = rest.split_at((rows + past).div_ceil(BLOCK_TOKENS));
            rest = others;
            (rows, past, own)
        }))
    }

    /// The sequences without the kept tokens.
    pub fn uncached(&self) -> Sequences {
        Sequences::uncached(&self.sequences.iter().map(|&[rows, _]| rows).collect::<Vec<_>>())
    }

    /// Its least work, with keys and values kept in this type, or not kept. Masked keys are neither read nor computed.
    pub fn cost(&self, cache: Option<CacheType>) -> Cost {
        let Self { heads, kv_heads, head_dim, mask, rotary_dim, .. } = *self;
        let token_bytes =
            cache.map_or(0, |cache| KvFormat::Arena(cache).block_bytes(kv_heads, head_dim) / BLOCK_TOKENS);
        let (mut kept, mut pairs) = (0, 0);
        for &[rows, past] in self.sequences {
            let seen = (past..past + rows).map(|position| mask.visible(position, past + rows));
            // Kept keys that any new token sees are read; the keys of the new tokens are written.
            let first = seen.clone().map(|range| range.start).min().unwrap_or(past);
            kept += past.saturating_sub(first) + rows;
            pairs += seen.map(|range| range.len()).sum::<usize>();
        }
        let rows = self.rows();
        let operands = rows * (2 * (heads + kv_heads) * head_dim + rotary_dim);
        let prepared = 3 * rows * (heads + kv_heads) * rotary_dim;
        let Cost { bytes, flops } = Cost::f32(operands, heads * pairs * (4 * head_dim + 5) + prepared);
        Cost { bytes: bytes + (token_bytes * kept) as u64, flops }
    }
}

/// Small shapes, for tests.
pub const TESTS: &[Case<'static>] = &[
    Case::new(&[[1, 0]], [1, 1], 2, Mask::Causal),
    Case::new(&[[5, 0], [5, 0]], [4, 4], 8, Mask::Causal),
    Case::new(&[[3, 0], [7, 0], [7, 0], [1, 0]], [4, 2], 6, Mask::Causal).rotated(6),
    Case::new(&[[0, 0], [9, 0]], [6, 2], 10, Mask::Causal).rotated(4).normed(),
    Case::new(&[[8, 0], [40, 0]], [4, 1], 12, Mask::Window(3)),
    Case::new(&[[6, 0]; 3], [2, 2], 16, Mask::Full),
    Case::new(&[[2, 0], [70, 0]], [3, 3], 4, Mask::Local(2)).rotated(4),
    Case::new(&[[20, 0], [35, 0]], [4, 2], 8, Mask::Causal).capped(0.7),
    Case::new(&[[1, 8], [1, 31], [1, 32], [1, 100]], [6, 2], 10, Mask::Causal).rotated(10),
    Case::new(&[[1, 40], [1, 3]], [2, 2], 8, Mask::Window(5)).normed().rotated(8),
    Case::new(&[[4, 6], [33, 0], [1, 64]], [4, 2], 8, Mask::Window(20)).capped(1.5),
    Case::new(&[[2, 3], [50, 31]], [4, 1], 16, Mask::Full),
    Case::new(&[[3, 33]], [2, 1], 20, Mask::Local(40)),
    // The CPU's kernel cuts these into several tasks.
    Case::new(&[[130, 0], [1, 200]], [8, 2], 64, Mask::Causal).rotated(64),
];

/// Shapes of real models, for benches, with the types of their kept keys and values: a token, a token of each of eight
/// sequences, and a prompt of a Llama of 1.1 billion parameters; texts of a small encoder. Nothing is rotated, so that
/// other libraries, in which rotation is an operation of its own, compute the same.
pub const BENCHES: &[(Case<'static>, Option<CacheType>)] = &[
    (Case::new(&[[1, 511]], [32, 4], 64, Mask::Causal), Some(CacheType::F32)),
    (Case::new(&[[1, 511]], [32, 4], 64, Mask::Causal), Some(CacheType::F16)),
    (Case::new(&[[1, 511]], [32, 4], 64, Mask::Causal), Some(CacheType::I8)),
    (Case::new(&[[1, 511]; 8], [32, 4], 64, Mask::Causal), Some(CacheType::F16)),
    (Case::new(&[[512, 0]], [32, 4], 64, Mask::Causal), Some(CacheType::F32)),
    (Case::new(&[[512, 0]], [32, 4], 64, Mask::Causal), Some(CacheType::F16)),
    (Case::new(&[[32, 0]; 32], [12, 12], 32, Mask::Full), None),
];
