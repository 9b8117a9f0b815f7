//! Events of the prefix cache, for routers that follow caches and for storage behind them.

use crate::BlockId;

/// A block that became findable by its content, or was evicted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KvEvent {
    /// A block is full and computed, and can be found by its content.
    Stored {
        /// The block.
        block: BlockId,
        /// The hash of its tokens and of all tokens before them, as [`block_hash`](super::block_hash) gives it.
        hash: u64,
        /// The hash of the block before it, or the [root](super::KvMemory::root) of its scope.
        parent: u64,
        /// Its tokens.
        tokens: Vec<u32>,
    },
    /// A block was evicted and cannot be found any more.
    Removed {
        /// The block.
        block: BlockId,
        /// The hash that it was stored with.
        hash: u64,
    },
}
