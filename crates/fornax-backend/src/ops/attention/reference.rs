//! Attention in burn's operations. All scores of a sequence are held at once, so memory grows with queries × keys.
//! Sequences of equal length without a cache are computed together, all others one by one.

use burn::tensor::activation::softmax;
use burn::tensor::{Bool, DType, Device, Int, Tensor};

use super::{AttentionOptions, HeadNorms, Mask, RopeTables, Sequences};
use crate::kv::TensorBlocks;
use crate::ops::rms_norm::{RmsNormOptions, reference::rms_norm};
use crate::ops::rope::rope as rotate;

/// Added to a score that must not count. Finite, so that a row in which nothing counts stays a number.
const MASKED: f32 = -1e30;

/// As [`attention`](super::attention), whose contract was checked.
pub(crate) fn attention(
    qkv: Tensor<2>,
    sequences: &Sequences,
    kv: Option<&mut TensorBlocks>,
    rope: Option<&RopeTables>,
    norms: Option<&HeadNorms>,
    options: &AttentionOptions,
) -> Tensor<2> {
    let AttentionOptions { heads, kv_heads, head_dim, .. } = *options;
    let [rows, _] = qkv.dims();
    let rope = rope.map(|rope| rope.tensors(&qkv));
    let (wide, narrow) = (heads * head_dim, kv_heads * head_dim);
    // [rows, heads · dim] → [1, heads, rows, dim]
    let by_head = |x: Tensor<2>, heads: usize| x.reshape([1, rows, heads, head_dim]).swap_dims(1, 2);
    let prepared = |x: Tensor<2>, heads: usize, norm: Option<&Tensor<1>>| {
        let mut x = by_head(x, heads);
        if let (Some(weight), Some(norms)) = (norm, norms) {
            x = rms_norm(x, weight.clone(), RmsNormOptions::new(norms.epsilon));
        }
        match &rope {
            Some([cos, sin]) => rotate(x, cos.clone(), sin.clone()),
            None => x,
        }
    };
    let query = prepared(qkv.clone().narrow(1, 0, wide), heads, norms.map(|norms| &norms.query));
    let key = prepared(qkv.clone().narrow(1, wide, narrow), kv_heads, norms.map(|norms| &norms.key));
    let value = qkv.narrow(1, wide + narrow, narrow);

    let mut parts = Vec::new();
    if let Some(kv) = kv {
        let kept = |x: Tensor<2>| x.cast(kv.dtype());
        let key: Tensor<2> = key.swap_dims(1, 2).reshape([rows, narrow]);
        let (key, value) = (kept(key), kept(value));
        kv.append(sequences, &key, &value);
        for sequence in (0..sequences.len()).filter(|&sequence| !sequences.rows_of(sequence).is_empty()) {
            let tokens = sequences.tokens(sequence);
            let [key, value] = kv
                .gather(sequences, sequence)
                .map(|x| x.cast(query.dtype()).reshape([1, tokens, kv_heads, head_dim]).swap_dims(1, 2));
            let own = sequences.rows_of(sequence);
            parts.push(dense(query.clone().narrow(2, own.start, own.len()), key, value, options));
        }
    } else {
        let value = by_head(value, kv_heads);
        let mut sequence = 0;
        while sequence < sequences.len() {
            let own = sequences.rows_of(sequence);
            let past = sequences.past(sequence);
            assert_eq!(past, 0, "attention: a sequence that continues from {past} tokens needs a cache");
            let same = (sequence..sequences.len()).take_while(|&other| sequences.rows_of(other).len() == own.len());
            let count = same.count();
            sequence += count;
            if own.is_empty() {
                continue;
            }
            // [1, heads, count · len, dim] → [count, heads, len, dim]
            let together = |x: &Tensor<4>| {
                let heads = x.dims()[1];
                let x = x.clone().narrow(2, own.start, count * own.len());
                x.reshape([heads, count, own.len(), head_dim]).swap_dims(0, 1)
            };
            let mixed = dense(together(&query), together(&key), together(&value), options);
            parts.push(mixed.swap_dims(0, 1).reshape([1, heads, count * own.len(), head_dim]));
        }
    }
    let mixed = if parts.len() == 1 { parts.remove(0) } else { Tensor::cat(parts, 2) };
    mixed.swap_dims(1, 2).reshape([rows, wide])
}

/// Weighs the values by the softmax of the queries' products with the keys. The last query stands at the last key.
///
/// - `query`: `[batch, heads, queries, head_dim]`
/// - `key`, `value`: `[batch, kv_heads, keys, head_dim]`
/// - returns `[batch, heads, queries, head_dim]`; the softmax is in `f32`, the products in the dtype of the operands
pub fn dense(query: Tensor<4>, key: Tensor<4>, value: Tensor<4>, options: &AttentionOptions) -> Tensor<4> {
    let [batch, heads, queries, head_dim] = query.dims();
    let [_, kv_heads, all_keys, _] = key.dims();
    let group = heads / kv_heads;

    // Keys that not even the first query sees are not touched.
    let first = match options.mask {
        Mask::Window(window) => (all_keys - queries + 1).saturating_sub(window),
        _ => 0,
    };
    let keys = all_keys - first;
    let (key, value) =
        if first == 0 { (key, value) } else { (key.narrow(2, first, keys), value.narrow(2, first, keys)) };

    let dtype = query.dtype();
    let device = query.device();
    // The query heads of one key head are stacked, so that keys and values are read once for all of them.
    let stacked = query.mul_scalar(options.scale).reshape([batch, kv_heads, group * queries, head_dim]);
    let scores = stacked.matmul(key.swap_dims(2, 3));
    let mut scores = if dtype == DType::F32 { scores } else { scores.cast(DType::F32) };
    if let Some(cap) = options.soft_cap {
        scores = scores.div_scalar(cap).tanh().mul_scalar(cap);
    }
    if let Some(hidden) = hidden_by_position(queries, keys, options.mask, &device) {
        let bias = hidden.float().cast(DType::F32).mul_scalar(MASKED).reshape([1, 1, 1, queries, keys]);
        let by_head = scores.reshape([batch, kv_heads, group, queries, keys]) + bias;
        scores = by_head.reshape([batch, kv_heads, group * queries, keys]);
    }
    let weights = softmax(scores, 3);
    let weights = if dtype == DType::F32 { weights } else { weights.cast(dtype) };
    weights.matmul(value).reshape([batch, heads, queries, head_dim])
}

/// `[queries, keys]`, true where a query does not see a key; `None` when all see all.
fn hidden_by_position(queries: usize, keys: usize, mask: Mask, device: &Device) -> Option<Tensor<2, Bool>> {
    let all_seen = match mask {
        Mask::Full => true,
        Mask::Causal => queries == 1,
        Mask::Window(window) => queries == 1 && window >= keys,
        Mask::Local(reach) => reach >= keys,
    };
    if all_seen {
        return None;
    }
    let offset = (keys - queries) as i64;
    let query = Tensor::<1, Int>::arange(offset..offset + queries as i64, device).reshape([queries, 1]);
    let key = Tensor::<1, Int>::arange(0..keys as i64, device).reshape([1, keys]);
    let ahead = key.expand([queries, keys]).sub(query.expand([queries, keys]));
    Some(match mask {
        Mask::Full | Mask::Causal => ahead.greater_elem(0),
        Mask::Window(window) => ahead.clone().greater_elem(0).bool_or(ahead.lower_equal_elem(-(window as i64))),
        Mask::Local(reach) => ahead.abs().greater_elem(reach as i64),
    })
}
