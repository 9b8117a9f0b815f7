//! The index of prefixes: a radix tree whose nodes are full blocks, found by hash and compared token by token.
//!
//! A node is known by its parent and its tokens, and a first node by its scope too. So the blocks of one tenant or
//! adapter are never found by another, not even where hashes collide. The index keeps no times and no counts of owners;
//! the memory chooses which block is evicted.

use std::ops::Range;

use super::block::{ABSENT, Block, NONE};
use crate::hash::NumberMap;
use crate::random::{GOLDEN, mix};
use crate::{AdapterId, BlockId, TenantId};

/// Who may find a prefix: requests of the same tenant (or of the same group of tenants that chose to share) and
/// adapter.
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

/// The hash of a block with `tokens`, where `parent` is the hash of the block before it, or the root of its scope.
pub fn block_hash(parent: u64, tokens: &[u32]) -> u64 {
    // The products do not depend on each other. Without knowing the parent, nobody can choose tokens that make one
    // zero.
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

/// The block before a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum After {
    /// None: the block is the first of a prefix in this scope.
    Nothing(Scope),
    /// This block, in the same scope.
    Block(BlockId),
}

/// Blocks by content. Parents, children and hashes of blocks are kept in their [`Block`]s.
#[derive(Clone, Debug)]
pub(super) struct PrefixIndex {
    block_size: usize,
    seed: u64,
    /// Which bits of a hash count: all, but for tests.
    mask: u64,
    /// The newest block with each hash; blocks with the same hash are linked by [`Block::next`].
    table: NumberMap<u64, u32>,
    /// The tokens of each block. This field and the following ones are allocated when the first block comes.
    tokens: Vec<u32>,
    /// The scope of each block that begins a prefix.
    scopes: Vec<Scope>,
    /// Hashes of evicted blocks, newer over older: to tell why a block is missing.
    evicted: Vec<u64>,
}

impl PrefixIndex {
    pub(super) fn new(block_size: usize, seed: u64) -> Self {
        Self {
            block_size,
            seed: mix(seed ^ GOLDEN),
            mask: u64::MAX,
            table: NumberMap::default(),
            tokens: Vec::new(),
            scopes: Vec::new(),
            evicted: Vec::new(),
        }
    }

    /// The parent hash of the first block of a prefix in `scope`.
    pub(super) fn root(&self, scope: Scope) -> u64 {
        mix(mix(self.seed ^ scope.who).wrapping_add(u64::from(scope.shared)) ^ scope.adapter.wrapping_mul(GOLDEN))
    }

    /// The block that holds `tokens` after another.
    pub(super) fn find(&self, blocks: &[Block], after: After, hash: u64, tokens: &[u32]) -> Option<u32> {
        let mut at = self.table.get(&self.tag(hash)).copied()?;
        while at != NONE {
            let Block { parent, next, .. } = blocks[at as usize];
            let follows = match after {
                After::Block(before) => parent == before.0,
                After::Nothing(scope) => parent == NONE && self.scopes[at as usize] == scope,
            };
            if follows && self.tokens_of(at) == tokens {
                return Some(at);
            }
            at = next;
        }
        None
    }

    /// Makes block `at` findable. If another block has the same content, returns that block and changes nothing.
    pub(super) fn insert(
        &mut self,
        blocks: &mut [Block],
        after: After,
        hash: u64,
        tokens: &[u32],
        at: u32,
    ) -> Option<u32> {
        assert!(tokens.len() == self.block_size, "a block of {} tokens is not full", tokens.len());
        if self.tokens.is_empty() {
            self.tokens = vec![0; blocks.len() * self.block_size];
            self.scopes = vec![Scope::default(); blocks.len()];
            self.evicted = vec![0; blocks.len().next_power_of_two()];
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
                assert!(before.is_indexed(), "block {at} follows a block that is not indexed");
                before.children += 1;
                parent.0
            }
            After::Nothing(scope) => {
                self.scopes[at as usize] = scope;
                NONE
            }
        };
        let next = self.table.insert(self.tag(hash), at).unwrap_or(NONE);
        let block = &mut blocks[at as usize];
        (block.hash, block.parent, block.children, block.next) = (hash, parent, 0, next);
        None
    }

    /// Removes block `at` from the index. No indexed block may follow it.
    pub(super) fn evict(&mut self, blocks: &mut [Block], at: u32) {
        let Block { hash, parent, children, next, .. } = blocks[at as usize];
        assert!(parent != ABSENT, "block {at} is cached and not indexed");
        assert!(children == 0, "block {at} makes room before the {children} that follow it");
        blocks[at as usize].parent = ABSENT;
        if let Some(before) = blocks.get_mut(parent as usize) {
            before.children -= 1;
        }
        let tag = self.tag(hash);
        let first = self.table.get_mut(&tag).expect("an indexed block is in the table");
        if *first == at && next == NONE {
            self.table.remove(&tag);
        } else if *first == at {
            *first = next;
        } else {
            let mut before = *first;
            while blocks[before as usize].next != at {
                before = blocks[before as usize].next;
            }
            blocks[before as usize].next = next;
        }
        let last = self.evicted.len() - 1;
        self.evicted[hash as usize & last] = hash;
    }

    /// Whether a block with this hash was evicted not long ago.
    pub(super) fn was_evicted(&self, hash: u64) -> bool {
        !self.evicted.is_empty() && self.evicted[hash as usize & (self.evicted.len() - 1)] == hash
    }

    /// Recounts children and entries, and checks that the whole prefix of each block is there.
    pub(super) fn audit(&self, blocks: &[Block]) {
        let indexed = || blocks.iter().enumerate().filter(|(_, block)| block.is_indexed());
        let mut children = vec![0; blocks.len()];
        for (at, block) in indexed().filter(|(_, block)| block.parent != NONE) {
            let parent = &blocks[block.parent as usize];
            children[block.parent as usize] += 1;
            assert!(parent.is_indexed(), "block {at} follows a block that is not there");
            assert!(parent.owners > 0 || block.owners == 0, "block {at} is held and the one before it is not");
        }
        for (at, block) in indexed() {
            assert!(block.children == children[at], "block {at} has {} children", children[at]);
        }
        let mut linked = 0;
        for (tag, first) in &self.table {
            let mut at = *first;
            while at != NONE {
                let block = &blocks[at as usize];
                assert!(block.is_indexed() && self.tag(block.hash) == *tag, "block {at} is under another's hash");
                linked += 1;
                at = block.next;
            }
        }
        assert!(linked == indexed().count(), "{linked} blocks are in the table");
    }

    /// Lets all hashes be equal.
    #[cfg(test)]
    pub(super) fn degrade(&mut self) {
        self.mask = 0;
    }

    fn tag(&self, hash: u64) -> u64 {
        hash & self.mask
    }

    fn tokens_of(&self, block: u32) -> &[u32] {
        &self.tokens[self.range(block)]
    }

    /// Where the tokens of a block are.
    fn range(&self, block: u32) -> Range<usize> {
        let start = block as usize * self.block_size;
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

    /// Different scopes have different roots.
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
            // Half of the numbers are close together, and the other half close together far from these.
            let adapter = |number: u32| Some(AdapterId(number.rotate_right(1)));
            assert_eq!(distinct(&|number| Scope::of(TenantId(tenant), None, adapter(number))), many);
        }
    }

    /// The tests of equal hashes rely on this.
    #[test]
    fn all_hashes_of_a_degraded_index_are_equal() {
        let mut index = PrefixIndex::new(2, 1);
        assert_ne!(index.tag(1), index.tag(2));
        index.degrade();
        assert_eq!(index.tag(1), index.tag(2));
    }
}
