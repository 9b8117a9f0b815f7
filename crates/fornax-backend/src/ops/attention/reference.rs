//! Attention in burn's operations: the scores are held whole, so memory grows with queries × keys.

use burn::tensor::activation::softmax;
use burn::tensor::{Bool, DType, Device, Int, Tensor};

use super::AttentionOptions;

/// Added to a score that must not count. Finite, so that a row in which nothing counts stays a number.
const MASKED: f32 = -1e30;

/// As [`attention`](super::attention), whose contract was checked.
pub fn attention(
    query: Tensor<4>,
    key: Tensor<4>,
    value: Tensor<4>,
    visible: Option<Tensor<2, Bool>>,
    options: &AttentionOptions,
) -> Tensor<4> {
    let [batch, heads, queries, head_dim] = query.dims();
    let [_, kv_heads, all_keys, _] = key.dims();
    let group = heads / kv_heads;

    // Keys that not even the first query sees are not touched.
    let first = match options.window {
        Some(window) if options.causal => (all_keys - queries + 1).saturating_sub(window),
        _ => 0,
    };
    let keys = all_keys - first;
    let (key, value, visible) = if first == 0 {
        (key, value, visible)
    } else {
        (
            key.narrow(2, first, keys),
            value.narrow(2, first, keys),
            visible.map(|visible| visible.narrow(1, first, keys)),
        )
    };

    let dtype = query.dtype();
    let device = query.device();
    // The query heads of one key head are stacked, so that keys and values are read once for all of them.
    let stacked = query.mul_scalar(options.scale).reshape([batch, kv_heads, group * queries, head_dim]);
    let scores = stacked.matmul(key.swap_dims(2, 3));
    let mut scores = if dtype == DType::F32 { scores } else { scores.cast(DType::F32) };
    if options.causal && (queries > 1 || options.window.is_some_and(|window| window < keys)) {
        let bias =
            hidden_by_position(queries, keys, options.window, &device).float().cast(DType::F32).mul_scalar(MASKED);
        let bias = bias.reshape([1, 1, 1, queries, keys]);
        let by_head = scores.reshape([batch, kv_heads, group, queries, keys]) + bias;
        scores = by_head.reshape([batch, kv_heads, group * queries, keys]);
    }
    if let Some(visible) = visible {
        let bias = visible.bool_not().float().cast(DType::F32).mul_scalar(MASKED);
        scores = scores + bias.reshape([batch, 1, 1, keys]);
    }
    let weights = softmax(scores, 3);
    let weights = if dtype == DType::F32 { weights } else { weights.cast(dtype) };
    weights.matmul(value).reshape([batch, heads, queries, head_dim])
}

/// `[queries, keys]`, true where the key lies after the query or before its window.
fn hidden_by_position(queries: usize, keys: usize, window: Option<usize>, device: &Device) -> Tensor<2, Bool> {
    let offset = (keys - queries) as i64;
    let query = Tensor::<1, Int>::arange(offset..offset + queries as i64, device).reshape([queries, 1]);
    let key = Tensor::<1, Int>::arange(0..keys as i64, device).reshape([1, keys]);
    let ahead = key.expand([queries, keys]).sub(query.expand([queries, keys]));
    let after = ahead.clone().greater_elem(0);
    match window {
        Some(window) => after.bool_or(ahead.lower_equal_elem(-(window as i64))),
        None => after,
    }
}
