//! The kinds of network that families make: one entry for each shape, not for each family.

use burn::module::Module;
use burn::tensor::Device;
use fornax_nn::{Decoder, DecoderConfig, Weight, Weights};
use serde_json::Value;

use crate::families::bert::{Bert, BertNetworkConfig};
use crate::{ModelError, registry};

/// Configuration of a [`Network`].
#[derive(Debug, Clone, PartialEq)]
pub enum NetworkConfig {
    /// A causal language model.
    Decoder(DecoderConfig),
    /// A bidirectional encoder.
    Bert(BertNetworkConfig),
}

impl NetworkConfig {
    /// The network that a `config.json` describes, without any weights.
    ///
    /// # Errors
    /// [`ModelError::UnknownArchitecture`], or [`ModelError::Config`] naming the value that makes no sense.
    ///
    /// ```
    /// let config = serde_json::json!({"architectures": ["LlamaForCausalLM"], "num_attention_heads": 0});
    /// let error = fornax_models::NetworkConfig::from_json(&config).unwrap_err();
    /// assert!(error.to_string().contains("num_attention_heads"));
    /// ```
    pub fn from_json(config: &Value) -> Result<Self, ModelError> {
        (registry::find(config)?.network)(config, &|_| false)
    }

    /// Makes the network; its weights are drawn when they are first used.
    pub fn init(&self, device: &Device) -> Network {
        match self {
            Self::Decoder(config) => Network::Decoder(config.init(device)),
            Self::Bert(config) => Network::Bert(config.init(device)),
        }
    }
}

/// A model's network with its weights.
// A handful exist in a process, so the size of the larger one is no matter.
#[derive(Module, Debug)]
#[allow(clippy::large_enum_variant)]
pub enum Network {
    /// A causal language model.
    Decoder(Decoder),
    /// A bidirectional encoder.
    Bert(Bert),
}

impl Network {
    /// What it is, for messages.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Decoder(_) => "a causal language model",
            Self::Bert(_) => "an encoder",
        }
    }

    /// Tokens of the vocabulary.
    pub fn vocab_size(&self) -> usize {
        match self {
            Self::Decoder(decoder) => decoder.config().vocab_size,
            Self::Bert(bert) => bert.config().vocab_size(),
        }
    }

    /// Longest sequence that the model can make sense of, in tokens.
    pub fn context_length(&self) -> usize {
        match self {
            Self::Decoder(decoder) => decoder.config().context_length(),
            Self::Bert(bert) => bert.config().max_positions(),
        }
    }

    /// Size of an attention head, by which some checkpoints order their rows.
    pub(crate) fn head_dim(&self) -> usize {
        match self {
            Self::Decoder(decoder) => decoder.config().attention.first().map_or(1, |attention| attention.head_dim),
            Self::Bert(_) => 1,
        }
    }
}

impl Weights for Network {
    fn for_each_weight(&mut self, path: &str, visit: &mut dyn FnMut(&str, &mut Weight)) {
        match self {
            Self::Decoder(decoder) => decoder.for_each_weight(path, visit),
            Self::Bert(bert) => bert.for_each_weight(path, visit),
        }
    }

    fn all_packed(&self) -> bool {
        match self {
            Self::Decoder(decoder) => decoder.all_packed(),
            Self::Bert(bert) => bert.all_packed(),
        }
    }
}
