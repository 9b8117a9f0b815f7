//! An engine: requests from any thread, computed together on one. Callers hold an [`EngineHandle`]. The loop is in
//! `core.rs`, the state of a sequence in `sequence.rs`, beam searches in `beams.rs`, the times of steps in `pace.rs`.

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
