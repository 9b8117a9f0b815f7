//! The index of prefixes: a radix tree whose nodes are full blocks, found by hash and compared token by token.
//!
//! A node is known by its parent and its tokens, and a first node by its scope too, so that what one tenant or adapter has
//! computed is never found by another, not even by a hash that two share. It keeps no time and no counts of owners; which
//! block makes room is the memory's choice.

use std::ops::Range;

use super::block::{ABSENT, Block, NONE};
use crate::probing::vacate;
use crate::random::{GOLDEN, mix};
use crate::{AdapterId, BlockId, TenantId};

/// Tokens in a line of the processor's cache.
const LINE: usize = 16;

/// Who may find a prefix: those of the same tenant (or of the same group of tenants that chose to share) and adapter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Scope {
    who: u64,
    shared: bool,
    /// The adapter's number and one; zero is none.
    adapter: u64,
}

impl Scope {
    /// The scope of a tenant, or of the group `shared` of tenants, with an adapter.
    pub const fn of(tenant: TenantId, shared: Option<u64>, adapter: Option<AdapterId>) -> Self {
        let adapter = match adapter {
            Some(adapter) => adapter.0 as u64 + 1,
            None => 0,
        };
        match shared {
            Some(who) => Self { who, shared: true, adapter },
            None => Self { who: tenant.0 as u64, shared: false, adapter },
        }
    }
}

/// The hash of a block after `parent`, which is the hash of what comes before it.
pub fn block_hash(parent: u64, tokens: &[u32]) -> u64 {
    // Products that do not wait for each other; who does not know the parent cannot make one of them zero.
    let (left, right) = (parent ^ GOLDEN, parent.rotate_left(32));
    let product = |&[a, b, c, d]: &[u32; 4]| {
        let pair = |low, high| u64::from(low) | u64::from(high) << 32;
        let wide = u128::from(left ^ pair(a, b)) * u128::from(right ^ pair(c, d));
        wide as u64 ^ (wide >> 64) as u64
    };
    let (fours, rest) = tokens.as_chunks::<4>();
    let mut hash = tokens.len() as u64 ^ parent;
    for four in fours {
        hash = hash.rotate_left(23).wrapping_add(product(four));
    }
    if !rest.is_empty() {
        let mut four = [0; 4];
        four[..rest.len()].copy_from_slice(rest);
        hash = hash.rotate_left(23).wrapping_add(product(&four));
    }
    mix(hash)
}

/// What a block comes after.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum After {
    /// Nothing: it is the first of those of a scope.
    Nothing(Scope),
    /// Another block, and so in the same scope.
    Block(BlockId),
}

/// Where a block is by its hash.
#[derive(Clone, Copy, Debug)]
struct Entry {
    /// The lowest bits of the hash. The very lowest of them say where the search begins.
    tag: u32,
    /// The block, or [`NONE`].
    block: u32,
}

/// Blocks by content. What it keeps of a block itself stands in that block's [`Block`], where its owners are counted.
///
/// Most blocks are followed by one other, and that one stands with the block that it follows, where it is found, put and
/// forgotten without a search. All others, those that begin a prefix and those where prefixes part, stand in a hash table.
#[derive(Clone, Debug)]
pub(super) struct PrefixIndex {
    block_size: usize,
    seed: u64,
    /// Which bits of a hash count: all, but for tests.
    mask: u64,
    /// A hash table with linear probing, at most half full, so that what is not there is missed with one look at memory.
    /// It, and what follows, is made room for when the first block comes.
    table: Vec<Entry>,
    /// The tokens of each block, from `first` on.
    tokens: Vec<u32>,
    /// Where a line of the processor's cache begins, so that a block of 16 tokens is one.
    first: usize,
    /// The scope of each block that begins a prefix.
    scopes: Vec<Scope>,
    /// Hashes that made room for others, the newer over the older: to tell why something is missing.
    ghosts: Vec<u64>,
}

impl PrefixIndex {
    pub(super) fn new(block_size: usize, seed: u64) -> Self {
        Self {
            block_size,
            seed: mix(seed ^ GOLDEN),
            mask: u64::MAX,
            table: Vec::new(),
            tokens: Vec::new(),
            first: 0,
            scopes: Vec::new(),
            ghosts: Vec::new(),
        }
    }

    /// The hash of nothing, in `scope`.
    pub(super) fn root(&self, scope: Scope) -> u64 {
        mix(mix(self.seed ^ scope.who).wrapping_add(u64::from(scope.shared)) ^ scope.adapter.wrapping_mul(GOLDEN))
    }

    /// The block that holds `tokens` after another.
    pub(super) fn find(&self, blocks: &[Block], after: After, hash: u64, tokens: &[u32]) -> Option<u32> {
        if self.table.is_empty() {
            return None;
        }
        if let After::Block(before) = after {
            let Block { child, children, .. } = blocks[before.0 as usize];
            if child != NONE
                && self.tag(blocks[child as usize].hash) == self.tag(hash)
                && self.tokens_of(child) == tokens
            {
                return Some(child);
            }
            if children == u32::from(child != NONE) {
                return None;
            }
        }
        self.search(blocks, after, hash, tokens)
    }

