//! Layers on the CPU, on slices from a step's beginning to its end: a handful of fused calls a layer, with buffers that all
//! layers share, where a tensor operation for each addition would cost more than a small model's arithmetic. It serves
//! models that compute in `f32` without gradients; the layers' `forward` over tensors defines what they compute.

use burn::module::Param;
use burn::tensor::Tensor;
use fornax_backend::{Values, values};
use fornax_cpu::attention::{self, HeadNorm, Mask, Rope, SelfAttention};
use fornax_cpu::cache::KvLayer;
use fornax_cpu::linear::{self, LinearMap, Matrix};
use fornax_cpu::rows::{self, NormWeights, Rows};
use fornax_cpu::{Isa, PackedWeight, Pool};

use crate::{Attention, LayerNorm, Linear, Mlp, Norm, RmsNorm, Weight};

/// One pass over some rows of tokens.
#[derive(Debug, Clone, Copy)]
pub struct Step {
    rows: usize,
    pool: &'static Pool,
    isa: Isa,
}

impl Step {
    /// On all threads, with the instructions that are in use.
    pub fn new(rows: usize) -> Self {
        Self { rows, pool: Pool::global(), isa: Isa::active() }
    }
}

/// Buffers that the layers of a pass share.
#[derive(Debug, Default)]
pub struct Scratch {
    query: Vec<f32>,
    key: Vec<f32>,
    value: Vec<f32>,
    mixed: Vec<f32>,
    inner: Vec<f32>,
}

/// Where the keys and values of a pass are.
#[derive(Debug)]
pub enum Keys<'a> {
    /// Those of the tokens before, to which the pass adds its own.
    Cached {
        /// One layer's.
        cache: &'a mut KvLayer,
        /// Tokens of each sequence.
        seq: usize,
        /// Cosines and sines of the pass's positions, each `[seq, rotary_dim / 2]`.
        rope: Option<(&'a [f32], &'a [f32])>,
    },
    /// Those of the pass alone; every token sees all of its sequence.
    Own {
        /// The row at which each sequence begins, and the row after the last.
        starts: &'a [usize],
    },
}

impl Attention {
    /// `out = residual + attention(x)`, all `[rows, hidden_size]`.
    ///
    /// # Panics
    /// When a weight is not on the CPU, or a length does not fit.
    pub fn add_to(
        &self,
        step: &Step,
        x: &[f32],
        residual: &[f32],
        out: &mut Vec<f32>,
        keys: Keys<'_>,
        scratch: &mut Scratch,
    ) {
        let config = self.config();
        let rows = step.rows;
        let (wide, narrow) = (config.heads * config.head_dim, config.kv_heads * config.head_dim);
        let Scratch { query, key, value, mixed, .. } = scratch;
        query.resize(rows * wide, 0.0);
        key.resize(rows * narrow, 0.0);
        value.resize(rows * narrow, 0.0);
        mixed.resize(rows * wide, 0.0);
        let maps = [&self.query, &self.key, &self.value].map(Map::of);
        let [q, k, v] = &maps;
        let outs = &mut [query.as_mut_slice(), key, value];
        linear::linear(step.pool, step.isa, x, rows, &[q.map(), k.map(), v.map()], outs, |_, _, _, _| {});

        let (q, k, v) = (Rows::new(query, wide), Rows::new(key, narrow), Rows::new(value, narrow));
        match keys {
            Keys::Cached { cache, seq, rope } => {
                let norms = [&self.query_norm, &self.key_norm];
                let weights = norms.map(|norm| norm.as_ref().map(|norm| plain(&norm.weight)));
                let [query_norm, key_norm] = [0, 1].map(|i| {
                    Some(HeadNorm { weight: weights[i].as_deref()?, epsilon: norms[i].as_ref()?.epsilon as f32 })
                });
                let rope = rope.map(|(cos, sin)| Rope { cos, sin, rotary_dim: 2 * cos.len() / seq.max(1) });
                let (heads, scale, window) = (config.heads, config.scale as f32, config.window);
                let options = attention::Attention { heads, scale, window, rope, query_norm, key_norm };
                attention::attend(step.pool, step.isa, cache, seq, q, k, v, &options, mixed);
            }
            Keys::Own { starts } => {
                let options = SelfAttention {
                    heads: config.heads,
                    kv_heads: config.kv_heads,
                    head_dim: config.head_dim,
                    scale: config.scale as f32,
                    mask: Mask::Full,
                    rope: None,
                };
                attention::attend_ragged(step.pool, step.isa, q, k, v, starts, &options, mixed);
            }
        }
        add_linear(step, &self.output, mixed, residual, out);
    }
}

