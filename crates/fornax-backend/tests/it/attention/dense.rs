//! `reference::attention` over `[batch, heads, tokens, head_dim]`, which is neither ragged nor fused, on every device.

use burn::tensor::Tensor;
use fornax_backend::ops::{AttentionOptions, Mask, reference};

use super::{score, sees, weighed};
use crate::common::*;

/// The last query stands at the last key.
#[derive(Debug, Clone, Copy)]
struct Shape {
    batch: usize,
    heads: [usize; 2],
    queries: usize,
    keys: usize,
    head_dim: usize,
    mask: Mask,
}

const SHAPES: &[Shape] = &[
    shape(1, [1, 1], [1, 1], 2, Mask::Causal),
    shape(2, [4, 4], [5, 5], 8, Mask::Causal),
    shape(2, [4, 2], [3, 7], 6, Mask::Causal),
    shape(1, [6, 2], [1, 9], 10, Mask::Causal),
    shape(1, [4, 1], [8, 8], 12, Mask::Window(3)),
    shape(2, [2, 2], [1, 12], 8, Mask::Window(5)),
    shape(1, [4, 2], [4, 10], 8, Mask::Window(20)),
    shape(3, [2, 2], [6, 6], 16, Mask::Full),
    shape(1, [3, 3], [2, 5], 4, Mask::Full),
    shape(2, [2, 1], [3, 9], 4, Mask::Local(2)),
];

const fn shape(batch: usize, heads: [usize; 2], [queries, keys]: [usize; 2], head_dim: usize, mask: Mask) -> Shape {
    Shape { batch, heads, queries, keys, head_dim, mask }
}

impl Shape {
    fn options(&self) -> AttentionOptions {
        let [heads, kv_heads] = self.heads;
        AttentionOptions { mask: self.mask, ..AttentionOptions::causal(heads, kv_heads, self.head_dim) }
    }

    /// Query, key, value.
    fn random(&self, random: &mut Random) -> [Array<4>; 3] {
        let Self { batch, heads: [heads, kv_heads], queries, keys, head_dim, .. } = *self;
        let query = Array::random([batch, heads, queries, head_dim], random);
        let mut key = || Array::random([batch, kv_heads, keys, head_dim], random);
        [Array::from_fn(query.dims, |index| 2.0 * query.at(index)), key(), key()]
    }

    fn check(&self, random: &mut Random) {
        let operands = self.random(random);
        for soft_cap in [None, Some(0.6)] {
            let options = AttentionOptions { soft_cap, ..self.options() };
            let [query, key, value] = operands.each_ref().map(|array| array.tensor(device()));
            let y = reference::attention(query, key, value, &options);
            assert_close((self, soft_cap), y, &naive(&operands, &options), unit(self.keys.max(self.head_dim)));
        }
    }
}

fn naive([query, key, value]: &[Array<4>; 3], options: &AttentionOptions) -> Array<4> {
    let ([_, heads, queries, head_dim], [_, kv_heads, keys, _]) = (query.dims, key.dims);
    Array::from_fn(query.dims, |[batch, head, i, d]| {
        let kv_head = head / (heads / kv_heads);
        let product = |j: usize| -> f64 {
            (0..head_dim).map(|d| query.at([batch, head, i, d]) * key.at([batch, kv_head, j, d])).sum()
        };
        let seen = |j: usize| sees(options.mask, keys - queries + i, j);
        let scores: Vec<_> = (0..keys).map(|j| seen(j).then(|| score(product(j), options))).collect();
        weighed(&scores, |j| value.at([batch, kv_head, j, d]))
    })
}

#[test]
fn shapes_follow_the_definition() {
    for (seed, shape) in SHAPES.iter().enumerate() {
        shape.check(&mut Random::new(seed as u64));
    }
}

#[test]
fn random_shapes_follow_the_definition() {
    for mut random in random_shapes() {
        let (kv_heads, queries) = (random.size(3), random.size(6));
        let masks = [Mask::Full, Mask::Causal, Mask::Window(random.size(8)), Mask::Local(random.size(8))];
        let shape = Shape {
            batch: random.size(3),
            heads: [kv_heads * random.size(3), kv_heads],
            queries,
            keys: queries + random.size(7) - 1,
            head_dim: random.size(12),
            mask: masks[random.size(4) - 1],
        };
        shape.check(&mut random);
    }
}

/// Masked keys and values may hold any finite numbers without changing a bit of the result.
#[test]
fn hidden_keys_do_not_matter() {
    let shape = shape(2, [4, 2], [3, 6], 8, Mask::Window(2));
    let mut operands = shape.random(&mut Random::new(1));
    let run = |operands: &[Array<4>; 3]| {
        let [query, key, value] = operands.each_ref().map(|array| array.tensor(device()));
        reference::attention(query, key, value, &shape.options())
    };
    let before = run(&operands);
    // The first query stands at position 3 and sees 2 and 3.
    for key in 0..2 {
        for d in 0..8 {
            operands[1].set([0, 1, key, d], 50.0);
            operands[2].set([1, 0, key, d], -1000.0);
        }
    }
    assert_identical("window", run(&operands), before);
}

#[test]
fn views_are_read_where_they_lie() {
    let shape = shape(2, [4, 2], [5, 5], 6, Mask::Window(4));
    let operands = shape.random(&mut Random::new(2));
    // Heads of a projection, `[batch, tokens, heads, dim]`.
    let [query, key, value] = operands.each_ref().map(|array| {
        let [batch, heads, tokens, dim] = array.dims;
        let swapped = Array::from_fn([batch, tokens, heads, dim], |[b, t, h, d]| array.at([b, h, t, d]));
        swapped.tensor(device()).swap_dims(1, 2)
    });
    let y: Tensor<4> = reference::attention(query, key, value, &shape.options());
    assert_close(shape, y, &naive(&operands, &shape.options()), unit(6));
}

#[test]
fn half_precision_is_close() {
    for dtype in half_dtypes() {
        for shape in [SHAPES[2], SHAPES[4], SHAPES[9]] {
            let operands = shape.random(&mut Random::new(3));
            let rounded = operands.each_ref().map(|array| array.rounded(device(), dtype));
            let [query, key, value] = rounded.each_ref().map(|(tensor, _)| tensor.clone());
            let y = reference::attention(query, key, value, &shape.options());
            assert_eq!(y.dtype(), dtype.into());
            let values = rounded.map(|(_, values)| values);
            assert_close((dtype, shape), y, &naive(&values, &shape.options()), HALF_UNIT);
        }
    }
}
