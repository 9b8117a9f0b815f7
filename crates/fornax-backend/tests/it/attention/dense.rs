//! `attention`: groups, masks and windows by the definition, and decoding from a cache against the whole at once.

use burn::tensor::{Bool, Tensor, TensorData};
use fornax_backend::ops::cases::attention::{Case, TESTS};
use fornax_backend::ops::{AttentionOptions, attention, reference};

use crate::common::*;

/// Which keys take part: `[batch, keys]`.
#[derive(Debug, Clone)]
struct Visible {
    dims: [usize; 2],
    flags: Vec<bool>,
}

impl Visible {
    fn from_fn(dims: [usize; 2], visible: impl Fn(usize, usize) -> bool) -> Self {
        let flags = (0..dims[0] * dims[1]).map(|flat| visible(flat / dims[1], flat % dims[1])).collect();
        Self { dims, flags }
    }

    fn at(&self, batch: usize, key: usize) -> bool {
        self.flags[batch * self.dims[1] + key]
    }

    fn tensor(&self) -> Tensor<2, Bool> {
        Tensor::from_data(TensorData::new(self.flags.clone(), self.dims), device().as_burn())
    }
}

/// `Σ softmax(scale · q·k) · v` over the keys that each query sees.
fn naive(
    query: &Array<4>,
    key: &Array<4>,
    value: &Array<4>,
    visible: Option<&Visible>,
    options: &AttentionOptions,
) -> Array<4> {
    let ([_, heads, queries, head_dim], [_, kv_heads, keys, _]) = (query.dims, key.dims);
    let weights = |batch: usize, head: usize, i: usize| -> Vec<f64> {
        let kv_head = head / (heads / kv_heads);
        let score = |j: usize| -> f64 {
            (0..head_dim).map(|d| query.at([batch, head, i, d]) * key.at([batch, kv_head, j, d])).sum()
        };
        let sees = |j: usize| {
            let by_position = !options.causal || {
                let position = keys - queries + i;
                j <= position && options.window.is_none_or(|window| position - j < window)
            };
            by_position && visible.is_none_or(|visible| visible.at(batch, j))
        };
        let scores: Vec<Option<f64>> = (0..keys).map(|j| sees(j).then(|| options.scale * score(j))).collect();
        let largest = scores.iter().flatten().copied().fold(f64::NEG_INFINITY, f64::max);
        let powers: Vec<f64> =
            scores.into_iter().map(|score| score.map_or(0.0, |score| (score - largest).exp())).collect();
        let sum: f64 = powers.iter().sum();
        powers.into_iter().map(|power| power / sum).collect()
    };
    Array::from_fn(query.dims, |[batch, head, i, d]| {
        let kv_head = head / (heads / kv_heads);
        let weights = weights(batch, head, i);
        // A key that is not seen does not count, whatever its value.
        (0..keys).filter(|&j| weights[j] != 0.0).map(|j| weights[j] * value.at([batch, kv_head, j, d])).sum()
    })
}

struct Operands {
    query: Array<4>,
    key: Array<4>,
    value: Array<4>,
}

impl Operands {
    fn random(case: &Case, random: &mut Random) -> Self {
        let Case { batch, heads, kv_heads, queries, keys, head_dim, .. } = *case;
        // Twice as large as usual, so that the softmax is far from even.
        let query = Array::random([batch, heads, queries, head_dim], random);
        Self {
            query: Array::from_fn(query.dims, |index| 2.0 * query.at(index)),
            key: Array::random([batch, kv_heads, keys, head_dim], random),
            value: Array::random([batch, kv_heads, keys, head_dim], random),
        }
    }

    fn tensors(&self) -> [Tensor<4>; 3] {
        [&self.query, &self.key, &self.value].map(|array| array.tensor(device()))
    }

    fn naive(&self, visible: Option<&Visible>, options: &AttentionOptions) -> Array<4> {
        naive(&self.query, &self.key, &self.value, visible, options)
    }

    fn check(&self, case: &Case, visible: Option<&Visible>) {
        let options = options(case);
        let [query, key, value] = self.tensors();
        let y = attention(query, key, value, visible.map(Visible::tensor), &options);
        assert_close((case, visible), y, &self.naive(visible, &options), unit(case.keys.max(case.head_dim)));
    }
}

fn options(case: &Case) -> AttentionOptions {
    AttentionOptions {
        scale: 1.0 / (case.head_dim as f64).sqrt(),
        causal: case.causal,
        window: case.window.filter(|_| case.causal),
    }
}

