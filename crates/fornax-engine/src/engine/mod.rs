//! An engine: requests from any thread, computed together on one. [`EngineHandle`] is what callers hold; a step is in
//! `core.rs`, what is kept of requests in `requests.rs` and of their sequences in `sequence.rs`, beam searches in `beams.rs`.

mod beams;
mod config;
mod core;
mod handle;
mod pace;
mod requests;
mod sequence;

pub use config::EngineConfig;
pub use core::EngineStats;
pub use handle::{EngineHandle, Submit};
pub(crate) use requests::Answer;
