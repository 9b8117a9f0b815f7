//! What is kept of a block: how many hold it, and its place in the line of cached blocks and in the index of prefixes.
//!
//! Whoever takes, finds or gives back a block needs most of it at once, so it is one record, half a line of the
//! processor's cache. Which part means what is the business of [`memory`](super::memory) and [`prefix`](super::prefix).

/// No block.
pub(super) const NONE: u32 = u32::MAX;
/// In place of a parent: the block is not in the index.
pub(super) const ABSENT: u32 = NONE - 1;

/// A block.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(32))]
pub(super) struct Block {
    /// The hash of its tokens and of all before them.
    pub(super) hash: u64,
    /// The block that it follows, [`NONE`] for the first of a prefix, [`ABSENT`] for one that cannot be found.
    pub(super) parent: u32,
    /// How many follow it in the index.
    pub(super) children: u32,
    /// One of them, or [`NONE`]: found here and nowhere else.
    pub(super) child: u32,
    /// How many hold it.
    pub(super) owners: u32,
    /// Its place in the line of cached blocks, counted from the first that ever stood there, if it stands there.
    pub(super) place: u64,
}

impl Block {
    /// Held by nobody, findable by nobody.
    pub(super) const FREE: Self = Self { hash: 0, parent: ABSENT, children: 0, child: NONE, owners: 0, place: 0 };

    /// Whether it can be found by its content.
    pub(super) fn is_indexed(&self) -> bool {
        self.parent != ABSENT
    }
}

const _: () = assert!(size_of::<Block>() == 32);
