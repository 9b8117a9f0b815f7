//! KV memory in blocks: which blocks are held, and which prefixes they contain.
//!
//! A block is free, held by one or more sequences, or *cached*: held by no sequence and kept for a prompt with the same
//! beginning, until its room is needed. Only the books are kept here; the keys and values are the engine's.

mod block;
mod event;
mod memory;
mod prefix;

pub use event::KvEvent;
pub use memory::{KvMemory, Lookup};
pub use prefix::{After, Scope, block_hash};
