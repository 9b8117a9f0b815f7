//! The tensor names that most decoders share, in the two formats. What only one family has stands in its file.
//! A rule for a layer that a family lacks (a norm of queries, say) is never asked for.

use crate::weights::{Layout, Rule, laid_out, same};

/// Names of Llama and its descendants in transformers.
pub(crate) const DECODER: &[Rule] = &[
    same("embedding", "model.embed_tokens"),
    same("layers.{}.attention_norm", "model.layers.{}.input_layernorm"),
    same("layers.{}.attention.query_norm", "model.layers.{}.self_attn.q_norm"),
    same("layers.{}.attention.key_norm", "model.layers.{}.self_attn.k_norm"),
    same("layers.{}.attention.query", "model.layers.{}.self_attn.q_proj"),
    same("layers.{}.attention.key", "model.layers.{}.self_attn.k_proj"),
    same("layers.{}.attention.value", "model.layers.{}.self_attn.v_proj"),
    same("layers.{}.attention.output", "model.layers.{}.self_attn.o_proj"),
    same("layers.{}.mlp_norm", "model.layers.{}.post_attention_layernorm"),
    same("layers.{}.mlp.gate", "model.layers.{}.mlp.gate_proj"),
    same("layers.{}.mlp.up", "model.layers.{}.mlp.up_proj"),
    same("layers.{}.mlp.down", "model.layers.{}.mlp.down_proj"),
    same("norm", "model.norm"),
    same("output", "lm_head"),
];

/// Tensors that such checkpoints may hold beside the weights.
pub(crate) const DECODER_IGNORED: &[&str] = &["*.rotary_emb.inv_freq", "lm_head.weight"];

/// The same in llama.cpp's files, for families whose heads are turned by halves.
pub(crate) const GGUF_DECODER: &[Rule] = &gguf_decoder(Layout::Same);

/// The same for its `llama` architecture, whose heads are turned by neighbours.
pub(crate) const GGUF_LLAMA: &[Rule] = &gguf_decoder(Layout::PairedRows);

/// Tensors that are part of the configuration rather than of the network.
pub(crate) const GGUF_IGNORED: &[&str] = &["rope_freqs.weight", "rope_factors_*.weight", "output.weight"];

const fn gguf_decoder(turned: Layout) -> [Rule; 14] {
    [
        same("embedding", "token_embd"),
        same("layers.{}.attention_norm", "blk.{}.attn_norm"),
        same("layers.{}.attention.query_norm", "blk.{}.attn_q_norm"),
        same("layers.{}.attention.key_norm", "blk.{}.attn_k_norm"),
        laid_out("layers.{}.attention.query", "blk.{}.attn_q", turned),
        laid_out("layers.{}.attention.key", "blk.{}.attn_k", turned),
        same("layers.{}.attention.value", "blk.{}.attn_v"),
        same("layers.{}.attention.output", "blk.{}.attn_output"),
        same("layers.{}.mlp_norm", "blk.{}.ffn_norm"),
        same("layers.{}.mlp.gate", "blk.{}.ffn_gate"),
        same("layers.{}.mlp.up", "blk.{}.ffn_up"),
        same("layers.{}.mlp.down", "blk.{}.ffn_down"),
        same("norm", "output_norm"),
        same("output", "output"),
    ]
}
