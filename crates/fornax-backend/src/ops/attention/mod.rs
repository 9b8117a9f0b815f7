//! Scaled dot-product attention (Vaswani et al., 2017, <https://arxiv.org/abs/1706.03762>) of a ragged batch, with grouped
//! queries (Ainslie et al., 2023, <https://arxiv.org/abs/2305.13245>), rotary embeddings, norms of heads, windows, soft caps,
//! and keys and values that may be kept in blocks. The projections around it are not here.

pub mod cases;
pub mod reference;

use std::ops::Deref;

use burn::tensor::{DType, Tensor, TensorData};
use fornax_cpu::attention::{Attention, HeadNorm, Rope, attend};
pub use fornax_cpu::attention::{Mask, Sequences};
use fornax_cpu::cache::KvArena;
use fornax_cpu::rows::Rows;
use fornax_cpu::{Isa, Pool};

use crate::kv::{KvLayer, Store};
use crate::{Values, buffers, from_values, values};

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

/// Cosines and sines of the angles of a batch's rows.
#[derive(Debug, Clone)]
pub struct RopeTables {
    /// `[rows, rotary_dim / 2]`
    pub cos: Tensor<2>,
    /// `[rows, rotary_dim / 2]`
    pub sin: Tensor<2>,
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
/// - `kv`: the layer's earlier keys and values, which those of these rows are added to
/// - returns `[rows, heads · head_dim]`; the softmax is in `f32`
///
/// On the CPU without gradients nothing but the result is held in memory. Everywhere else scores are held whole, for a
/// sequence at a time. Kept keys and values are rounded to the type of `kv` before anything is made of them.
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
    if let Some(RopeTables { cos, sin }) = rope {
        let [table_rows, half] = cos.dims();
        assert_eq!(cos.dims(), sin.dims(), "attention: the tables of cosines and sines");
        assert!(table_rows == rows && 2 * half <= head_dim, "attention: tables {:?} for {rows} rows", cos.dims());
    }
    if rows == 0 {
        return Tensor::zeros([0, heads * head_dim], (&qkv.device(), qkv.dtype()));
    }
    match kv.map(|layer| &mut layer.0) {
        None => match Numbers::at_hand(&qkv, rope, norms) {
            Some(numbers) => finished(numbers.attend(sequences, None, options), numbers, qkv, options),
            None => reference::attention(qkv, sequences, None, rope, norms, options),
        },
        Some(Store::Arena(arena)) => {
            // Operands of another kind, or with gradients, which end here, are brought to the kernels.
            let numbers = Numbers::at_hand(&qkv, rope, norms).unwrap_or_else(|| Numbers::fetched(&qkv, rope, norms));
            finished(numbers.attend(sequences, Some(arena), options), numbers, qkv, options)
        }
        Some(Store::Tensors(tensors)) => {
            tensors.check(sequences, kv_heads * head_dim);
            reference::attention(qkv, sequences, Some(tensors), rope, norms, options)
        }
    }
}

fn finished(y: Vec<f32>, numbers: Numbers, qkv: Tensor<2>, options: &AttentionOptions) -> Tensor<2> {
    drop(numbers);
    let ([rows, _], device, dtype) = (qkv.dims(), qkv.device(), qkv.dtype());
    buffers::recycle(qkv);
    let shape = [rows, options.heads * options.head_dim];
    if dtype == DType::F32 {
        return from_values(y, shape, &device);
    }
    Tensor::from_data(TensorData::new(y, shape).convert_dtype(dtype), (&device, dtype))
}

/// The numbers of the operands.
struct Numbers {
    qkv: Slice,
    rope: Option<[Slice; 2]>,
    norms: Option<([Slice; 2], f32)>,
}

/// Numbers where they lie, or a copy.
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

impl Numbers {
    /// If all operands are plain `f32` on the CPU, without gradients.
    fn at_hand(qkv: &Tensor<2>, rope: Option<&RopeTables>, norms: Option<&HeadNorms>) -> Option<Self> {
        let qkv = Slice::Borrowed(values(qkv)?);
        let rope = match rope {
            Some(rope) => Some([Slice::Borrowed(values(&rope.cos)?), Slice::Borrowed(values(&rope.sin)?)]),
            None => None,
        };
        let norms = match norms {
            Some(norms) => {
                let weights = [Slice::Borrowed(values(&norms.query)?), Slice::Borrowed(values(&norms.key)?)];
                Some((weights, norms.epsilon as f32))
            }
            None => None,
        };
        Some(Self { qkv, rope, norms })
    }

    /// From any device, in any type.
    fn fetched(qkv: &Tensor<2>, rope: Option<&RopeTables>, norms: Option<&HeadNorms>) -> Self {
        fn copied<const D: usize>(tensor: &Tensor<D>) -> Slice {
            Slice::Copied(tensor.to_data().iter::<f32>().collect())
        }
        Self {
            qkv: copied(qkv),
            rope: rope.map(|rope| [copied(&rope.cos), copied(&rope.sin)]),
            norms: norms.map(|norms| ([copied(&norms.query), copied(&norms.key)], norms.epsilon as f32)),
        }
    }

    /// `[rows, heads · head_dim]`
    fn attend(&self, sequences: &Sequences, arena: Option<&mut KvArena>, options: &AttentionOptions) -> Vec<f32> {
        let AttentionOptions { heads, kv_heads, head_dim, scale, mask, soft_cap } = *options;
        let rows = sequences.rows();
        let [query_norm, key_norm] = [0, 1].map(|index| {
            let (weights, epsilon) = self.norms.as_ref()?;
            Some(HeadNorm { weight: &weights[index], epsilon: *epsilon })
        });
        let rope = self.rope.as_ref().map(|[cos, sin]| Rope { cos, sin, rotary_dim: 2 * cos.len() / rows });
        let attention = Attention {
            heads,
            kv_heads,
            head_dim,
            scale: scale as f32,
            mask,
            soft_cap: soft_cap.map(|cap| cap as f32),
            rope,
            query_norm,
            key_norm,
        };
        let stride = options.qkv_columns();
        let (wide, narrow) = (heads * head_dim, kv_heads * head_dim);
        let qkv = [0, wide, wide + narrow].map(|from| Rows::strided(&self.qkv[from..], stride));
        let mut y = buffers::take(rows * wide);
        attend(Pool::global(), Isa::active(), sequences, arena, qkv, &attention, &mut y);
        y
    }
}
