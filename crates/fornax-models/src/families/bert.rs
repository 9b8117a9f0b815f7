//! BERT (Devlin et al., 2018, <https://arxiv.org/abs/1810.04805>) with its pooler, its masked-language-model head and
//! its sequence-classification head, and the sentence encoders built on it (MiniLM, BGE, E5 and others).
//! Layers are normed after the addition, so they are not the decoders' layers.

use burn::module::{Initializer, Module, Param};
use burn::tensor::{Device, Tensor};
use fornax_backend::ops;
use fornax_nn::{
    Attention, AttentionConfig, Batch, Embedding, EmbeddingConfig, LayerNorm, Linear, LinearConfig, Mask, Mlp,
    MlpConfig, Sequences, Weight, Weights,
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::config::{Heads, activation, check, check_epsilon, check_initializer_range, limits, parse};
use crate::gguf::GgufModel;
use crate::registry::{Family, GgufFamily};
use crate::weights::{Rule, WeightMap, same};
use crate::{ModelError, NetworkConfig};

/// The family.
pub const FAMILY: Family = Family {
    name: "bert",
    model_types: &["bert"],
    architectures: &["BertModel", "BertForMaskedLM", "BertForSequenceClassification", "BertForPreTraining"],
    network: |value, has| Ok(NetworkConfig::Bert(parse::<BertConfig>(value)?.network(architecture(value), has)?)),
    weights: WeightMap {
        rules: WEIGHTS,
        optional_prefix: "bert.",
        ignored: &[
            "*embeddings.position_ids",
            "cls.seq_relationship.*",
            "cls.predictions.decoder.*",
            // A bare encoder may be taken out of a checkpoint that has heads.
            "cls.predictions.*",
            "*pooler.dense.*",
        ],
    },
    gguf: Some(GgufFamily {
        architectures: &["bert"],
        config: gguf_config,
        weights: WeightMap { rules: GGUF_WEIGHTS, optional_prefix: "", ignored: &["cls*", "position_ids"] },
    }),
};

const WEIGHTS: &[Rule] = &[
    same("words", "bert.embeddings.word_embeddings"),
    same("positions", "bert.embeddings.position_embeddings"),
    same("token_types", "bert.embeddings.token_type_embeddings"),
    same("norm", "bert.embeddings.LayerNorm"),
    same("layers.{}.attention.query", "bert.encoder.layer.{}.attention.self.query"),
    same("layers.{}.attention.key", "bert.encoder.layer.{}.attention.self.key"),
    same("layers.{}.attention.value", "bert.encoder.layer.{}.attention.self.value"),
    same("layers.{}.attention.output", "bert.encoder.layer.{}.attention.output.dense"),
    same("layers.{}.attention_norm", "bert.encoder.layer.{}.attention.output.LayerNorm"),
    same("layers.{}.mlp.up", "bert.encoder.layer.{}.intermediate.dense"),
    same("layers.{}.mlp.down", "bert.encoder.layer.{}.output.dense"),
    same("layers.{}.mlp_norm", "bert.encoder.layer.{}.output.LayerNorm"),
    same("pooler", "bert.pooler.dense"),
    same("masked_lm.transform", "cls.predictions.transform.dense"),
    same("masked_lm.norm", "cls.predictions.transform.LayerNorm"),
    same("masked_lm.bias", "cls.predictions.bias"),
    same("classifier", "classifier"),
];

const GGUF_WEIGHTS: &[Rule] = &[
    same("words", "token_embd"),
    same("positions", "position_embd"),
    same("token_types", "token_types"),
    same("norm", "token_embd_norm"),
    same("layers.{}.attention.query", "blk.{}.attn_q"),
    same("layers.{}.attention.key", "blk.{}.attn_k"),
    same("layers.{}.attention.value", "blk.{}.attn_v"),
    same("layers.{}.attention.output", "blk.{}.attn_output"),
    same("layers.{}.attention_norm", "blk.{}.attn_output_norm"),
    same("layers.{}.mlp.up", "blk.{}.ffn_up"),
    same("layers.{}.mlp.down", "blk.{}.ffn_down"),
    same("layers.{}.mlp_norm", "blk.{}.layer_output_norm"),
];

/// `config.json` of a BERT; the defaults are those of transformers, which are those of `bert-base-uncased`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs, reason = "the keys of transformers' configuration, which documents them")]
pub struct BertConfig {
    pub vocab_size: usize,
    pub hidden_size: usize,
    pub num_hidden_layers: usize,
    pub num_attention_heads: usize,
    pub intermediate_size: usize,
    pub hidden_act: String,
    pub max_position_embeddings: usize,
    pub type_vocab_size: usize,
    pub initializer_range: f64,
    pub layer_norm_eps: f64,
    pub position_embedding_type: Option<String>,
    pub is_decoder: bool,
    pub tie_word_embeddings: bool,
    pub id2label: Option<Map<String, Value>>,
    pub num_labels: Option<usize>,
}

impl Default for BertConfig {
    fn default() -> Self {
        Self {
            vocab_size: 30_522,
            hidden_size: 768,
            num_hidden_layers: 12,
            num_attention_heads: 12,
            intermediate_size: 3072,
            hidden_act: "gelu".into(),
            max_position_embeddings: 512,
            type_vocab_size: 2,
            initializer_range: 0.02,
            layer_norm_eps: 1e-12,
            position_embedding_type: None,
            is_decoder: false,
            tie_word_embeddings: true,
            id2label: None,
            num_labels: None,
        }
    }
}

/// Configuration of a [`Bert`], checked.
#[derive(Debug, Clone, PartialEq)]
pub struct BertNetworkConfig {
    vocab_size: usize,
    max_positions: usize,
    type_vocab_size: usize,
    epsilon: f64,
    layers: usize,
    attention: AttentionConfig,
    mlp: MlpConfig,
    pooler: bool,
    masked_lm: bool,
    labels: Option<usize>,
}

impl BertConfig {
    /// The network that it describes, with the heads of `architecture`. A pooler is part of a bare model only
    /// where the checkpoint `has` it.
    ///
    /// # Errors
    /// [`ModelError::Config`] naming the value that makes no sense.
    pub fn network(&self, architecture: &str, has: &dyn Fn(&str) -> bool) -> Result<BertNetworkConfig, ModelError> {
        if let Some(kind) = self.position_embedding_type.as_deref().filter(|&kind| kind != "absolute") {
            return Err(ModelError::config("position_embedding_type", "absolute", kind));
        }
        if self.is_decoder {
            return Err(ModelError::config("is_decoder", "false; BERT is supported as an encoder", true));
        }
        let hidden_size = check("hidden_size", self.hidden_size, limits::SIZE)?;
        let Heads { heads, kv_heads, head_dim } = Heads::check(hidden_size, self.num_attention_heads, None, None)?;
        let initializer_range = check_initializer_range(self.initializer_range)?;
        let masked_lm = matches!(architecture, "BertForMaskedLM" | "BertForPreTraining");
        if masked_lm && !self.tie_word_embeddings {
            return Err(ModelError::config(
                "tie_word_embeddings",
                "true; a masked-LM head of its own is not supported",
                false,
            ));
        }
        let classifies = architecture == "BertForSequenceClassification";
        let labels = self.id2label.as_ref().map(Map::len).or(self.num_labels).unwrap_or(2);
        Ok(BertNetworkConfig {
            vocab_size: check("vocab_size", self.vocab_size, limits::VOCABULARY)?,
            max_positions: check("max_position_embeddings", self.max_position_embeddings, limits::POSITIONS)?,
            type_vocab_size: check("type_vocab_size", self.type_vocab_size, limits::SIZE)?,
            epsilon: check_epsilon("layer_norm_eps", self.layer_norm_eps)?,
            layers: check("num_hidden_layers", self.num_hidden_layers, limits::LAYERS)?,
            attention: AttentionConfig {
                hidden_size,
                heads,
                kv_heads,
                head_dim,
                qkv_bias: true,
                output_bias: true,
                qk_norm: None,
                mask: Mask::Full,
                soft_cap: None,
                scale: 1.0 / (head_dim as f64).sqrt(),
                initializer_range,
            },
            mlp: MlpConfig {
                hidden_size,
                intermediate_size: check("intermediate_size", self.intermediate_size, limits::SIZE)?,
                activation: activation("hidden_act", &self.hidden_act)?,
                gated: false,
                bias: true,
                initializer_range,
            },
            pooler: classifies || !masked_lm && (has("bert.pooler.dense.weight") || has("pooler.dense.weight")),
            masked_lm,
            labels: if classifies { Some(check("num_labels", labels, limits::SIZE)?) } else { None },
        })
    }
}

impl BertConfig {
    /// The same as a `config.json`, of the bare model.
    pub fn to_json(&self) -> Value {
        crate::registry::config_json(&FAMILY, self)
    }
}

impl BertNetworkConfig {
    /// Longest sequence, in tokens.
    pub fn max_positions(&self) -> usize {
        self.max_positions
    }

    /// Tokens of the vocabulary.
    pub fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    /// Size of a token's vector.
    pub fn hidden_size(&self) -> usize {
        self.attention.hidden_size
    }

    /// Makes the network; its weights are drawn when they are first used.
    pub fn init(&self, device: &Device) -> Bert {
        let size = self.attention.hidden_size;
        let initializer_range = self.attention.initializer_range;
        let table = |num_embeddings| EmbeddingConfig { num_embeddings, dim: size, initializer_range }.init(device);
        let linear =
            |out_features| LinearConfig { in_features: size, out_features, bias: true, initializer_range }.init(device);
        let layer = || BertLayer {
            attention: self.attention.init(device),
            attention_norm: LayerNorm::init(size, self.epsilon, device),
            mlp: self.mlp.init(device),
            mlp_norm: LayerNorm::init(size, self.epsilon, device),
        };
        Bert {
            words: table(self.vocab_size),
            positions: table(self.max_positions),
            token_types: table(self.type_vocab_size),
            norm: LayerNorm::init(size, self.epsilon, device),
            layers: (0..self.layers).map(|_| layer()).collect(),
            pooler: self.pooler.then(|| linear(size)),
            masked_lm: self.masked_lm.then(|| MaskedLmHead {
                transform: linear(size),
                norm: LayerNorm::init(size, self.epsilon, device),
                bias: Initializer::Zeros.init([self.vocab_size], device),
            }),
            classifier: self.labels.map(linear),
            config: self.clone(),
        }
    }
}

/// A bidirectional encoder with the heads that its checkpoint has.
#[derive(Module, Debug)]
pub struct Bert {
    words: Embedding,
    positions: Embedding,
    token_types: Embedding,
    norm: LayerNorm,
    layers: Vec<BertLayer>,
    pooler: Option<Linear>,
    masked_lm: Option<MaskedLmHead>,
    classifier: Option<Linear>,
    #[module(skip)]
    config: BertNetworkConfig,
}

#[derive(Module, Debug)]
struct BertLayer {
    attention: Attention,
    attention_norm: LayerNorm,
    mlp: Mlp,
    mlp_norm: LayerNorm,
}

#[derive(Module, Debug)]
struct MaskedLmHead {
    transform: Linear,
    norm: LayerNorm,
    bias: Param<Tensor<1>>,
}

impl Bert {
    /// The configuration that it was made from.
    pub fn config(&self) -> &BertNetworkConfig {
        &self.config
    }

    /// Where its weights are.
    pub fn device(&self) -> Device {
        self.norm.weight.lazy_device()
    }

    /// Runs the layers: the last layer's states of all rows of the batch, `[rows, hidden_size]`.
    ///
    /// # Panics
    /// When the batch's sequences are kept in a pool, or an id, a position or a token type is not in its table.
    pub fn forward(&self, batch: &Batch) -> Tensor<2> {
        let device = self.device();
        let first = vec![0; batch.rows()];
        let token_types = if batch.token_types().is_empty() { &first } else { batch.token_types() };
        let x = self.words.forward(batch.tokens(), &device)
            + self.token_types.forward(token_types, &device)
            + self.positions.forward(batch.positions(), &device);
        let mut x = self.norm.forward(x);
        for layer in &self.layers {
            let mixed = layer.attention.mix(x.clone(), batch.sequences(), None, None);
            x = layer.attention_norm.forward(layer.attention.output.forward_add(mixed, x));
            x = layer.mlp_norm.forward(layer.mlp.forward_add(x.clone(), x));
        }
        x
    }

    /// The first token's state of each sequence through the pooler: `hidden: [rows, hidden_size]` →
    /// `[sequences, hidden_size]`. `None` when the checkpoint has no pooler.
    pub fn pooled(&self, hidden: Tensor<2>, sequences: &Sequences) -> Option<Tensor<2>> {
        let pooler = self.pooler.as_ref()?;
        let firsts: Vec<u32> = (0..sequences.len()).map(|sequence| sequences.rows_of(sequence).start as u32).collect();
        Some(pooler.forward(ops::rows(hidden, &firsts)).tanh())
    }

    /// Scores of the vocabulary at every row: `[rows, vocab_size]`. `None` without a masked-LM head.
    pub fn masked_lm_logits(&self, hidden: Tensor<2>) -> Option<Tensor<2>> {
        let head = self.masked_lm.as_ref()?;
        let transformed = ops::activate(head.transform.forward(hidden), self.config.mlp.activation);
        Some(self.words.project(head.norm.forward(transformed)) + head.bias.val().unsqueeze())
    }

    /// Scores of the labels: `[sequences, labels]`. `None` without a classification head.
    pub fn class_logits(&self, hidden: Tensor<2>, sequences: &Sequences) -> Option<Tensor<2>> {
        let classifier = self.classifier.as_ref()?;
        Some(classifier.forward(self.pooled(hidden, sequences)?))
    }
}

/// The tables are looked up in and stay as they are; a row of them is all that a token needs.
impl Weights for Bert {
    fn for_each_weight(&mut self, _path: &str, visit: &mut dyn FnMut(&str, &mut Weight)) {
        for (index, layer) in self.layers.iter_mut().enumerate() {
            layer.attention.for_each_weight(&format!("layers.{index}.attention"), visit);
            layer.mlp.for_each_weight(&format!("layers.{index}.mlp"), visit);
        }
        if let Some(pooler) = &mut self.pooler {
            pooler.for_each_weight("pooler", visit);
        }
        if let Some(head) = &mut self.masked_lm {
            head.transform.for_each_weight("masked_lm.transform", visit);
        }
    }
}

/// The first architecture that the configuration names.
fn architecture(config: &Value) -> &str {
    config["architectures"][0].as_str().unwrap_or("BertModel")
}

fn gguf_config(gguf: &GgufModel) -> Result<Value, ModelError> {
    Ok(json!({
        "architectures": ["BertModel"],
        "vocab_size": gguf.vocab_size()?,
        "hidden_size": gguf.size("embedding_length")?,
        "num_hidden_layers": gguf.size("block_count")?,
        "num_attention_heads": gguf.size("attention.head_count")?,
        "intermediate_size": gguf.size("feed_forward_length")?,
        "max_position_embeddings": gguf.size("context_length")?,
        "type_vocab_size": gguf.rows("token_types.weight")?,
        "layer_norm_eps": gguf.number("attention.layer_norm_epsilon")?,
    }))
}
