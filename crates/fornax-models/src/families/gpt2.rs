//! GPT-2 (Radford et al., 2019,
//! <https://cdn.openai.com/better-language-models/language_models_are_unsupervised_multitask_learners.pdf>):
//! learned positions, layer norms, one projection to queries, keys and values together.

use fornax_nn::{AttentionConfig, DecoderConfig, Mask, MlpConfig, NormConfig, Position};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::config::{Heads, activation, check, check_epsilon, check_initializer_range, limits, parse};
use crate::gguf::GgufModel;
use crate::registry::{Family, GgufFamily};
use crate::weights::{Layout, Rule, WeightMap, laid_out, same};
use crate::{ModelError, NetworkConfig};

/// The family.
pub const FAMILY: Family = Family {
    name: "gpt2",
    model_types: &["gpt2"],
    architectures: &["GPT2LMHeadModel"],
    network: |value, _| Ok(NetworkConfig::Decoder(parse::<Gpt2Config>(value)?.decoder()?)),
    weights: WeightMap {
        rules: WEIGHTS,
        optional_prefix: "transformer.",
        // Old checkpoints hold the causal mask of each layer as a tensor.
        ignored: &["*.attn.bias", "*.attn.masked_bias", "lm_head.weight"],
    },
    gguf: Some(GgufFamily {
        architectures: &["gpt2"],
        config: gguf_config,
        weights: WeightMap { rules: GGUF_WEIGHTS, optional_prefix: "", ignored: &["output.weight"] },
    }),
};

const WEIGHTS: &[Rule] = &[
    same("embedding", "transformer.wte"),
    same("positions", "transformer.wpe"),
    same("layers.{}.attention_norm", "transformer.h.{}.ln_1"),
    laid_out("layers.{}.attention.query", "transformer.h.{}.attn.c_attn", Layout::TransposedPart { index: 0, of: 3 }),
    laid_out("layers.{}.attention.key", "transformer.h.{}.attn.c_attn", Layout::TransposedPart { index: 1, of: 3 }),
    laid_out("layers.{}.attention.value", "transformer.h.{}.attn.c_attn", Layout::TransposedPart { index: 2, of: 3 }),
    laid_out("layers.{}.attention.output", "transformer.h.{}.attn.c_proj", Layout::Transposed),
    same("layers.{}.mlp_norm", "transformer.h.{}.ln_2"),
    laid_out("layers.{}.mlp.up", "transformer.h.{}.mlp.c_fc", Layout::Transposed),
    laid_out("layers.{}.mlp.down", "transformer.h.{}.mlp.c_proj", Layout::Transposed),
    same("norm", "transformer.ln_f"),
    same("output", "lm_head"),
];

const GGUF_WEIGHTS: &[Rule] = &[
    same("embedding", "token_embd"),
    same("positions", "position_embd"),
    same("layers.{}.attention_norm", "blk.{}.attn_norm"),
    laid_out("layers.{}.attention.query", "blk.{}.attn_qkv", Layout::Part { index: 0, of: 3 }),
    laid_out("layers.{}.attention.key", "blk.{}.attn_qkv", Layout::Part { index: 1, of: 3 }),
    laid_out("layers.{}.attention.value", "blk.{}.attn_qkv", Layout::Part { index: 2, of: 3 }),
    same("layers.{}.attention.output", "blk.{}.attn_output"),
    same("layers.{}.mlp_norm", "blk.{}.ffn_norm"),
    same("layers.{}.mlp.up", "blk.{}.ffn_up"),
    same("layers.{}.mlp.down", "blk.{}.ffn_down"),
    same("norm", "output_norm"),
    same("output", "output"),
];

