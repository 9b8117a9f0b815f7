//! Gemma 2 (Gemma Team, 2024, <https://arxiv.org/abs/2408.00118>): norms of `1 + weight` before and after each part of a
//! layer, a gated MLP with GELU, scores and logits under soft caps, every other layer behind a window, token vectors
//! scaled by the root of their size.

use fornax_nn::{AttentionConfig, DecoderConfig, Mask, MlpConfig, NormConfig, Position};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::config::{
    Heads, RopeParameters, activation, check, check_epsilon, check_initializer_range, limits, parse, windows,
};
use crate::gguf::{GgufModel, rotary_config};
use crate::naming::GGUF_IGNORED;
use crate::registry::{Family, GgufFamily};
use crate::weights::{Layout, Rule, WeightMap, laid_out, same};
use crate::{ModelError, NetworkConfig};

/// The family.
pub const FAMILY: Family = Family {
    name: "gemma2",
    model_types: &["gemma2"],
    architectures: &["Gemma2ForCausalLM"],
    network: |value, _| Ok(NetworkConfig::Decoder(parse::<Gemma2Config>(value)?.decoder()?)),
    weights: WeightMap {
        rules: WEIGHTS,
        optional_prefix: "model.",
        ignored: &["*.rotary_emb.inv_freq", "lm_head.weight"],
    },
    gguf: Some(GgufFamily {
        architectures: &["gemma2"],
        config: gguf_config,
        weights: WeightMap { rules: GGUF_WEIGHTS, optional_prefix: "", ignored: GGUF_IGNORED },
    }),
};

const WEIGHTS: &[Rule] = &[
    same("embedding", "model.embed_tokens"),
    same("layers.{}.attention_norm", "model.layers.{}.input_layernorm"),
    same("layers.{}.attention.query", "model.layers.{}.self_attn.q_proj"),
    same("layers.{}.attention.key", "model.layers.{}.self_attn.k_proj"),
    same("layers.{}.attention.value", "model.layers.{}.self_attn.v_proj"),
    same("layers.{}.attention.output", "model.layers.{}.self_attn.o_proj"),
    same("layers.{}.attention_post_norm", "model.layers.{}.post_attention_layernorm"),
    same("layers.{}.mlp_norm", "model.layers.{}.pre_feedforward_layernorm"),
    same("layers.{}.mlp.gate", "model.layers.{}.mlp.gate_proj"),
    same("layers.{}.mlp.up", "model.layers.{}.mlp.up_proj"),
    same("layers.{}.mlp.down", "model.layers.{}.mlp.down_proj"),
    same("layers.{}.mlp_post_norm", "model.layers.{}.post_feedforward_layernorm"),
    same("norm", "model.norm"),
    same("output", "lm_head"),
];

// The converter adds 1 to the weights of all norms.
const GGUF_WEIGHTS: &[Rule] = &[
    same("embedding", "token_embd"),
    laid_out("layers.{}.attention_norm", "blk.{}.attn_norm", Layout::OneAdded),
    same("layers.{}.attention.query", "blk.{}.attn_q"),
    same("layers.{}.attention.key", "blk.{}.attn_k"),
    same("layers.{}.attention.value", "blk.{}.attn_v"),
    same("layers.{}.attention.output", "blk.{}.attn_output"),
    laid_out("layers.{}.attention_post_norm", "blk.{}.post_attention_norm", Layout::OneAdded),
    laid_out("layers.{}.mlp_norm", "blk.{}.ffn_norm", Layout::OneAdded),
    same("layers.{}.mlp.gate", "blk.{}.ffn_gate"),
    same("layers.{}.mlp.up", "blk.{}.ffn_up"),
    same("layers.{}.mlp.down", "blk.{}.ffn_down"),
    laid_out("layers.{}.mlp_post_norm", "blk.{}.post_ffw_norm", Layout::OneAdded),
    laid_out("norm", "output_norm", Layout::OneAdded),
    same("output", "output"),
];

/// `config.json` of a Gemma 2; the defaults are those of transformers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs, reason = "the keys of transformers' configuration, which documents them")]
pub struct Gemma2Config {
    pub vocab_size: usize,
    pub hidden_size: usize,
    pub intermediate_size: usize,
    pub num_hidden_layers: usize,
    pub num_attention_heads: usize,
    pub num_key_value_heads: usize,
    pub head_dim: usize,
    pub hidden_activation: String,
    pub max_position_embeddings: usize,
    pub initializer_range: f64,
    pub rms_norm_eps: f64,
    pub tie_word_embeddings: bool,
    pub rope_theta: f64,
    pub rope_parameters: Option<RopeParameters>,
    pub attention_bias: bool,
    pub query_pre_attn_scalar: f64,
    pub sliding_window: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub layer_types: Option<Vec<String>>,
    /// A missing key means the default, `null` no cap.
    pub attn_logit_softcapping: Option<f64>,
    /// A missing key means the default, `null` no cap.
    pub final_logit_softcapping: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub use_bidirectional_attention: Option<bool>,
}

