//! An engine: requests from any thread, computed together on one. Callers hold an [`EngineHandle`]. A step is in `core.rs`,
//! the state of requests in `requests.rs` and of their sequences in `sequence.rs`, beam searches in `beams.rs`, the times of
//! steps in `pace.rs`.

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
