//! An engine: requests from any thread, computed together on one. [`EngineHandle`] is what callers hold; the loop is in
//! `core.rs`, what is kept of a sequence in `sequence.rs`, beam searches in `beams.rs`.

mod beams;
mod config;
mod core;
mod handle;
mod pace;
mod sequence;

pub use config::EngineConfig;
pub(crate) use core::Answer;
pub use core::EngineStats;
pub use handle::{EngineHandle, Submit};
