//! A stack of pre-norm transformer layers between an embedding and an output layer: the shape that GPT-2, Llama and
//! most causal language models share. What a published model calls its parts, and its configuration file, are the
//! model's own; a model of another shape brings its own stack.

use burn::module::Module;
use burn::tensor::{DType, Device, Tensor};
use fornax_backend::kv::{CacheType, KvFormat, KvLayer};
use fornax_backend::ops;
use fornax_cpu::WeightType;

use crate::{
    Attention, AttentionConfig, Batch, Embedding, EmbeddingConfig, KvPool, KvPoolConfig, Linear, LinearConfig, Mlp,
    MlpConfig, Norm, NormConfig, RopeConfig, RopeScaling, RopeTables, Weight, Weights,
};

/// How the stack knows where a token stands.
#[derive(Debug, Clone, PartialEq)]
pub enum Position {
    /// Queries and keys are rotated by the token's position.
    Rope(RopeConfig),
    /// A learned vector for each position is added to the token's.
    Learned {
        /// Positions that there are vectors for.
        max_positions: usize,
    },
}

/// Configuration of a [`Decoder`].
#[derive(Debug, Clone, PartialEq)]
pub struct DecoderConfig {
    /// Tokens of the vocabulary.
    pub vocab_size: usize,
    /// Size of a token's vector.
    pub hidden_size: usize,
    /// The attention of each layer, the first layer's first.
    pub attention: Vec<AttentionConfig>,
    /// The feed-forward part of every layer.
    pub mlp: MlpConfig,
    /// The norms of every layer and of the output.
    pub norm: NormConfig,
    /// Whether the results of attention and MLP are normed too, before they are added (Gemma 2).
    pub post_norms: bool,
    /// Factor of the token vectors.
    pub embedding_scale: Option<f64>,
    /// Bounds logits smoothly: `cap · tanh(logit / cap)` (Gemma 2).
    pub logit_soft_cap: Option<f64>,
    /// How positions enter.
    pub position: Position,
    /// Longest sequence that the model was configured for, in tokens, before any stretching of its positions.
    pub max_positions: usize,
    /// Whether the output layer is the embedding itself.
    pub tie_embeddings: bool,
    /// Standard deviation of the initial embeddings and output weights.
    pub initializer_range: f64,
}

impl DecoderConfig {
    /// The longest sequence that the model supports, in tokens: its configured length, or more if its rotary angles are
    /// stretched.
    pub fn context_length(&self) -> usize {
        let stretched = |positions: usize, factor: f64| (positions as f64 * factor).round() as usize;
        match &self.position {
            Position::Learned { max_positions } => *max_positions,
            Position::Rope(rope) => match rope.scaling {
                RopeScaling::Linear { factor } | RopeScaling::Dynamic { factor } => {
                    stretched(self.max_positions, factor).max(self.max_positions)
                }
                RopeScaling::Yarn { factor, original_max_positions, .. } => {
                    stretched(original_max_positions, factor).max(self.max_positions)
                }
                RopeScaling::None | RopeScaling::Llama3 { .. } | RopeScaling::LongRope { .. } => self.max_positions,
            },
        }
    }

    /// Makes the stack; its weights are drawn when they are first used.
    pub fn init(&self, device: &Device) -> Decoder {
        let table = |num_embeddings| {
            let initializer_range = self.initializer_range;
            EmbeddingConfig { num_embeddings, dim: self.hidden_size, initializer_range }.init(device)
        };
        let positions = match self.position {
            Position::Learned { max_positions } => Some(table(max_positions)),
            Position::Rope(_) => None,
        };
        let norm = || self.norm.init(self.hidden_size, device);
        let layer = |attention: &AttentionConfig| DecoderLayer {
            attention_norm: norm(),
            attention: attention.init(device),
            attention_post_norm: self.post_norms.then(norm),
            mlp_norm: norm(),
            mlp: self.mlp.init(device),
            mlp_post_norm: self.post_norms.then(norm),
        };
        let output = (!self.tie_embeddings).then(|| {
            let initializer_range = self.initializer_range;
            LinearConfig { initializer_range, ..LinearConfig::new(self.hidden_size, self.vocab_size) }.init(device)
        });
        Decoder {
            embedding: table(self.vocab_size),
            positions,
            layers: self.attention.iter().map(layer).collect(),
            norm: self.norm.init(self.hidden_size, device),
            output,
            config: self.clone(),
        }
    }
}

/// One layer: attention and MLP, each behind a norm and added to what went in.
#[derive(Module, Debug)]
pub struct DecoderLayer {
    /// Norm before the attention.
    pub attention_norm: Norm,
    /// Mixes tokens.
    pub attention: Attention,
    /// Norm of what the attention adds.
    pub attention_post_norm: Option<Norm>,
    /// Norm before the MLP.
    pub mlp_norm: Norm,
    /// Works on each token alone.
    pub mlp: Mlp,
    /// Norm of what the MLP adds.
    pub mlp_post_norm: Option<Norm>,
}

impl DecoderLayer {
    /// `x: [rows, hidden_size]` → the same shape, or `[outputs, hidden_size]` where only some rows are needed from here
    /// on.
    pub fn forward(
        &self,
        mut x: Tensor<2>,
        batch: &Batch,
        rope: Option<&RopeTables>,
        kv: Option<&mut KvLayer>,
        outputs: Option<&[u32]>,
    ) -> Tensor<2> {
        let mut mixed = self.attention.mix(self.attention_norm.forward(x.clone()), batch.sequences(), rope, kv);
        if let Some(outputs) = outputs {
            (x, mixed) = (ops::rows(x, outputs), ops::rows(mixed, outputs));
        }
        x = match &self.attention_post_norm {
            None => self.attention.output.forward_add(mixed, x),
            Some(norm) => norm.forward_add(self.attention.output.forward(mixed), x),
        };
        let normed = self.mlp_norm.forward(x.clone());
        match &self.mlp_post_norm {
            None => self.mlp.forward_add(normed, x),
            Some(norm) => norm.forward_add(self.mlp.forward(normed), x),
        }
    }
}

