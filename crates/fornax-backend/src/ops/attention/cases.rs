//! Shapes of attention: prefill, decoding from a cache, windows, groups.

use crate::ops::Cost;

/// One call.
#[derive(Debug, Clone, Copy)]
pub struct Case {
    /// Sequences.
    pub batch: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads, a divisor of `heads`.
    pub kv_heads: usize,
    /// Queries of each sequence.
    pub queries: usize,
    /// Keys of each sequence.
    pub keys: usize,
    /// Size of a head.
    pub head_dim: usize,
    /// Whether later keys are hidden.
    pub causal: bool,
    /// Keys that a query sees.
    pub window: Option<usize>,
}

impl Case {
    /// Its least work, without what a mask may save.
    pub fn cost(&self) -> Cost {
        let Self { batch, heads, kv_heads, queries, keys, head_dim, .. } = *self;
        Cost::f32(
            2 * batch * head_dim * (heads * queries + kv_heads * keys),
            batch * heads * queries * keys * (4 * head_dim + 5),
        )
    }
}

/// Small shapes, for tests.
pub const TESTS: &[Case] = &[
    case(1, [1, 1], [1, 1], 2, true, None),
    case(2, [4, 4], [5, 5], 8, true, None),
    case(2, [4, 2], [3, 7], 6, true, None),
    case(1, [6, 2], [1, 9], 10, true, None),
    case(1, [4, 1], [8, 8], 12, true, Some(3)),
    case(2, [2, 2], [1, 12], 8, true, Some(5)),
    case(1, [4, 2], [4, 10], 8, true, Some(20)),
    case(3, [2, 2], [6, 6], 16, false, None),
    case(1, [3, 3], [2, 5], 4, false, None),
];

/// Shapes of real models, for benches.
pub const BENCHES: &[Case] = &[
    case(1, [32, 4], [1, 512], 64, true, None),
    case(1, [32, 4], [512, 512], 64, true, None),
    case(32, [12, 12], [32, 32], 32, false, None),
];

const fn case(
    batch: usize,
    [heads, kv_heads]: [usize; 2],
    [queries, keys]: [usize; 2],
    head_dim: usize,
    causal: bool,
    window: Option<usize>,
) -> Case {
    Case { batch, heads, kv_heads, queries, keys, head_dim, causal, window }
}
