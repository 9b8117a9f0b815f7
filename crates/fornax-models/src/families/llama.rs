//! Llama 1, 2 and 3.x (Touvron et al., 2023, <https://arxiv.org/abs/2302.13971>; Grattafiori et al., 2024,
//! <https://arxiv.org/abs/2407.21783>) and models of its shape: TinyLlama, SmolLM, Yi and others.

use fornax_nn::DecoderConfig;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::config::{RopeParameters, check, limits, parse};
use crate::gguf::{GgufModel, rotary_config};
use crate::naming::{DECODER, DECODER_IGNORED, GGUF_IGNORED, GGUF_LLAMA};
use crate::registry::{Family, GgufFamily};
use crate::rotary::RotaryDecoder;
use crate::weights::WeightMap;
use crate::{ModelError, NetworkConfig};

/// The family.
pub const FAMILY: Family = Family {
    name: "llama",
    model_types: &["llama"],
    architectures: &["LlamaForCausalLM"],
    network: |value, _| Ok(NetworkConfig::Decoder(parse::<LlamaConfig>(value)?.decoder()?)),
    weights: WeightMap { rules: DECODER, optional_prefix: "model.", ignored: DECODER_IGNORED },
    gguf: Some(GgufFamily {
        architectures: &["llama"],
        config: gguf_config,
        weights: WeightMap { rules: GGUF_LLAMA, optional_prefix: "", ignored: GGUF_IGNORED },
    }),
};

/// `config.json` of a Llama; the defaults are those of transformers, which are those of Llama 7B.
///
/// ```
/// use fornax_models::families::llama::LlamaConfig;
///
/// # fn main() -> Result<(), fornax_models::ModelError> {
/// let config = LlamaConfig { vocab_size: 512, hidden_size: 64, num_hidden_layers: 2, ..LlamaConfig::tiny() };
/// let network = config.decoder()?.init(&fornax_backend::Device::cpu());
/// assert_eq!(network.layers.len(), 2);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs, reason = "the keys of transformers' configuration, which documents them")]
pub struct LlamaConfig {
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

impl Default for LlamaConfig {
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

impl LlamaConfig {
    /// A model of about a million parameters, which a laptop trains in a minute: 4 layers of 128, 4 heads of which
    /// 2 hold keys and values, tied embeddings, 256 tokens of context.
    pub fn tiny() -> Self {
        Self {
            vocab_size: 512,
            hidden_size: 128,
            intermediate_size: 352,
            num_hidden_layers: 4,
            num_attention_heads: 4,
            num_key_value_heads: Some(2),
            max_position_embeddings: 256,
            tie_word_embeddings: true,
            ..Self::default()
        }
    }

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

fn gguf_config(gguf: &GgufModel) -> Result<Value, ModelError> {
    let mut config = rotary_config(gguf)?;
    config["attention_bias"] = gguf.contains("blk.0.attn_q.bias").into();
    config["mlp_bias"] = gguf.contains("blk.0.ffn_gate.bias").into();
    Ok(config)
}