    /// Makes block `at` findable; if another holds the same, gives that one and changes nothing.
    pub(super) fn insert(
        &mut self,
        blocks: &mut [Block],
        after: After,
        hash: u64,
        tokens: &[u32],
        at: u32,
    ) -> Option<u32> {
        assert!(tokens.len() == self.block_size, "a block of {} tokens is not full", tokens.len());
        if self.table.is_empty() {
            self.table = vec![Entry { tag: 0, block: NONE }; (2 * blocks.len()).next_power_of_two()];
            self.tokens = vec![0; blocks.len() * self.block_size + LINE];
            self.first = self.tokens.as_ptr().align_offset(LINE * size_of::<u32>()).min(LINE);
            self.scopes = vec![Scope::default(); blocks.len()];
            self.ghosts = vec![0; blocks.len().next_power_of_two()];
        }
        if let Some(other) = self.find(blocks, after, hash, tokens) {
            return Some(other);
        }
        assert!(!blocks[at as usize].is_indexed(), "block {at} is indexed twice");
        let range = self.range(at);
        self.tokens[range].copy_from_slice(tokens);
        let parent = match after {
            After::Block(parent) => {
                let before = &mut blocks[parent.0 as usize];
                assert!(before.is_indexed(), "block {at} follows one that is not indexed");
                before.children += 1;
                if before.child == NONE {
                    before.child = at;
                } else {
                    self.put(hash, at);
                }
                parent.0
            }
            After::Nothing(scope) => {
                self.scopes[at as usize] = scope;
                self.put(hash, at);
                NONE
            }
        };
        let block = &mut blocks[at as usize];
        (block.hash, block.parent, block.children, block.child) = (hash, parent, 0, NONE);
        None
    }

    /// Forgets block `at`, which nothing follows.
    pub(super) fn evict(&mut self, blocks: &mut [Block], at: u32) {
        let Block { hash, parent, children, .. } = blocks[at as usize];
        assert!(parent != ABSENT, "block {at} is cached and not indexed");
        assert!(children == 0, "block {at} makes room before the {children} that follow it");
        blocks[at as usize].parent = ABSENT;
        let alone = match blocks.get_mut(parent as usize) {
            Some(before) => {
                before.children -= 1;
                let alone = before.child == at;
                before.child = if alone { NONE } else { before.child };
                alone
            }
            None => false,
        };
        if !alone {
            self.take(hash, at);
        }
        let ghost = hash as usize & (self.ghosts.len() - 1);
        self.ghosts[ghost] = hash;
    }

    /// Reads what is needed when block `at` makes room, and gives something of it: so that it is near when its turn comes.
    pub(super) fn read_ahead(&self, blocks: &[Block], at: u32) -> u32 {
        let Block { hash, parent, .. } = blocks[at as usize];
        blocks.get(parent as usize).map_or_else(|| self.read_ahead_first(hash), |before| before.child)
    }

    /// The same for one that is looked for in the table.
    pub(super) fn read_ahead_first(&self, hash: u64) -> u32 {
        self.table.get(self.tag(hash) as usize & self.table.len().wrapping_sub(1)).map_or(0, |entry| entry.block)
    }

    /// The first token that stands with block `at`, of whatever it held last.
    pub(super) fn token_of(&self, at: u32) -> u32 {
        self.tokens.get(self.range(at).start).copied().unwrap_or(0)
    }

    /// Whether a block with this hash made room for others not long ago.
    pub(super) fn was_evicted(&self, hash: u64) -> bool {
        !self.ghosts.is_empty() && self.ghosts[hash as usize & (self.ghosts.len() - 1)] == hash
    }

    /// Recounts children and entries; a block whose prefix is not all there is found.
    pub(super) fn audit(&self, blocks: &[Block]) {
        let mut children = vec![0; blocks.len()];
        let mut tabled = 0;
        for (at, block) in blocks.iter().enumerate().filter(|(_, block)| block.is_indexed()) {
            if block.parent != NONE {
                let parent = &blocks[block.parent as usize];
                children[block.parent as usize] += 1;
                assert!(parent.is_indexed(), "block {at} follows one that is not there");
                assert!(parent.owners > 0 || block.owners == 0, "block {at} is held and the one before it is not");
            }
            assert!(
                block.child == NONE || blocks[block.child as usize].parent == at as u32,
                "block {at} has another's child"
            );
            if blocks.get(block.parent as usize).is_some_and(|parent| parent.child == at as u32) {
                continue;
            }
            tabled += 1;
            let last = self.table.len() - 1;
            let mut place = self.tag(block.hash) as usize & last;
            while self.table[place].block != at as u32 {
                assert!(self.table[place].block != NONE, "block {at} is indexed and cannot be found");
                place = (place + 1) & last;
            }
        }
        for (at, block) in blocks.iter().enumerate().filter(|(_, block)| block.is_indexed()) {
            assert!(block.children == children[at], "block {at} has {} children", children[at]);
        }
        let entries = self.table.iter().filter(|entry| entry.block != NONE).count();
        assert!(entries == tabled, "{tabled} blocks are to be in the table and {entries} are");
    }

