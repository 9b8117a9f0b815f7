//! Language models in Rust, on burn: load, generate, embed and train, on any backend.
//!
//! This crate is the one to depend on. It holds no logic: it gathers the crates of the workspace under one name, and its
//! cargo features name the backends: `cpu` (the default), `wgpu`, `vulkan`, `metal`, `cuda`, `rocm`. One more, `tasks`
//! (a default too), brings `fornax::engine::tasks`, which runs many jobs side by side on tokio.
//!
//! ```no_run
//! use fornax::prelude::*;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let device = Device::best()?; // or "cuda:0".parse()?
//! let model = AutoModel::load("Qwen/Qwen2.5-0.5B-Instruct", &device)?; // a hub id, a folder or a .gguf file
//! for piece in model.generator().stream("Once upon a time", &SamplingParams::default().max_new_tokens(64))? {
//!     print!("{}", piece?);
//! }
//! # Ok(())
//! # }
//! ```

/// burn, in the version that the whole workspace is built on.
pub use burn;
/// Devices, dtypes and operations.
pub use fornax_backend as backend;
/// Reading and writing weights.
pub use fornax_checkpoint as checkpoint;
/// The CPU's kernels.
pub use fornax_cpu as cpu;
/// Generation, scores and embeddings.
pub use fornax_engine as engine;
/// Finding and fetching models.
pub use fornax_hub as hub;
/// Model families and `AutoModel`.
pub use fornax_models as models;
/// Layers.
pub use fornax_nn as nn;
/// Who runs next, with what, and why: tasks, batches, replicas, and a simulator.
pub use fornax_scheduler as scheduler;
/// Tokenizers and chat templates.
pub use fornax_text as text;
/// Training.
pub use fornax_train as train;

/// What most programs use.
pub mod prelude {
    pub use fornax_backend::{Backend, Device, FloatDtype};
    pub use fornax_engine::{
        Chat, Chunk, EmbedOptions, EngineConfig, EngineError, EngineHandle, FinishReason, Generation, Generator,
        Message, ModelExt, Pooling, Prompt, SamplingParams, Score, Stream, cosine_similarity, score, score_all,
    };
    pub use fornax_models::{AutoModel, LoadOptions, PackedCache, WeightFormat};
    pub use fornax_text::Tokenizer;
}

/// The README's code is compiled with the other examples.
#[cfg(doctest)]
#[doc = include_str!("../../../README.md")]
struct Readme;
