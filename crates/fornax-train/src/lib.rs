//! Trains language models: batches from a stream of tokens, the causal objective, and a loop with AdamW.
//!
//! This is the first piece of the trainer: pretraining a [`Decoder`](fornax_nn::Decoder) on one device. Datasets,
//! checkpoints, adapters and evaluation build on it. Nothing here prints: a caller is told of each step and draws it.

mod corpus;
mod data;
mod error;
mod loss;
mod pretrain;
mod schedule;

pub use corpus::stories;
pub use data::TokenWindows;
pub use error::TrainError;
pub use loss::causal_lm_loss;
pub use pretrain::{PretrainArgs, PretrainReport, StepReport, pretrain};
pub use schedule::cosine_with_warmup;
