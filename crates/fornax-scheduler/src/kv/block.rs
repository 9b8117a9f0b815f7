//! The record of one block: its owners, its place in the LRU list and its place in the index of prefixes.
//! [`memory`](super::memory) and [`prefix`](super::prefix) keep it up to date.

/// No block.
pub(super) const NONE: u32 = u32::MAX;
/// In place of a parent: the block is not in the index.
pub(super) const ABSENT: u32 = NONE - 1;

/// A block.
#[derive(Clone, Copy, Debug)]
pub(super) struct Block {
    /// The hash of its tokens and of all tokens before them.
    pub(super) hash: u64,
    /// The block before it; [`NONE`] for the first block of a prefix, [`ABSENT`] if the block is not in the index.
    pub(super) parent: u32,
    /// How many blocks follow it in the index.
    pub(super) children: u32,
    /// Another indexed block with the same hash, or [`NONE`].
    pub(super) next: u32,
    /// How many sequences hold it.
    pub(super) owners: u32,
    /// Its place in the LRU list if it is there, counted from the first block that was ever put into the list.
    pub(super) place: u64,
}

impl Block {
    /// A block that no sequence holds and that is not in the index.
    pub(super) const FREE: Self = Self { hash: 0, parent: ABSENT, children: 0, next: NONE, owners: 0, place: 0 };

    /// Whether it can be found by its content.
    pub(super) fn is_indexed(&self) -> bool {
        self.parent != ABSENT
    }
}
