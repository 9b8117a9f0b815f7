//! `attention` against its definition: ragged batches, without kept keys and values and with every kind of memory for
//! them.

mod blocks;
mod dense;
mod ragged;

use burn::tensor::{DType, Tensor};
use fornax_backend::FloatDtype;
use fornax_backend::kv::{BLOCK_TOKENS, CacheType, KvFormat, KvLayer};
use fornax_backend::ops::cases::attention::Case;
use fornax_backend::ops::{AttentionOptions, HeadNorms, Mask, RopeTables, Sequences, attention};

use crate::common::*;

const EPSILON: f64 = 1e-5;

/// Whether the token at `position` of `keys` sees the one at `key`.
fn sees(mask: Mask, position: usize, key: usize) -> bool {
    match mask {
        Mask::Full => true,
        Mask::Causal => key <= position,
        Mask::Window(window) => key <= position && position - key < window,
        Mask::Local(reach) => position.abs_diff(key) <= reach,
    }
}

/// `softmax(scores) · values` over the visible keys; the score of a masked key is none.
fn weighed(scores: &[Option<f64>], value: impl Fn(usize) -> f64) -> f64 {
    let largest = scores.iter().flatten().copied().fold(f64::NEG_INFINITY, f64::max);
    let powers: Vec<f64> = scores.iter().map(|score| score.map_or(0.0, |score| (score - largest).exp())).collect();
    let sum: f64 = powers.iter().sum();
    // A masked key does not count, whatever its value.
    (0..scores.len()).filter(|&key| scores[key].is_some()).map(|key| powers[key] / sum * value(key)).sum()
}

fn score(product: f64, options: &AttentionOptions) -> f64 {
    let score = options.scale * product;
    options.soft_cap.map_or(score, |cap| cap * (score / cap).tanh())
}

/// The whole sequences of a case, with the tokens before the rows to compute.
#[derive(Debug, Clone)]
struct Operands {
    /// `[rows, past]` of each.
    shape: Vec<[usize; 2]>,
    /// `[past + rows, (heads + 2 · kv_heads) · head_dim]` of each.
    qkv: Vec<Array<2>>,
    /// `[past + rows, rotary_dim / 2]` of the longest: cosines, then sines.
    rope: Option<[Array<2>; 2]>,
    /// `[head_dim]` for queries, then for keys.
    norms: Option<[Array<1>; 2]>,
    options: AttentionOptions,
}

impl Operands {
    fn random(case: &Case<'_>, random: &mut Random) -> Self {
        let options = case.options();
        let queries = options.heads * options.head_dim;
        let qkv = case.sequences.iter().map(|[rows, past]| {
            let all = Array::random([rows + past, options.qkv_columns()], random);
            // Queries are twice as large as usual, so that the softmax is far from even.
            Array::from_fn(all.dims, |index| if index[1] < queries { 2.0 * all.at(index) } else { all.at(index) })
        });
        let qkv: Vec<Array<2>> = qkv.collect();
        let longest = qkv.iter().map(|qkv| qkv.dims[0]).max().unwrap_or(0);
        let half = case.rotary_dim / 2;
        let rope = (half > 0).then(|| {
            let angle = |[position, i]: [usize; 2]| position as f64 * 100f64.powf(-(i as f64) / half as f64);
            // As `f32` holds them.
            let table = |of: fn(f64) -> f64| Array::from_fn([longest, half], |at| f64::from(of(angle(at)) as f32));
            [table(f64::cos), table(f64::sin)]
        });
        let norms = case.head_norms.then(|| [(); 2].map(|()| Array::random([case.head_dim], random)));
        Self { shape: case.sequences.to_vec(), qkv, rope, norms, options }
    }

