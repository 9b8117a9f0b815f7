//! Multi-head attention with its projections: grouped queries, rotary embeddings, norms of queries and keys, windows.

use burn::module::Module;
use burn::tensor::{Bool, Device, Tensor};
use fornax_backend::ops::{self, AttentionOptions};

use crate::{LayerCache, Linear, LinearConfig, RmsNorm, RopeTables, Weight, Weights};

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
    /// Whether a token sees only itself and those before it.
    pub causal: bool,
    /// With `causal`: how many tokens it sees, itself included.
    pub window: Option<usize>,
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
            causal: true,
            window: None,
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

/// Attention of a sequence to itself.
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

    /// - `x`: `[batch, seq, hidden_size]`
    /// - `rope`: the tables of the positions of `x`, for models that turn queries and keys
    /// - `cache`: keys and values of the tokens before `x`, which those of `x` are appended to
    /// - `visible`: `[batch, keys]`, true where a token takes part
    /// - returns `[batch, seq, hidden_size]`
    ///
    /// # Panics
    /// When the cache is one of pages, which whole models on the CPU keep, or its capacity is exceeded.
    pub fn forward(
        &self,
        x: Tensor<3>,
        rope: Option<&RopeTables>,
        cache: Option<&mut LayerCache>,
        visible: Option<Tensor<2, Bool>>,
    ) -> Tensor<3> {
        let [batch, seq, _] = x.dims();
        let AttentionConfig { heads, kv_heads, head_dim, .. } = self.config;
        // [batch, seq, heads · dim] → [batch, heads, seq, dim]
        let query = self.query.forward(x.clone()).reshape([batch, seq, heads, head_dim]);
        let key = self.key.forward(x.clone()).reshape([batch, seq, kv_heads, head_dim]);
        let value = self.value.forward(x).reshape([batch, seq, kv_heads, head_dim]).swap_dims(1, 2);
        let mut query = normed(query, self.query_norm.as_ref()).swap_dims(1, 2);
        let mut key = normed(key, self.key_norm.as_ref()).swap_dims(1, 2);
        if let Some(RopeTables { cos, sin }) = rope {
            query = ops::rope(query, cos.clone(), sin.clone());
            key = ops::rope(key, cos.clone(), sin.clone());
        }
        let (key, value) = match cache {
            Some(cache) => cache.tensors().append(key, value),
            None => (key, value),
        };
        let options =
            AttentionOptions { scale: self.config.scale, causal: self.config.causal, window: self.config.window };
        let mixed = ops::attention(query, key, value, visible, &options);
        self.output.forward(mixed.swap_dims(1, 2).reshape([batch, seq, heads * head_dim]))
    }
}

fn normed(x: Tensor<4>, norm: Option<&RmsNorm>) -> Tensor<4> {
    match norm {
        Some(norm) => norm.forward(x),
        None => x,
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