/// A causal language model's network.
#[derive(Module, Debug)]
pub struct Decoder {
    /// Token vectors.
    pub embedding: Embedding,
    /// Position vectors, where positions are learned.
    pub positions: Option<Embedding>,
    /// The layers, in order.
    pub layers: Vec<DecoderLayer>,
    /// Norm of the last layer's result.
    pub norm: Norm,
    /// Output layer, where it is not the embedding.
    pub output: Option<Linear>,
    #[module(skip)]
    config: DecoderConfig,
}

impl Decoder {
    /// The configuration that it was made from.
    pub fn config(&self) -> &DecoderConfig {
        &self.config
    }

    /// Where its weights are.
    pub fn device(&self) -> Device {
        self.norm.device()
    }

    /// The type that it computes in.
    pub fn dtype(&self) -> DType {
        self.norm.dtype()
    }

    /// The shape of a pool for this model. On the CPU, keys and values are kept in 16 bits if the weights are packed
    /// (bf16 for bf16 weights, else f16), and in `f32` if the weights are dense.
    pub fn kv_config(&self) -> KvPoolConfig {
        let plain = self.layers.first().is_some_and(|layer| layer.attention_norm.is_plain());
        let key = self.layers.first().map(|layer| &layer.attention.key.weight);
        let format = match (plain, key) {
            (false, _) => KvFormat::Tensors(self.dtype()),
            (true, Some(Weight::Packed(key))) => KvFormat::Arena(match key.weight.weight_type() {
                WeightType::BF16 => CacheType::BF16,
                _ => CacheType::F16,
            }),
            // Dense weights are held for exactness.
            (true, _) => KvFormat::Arena(CacheType::F32),
        };
        let layers = self.config.attention.iter().map(|attention| [attention.kv_heads, attention.head_dim]);
        KvPoolConfig { layers: layers.collect(), format }
    }

    /// The least bytes of weights that a step reads, however many tokens it computes: all weights without the
    /// embedding, of which a token needs only a row, unless the embedding is the output layer too.
    pub fn step_bytes(&self) -> usize {
        let bytes = |weight: &Weight| match weight {
            Weight::Dense(param) => param.lazy_shape().num_elements() * self.dtype().size(),
            Weight::Packed(packed) => packed.weight.bytes().len(),
        };
        let layers = self.layers.iter().flat_map(|layer| {
            let (attention, mlp) = (&layer.attention, &layer.mlp);
            let maps = [&attention.query, &attention.key, &attention.value, &attention.output, &mlp.up, &mlp.down];
            maps.into_iter().chain(&mlp.gate)
        });
        let output = self.output.as_ref().map_or(&self.embedding.weight, |output| &output.weight);
        layers.map(|linear| bytes(&linear.weight)).sum::<usize>() + bytes(output)
    }

    /// Runs the layers.
    ///
    /// - `batch`: token ids below the vocabulary's size, at positions below the context length
    /// - `kv`: the pool of the batch's blocks, if it has any
    /// - returns the normed hidden states of the rows that the batch wants, `[outputs, hidden_size]`
    ///
    /// # Panics
    /// When an id is not in the vocabulary, a learned position not in its table, or a block not in the pool.
    pub fn forward(&self, batch: &Batch, mut kv: Option<&mut KvPool>) -> Tensor<2> {
        let device = self.device();
        let mut x = self.embedding.forward(batch.tokens(), &device);
        if let Some(scale) = self.config.embedding_scale {
            x = x.mul_scalar(scale);
        }
        if let Some(positions) = &self.positions {
            x = x + positions.forward(batch.positions(), &device);
        }
        let rope = match &self.config.position {
            Position::Rope(rope) => Some(rope.tables(batch)),
            Position::Learned { .. } => None,
        };
        for (index, layer) in self.layers.iter().enumerate() {
            // After the last layer's attention, only the wanted rows go on.
            let outputs = batch.outputs().filter(|_| index + 1 == self.layers.len());
            let kv = kv.as_mut().map(|pool| pool.layer_mut(index));
            x = layer.forward(x, batch, rope.as_ref(), kv, outputs);
        }
        self.norm.forward(x)
    }

    /// Scores of every token of the vocabulary to come next: `hidden: [..., hidden_size]` → `[..., vocab_size]`.
    pub fn logits<const D: usize>(&self, hidden: Tensor<D>) -> Tensor<D> {
        let logits = match &self.output {
            Some(output) => output.forward(hidden),
            None => self.embedding.project(hidden),
        };
        match self.config.logit_soft_cap {
            Some(cap) => logits.div_scalar(cap).tanh().mul_scalar(cap),
            None => logits,
        }
    }
}

impl Weights for DecoderLayer {
    fn for_each_weight(&mut self, path: &str, visit: &mut dyn FnMut(&str, &mut Weight)) {
        self.attention.for_each_weight(&format!("{path}.attention"), visit);
        self.mlp.for_each_weight(&format!("{path}.mlp"), visit);
    }
}

impl Weights for Decoder {
    /// The root's path is empty.
    fn for_each_weight(&mut self, _path: &str, visit: &mut dyn FnMut(&str, &mut Weight)) {
        self.embedding.for_each_weight("embedding", visit);
        for (index, layer) in self.layers.iter_mut().enumerate() {
            layer.for_each_weight(&format!("layers.{index}"), visit);
        }
        if let Some(output) = &mut self.output {
            output.for_each_weight("output", visit);
        }
    }
}
