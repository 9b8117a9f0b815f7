//! Layers of language models: linear, norms, rotary embeddings, attention and its cache, MLPs, decoder stacks.
//!
//! A layer is made in one way: `XConfig { … }.init(&device)` gives an `X`, a burn module with a `forward`. Weights
//! are made when they are first used, so a layer whose weights are loaded from a file never holds random ones too.
//! The arithmetic is in `fornax_backend::ops`; which layers make up which published model is the next crate's matter.

mod attention;
mod cache;
mod decoder;
mod embedding;
mod linear;
mod mlp;
mod norm;
mod rope;
pub mod slices;
mod weight;

pub use attention::{Attention, AttentionConfig};
pub use cache::{CacheFormat, KvCache, KvCacheConfig, LayerCache, TensorCache, visible_positions};
pub use decoder::{Decoder, DecoderConfig, DecoderLayer, Position};
pub use embedding::{Embedding, EmbeddingConfig};
pub use fornax_backend::ops::Activation;
pub use fornax_cpu::cache::CacheType;
pub use linear::{Linear, LinearConfig};
pub use mlp::{Mlp, MlpConfig};
pub use norm::{LayerNorm, Norm, NormConfig, RmsNorm};
pub use rope::{RopeConfig, RopeScaling, RopeTables};
pub use weight::{Packed, Weight, Weights};