/// Sequences of different lengths, padded on the left under a causal mask, as a decoder's are, so that the last
/// query always sees a key, and on the right otherwise. The first sequence is whole.
fn padding(case: &Case) -> Visible {
    Visible::from_fn([case.batch, case.keys], |batch, key| {
        let padded = batch.min(case.keys - 1);
        if case.causal { key >= padded } else { key < case.keys - padded }
    })
}

#[test]
fn cases_follow_the_definition() {
    for (seed, case) in TESTS.iter().enumerate() {
        Operands::random(case, &mut Random::new(seed as u64)).check(case, None);
    }
}

#[test]
fn random_shapes_follow_the_definition() {
    for mut random in random_shapes() {
        let kv_heads = random.size(3);
        let queries = random.size(6);
        let causal = random.coin();
        let case = Case {
            batch: random.size(3),
            heads: kv_heads * random.size(3),
            kv_heads,
            queries,
            keys: if causal { queries + random.size(7) - 1 } else { random.size(9) },
            head_dim: random.size(12),
            causal,
            window: (causal && random.coin()).then(|| random.size(8)),
        };
        Operands::random(&case, &mut random).check(&case, None);
    }
}

/// Queries that see nothing are left out of the comparison, for there the definition is 0 / 0.
#[test]
fn padding_does_not_count() {
    for (seed, case) in TESTS.iter().enumerate() {
        let case = Case { batch: 3, ..*case };
        let visible = padding(&case);
        let operands = Operands::random(&case, &mut Random::new(seed as u64));
        let options = options(&case);
        let expected = operands.naive(Some(&visible), &options);
        let [query, key, value] = operands.tensors();
        let found = attention(query, key, value, Some(visible.tensor()), &options);
        let found_values = Array::read(found.clone());
        assert!(found_values.values.iter().all(|value| value.is_finite()), "{case:?}: a padded row is no number");
        let expected = Array::from_fn(expected.dims, |index| {
            let value = expected.at(index);
            if value.is_nan() { found_values.at(index) } else { value }
        });
        assert_close(case, found, &expected, unit(case.keys.max(case.head_dim)));
    }
}

/// What is hidden, by the mask or by position, may hold anything finite without changing a bit of the rest.
#[test]
fn hidden_keys_do_not_matter() {
    let case = Case { batch: 2, heads: 4, kv_heads: 2, queries: 6, keys: 6, head_dim: 8, causal: false, window: None };
    let visible = Visible::from_fn([2, 6], |batch, key| key + batch < 5);
    let mut operands = Operands::random(&case, &mut Random::new(1));
    let run = |operands: &Operands| {
        let [query, key, value] = operands.tensors();
        attention(query, key, value, Some(visible.tensor()), &options(&case))
    };
    let before = run(&operands);
    for batch in 0..2 {
        for key in (0..6).filter(|&key| !visible.at(batch, key)) {
            for d in 0..8 {
                operands.key.set([batch, 1, key, d], 50.0);
                operands.value.set([batch, 1, key, d], -1000.0);
            }
        }
    }
    assert_identical("padding", run(&operands), before);
}

/// Queries one by one over keys that grow in a cache, and in pieces, give what all at once give.
#[test]
fn decoding_gives_what_prefill_gives() {
    let capacity = 11;
    for window in [None, Some(1), Some(3)] {
        let case = Case { batch: 2, heads: 4, kv_heads: 2, queries: 8, keys: 8, head_dim: 6, causal: true, window };
        let operands = Operands::random(&case, &mut Random::new(2));
        let options = options(&case);
        let [query, key, value] = operands.tensors();
        let whole = Array::read(attention(query.clone(), key.clone(), value.clone(), None, &options));
        assert_close((case, "whole"), query.clone(), &operands.query, 0.0);

        // The cache is longer than the sequence; what was not written yet must not be seen.
        let rest = Tensor::full([2, 2, capacity - 8, 6], 777.0, device().as_burn());
        let (keys, values) = (Tensor::cat(vec![key, rest.clone()], 2), Tensor::cat(vec![value, rest], 2));
        for step in [1, 3] {
            for first in (0..8).step_by(step) {
                let count = step.min(8 - first);
                let end = first + count;
                let y = attention(
                    query.clone().narrow(2, first, count),
                    keys.clone().narrow(2, 0, end),
                    values.clone().narrow(2, 0, end),
                    None,
                    &options,
                );
                assert_close((window, first, count), y, &whole.narrow(2, first, count), unit(8));
            }
        }
    }
}

