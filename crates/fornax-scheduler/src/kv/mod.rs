//! KV memory in blocks: who holds which, and which prefixes lie in them.
//!
//! A block is free, held by one or more sequences, or *cached*: held by nobody and kept for a prompt that begins alike,
//! until its room is needed. Only numbers are kept here; the keys and values are the engine's.

mod block;
mod event;
mod memory;
mod prefix;

pub use event::KvEvent;
pub use memory::{KvMemory, Lookup};
pub use prefix::{After, Scope, block_hash};