impl Mlp {
    /// `out = residual + mlp(x)`, all `[rows, hidden_size]`.
    ///
    /// # Panics
    /// When a weight is not on the CPU, or a length does not fit.
    pub fn add_to(&self, step: &Step, x: &[f32], residual: &[f32], out: &mut Vec<f32>, scratch: &mut Scratch) {
        let rows = step.rows;
        let up = Map::of(&self.up);
        let inner = &mut scratch.inner;
        inner.resize(rows * self.up.weight.dims()[0], 0.0);
        let activation = self.activation.into();
        match &self.gate {
            Some(gate) => {
                let gate = Map::of(gate);
                linear::gated_linear(step.pool, step.isa, x, rows, [gate.map(), up.map()], inner, |gate, up| {
                    rows::activate(step.pool, step.isa, gate, activation);
                    rows::multiply_in_place(step.isa, gate, up);
                });
            }
            None => linear::linear(step.pool, step.isa, x, rows, &[up.map()], &mut [inner], |_, _, _, values| {
                rows::activate(step.pool, step.isa, values, activation);
            }),
        }
        add_linear(step, &self.down, inner, residual, out);
    }
}

impl Norm {
    /// `out = norm(x)`, both `[rows, features]`.
    pub fn apply_to(&self, step: &Step, x: &[f32], out: &mut Vec<f32>) {
        match self {
            Self::Rms(norm) => norm.apply_to(step, x, out),
            Self::Layer(norm) => norm.apply_to(step, x, out),
        }
    }
}

impl RmsNorm {
    fn apply_to(&self, step: &Step, x: &[f32], out: &mut Vec<f32>) {
        out.resize(x.len(), 0.0);
        let weight = plain(&self.weight);
        let weights = NormWeights { weight: &weight, bias: None, epsilon: self.epsilon as f32 };
        rows::rms_norm_rows(step.pool, step.isa, x, weights, out);
    }
}

impl LayerNorm {
    /// `out = norm(x)`, both `[rows, features]`.
    pub fn apply_to(&self, step: &Step, x: &[f32], out: &mut Vec<f32>) {
        out.resize(x.len(), 0.0);
        let (weight, bias) = (plain(&self.weight), plain(&self.bias));
        let weights = NormWeights { weight: &weight, bias: Some(&bias), epsilon: self.epsilon as f32 };
        rows::layer_norm_rows(step.pool, step.isa, x, weights, out);
    }
}

/// `out = residual + x Wᵀ + b`.
fn add_linear(step: &Step, layer: &Linear, x: &[f32], residual: &[f32], out: &mut Vec<f32>) {
    let map = Map::of(layer);
    let features = layer.weight.dims()[0];
    out.resize(residual.len(), 0.0);
    linear::linear(step.pool, step.isa, x, step.rows, &[map.map()], &mut [out], |_, row, columns, values| {
        rows::add_in_place(step.isa, values, &residual[row * features..][columns]);
    });
}

/// A linear layer's weight and bias as the kernels take them.
struct Map<'a> {
    weight: MapWeight<'a>,
    bias: Option<Values>,
}

enum MapWeight<'a> {
    Packed(&'a PackedWeight),
    Dense(Values, [usize; 2]),
}

impl<'a> Map<'a> {
    fn of(layer: &'a Linear) -> Self {
        let weight = match &layer.weight {
            Weight::Packed(packed) => MapWeight::Packed(&packed.weight),
            Weight::Dense(param) => MapWeight::Dense(plain(param), layer.weight.dims()),
        };
        Self { weight, bias: layer.bias.as_ref().map(plain) }
    }

    fn map(&self) -> LinearMap<'_> {
        let weight = match &self.weight {
            MapWeight::Packed(weight) => Matrix::Packed(weight),
            MapWeight::Dense(values, [out_features, in_features]) => {
                Matrix::Dense { values, out_features: *out_features, in_features: *in_features }
            }
        };
        LinearMap { weight, bias: self.bias.as_deref() }
    }
}

/// The numbers of a parameter of the CPU.
fn plain<const D: usize>(param: &Param<Tensor<D>>) -> Values {
    values(&param.val()).expect("layers that run on slices are on the CPU, in f32")
}