/// Padded sequences decode as they would alone and without padding.
#[test]
fn padded_decoding_gives_what_a_sequence_alone_gives() {
    let case = Case { batch: 2, heads: 2, kv_heads: 1, queries: 1, keys: 7, head_dim: 4, causal: true, window: None };
    let visible = Visible::from_fn([2, 7], |batch, key| batch == 0 || key >= 3);
    let operands = Operands::random(&case, &mut Random::new(3));
    let [query, key, value] = operands.tensors();
    let options = options(&case);
    let together = attention(query.clone(), key.clone(), value.clone(), Some(visible.tensor()), &options);
    let alone = attention(
        query.narrow(0, 1, 1),
        key.narrow(0, 1, 1).narrow(2, 3, 4),
        value.narrow(0, 1, 1).narrow(2, 3, 4),
        None,
        &options,
    );
    assert_close("the second sequence", together.narrow(0, 1, 1), &Array::read(alone), unit(7));
}

#[test]
fn the_scale_is_the_callers() {
    let case = TESTS[1];
    let operands = Operands::random(&case, &mut Random::new(4));
    for scale in [0.0, 0.25, 1.5] {
        let options = AttentionOptions { scale, ..options(&case) };
        let [query, key, value] = operands.tensors();
        let y = attention(query, key, value, None, &options);
        assert_close(scale, y, &operands.naive(None, &options), unit(case.keys));
    }
    assert_eq!(AttentionOptions::causal(16), AttentionOptions { scale: 0.25, causal: true, window: None });
    assert_eq!(AttentionOptions::bidirectional(4), AttentionOptions { scale: 0.5, causal: false, window: None });
}

/// Scores far beyond what an exponential holds, which only a softmax that subtracts the largest one survives.
#[test]
fn large_scores_do_not_overflow() {
    let case = TESTS[1];
    let operands = Operands::random(&case, &mut Random::new(5));
    let options = AttentionOptions { scale: 256.0, ..options(&case) };
    let [query, key, value] = operands.tensors();
    let y = attention(query, key, value, None, &options);
    // A score of hundreds is rounded to about 1e-4 of its size in the exponent.
    assert_close(case, y, &operands.naive(None, &options), 1e-3f64.max(unit(1)));
}

#[test]
fn without_queries_there_is_no_result() {
    let Some(device) = cpu() else { return };
    let tensor = |positions: usize| Tensor::<4>::zeros([1, 2, positions, 4], device.as_burn());
    for options in [AttentionOptions::causal(4), AttentionOptions::bidirectional(4)] {
        let y = attention(tensor(0), tensor(3), tensor(3), None, &options);
        assert_eq!(y.dims(), [1, 2, 0, 4]);
    }
}

#[test]
fn views_are_read_where_they_lie() {
    let case =
        Case { batch: 2, heads: 4, kv_heads: 2, queries: 5, keys: 5, head_dim: 6, causal: true, window: Some(4) };
    let operands = Operands::random(&case, &mut Random::new(6));
    // Heads of a projection, `[batch, seq, heads, dim]`.
    let by_position = |array: &Array<4>| {
        let [batch, heads, seq, dim] = array.dims;
        let swapped = Array::from_fn([batch, seq, heads, dim], |[b, s, h, d]| array.at([b, h, s, d]));
        swapped.tensor(device()).swap_dims(1, 2)
    };
    let [query, key, value] = [&operands.query, &operands.key, &operands.value].map(by_position);
    let y = attention(query, key, value, None, &options(&case));
    assert_close(case, y, &operands.naive(None, &options(&case)), unit(6));
}

#[test]
fn the_operation_gives_what_the_reference_gives() {
    if cpu().is_none() {
        return;
    }
    for (seed, case) in TESTS.iter().enumerate() {
        let operands = Operands::random(case, &mut Random::new(seed as u64));
        let visible = padding(case);
        for visible in [None, Some(&visible)] {
            let [query, key, value] = operands.tensors();
            let [q, k, v] = operands.tensors();
            let expected = reference::attention(q, k, v, visible.map(Visible::tensor), &options(case));
            let y = attention(query, key, value, visible.map(Visible::tensor), &options(case));
            assert_close(case, y, &Array::read(expected), unit(case.keys.max(case.head_dim)));
        }
    }
}