/// `config.json` of a GPT-2; the defaults are those of transformers, which are those of the smallest model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs, reason = "the keys of transformers' configuration, which documents them")]
pub struct Gpt2Config {
    pub vocab_size: usize,
    pub n_positions: usize,
    pub n_embd: usize,
    pub n_layer: usize,
    pub n_head: usize,
    pub n_inner: Option<usize>,
    pub activation_function: String,
    pub layer_norm_epsilon: f64,
    pub initializer_range: f64,
    pub scale_attn_weights: bool,
    pub scale_attn_by_inverse_layer_idx: bool,
    pub tie_word_embeddings: bool,
    pub add_cross_attention: bool,
}

impl Default for Gpt2Config {
    fn default() -> Self {
        Self {
            vocab_size: 50_257,
            n_positions: 1024,
            n_embd: 768,
            n_layer: 12,
            n_head: 12,
            n_inner: None,
            activation_function: "gelu_new".into(),
            layer_norm_epsilon: 1e-5,
            initializer_range: 0.02,
            scale_attn_weights: true,
            scale_attn_by_inverse_layer_idx: false,
            tie_word_embeddings: true,
            add_cross_attention: false,
        }
    }
}

impl Gpt2Config {
    /// The network that it describes.
    ///
    /// # Errors
    /// [`ModelError::Config`] naming the value that makes no sense.
    pub fn decoder(&self) -> Result<DecoderConfig, ModelError> {
        if self.add_cross_attention {
            return Err(ModelError::config("add_cross_attention", "false; a decoder alone is supported", true));
        }
        let layers = check("n_layer", self.n_layer, limits::LAYERS)?;
        let hidden_size = check("n_embd", self.n_embd, limits::SIZE)?;
        let max_positions = check("n_positions", self.n_positions, limits::POSITIONS)?;
        let Heads { heads, kv_heads, head_dim } = Heads::check(hidden_size, self.n_head, None, None)?;
        let initializer_range = check_initializer_range(self.initializer_range)?;
        let attention = |layer: usize| {
            let by_size = if self.scale_attn_weights { 1.0 / (head_dim as f64).sqrt() } else { 1.0 };
            let by_layer = if self.scale_attn_by_inverse_layer_idx { 1.0 / (layer + 1) as f64 } else { 1.0 };
            AttentionConfig {
                hidden_size,
                heads,
                kv_heads,
                head_dim,
                qkv_bias: true,
                output_bias: true,
                qk_norm: None,
                mask: Mask::Causal,
                soft_cap: None,
                scale: by_size * by_layer,
                initializer_range,
            }
        };
        Ok(DecoderConfig {
            vocab_size: check("vocab_size", self.vocab_size, limits::VOCABULARY)?,
            hidden_size,
            attention: (0..layers).map(attention).collect(),
            mlp: MlpConfig {
                hidden_size,
                intermediate_size: check("n_inner", self.n_inner.unwrap_or(4 * hidden_size), limits::SIZE)?,
                activation: activation("activation_function", &self.activation_function)?,
                gated: false,
                bias: true,
                initializer_range,
            },
            norm: NormConfig::Layer { epsilon: check_epsilon("layer_norm_epsilon", self.layer_norm_epsilon)? },
            post_norms: false,
            embedding_scale: None,
            logit_soft_cap: None,
            position: Position::Learned { max_positions },
            max_positions,
            tie_embeddings: self.tie_word_embeddings,
            initializer_range,
        })
    }

    /// The same as a `config.json`.
    pub fn to_json(&self) -> Value {
        crate::registry::config_json(&FAMILY, self)
    }
}

fn gguf_config(gguf: &GgufModel) -> Result<Value, ModelError> {
    Ok(json!({
        "vocab_size": gguf.vocab_size()?,
        "n_positions": gguf.size("context_length")?,
        "n_embd": gguf.size("embedding_length")?,
        "n_layer": gguf.size("block_count")?,
        "n_head": gguf.size("attention.head_count")?,
        "n_inner": gguf.size("feed_forward_length")?,
        "layer_norm_epsilon": gguf.number("attention.layer_norm_epsilon")?,
        "tie_word_embeddings": !gguf.contains("output.weight"),
    }))
}
