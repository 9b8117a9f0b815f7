//! The record of one block: how many hold it, its place in the LRU list and in the index of prefixes. Which part means what
//! is the business of [`memory`](super::memory) and [`prefix`](super::prefix).

/// No block.
pub(super) const NONE: u32 = u32::MAX;
/// In place of a parent: the block is not in the index.
pub(super) const ABSENT: u32 = NONE - 1;

/// A block.
#[derive(Clone, Copy, Debug)]
pub(super) struct Block {
    /// The hash of its tokens and of all before them.
    pub(super) hash: u64,
    /// The block that it follows, [`NONE`] for the first of a prefix, [`ABSENT`] for one that cannot be found.
    pub(super) parent: u32,
    /// How many follow it in the index.
    pub(super) children: u32,
    /// Another indexed block with the same hash, or [`NONE`].
    pub(super) next: u32,
    /// How many hold it.
    pub(super) owners: u32,
    /// Its place in the LRU list, counted from the first block that was ever put there, if it is in the list.
    pub(super) place: u64,
}

impl Block {
    /// Held by nobody, findable by nobody.
    pub(super) const FREE: Self = Self { hash: 0, parent: ABSENT, children: 0, next: NONE, owners: 0, place: 0 };

    /// Whether it can be found by its content.
    pub(super) fn is_indexed(&self) -> bool {
        self.parent != ABSENT
    }
}
