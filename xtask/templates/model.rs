//! NewModel (authors, year, <https://arxiv.org/abs/…>): say here in one sentence what sets it apart from Llama, whose
//! shape this file begins with, and what of its name is another family (a mixture of experts, an encoder).

use fornax_nn::DecoderConfig;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::config::{RopeParameters, check, limits, parse};
use crate::naming::{DECODER, DECODER_IGNORED};
use crate::registry::Family;
use crate::rotary::RotaryDecoder;
use crate::weights::WeightMap;
use crate::{ModelError, NetworkConfig};

/// The family.
pub const FAMILY: Family = Family {
    name: "new_model",
    model_types: &["new_model"],
    architectures: &["NewModelForCausalLM"],
    network: |value, _| Ok(NetworkConfig::Decoder(parse::<NewModelConfig>(value)?.decoder()?)),
    weights: WeightMap { rules: DECODER, optional_prefix: "model.", ignored: DECODER_IGNORED },
    // Once llama.cpp knows the family: its name there, its configuration from the metadata, its names of tensors.
    gguf: None,
};

/// `config.json` of a NewModel; the defaults are those of transformers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs, reason = "the keys of transformers' configuration, which documents them")]
pub struct NewModelConfig {
    pub vocab_size: usize,
    pub hidden_size: usize,
    pub intermediate_size: usize,
    pub num_hidden_layers: usize,
    pub num_attention_heads: usize,
    pub num_key_value_heads: Option<usize>,
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
    pub attention_bias: bool,
    pub mlp_bias: bool,
}

impl Default for NewModelConfig {
    fn default() -> Self {
        Self {
            vocab_size: 32_000,
            hidden_size: 4096,
            intermediate_size: 11_008,
            num_hidden_layers: 32,
            num_attention_heads: 32,
            num_key_value_heads: None,
            head_dim: None,
            hidden_act: "silu".into(),
            max_position_embeddings: 2048,
            initializer_range: 0.02,
            rms_norm_eps: 1e-6,
            tie_word_embeddings: false,
            rope_theta: 10_000.0,
            rope_parameters: None,
            original_max_position_embeddings: None,
            attention_bias: false,
            mlp_bias: false,
        }
    }
}

impl NewModelConfig {
    /// The network that it describes.
    ///
    /// # Errors
    /// [`ModelError::Config`] naming the value that makes no sense.
    pub fn decoder(&self) -> Result<DecoderConfig, ModelError> {
        let layers = check("num_hidden_layers", self.num_hidden_layers, limits::LAYERS)?;
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
            qkv_bias: self.attention_bias,
            output_bias: self.attention_bias,
            mlp_bias: self.mlp_bias,
            qk_norm: false,
            windows: &vec![None; layers],
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
