//! Runs models: generation with a key/value cache, streaming, samplers and beam search, scores and embeddings.
//!
//! An engine ([`EngineHandle`]) computes the requests of many callers together on a thread of its own. The scheduler
//! decides which tokens are computed in a step, and the [`executor`] computes them. [`Generator`] and [`Chat`] are
//! clients of an engine. Work of any other kind runs as tasks (module `tasks`, with the feature of that name). Nothing
//! here speaks HTTP, draws progress bars or reads files.
//!
//! ```no_run
//! use fornax_backend::Device;
//! use fornax_engine::{ModelExt, SamplingParams};
//! use fornax_models::AutoModel;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let model = AutoModel::load("path/to/model", &Device::cpu())?;
//! for piece in model.generator().stream("Once upon a time", &SamplingParams::default())? {
//!     print!("{}", piece?);
//! }
//! # Ok(())
//! # }
//! ```

pub mod beam;
pub mod bench;
mod chat;
mod embed;
mod engine;
mod error;
pub mod executor;
mod generator;
mod prompt;
pub mod sampling;
mod score;
pub mod stop;
mod stream;
#[cfg(feature = "tasks")]
pub mod tasks;

use fornax_models::AutoModel;

pub use chat::Chat;
pub use embed::{EmbedOptions, Embedder, Pooling, cosine_similarity};
pub use engine::{EngineConfig, EngineHandle, EngineStats, Submit};
pub use error::EngineError;
pub use fornax_text::Message;
pub use generator::{FinishReason, Generation, Generator};
pub use prompt::Prompt;
pub use sampling::{Sampled, SamplingParams};
pub use score::{Score, score, score_all};
pub use stream::{Chunk, Stream};

/// Generation, embeddings and scores as methods of a loaded model.
pub trait ModelExt {
    /// Continues prompts. Its first call fails if the model does not generate text.
    fn generator(&self) -> Generator;

    /// Turns texts into vectors.
    fn embedder(&self) -> Embedder<'_>;

    /// The log-probabilities of a text.
    ///
    /// # Errors
    /// As [`score`].
    fn score(&self, text: impl Into<Prompt>) -> Result<Score, EngineError>;
}

impl ModelExt for AutoModel {
    fn generator(&self) -> Generator {
        Generator::new(self)
    }

    fn embedder(&self) -> Embedder<'_> {
        Embedder::new(self)
    }

    fn score(&self, text: impl Into<Prompt>) -> Result<Score, EngineError> {
        score(self, text)
    }
}
