//! From the values of a configuration to the decoder that Llama and its descendants share: root mean square norms,
//! rotary positions, grouped queries, a gated MLP. The keys and their defaults are each family's own.

use fornax_nn::{AttentionConfig, DecoderConfig, Mask, MlpConfig, NormConfig, Position};

use crate::ModelError;
use crate::config::{Heads, RopeParameters, activation, check, check_epsilon, check_initializer_range, limits};

/// Values of such a configuration, not checked yet.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RotaryDecoder<'a> {
    pub vocab_size: usize,
    pub hidden_size: usize,
    pub intermediate_size: usize,
    pub heads: usize,
    pub kv_heads: Option<usize>,
    pub head_dim: Option<usize>,
    pub hidden_act: &'a str,
    pub max_position_embeddings: usize,
    pub rms_norm_eps: f64,
    pub rope_theta: f64,
    pub rope: Option<&'a RopeParameters>,
    pub original_max_position_embeddings: Option<usize>,
    pub qkv_bias: bool,
    pub output_bias: bool,
    pub mlp_bias: bool,
    pub qk_norm: bool,
    /// The window of each layer, so its length is the number of layers.
    pub windows: &'a [Option<usize>],
    pub tie_embeddings: bool,
    pub initializer_range: f64,
}

impl RotaryDecoder<'_> {
    /// The decoder's configuration, once the values are found to make sense.
    pub(crate) fn config(&self) -> Result<DecoderConfig, ModelError> {
        let hidden_size = check("hidden_size", self.hidden_size, limits::SIZE)?;
        let intermediate_size = check("intermediate_size", self.intermediate_size, limits::SIZE)?;
        let max_positions = check("max_position_embeddings", self.max_position_embeddings, limits::POSITIONS)?;
        let Heads { heads, kv_heads, head_dim } = Heads::check(hidden_size, self.heads, self.kv_heads, self.head_dim)?;
        let epsilon = check_epsilon("rms_norm_eps", self.rms_norm_eps)?;
        let initializer_range = check_initializer_range(self.initializer_range)?;
        let rope = self.rope.cloned().unwrap_or_default().rope(
            self.rope_theta,
            head_dim,
            max_positions,
            self.original_max_position_embeddings,
        )?;
        let attention = |&window: &Option<usize>| AttentionConfig {
            hidden_size,
            heads,
            kv_heads,
            head_dim,
            qkv_bias: self.qkv_bias,
            output_bias: self.output_bias,
            qk_norm: self.qk_norm.then_some(epsilon),
            mask: window.map_or(Mask::Causal, Mask::Window),
            soft_cap: None,
            scale: 1.0 / (head_dim as f64).sqrt(),
            initializer_range,
        };
        Ok(DecoderConfig {
            vocab_size: check("vocab_size", self.vocab_size, limits::VOCABULARY)?,
            hidden_size,
            attention: self.windows.iter().map(attention).collect(),
            mlp: MlpConfig {
                hidden_size,
                intermediate_size,
                activation: activation("hidden_act", self.hidden_act)?,
                gated: true,
                bias: self.mlp_bias,
                initializer_range,
            },
            norm: NormConfig::Rms { epsilon, offset: 0.0 },
            post_norms: false,
            embedding_scale: None,
            logit_soft_cap: None,
            position: Position::Rope(rope),
            max_positions,
            tie_embeddings: self.tie_embeddings,
            initializer_range,
        })
    }
}
