//! Layers of language models: linear, norms, rotary embeddings, attention, MLPs, decoder stacks, the batches that go
//! through them and the pool that keeps their keys and values.
//!
//! A layer is made in one way: `XConfig { … }.init(&device)` gives an `X`, a burn module with a `forward`. Weights
//! are made when they are first used, so a layer whose weights are loaded from a file never holds random ones too. Hidden states
//! are `[rows, hidden_size]`: a row for each token of a [`Batch`], whose sequences may be of any lengths.
//! The arithmetic is in `fornax_backend::ops`; `fornax-models` combines the layers into published models.

mod attention;
mod batch;
mod decoder;
mod embedding;
mod kv;
mod linear;
mod mlp;
mod norm;
mod rope;
mod weight;

pub use attention::{Attention, AttentionConfig};
pub use batch::{Batch, BatchSequence, Outputs};
pub use decoder::{Decoder, DecoderConfig, DecoderLayer, Position};
pub use embedding::{Embedding, EmbeddingConfig};
pub use fornax_backend::kv::{CacheType, KvError, KvFormat, KvLayer};
pub use fornax_backend::ops::{Activation, Mask, RopeTables, Sequences};
pub use kv::{KvPool, KvPoolConfig};
pub use linear::{Linear, LinearConfig};
pub use mlp::{Mlp, MlpConfig};
pub use norm::{LayerNorm, Norm, NormConfig, RmsNorm};
pub use rope::{RopeConfig, RopeScaling};
pub use weight::{Packed, Weight, Weights};
