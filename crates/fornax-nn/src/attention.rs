//! Multi-head attention with its projections: grouped queries, rotary embeddings, norms of queries and keys, windows, soft
//! caps.

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use fornax_backend::kv::KvLayer;
use fornax_backend::ops::{self, AttentionOptions, HeadNorms, Mask, RopeTables, Sequences};

use crate::{Linear, LinearConfig, RmsNorm, Weight, Weights};

/// Configuration of an [`Attention`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AttentionConfig {
    /// Size of input and output.
    pub hidden_size: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; a divisor of `heads`.
    pub kv_heads: usize,
    /// Size of a head; `heads · head_dim` need not be the hidden size.
    pub head_dim: usize,
    /// Whether the projections to queries, keys and values have biases.
    pub qkv_bias: bool,
    /// Whether the output projection has one.
    pub output_bias: bool,
    /// ε of the norms of queries and keys, for models that have them (Qwen 3).
    pub qk_norm: Option<f64>,
    /// Which tokens of its sequence a token sees.
    pub mask: Mask,
    /// Bounds scores smoothly: `cap · tanh(score / cap)` (Gemma 2).
    pub soft_cap: Option<f64>,
    /// Factor of the scores.
    pub scale: f64,
    /// Standard deviation of the initial weights.
    pub initializer_range: f64,
}

impl AttentionConfig {
    /// Causal attention with `hidden_size / heads` per head, no biases, no window.
    pub fn causal(hidden_size: usize, heads: usize, kv_heads: usize) -> Self {
        let head_dim = hidden_size / heads.max(1);
        Self {
            hidden_size,
            heads,
            kv_heads,
            head_dim,
            qkv_bias: false,
            output_bias: false,
            qk_norm: None,
            mask: Mask::Causal,
            soft_cap: None,
            scale: 1.0 / (head_dim as f64).sqrt(),
            initializer_range: 0.02,
        }
    }

    /// Makes the layer; its weights are drawn when they are first used.
    pub fn init(&self, device: &Device) -> Attention {
        let linear = |in_features, out_features, bias| {
            LinearConfig { in_features, out_features, bias, initializer_range: self.initializer_range }.init(device)
        };
        let norm = || self.qk_norm.map(|epsilon| RmsNorm::init(self.head_dim, epsilon, device));
        let (query, key) = (self.heads * self.head_dim, self.kv_heads * self.head_dim);
        Attention {
            query: linear(self.hidden_size, query, self.qkv_bias),
            key: linear(self.hidden_size, key, self.qkv_bias),
            value: linear(self.hidden_size, key, self.qkv_bias),
            output: linear(query, self.hidden_size, self.output_bias),
            query_norm: norm(),
            key_norm: norm(),
            config: *self,
        }
    }
}

/// Self-attention.
#[derive(Module, Debug)]
pub struct Attention {
    /// Hidden size to `heads · head_dim`.
    pub query: Linear,
    /// Hidden size to `kv_heads · head_dim`.
    pub key: Linear,
    /// Hidden size to `kv_heads · head_dim`.
    pub value: Linear,
    /// `heads · head_dim` to hidden size.
    pub output: Linear,
    /// Norm of each query head.
    pub query_norm: Option<RmsNorm>,
    /// Norm of each key head.
    pub key_norm: Option<RmsNorm>,
    #[module(skip)]
    config: AttentionConfig,
}

impl Attention {
    /// The configuration that it was made from.
    pub fn config(&self) -> &AttentionConfig {
        &self.config
    }

    /// Attends, and projects the result.
    ///
    /// - `x`: `[rows, hidden_size]`
    /// - `sequences`: how the rows fall into sequences
    /// - `rope`: the angles of the rows, for models that rotate queries and keys
    /// - `kv`: the layer's memory, for sequences that are kept in a pool
    /// - returns `[rows, hidden_size]`
    ///
    /// # Panics
    /// When `sequences` have another number of rows than `x`, or continue earlier tokens without `kv`.
    pub fn forward(
        &self,
        x: Tensor<2>,
        sequences: &Sequences,
        rope: Option<&RopeTables>,
        kv: Option<&mut KvLayer>,
    ) -> Tensor<2> {
        self.output.forward(self.mix(x, sequences, rope, kv))
    }

    /// As [`forward`](Self::forward), before the output projection: `[rows, heads · head_dim]`.
    pub fn mix(
        &self,
        x: Tensor<2>,
        sequences: &Sequences,
        rope: Option<&RopeTables>,
        kv: Option<&mut KvLayer>,
    ) -> Tensor<2> {
        let AttentionConfig { heads, kv_heads, head_dim, scale, mask, soft_cap, .. } = self.config;
        let [query, key, value] = [&self.query, &self.key, &self.value].map(Linear::as_ref);
        let qkv = ops::linears(x, [&query, &key, &value]);
        let norms = self.query_norm.as_ref().zip(self.key_norm.as_ref()).map(|(query, key)| HeadNorms {
            query: query.weight.val(),
            key: key.weight.val(),
            epsilon: query.epsilon,
        });
        let options = AttentionOptions { heads, kv_heads, head_dim, scale, mask, soft_cap };
        ops::attention(qkv, sequences, kv, rope, norms.as_ref(), &options)
    }
}

impl Weights for Attention {
    fn for_each_weight(&mut self, path: &str, visit: &mut dyn FnMut(&str, &mut Weight)) {
        self.query.for_each_weight(&format!("{path}.query"), visit);
        self.key.for_each_weight(&format!("{path}.key"), visit);
        self.value.for_each_weight(&format!("{path}.value"), visit);
        self.output.for_each_weight(&format!("{path}.output"), visit);
    }
}
