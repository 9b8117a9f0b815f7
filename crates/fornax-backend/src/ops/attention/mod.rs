//! Scaled dot-product attention (Vaswani et al., 2017, <https://arxiv.org/abs/1706.03762>) of a ragged batch, with grouped
//! queries (Ainslie et al., 2023, <https://arxiv.org/abs/2305.13245>), rotary embeddings, norms of heads, windows, soft caps,
//! and keys and values that may be kept in blocks. The projections around it are not here.

pub mod cases;
pub mod reference;

use std::cell::OnceCell;
use std::ops::Deref;

use burn::tensor::{Tensor, TensorData};
use fornax_cpu::attention::{Attention, HeadNorm, Rope, attend};
pub use fornax_cpu::attention::{Mask, Sequences};
use fornax_cpu::cache::KvArena;
use fornax_cpu::rows::Rows;
use fornax_cpu::{Isa, Pool};

use crate::kv::{KvLayer, Store};
use crate::values::{cpu_tensor, into_values};
use crate::{Values, buffers, values};

/// How a layer attends.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AttentionOptions {
    /// Query heads, a multiple of `kv_heads`.
    pub heads: usize,
    /// Heads of keys and of values; each serves as many consecutive query heads.
    pub kv_heads: usize,
    /// Components of a head.
    pub head_dim: usize,
    /// Factor of the scores; `1 / sqrt(head_dim)` unless a model says otherwise.
    pub scale: f64,
    /// Which keys of its sequence a token sees.
    pub mask: Mask,
    /// Bounds scores smoothly: `cap · tanh(score / cap)` (Gemma 2).
    pub soft_cap: Option<f64>,
}

impl AttentionOptions {
    /// Causal attention with the usual scale.
    pub fn causal(heads: usize, kv_heads: usize, head_dim: usize) -> Self {
        Self { mask: Mask::Causal, ..Self::bidirectional(heads, kv_heads, head_dim) }
    }

    /// Attention in both directions with the usual scale.
    pub fn bidirectional(heads: usize, kv_heads: usize, head_dim: usize) -> Self {
        let scale = 1.0 / (head_dim as f64).sqrt();
        Self { heads, kv_heads, head_dim, scale, mask: Mask::Full, soft_cap: None }
    }

    /// Columns of queries, keys and values side by side.
    pub fn qkv_columns(&self) -> usize {
        (self.heads + 2 * self.kv_heads) * self.head_dim
    }
}

/// Cosines and sines of the angles of a batch's rows, each `[rows, rotary_dim / 2]`. They are computed on the host; the
/// first layer that computes on a device brings them there.
#[derive(Debug)]
pub struct RopeTables {
    cos: Vec<f32>,
    sin: Vec<f32>,
    shape: [usize; 2],
    tensors: OnceCell<[Tensor<2>; 2]>,
}

impl RopeTables {
    /// Tables of these cosines and sines.
    ///
    /// # Panics
    /// When there are not `rows · pairs` of each.
    pub fn new(cos: Vec<f32>, sin: Vec<f32>, [rows, pairs]: [usize; 2]) -> Self {
        assert_eq!((cos.len(), sin.len()), (rows * pairs, rows * pairs), "rope tables: numbers of {rows} rows");
        Self { cos, sin, shape: [rows, pairs], tensors: OnceCell::new() }
    }

    /// `[rows, rotary_dim / 2]`
    pub fn dims(&self) -> [usize; 2] {
        self.shape
    }

    /// Cosines and sines as tensors of the dtype and on the device of `like`.
    pub(crate) fn tensors(&self, like: &Tensor<2>) -> [Tensor<2>; 2] {
        let make = |numbers: &[f32]| {
            let data = TensorData::new(numbers.to_vec(), self.shape).convert_dtype(like.dtype());
            Tensor::from_data(data, (&like.device(), like.dtype()))
        };
        self.tensors.get_or_init(|| [make(&self.cos), make(&self.sin)]).clone()
    }
}

/// Root mean square norms of each head of queries and of keys, before their rotation (Qwen 3).
#[derive(Debug, Clone)]
pub struct HeadNorms {
    /// `[head_dim]`, for queries.
    pub query: Tensor<1>,
    /// `[head_dim]`, for keys.
    pub key: Tensor<1>,
    /// Added to the mean square.
    pub epsilon: f64,
}

