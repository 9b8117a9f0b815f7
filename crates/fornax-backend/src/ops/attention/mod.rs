//! Scaled dot-product attention (Vaswani et al., 2017, <https://arxiv.org/abs/1706.03762>) with grouped queries
//! (Ainslie et al., 2023, <https://arxiv.org/abs/2305.13245>), causal and sliding-window masks, and keys that may lie
//! in a cache. The cache itself belongs to the layers.

pub mod cases;
pub mod reference;

use burn::tensor::{Bool, Tensor};

/// What may look at what, and the scale of the scores.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AttentionOptions {
    /// Factor of the scores; `1 / sqrt(head_dim)` unless a model says otherwise.
    pub scale: f64,
    /// Whether a query sees only keys at its own position and before it. The last query stands at the last key, so
    /// queries that are fewer than the keys continue a cache.
    pub causal: bool,
    /// With `causal`: how many keys a query sees, itself included, so at least 1.
    pub window: Option<usize>,
}

impl AttentionOptions {
    /// Causal attention with the usual scale for heads of this size.
    pub fn causal(head_dim: usize) -> Self {
        Self { causal: true, ..Self::bidirectional(head_dim) }
    }

    /// Attention in both directions with the usual scale for heads of this size.
    pub fn bidirectional(head_dim: usize) -> Self {
        Self { scale: 1.0 / (head_dim as f64).sqrt(), causal: false, window: None }
    }
}

/// Weighs the values by the softmax of the queries' products with the keys.
///
/// - `query`: `[batch, heads, queries, head_dim]`
/// - `key`, `value`: `[batch, kv_heads, keys, head_dim]`; `heads` is a multiple of `kv_heads`, and each key/value head
///   serves as many consecutive query heads
/// - `visible`: `[batch, keys]`, true where a key takes part (false for padding)
/// - returns `[batch, heads, queries, head_dim]`; the softmax is in `f32`, the products in the dtype of the operands
///
/// # Panics
/// When the shapes do not fit each other, there are more queries than keys under a causal mask, or the window is 0.
pub fn attention(
    query: Tensor<4>,
    key: Tensor<4>,
    value: Tensor<4>,
    visible: Option<Tensor<2, Bool>>,
    options: &AttentionOptions,
) -> Tensor<4> {
    let [batch, heads, queries, head_dim] = query.dims();
    let [key_batch, kv_heads, keys, key_dim] = key.dims();
    assert_eq!(key.dims(), value.dims(), "attention: keys and values");
    assert!(
        key_batch == batch && key_dim == head_dim && kv_heads > 0 && heads % kv_heads == 0,
        "attention: query {:?} does not fit key {:?}",
        query.dims(),
        key.dims()
    );
    assert!(!options.causal || queries <= keys, "attention: {queries} queries but {keys} keys under a causal mask");
    assert_ne!(options.window, Some(0), "attention: a query sees itself, so the window is at least 1");
    if let Some(visible) = &visible {
        assert_eq!(visible.dims(), [batch, keys], "attention: the mask of visible keys");
    }
    reference::attention(query, key, value, visible, options)
}
