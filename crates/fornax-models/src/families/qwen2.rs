//! Qwen 2 and 2.5 (Yang et al., 2024, <https://arxiv.org/abs/2407.10671>): Llama's shape with biases of queries, keys
//! and values, and a sliding window on the upper layers where it is switched on.

use fornax_nn::DecoderConfig;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::config::{RopeParameters, check, limits, parse, windows};
use crate::gguf::rotary_config;
use crate::naming::{DECODER, DECODER_IGNORED, GGUF_DECODER, GGUF_IGNORED};
use crate::registry::{Family, GgufFamily};
use crate::rotary::RotaryDecoder;
use crate::weights::WeightMap;
use crate::{ModelError, NetworkConfig};

/// The family.
pub const FAMILY: Family = Family {
    name: "qwen2",
    model_types: &["qwen2"],
    architectures: &["Qwen2ForCausalLM"],
    network: |value, _| Ok(NetworkConfig::Decoder(parse::<Qwen2Config>(value)?.decoder()?)),
    weights: WeightMap { rules: DECODER, optional_prefix: "model.", ignored: DECODER_IGNORED },
    gguf: Some(GgufFamily {
        architectures: &["qwen2"],
        config: rotary_config,
        weights: WeightMap { rules: GGUF_DECODER, optional_prefix: "", ignored: GGUF_IGNORED },
    }),
};

/// `config.json` of a Qwen 2; the defaults are those of transformers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs, reason = "the keys of transformers' configuration, which documents them")]
pub struct Qwen2Config {
    pub vocab_size: usize,
    pub hidden_size: usize,
    pub intermediate_size: usize,
    pub num_hidden_layers: usize,
    pub num_attention_heads: usize,
    pub num_key_value_heads: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub head_dim: Option<usize>,
    pub hidden_act: String,
    pub max_position_embeddings: usize,
    pub initializer_range: f64,
    pub rms_norm_eps: f64,
    pub tie_word_embeddings: bool,
    pub rope_theta: f64,
    pub rope_parameters: Option<RopeParameters>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub original_max_position_embeddings: Option<usize>,
    pub use_sliding_window: bool,
    pub sliding_window: Option<usize>,
    pub max_window_layers: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub layer_types: Option<Vec<String>>,
}

impl Default for Qwen2Config {
    fn default() -> Self {
        Self {
            vocab_size: 151_936,
            hidden_size: 4096,
            intermediate_size: 22_016,
            num_hidden_layers: 32,
            num_attention_heads: 32,
            num_key_value_heads: Some(32),
            head_dim: None,
            hidden_act: "silu".into(),
            max_position_embeddings: 32_768,
            initializer_range: 0.02,
            rms_norm_eps: 1e-6,
            tie_word_embeddings: false,
            rope_theta: 10_000.0,
            rope_parameters: None,
            original_max_position_embeddings: None,
            use_sliding_window: false,
            sliding_window: Some(4096),
            max_window_layers: 28,
            layer_types: None,
        }
    }
}

impl Qwen2Config {
    /// The network that it describes.
    ///
    /// # Errors
    /// [`ModelError::Config`] naming the value that makes no sense.
    pub fn decoder(&self) -> Result<DecoderConfig, ModelError> {
        let layers = check("num_hidden_layers", self.num_hidden_layers, limits::LAYERS)?;
        let window = self.sliding_window.filter(|_| self.use_sliding_window);
        let slides = |layer| layer >= self.max_window_layers;
        RotaryDecoder {
            vocab_size: self.vocab_size,
            hidden_size: self.hidden_size,
            intermediate_size: self.intermediate_size,
            heads: self.num_attention_heads,
            kv_heads: self.num_key_value_heads,
            head_dim: self.head_dim,
            hidden_act: &self.hidden_act,
            max_position_embeddings: self.max_position_embeddings,
            rms_norm_eps: self.rms_norm_eps,
            rope_theta: self.rope_theta,
            rope: self.rope_parameters.as_ref(),
            original_max_position_embeddings: self.original_max_position_embeddings,
            qkv_bias: true,
            output_bias: false,
            mlp_bias: false,
            qk_norm: false,
            windows: &windows(layers, window, self.layer_types.as_deref(), slides)?,
            tie_embeddings: self.tie_word_embeddings,
            initializer_range: self.initializer_range,
        }
        .config()
    }

    /// The same as a `config.json`.
    pub fn to_json(&self) -> Value {
        crate::registry::config_json(&FAMILY, self)
    }
}