    /// Lets all hashes be equal.
    #[cfg(test)]
    pub(super) fn blunt(&mut self) {
        self.mask = 0;
    }

    /// The block of the table that holds `tokens` after another.
    fn search(&self, blocks: &[Block], after: After, hash: u64, tokens: &[u32]) -> Option<u32> {
        let (tag, last) = (self.tag(hash), self.table.len() - 1);
        let mut place = tag as usize & last;
        loop {
            let entry = self.table[place];
            if entry.block == NONE {
                return None;
            }
            if entry.tag == tag {
                let parent = blocks[entry.block as usize].parent;
                let follows = match after {
                    After::Block(before) => parent == before.0,
                    After::Nothing(scope) => parent == NONE && self.scopes[entry.block as usize] == scope,
                };
                if follows && self.tokens_of(entry.block) == tokens {
                    return Some(entry.block);
                }
            }
            place = (place + 1) & last;
        }
    }

    /// Puts a block into the table.
    fn put(&mut self, hash: u64, at: u32) {
        let (tag, last) = (self.tag(hash), self.table.len() - 1);
        let mut place = tag as usize & last;
        while self.table[place].block != NONE {
            place = (place + 1) & last;
        }
        self.table[place] = Entry { tag, block: at };
    }

    /// Takes a block out of the table.
    fn take(&mut self, hash: u64, at: u32) {
        let last = self.table.len() - 1;
        let mut hole = self.tag(hash) as usize & last;
        while self.table[hole].block != at {
            assert!(self.table[hole].block != NONE, "block {at} is indexed and cannot be found");
            hole = (hole + 1) & last;
        }
        let home = |entry: &Entry| (entry.block != NONE).then_some(entry.tag as usize & last);
        vacate(&mut self.table, hole, Entry { tag: 0, block: NONE }, home);
    }

    fn tag(&self, hash: u64) -> u32 {
        (hash & self.mask) as u32
    }

    fn tokens_of(&self, block: u32) -> &[u32] {
        &self.tokens[self.range(block)]
    }

    /// Where the tokens of a block are.
    fn range(&self, block: u32) -> Range<usize> {
        let start = self.first + block as usize * self.block_size;
        start..start + self.block_size
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn hashes_differ_by_order_place_and_scope() {
        let index = PrefixIndex::new(2, 1);
        let root = index.root(Scope::default());
        let one = block_hash(root, &[1, 2]);
        let others = [
            block_hash(root, &[2, 1]),
            block_hash(one, &[1, 2]),
            block_hash(root, &[1]),
            block_hash(root, &[1, 2, 0]),
            block_hash(PrefixIndex::new(2, 2).root(Scope::default()), &[1, 2]),
            block_hash(index.root(Scope::of(TenantId(1), None, None)), &[1, 2]),
            block_hash(index.root(Scope::of(TenantId(0), Some(0), None)), &[1, 2]),
            block_hash(index.root(Scope::of(TenantId(0), None, Some(AdapterId(0)))), &[1, 2]),
        ];
        assert!(others.iter().all(|&other| other != one), "{one} {others:?}");
    }

    /// What hashes begin with tells any two apart that may not find each other's blocks.
    #[test]
    fn no_two_scopes_share_a_root() {
        let index = PrefixIndex::new(2, 1);
        let many = 1 << 17;
        let distinct = |scope: &dyn Fn(u32) -> Scope| {
            BTreeSet::from_iter((0..many).map(|number| index.root(scope(number)))).len() as u32
        };
        assert_eq!(distinct(&|number| Scope::of(TenantId(number), None, None)), many);
        assert_eq!(distinct(&|number| Scope::of(TenantId(0), Some(u64::from(number) << 32), None)), many);
        for tenant in 0..4 {
            // Numbers near each other, and as many that are far from those.
            let adapter = |number: u32| Some(AdapterId(number.rotate_right(1)));
            assert_eq!(distinct(&|number| Scope::of(TenantId(tenant), None, adapter(number))), many);
        }
    }

    /// Tests of equal hashes depend on it.
    #[test]
    fn all_hashes_of_a_blunt_index_are_equal() {
        let mut index = PrefixIndex::new(2, 1);
        assert_ne!(index.tag(1), index.tag(2));
        index.blunt();
        assert_eq!(index.tag(1), index.tag(2));
    }
}
