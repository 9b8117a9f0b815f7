//! The kinds of network that families make: one entry for each shape, not for each family.

use burn::module::Module;
use burn::tensor::Device;
use fornax_nn::{Decoder, DecoderConfig};

use crate::families::bert::{Bert, BertNetworkConfig};

/// Configuration of a [`Network`].
#[derive(Debug, Clone, PartialEq)]
pub enum NetworkConfig {
    /// A causal language model.
    Decoder(DecoderConfig),
    /// A bidirectional encoder.
    Bert(BertNetworkConfig),
}

impl NetworkConfig {
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

    /// Longest sequence that the model was trained or configured for, in tokens.
    pub fn max_positions(&self) -> usize {
        match self {
            Self::Decoder(decoder) => decoder.config().max_positions,
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