impl Default for Gemma2Config {
    fn default() -> Self {
        Self {
            vocab_size: 256_000,
            hidden_size: 2304,
            intermediate_size: 9216,
            num_hidden_layers: 26,
            num_attention_heads: 8,
            num_key_value_heads: 4,
            head_dim: 256,
            hidden_activation: "gelu_pytorch_tanh".into(),
            max_position_embeddings: 8192,
            initializer_range: 0.02,
            rms_norm_eps: 1e-6,
            tie_word_embeddings: true,
            rope_theta: 10_000.0,
            rope_parameters: None,
            attention_bias: false,
            query_pre_attn_scalar: 256.0,
            sliding_window: Some(4096),
            layer_types: None,
            attn_logit_softcapping: Some(50.0),
            final_logit_softcapping: Some(30.0),
            use_bidirectional_attention: None,
        }
    }
}

impl Gemma2Config {
    /// The network that it describes.
    ///
    /// # Errors
    /// [`ModelError::Config`] naming the invalid value.
    pub fn decoder(&self) -> Result<DecoderConfig, ModelError> {
        if self.use_bidirectional_attention == Some(true) {
            return Err(ModelError::config("use_bidirectional_attention", "false; a causal model is supported", true));
        }
        let layers = check("num_hidden_layers", self.num_hidden_layers, limits::LAYERS)?;
        let hidden_size = check("hidden_size", self.hidden_size, limits::SIZE)?;
        let max_positions = check("max_position_embeddings", self.max_position_embeddings, limits::POSITIONS)?;
        let Heads { heads, kv_heads, head_dim } =
            Heads::check(hidden_size, self.num_attention_heads, Some(self.num_key_value_heads), Some(self.head_dim))?;
        let initializer_range = check_initializer_range(self.initializer_range)?;
        let scale = positive("query_pre_attn_scalar", Some(self.query_pre_attn_scalar))?.unwrap_or(1.0).powf(-0.5);
        let soft_cap = positive("attn_logit_softcapping", self.attn_logit_softcapping)?;
        let windows = windows(layers, self.sliding_window, self.layer_types.as_deref(), |layer| layer % 2 == 0)?;
        let attention = |window: Option<usize>| AttentionConfig {
            hidden_size,
            heads,
            kv_heads,
            head_dim,
            qkv_bias: self.attention_bias,
            output_bias: self.attention_bias,
            qk_norm: None,
            mask: window.map_or(Mask::Causal, Mask::Window),
            soft_cap,
            scale,
            initializer_range,
        };
        let rope = self.rope_parameters.clone().unwrap_or_default();
        Ok(DecoderConfig {
            vocab_size: check("vocab_size", self.vocab_size, limits::VOCABULARY)?,
            hidden_size,
            attention: windows.into_iter().map(attention).collect(),
            mlp: MlpConfig {
                hidden_size,
                intermediate_size: check("intermediate_size", self.intermediate_size, limits::SIZE)?,
                activation: activation("hidden_activation", &self.hidden_activation)?,
                gated: true,
                bias: false,
                initializer_range,
            },
            norm: NormConfig::Rms { epsilon: check_epsilon("rms_norm_eps", self.rms_norm_eps)?, offset: 1.0 },
            post_norms: true,
            embedding_scale: Some((hidden_size as f64).sqrt()),
            logit_soft_cap: positive("final_logit_softcapping", self.final_logit_softcapping)?,
            position: Position::Rope(rope.rope(self.rope_theta, head_dim, max_positions, None)?),
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

/// Checks a factor or a cap that may be missing.
fn positive(key: &str, value: Option<f64>) -> Result<Option<f64>, ModelError> {
    match value {
        Some(number) if !(number.is_finite() && number > 0.0) => {
            Err(ModelError::config(key, "a positive number", number))
        }
        value => Ok(value),
    }
}

fn gguf_config(gguf: &GgufModel) -> Result<Value, ModelError> {
    let mut config = rotary_config(gguf)?;
    // The file does not give the divisor of the scores; the converter knows the one model where it is not the head's
    // size.
    const LAYERS_OF_27B: u64 = 46;
    let head_dim = config["head_dim"].as_u64().unwrap_or(0);
    let scalar = match config["num_hidden_layers"].as_u64() {
        Some(LAYERS_OF_27B) => {
            let heads = config["num_attention_heads"].as_u64().unwrap_or(1).max(1);
            config["hidden_size"].as_u64().unwrap_or(0) / heads
        }
        _ => head_dim,
    };
    config["query_pre_attn_scalar"] = scalar.into();
    config["attention_bias"] = gguf.contains("blk.0.attn_q.bias").into();
    for key in ["attn_logit_softcapping", "final_logit_softcapping"] {
        if let Some(cap) = gguf.optional_number(key)? {
            config[key] = cap.into();
        }
    }
    if let Some(window) = gguf.optional_size("attention.sliding_window")? {
        config["sliding_window"] = window.into();
    }
    Ok(config)
}