/// Shader compilers may take it that there are neither, so only the CPU promises this.
#[test]
fn nan_and_infinity_travel() {
    if cpu().is_none() {
        return;
    }
    let case = Case { batch: 2, heads: 2, kv_heads: 1, queries: 3, keys: 5, head_dim: 4, causal: true, window: None };
    let mut operands = Operands::random(&case, &mut Random::new(7));
    operands.query.set([0, 1, 1, 2], f64::NAN);
    operands.value.set([1, 0, 0, 3], f64::INFINITY);
    let [query, key, value] = operands.tensors();
    let found = Array::read(attention(query, key, value, None, &options(&case)));
    for (flat, &value) in found.values.iter().enumerate() {
        let [batch, head, query, d] = [flat / 24, flat / 12 % 2, flat / 4 % 3, flat % 4];
        let place = format!("at {batch}, {head}, {query}, {d}: {value}");
        match (batch, head, query, d) {
            (0, 1, 1, _) => assert!(value.is_nan(), "{place}"),
            (1, _, _, 3) => assert!(value == f64::INFINITY, "{place}"),
            _ => assert!(value.is_finite(), "{place}"),
        }
    }
}

#[test]
fn half_precision_is_close() {
    for dtype in half_dtypes() {
        for case in [TESTS[2], TESTS[4]] {
            let operands = Operands::random(&case, &mut Random::new(8));
            let visible = padding(&Case { batch: 1, ..case });
            let visible = Visible::from_fn([case.batch, case.keys], |_, key| visible.at(0, key));
            let (query, query_values) = operands.query.rounded(device(), dtype);
            let (key, key_values) = operands.key.rounded(device(), dtype);
            let (value, value_values) = operands.value.rounded(device(), dtype);
            let y = attention(query, key, value, Some(visible.tensor()), &options(&case));
            assert_eq!(y.dtype(), dtype.into());
            let expected = naive(&query_values, &key_values, &value_values, Some(&visible), &options(&case));
            assert_close((dtype, case), y, &expected, HALF_UNIT);
        }
    }
}

#[test]
fn gradients_follow_differences() {
    let Some(device) = cpu() else { return };
    let case = Case { batch: 1, heads: 2, kv_heads: 1, queries: 3, keys: 4, head_dim: 3, causal: true, window: None };
    for case in [case, Case { window: Some(2), ..case }, Case { causal: false, queries: 2, ..case }] {
        let mut random = Random::new(9);
        let operands = Operands::random(&case, &mut random);
        let coefficients = Array::random(operands.query.dims, &mut random);
        let (Operands { query, key, value }, options) = (&operands, options(&case));
        // The second key is padding; every query still sees another.
        let visible = Visible::from_fn([1, 4], |_, key| key != 1 || case.causal);
        let [qt, kt, vt] = [query, key, value].map(|array| array.tracked(device));
        let y = attention(qt.clone(), kt.clone(), vt.clone(), Some(visible.tensor()), &options);
        assert_close(case, y.clone().inner(), &operands.naive(Some(&visible), &options), unit(1));
        let gradients = backward(y, &coefficients);
        let of =
            |q: &Array<4>, k: &Array<4>, v: &Array<4>| loss(&naive(q, k, v, Some(&visible), &options), &coefficients);
        assert_gradient((case, "query"), &gradients, &qt, query, |query| of(query, key, value));
        assert_gradient((case, "key"), &gradients, &kt, key, |key| of(query, key, value));
        assert_gradient((case, "value"), &gradients, &vt, value, |value| of(query, key, value));
    }
}

#[test]
fn operands_that_do_not_fit_are_named() {
    let tensor = |dims: [usize; 4]| Tensor::<4>::zeros(dims, device().as_burn());
    let run = |query: [usize; 4], key: [usize; 4], value: [usize; 4], causal: bool| {
        let options = AttentionOptions { causal, ..AttentionOptions::bidirectional(4) };
        attention(tensor(query), tensor(key), tensor(value), None, &options)
    };
    let (query, key) = ([2, 4, 3, 4], [2, 2, 3, 4]);
    assert_eq!(run(query, key, key, true).dims(), query, "these fit");
    assert_panics(&["attention:", "keys and values"], || run(query, key, [2, 2, 4, 4], false));
    for other in [[1, 2, 3, 4], [2, 3, 3, 4], [2, 2, 3, 5], [2, 8, 3, 4]] {
        let found = format!("{other:?}");
        assert_panics(&["attention:", "[2, 4, 3, 4]", &found], || run(query, other, other, false));
    }
    assert_panics(&["attention:", "3 queries", "2 keys"], || run(query, [2, 2, 2, 4], [2, 2, 2, 4], true));
    assert_panics(&["attention:", "window"], || {
        let options = AttentionOptions { window: Some(0), ..AttentionOptions::causal(4) };
        attention(tensor(query), tensor(key), tensor(key), None, &options)
    });
    assert_panics(&["attention:", "mask"], || {
        let visible = Visible::from_fn([2, 4], |_, _| true).tensor();
        attention(tensor(query), tensor(key), tensor(key), Some(visible), &AttentionOptions::causal(4))
    });
}
