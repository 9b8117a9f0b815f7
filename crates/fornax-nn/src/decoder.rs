//! A stack of pre-norm transformer layers between an embedding and an output layer: the shape that GPT-2, Llama and
//! most causal language models share. What a published model calls its parts, and its configuration file, are the
//! model's own; a model of another shape brings its own stack.

use burn::module::Module;
use burn::tensor::{DType, Device, Int, Tensor};
use fornax_backend::from_values;
use fornax_cpu::WeightType;
use fornax_cpu::cache::CacheType;

use crate::slices::{Keys, Scratch, Step};
use crate::{
    Attention, AttentionConfig, CacheFormat, Embedding, EmbeddingConfig, KvCache, KvCacheConfig, LayerCache, Linear,
    LinearConfig, Mlp, MlpConfig, Norm, NormConfig, RopeConfig, RopeScaling, RopeTables, Weight, Weights,
};

/// How the stack knows where a token stands.
#[derive(Debug, Clone, PartialEq)]
pub enum Position {
    /// Queries and keys are turned by the token's position.
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
    /// Longest sequence that the model can make sense of, in tokens: what it was configured for, and beyond it as far as
    /// its rotary angles are stretched.
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
        let layer = |attention: &AttentionConfig| DecoderLayer {
            attention_norm: self.norm.init(self.hidden_size, device),
            attention: attention.init(device),
            mlp_norm: self.norm.init(self.hidden_size, device),
            mlp: self.mlp.init(device),
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
    /// Norm before the MLP.
    pub mlp_norm: Norm,
    /// Works on each token alone.
    pub mlp: Mlp,
}

impl DecoderLayer {
    /// `x: [batch, seq, hidden_size]` → the same shape.
    pub fn forward(&self, x: Tensor<3>, rope: Option<&RopeTables>, cache: Option<&mut LayerCache>) -> Tensor<3> {
        let mixed = self.attention.forward(self.attention_norm.forward(x.clone()), rope, cache, None);
        let x = x + mixed;
        x.clone() + self.mlp.forward(self.mlp_norm.forward(x))
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

    /// An empty cache for `batch` sequences of up to `capacity` tokens.
    pub fn new_cache(&self, batch: usize, capacity: usize) -> KvCache {
        self.cache_config(batch, capacity).init(&self.device())
    }

    /// The sizes of such a cache, for knowing its bytes beforehand. On the CPU keys and values are kept in 16 bits where the
    /// weights are packed (bf16 beside bf16 weights, else f16), and in `f32` where they are dense.
    pub fn cache_config(&self, batch: usize, capacity: usize) -> KvCacheConfig {
        let (kv_heads, head_dim) =
            self.config.attention.first().map_or((0, 0), |attention| (attention.kv_heads, attention.head_dim));
        let key = self.layers.first().map(|layer| &layer.attention.key.weight);
        let format = match (self.norm.is_on_slices(), key) {
            (false, _) => CacheFormat::Tensors(self.dtype()),
            (true, Some(Weight::Packed(key))) => CacheFormat::Pages(match key.weight.weight_type() {
                WeightType::BF16 => CacheType::BF16,
                _ => CacheType::F16,
            }),
            // Whoever holds weights in full asks for exactness.
            (true, _) => CacheFormat::Pages(CacheType::F32),
        };
        KvCacheConfig { layers: self.layers.len(), kv_heads, head_dim, batch, capacity, format }
    }

    /// Bytes of weights that a step reads at the least, however many tokens it computes: all of them but the embedding,
    /// of which a token needs a row, unless it is the output layer too.
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
    /// - `tokens`: `[batch, seq]`, ids below the vocabulary's size, at the positions after those in the cache
    /// - returns the normed hidden states, `[batch, seq, hidden_size]`
    pub fn forward(&self, tokens: Tensor<2, Int>, cache: Option<&mut KvCache>) -> Tensor<3> {
        let len = cache.as_ref().map_or(0, |cache| cache.len()) + tokens.dims()[1];
        self.forward_piece(tokens, cache, len)
    }

    /// As [`forward`](Self::forward), for a piece of a longer text that is fed in several: `len` is the number of tokens of
    /// the whole, by which dynamic and LongRoPE scalings choose the angles of every piece alike.
    pub fn forward_piece(&self, tokens: Tensor<2, Int>, mut cache: Option<&mut KvCache>, len: usize) -> Tensor<3> {
        if self.norm.is_on_slices() {
            return self.forward_slices(tokens, cache, len);
        }
        let [_, seq] = tokens.dims();
        let start = cache.as_ref().map_or(0, |cache| cache.len());
        let mut x = self.embedding.forward(tokens);
        let (dtype, device) = (x.dtype(), x.device());
        if let Some(positions) = &self.positions {
            let ids = Tensor::<1, Int>::arange(start as i64..(start + seq) as i64, &device);
            x = x + positions.forward(ids.unsqueeze());
        }
        let rope = match &self.config.position {
            Position::Rope(rope) => Some(rope.tables(start..start + seq, len, dtype, &device)),
            Position::Learned { .. } => None,
        };
        for (index, layer) in self.layers.iter().enumerate() {
            let cache = cache.as_mut().map(|cache| &mut cache.layers_mut()[index]);
            x = layer.forward(x, rope.as_ref(), cache);
        }
        self.norm.forward(x)
    }

    /// As [`forward_piece`](Self::forward_piece), on the CPU without gradients.
    fn forward_slices(&self, tokens: Tensor<2, Int>, mut cache: Option<&mut KvCache>, len: usize) -> Tensor<3> {
        let ([batch, seq], device) = (tokens.dims(), tokens.device());
        let ids: Vec<usize> = tokens.into_data().iter::<i64>().map(|id| id as usize).collect();
        let start = cache.as_ref().map_or(0, |cache| cache.len());
        if let Some(cache) = &cache {
            let (end, capacity) = (start + seq, cache.capacity());
            assert!(end <= capacity, "kv cache: {end} tokens exceed the capacity of {capacity}");
        }
        let mut x = self.embedding.rows(&ids);
        if let Some(table) = &self.positions {
            let positions: Vec<usize> = (0..batch).flat_map(|_| start..start + seq).collect();
            x.iter_mut().zip(table.rows(&positions)).for_each(|(x, position)| *x += position);
        }
        let tables = match &self.config.position {
            Position::Rope(rope) => Some(rope.values(start..start + seq, len)),
            Position::Learned { .. } => None,
        };
        let rope = tables.as_ref().map(|(cos, sin)| (cos.as_slice(), sin.as_slice()));
        let (step, mut scratch) = (Step::new(batch * seq), Scratch::default());
        let (mut normed, mut sum) = (Vec::new(), Vec::new());
        // A pass without a cache needs one layer's at a time.
        let config = self.cache_config(batch, seq);
        for (index, layer) in self.layers.iter().enumerate() {
            let mut own = None;
            let cache = match cache.as_mut() {
                Some(cache) => cache.layers_mut()[index].pages(),
                None => own.insert(config.pages()),
            };
            layer.attention_norm.apply_to(&step, &x, &mut normed);
            layer.attention.add_to(&step, &normed, &x, &mut sum, Keys::Cached { cache, seq, rope }, &mut scratch);
            std::mem::swap(&mut x, &mut sum);
            layer.mlp_norm.apply_to(&step, &x, &mut normed);
            layer.mlp.add_to(&step, &normed, &x, &mut sum, &mut scratch);
            std::mem::swap(&mut x, &mut sum);
        }
        self.norm.apply_to(&step, &x, &mut normed);
        from_values(normed, [batch, seq, self.config.hidden_size], &device)
    }

    /// Scores of every token of the vocabulary to come next: `hidden: [..., hidden_size]` → `[..., vocab_size]`.
    pub fn logits<const D: usize>(&self, hidden: Tensor<D>) -> Tensor<D> {
        match &self.output {
            Some(output) => output.forward(hidden),
            None => self.embedding.project(hidden),
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