    /// A head of a token, normed and rotated: `from` is its first column.
    fn head(&self, qkv: &Array<2>, token: usize, from: usize, norm: Option<usize>) -> Vec<f64> {
        let head_dim = self.options.head_dim;
        let mut head: Vec<f64> = (0..head_dim).map(|d| qkv.at([token, from + d])).collect();
        let Some(which) = norm else { return head };
        if let Some(norms) = &self.norms {
            let mean = head.iter().map(|x| x * x).sum::<f64>() / head_dim as f64;
            let factor = 1.0 / (mean + EPSILON).sqrt();
            head.iter_mut().enumerate().for_each(|(d, x)| *x *= factor * norms[which].at([d]));
        }
        if let Some([cos, sin]) = &self.rope {
            let half = cos.dims[1];
            for i in 0..half {
                let (cos, sin) = (cos.at([token, i]), sin.at([token, i]));
                (head[i], head[half + i]) =
                    (head[i] * cos - head[half + i] * sin, head[half + i] * cos + head[i] * sin);
            }
        }
        head
    }

    /// All tokens of one sequence, by the definition: `[past + rows, heads · head_dim]`.
    fn naive_sequence(&self, qkv: &Array<2>) -> Array<2> {
        let AttentionOptions { heads, kv_heads, head_dim, mask, .. } = self.options;
        let tokens = qkv.dims[0];
        let heads_from = |first: usize, count: usize, norm: Option<usize>| -> Vec<Vec<Vec<f64>>> {
            let column = |head: usize| (first + head) * head_dim;
            (0..count).map(|head| (0..tokens).map(|t| self.head(qkv, t, column(head), norm)).collect()).collect()
        };
        let queries = heads_from(0, heads, Some(0));
        let keys = heads_from(heads, kv_heads, Some(1));
        let values = heads_from(heads + kv_heads, kv_heads, None);
        let mut y = Array::from_fn([tokens, heads * head_dim], |_| 0.0);
        for (head, queries) in queries.iter().enumerate() {
            let kv_head = head / (heads / kv_heads);
            let values = &values[kv_head];
            for (token, query) in queries.iter().enumerate() {
                let product = |key: usize| -> f64 { query.iter().zip(&keys[kv_head][key]).map(|(q, k)| q * k).sum() };
                let scores: Vec<Option<f64>> =
                    (0..tokens).map(|key| sees(mask, token, key).then(|| score(product(key), &self.options))).collect();
                (0..head_dim).for_each(|d| {
                    y.set([token, head * head_dim + d], weighed(&scores, |key| values[key][d]));
                });
            }
        }
        y
    }

    /// The rows to compute, by the definition: `[rows, heads · head_dim]`.
    fn naive(&self) -> Array<2> {
        let parts = self.qkv.iter().zip(&self.shape);
        joined(parts.map(|(qkv, &[rows, past])| self.naive_sequence(qkv).narrow(0, past, rows)).collect())
    }

    /// The tokens `from..to` of each sequence, one after the other: `[rows, columns]`.
    fn rows(&self, parts: &[[usize; 2]]) -> Array<2> {
        joined(self.qkv.iter().zip(parts).map(|(qkv, &[from, to])| qkv.narrow(0, from, to - from)).collect())
    }

    /// The angles of such rows.
    fn tables(&self, parts: &[[usize; 2]]) -> Option<[Array<2>; 2]> {
        let of = |table: &Array<2>| joined(parts.iter().map(|&[from, to]| table.narrow(0, from, to - from)).collect());
        self.rope.as_ref().map(|tables| tables.each_ref().map(of))
    }

    fn rope(&self, parts: &[[usize; 2]]) -> Option<RopeTables> {
        let tables = self.tables(parts)?;
        let dims = tables[0].dims;
        let [cos, sin] = tables.map(|table| table.values.iter().map(|&value| value as f32).collect());
        Some(RopeTables::new(cos, sin, dims))
    }

    fn head_norms(&self, dtype: DType) -> Option<HeadNorms> {
        let [query, key] = self.norms.as_ref()?.each_ref().map(|weight| weight.tensor(device()).cast(dtype));
        Some(HeadNorms { query, key, epsilon: EPSILON })
    }

    /// The rows to compute of each sequence.
    fn ends(&self) -> Vec<[usize; 2]> {
        self.shape.iter().map(|&[rows, past]| [past, past + rows]).collect()
    }