/// Attends from each row of a batch to the keys that it sees of its sequence.
///
/// - `qkv`: `[rows, (heads + 2 · kv_heads) · head_dim]`, the queries, keys and values of each row side by side
/// - `sequences`: how the rows fall into sequences; with `kv`, also which tokens came before and in which blocks
/// - `kv`: the layer's earlier keys and values, to which the keys and values of these rows are added
/// - returns `[rows, heads · head_dim]`; the softmax is in `f32`
///
/// On the CPU without gradients, only the result is held in memory. Otherwise all scores of a sequence are held at
/// once. Kept keys and values are rounded to the type of `kv` before they are used.
///
/// # Panics
/// When the shapes do not fit each other, `sequences` continue without `kv`, name blocks that `kv` lacks, or the window is 0.
pub fn attention(
    qkv: Tensor<2>,
    sequences: &Sequences,
    kv: Option<&mut KvLayer>,
    rope: Option<&RopeTables>,
    norms: Option<&HeadNorms>,
    options: &AttentionOptions,
) -> Tensor<2> {
    let [rows, columns] = qkv.dims();
    let AttentionOptions { heads, kv_heads, head_dim, .. } = *options;
    assert!(kv_heads > 0 && heads.is_multiple_of(kv_heads), "attention: {heads} heads for {kv_heads} of keys");
    assert_eq!(columns, options.qkv_columns(), "attention: columns of queries, keys and values");
    assert_eq!(rows, sequences.rows(), "attention: rows of the sequences");
    assert_ne!(options.mask, Mask::Window(0), "attention: a token sees itself, so the window is at least 1");
    if let Some(norms) = norms {
        assert_eq!([norms.query.dims(), norms.key.dims()], [[head_dim]; 2], "attention: weights of the heads' norms");
    }
    if let Some(rope) = rope {
        let [table_rows, half] = rope.dims();
        assert!(table_rows == rows && 2 * half <= head_dim, "attention: tables {:?} for {rows} rows", rope.dims());
    }
    if rows == 0 {
        return Tensor::zeros([0, heads * head_dim], (&qkv.device(), qkv.dtype()));
    }
    let (device, dtype) = (qkv.device(), qkv.dtype());
    let arena = match kv.map(|layer| &mut layer.0) {
        Some(Store::Tensors(tensors)) => {
            tensors.check(sequences, kv_heads * head_dim);
            return reference::attention(qkv, sequences, Some(tensors), rope, norms, options);
        }
        Some(Store::Arena(arena)) => Some(arena),
        None => None,
    };
    let weights = match norms.map(Norms::at_hand) {
        None => None,
        Some(Some(weights)) => Some(weights),
        // With gradients, or on another device. Only the kernels read and write an arena, so with one its operands are
        // brought to the CPU.
        Some(None) if arena.is_none() => return reference::attention(qkv, sequences, None, rope, norms, options),
        Some(None) => norms.map(Norms::fetched),
    };
    let qkv = match (into_values(qkv), &arena) {
        (Ok(qkv), _) => Slice::Borrowed(qkv),
        (Err(qkv), None) => return reference::attention(qkv, sequences, None, rope, norms, options),
        (Err(qkv), Some(_)) => fetched(&qkv),
    };
    let y = attend_rows(&qkv, sequences, arena, rope, weights.as_ref(), options);
    if let Slice::Borrowed(qkv) = qkv {
        buffers::recycle(qkv);
        return cpu_tensor(y, [rows, heads * head_dim]);
    }
    Tensor::from_data(TensorData::new(y, [rows, heads * head_dim]).convert_dtype(dtype), (&device, dtype))
}

/// The numbers of a tensor in place, or a copy of them.
enum Slice {
    Borrowed(Values),
    Copied(Vec<f32>),
}

impl Deref for Slice {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        match self {
            Self::Borrowed(values) => values,
            Self::Copied(values) => values,
        }
    }
}

/// From any device, in any type.
fn fetched<const D: usize>(tensor: &Tensor<D>) -> Slice {
    Slice::Copied(tensor.to_data().iter::<f32>().collect())
}

/// The weights of the heads' norms, as numbers.
struct Norms {
    query: Slice,
    key: Slice,
    epsilon: f32,
}

impl Norms {
    fn at_hand(norms: &HeadNorms) -> Option<Self> {
        let weights = |tensor| values(tensor).map(Slice::Borrowed);
        Some(Self { query: weights(&norms.query)?, key: weights(&norms.key)?, epsilon: norms.epsilon as f32 })
    }

    fn fetched(norms: &HeadNorms) -> Self {
        Self { query: fetched(&norms.query), key: fetched(&norms.key), epsilon: norms.epsilon as f32 }
    }
}

/// The kernels: `[rows, heads · head_dim]`.
fn attend_rows(
    qkv: &[f32],
    sequences: &Sequences,
    arena: Option<&mut KvArena>,
    rope: Option<&RopeTables>,
    norms: Option<&Norms>,
    options: &AttentionOptions,
) -> Vec<f32> {
    let AttentionOptions { heads, kv_heads, head_dim, scale, mask, soft_cap } = *options;
    let attention = Attention {
        heads,
        kv_heads,
        head_dim,
        scale: scale as f32,
        mask,
        soft_cap: soft_cap.map(|cap| cap as f32),
        rope: rope.map(|rope| Rope { cos: &rope.cos, sin: &rope.sin, rotary_dim: 2 * rope.shape[1] }),
        query_norm: norms.map(|norms| HeadNorm { weight: &norms.query, epsilon: norms.epsilon }),
        key_norm: norms.map(|norms| HeadNorm { weight: &norms.key, epsilon: norms.epsilon }),
    };
    let (wide, narrow) = (heads * head_dim, kv_heads * head_dim);
    let qkv = [0, wide, wide + narrow].map(|from| Rows::strided(&qkv[from..], options.qkv_columns()));
    let mut y = buffers::take(sequences.rows() * wide);
    attend(Pool::global(), Isa::active(), sequences, arena, qkv, &attention, &mut y);
    y
}