    /// Attends from the tokens `from..to` of each sequence, the others being kept in `kv` already.
    fn attend(&self, parts: &[[usize; 2]], sequences: &Sequences, kv: Option<&mut KvLayer>) -> Tensor<2> {
        let qkv = self.rows(parts).tensor(device());
        let (rope, norms) = (self.rope(parts), self.head_norms(DType::F32));
        attention(qkv, sequences, kv, rope.as_ref(), norms.as_ref(), &self.options)
    }

    /// Whole sequences, of which nothing is kept.
    fn uncached(&self) -> Tensor<2> {
        let lengths: Vec<usize> = self.shape.iter().map(|&[rows, _]| rows).collect();
        self.attend(&self.ends(), &Sequences::uncached(&lengths), None)
    }

    /// With memory for all tokens: one pass fills it with the earlier tokens, then the rows are computed.
    fn cached(&self, format: KvFormat) -> Tensor<2> {
        let mut pool = Pool::new(self, format);
        let before: Vec<[usize; 2]> = self.shape.iter().map(|&[_, past]| [0, past]).collect();
        pool.attend(self, &before);
        pool.attend(self, &self.ends())
    }

    /// The error allowed in a result.
    fn unit(&self) -> f64 {
        let longest = self.qkv.iter().map(|qkv| qkv.dims[0]).max().unwrap_or(0);
        unit(longest.max(self.options.head_dim))
    }
}

/// Concatenates matrices, one below the other.
fn joined(parts: Vec<Array<2>>) -> Array<2> {
    let columns = parts[0].dims[1];
    let rows = parts.iter().map(|part| part.dims[0]).sum();
    Array { dims: [rows, columns], values: parts.into_iter().flat_map(|part| part.values).collect() }
}

/// A layer's memory, with the blocks of each sequence. The blocks are in no order, and block 0 belongs to no sequence.
struct Pool {
    layer: KvLayer,
    blocks: Vec<Vec<u32>>,
}

impl Pool {
    fn new(operands: &Operands, format: KvFormat) -> Self {
        let needed: Vec<usize> = operands.qkv.iter().map(|qkv| qkv.dims[0].div_ceil(BLOCK_TOKENS)).collect();
        let count: usize = needed.iter().sum();
        let mut free = 1..=count as u32;
        // The last sequence's are the first, in falling order.
        let mut blocks: Vec<Vec<u32>> =
            needed.iter().rev().map(|&needed| free.by_ref().take(needed).collect::<Vec<_>>()).collect();
        blocks.iter_mut().for_each(|own| own.reverse());
        blocks.reverse();
        let shape = [operands.options.kv_heads, operands.options.head_dim];
        let layer = KvLayer::new(format, shape, count + 1, device()).expect("a little memory");
        Self { layer, blocks }
    }

    fn sequences(&self, parts: &[[usize; 2]]) -> Sequences {
        let rows = parts.iter().zip(&self.blocks);
        Sequences::cached(rows.map(|(&[from, to], blocks)| (to - from, from, &blocks[..])))
    }

    fn attend(&mut self, operands: &Operands, parts: &[[usize; 2]]) -> Tensor<2> {
        let sequences = self.sequences(parts);
        operands.attend(parts, &sequences, Some(&mut self.layer))
    }
}

/// Every kind of memory, with the largest error of a result from its rounding. Arenas take tensors of every device.
fn formats() -> impl Iterator<Item = (KvFormat, f64)> {
    let arenas = CacheType::ALL.map(|cache| {
        let lost = match cache {
            CacheType::F32 => 0.0,
            CacheType::F16 => 2e-3,
            CacheType::BF16 => 2e-2,
            CacheType::I8 => 2.5e-2,
        };
        (KvFormat::Arena(cache), lost)
    });
    let halves = half_dtypes().map(|dtype| {
        let lost = if dtype == FloatDtype::F16 { 2e-3 } else { 2e-2 };
        (KvFormat::Tensors(dtype.into()), lost)
    });
    arenas.into_iter().chain([(KvFormat::Tensors(DType::F32), 0.0)]).chain(halves)
}
