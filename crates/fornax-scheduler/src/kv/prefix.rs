//! The index of prefixes: a radix tree whose nodes are full blocks, found by hash and compared token by token.
//!
//! A node is known by its parent and its tokens, and a first node by its scope too, so that what one tenant or adapter has
//! computed is never found by another, not even by a hash that two share. It keeps no time and no counts of owners; which
//! block makes room is the memory's choice.

use super::block::{ABSENT, Block, NONE};
use crate::random::{GOLDEN, mix};
use crate::{AdapterId, TenantId};

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
    let mut hash = parent ^ GOLDEN;
    for pair in tokens.chunks(2) {
        let word = u64::from(pair[0]) | pair.get(1).map_or(0, |&token| u64::from(token) << 32);
        hash = (hash ^ word).wrapping_mul(GOLDEN).rotate_left(29);
    }
    mix(hash)
}

/// Blocks by content. What it keeps of a block itself stands in that block's [`Block`], where its owners are counted.
#[derive(Clone, Debug)]
pub(super) struct PrefixIndex {
    block_size: usize,
    seed: u64,
    /// Which bits of a hash count: all, but for tests.
    mask: u64,
    /// The first block of each bucket, by the lowest bits of the hash: as many buckets as blocks, or up to twice as many.
    /// They, and what follows, are made room for when the first block comes.
    buckets: Vec<u32>,
    /// The tokens of each block.
    tokens: Vec<u32>,
    /// The scope of each block that begins a prefix; what follows it has the same.
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
            buckets: Vec::new(),
            tokens: Vec::new(),
            scopes: Vec::new(),
            ghosts: Vec::new(),
        }
    }

    /// The hash of nothing, in `scope`.
    pub(super) fn root(&self, scope: Scope) -> u64 {
        mix(mix(self.seed ^ scope.who).wrapping_add(u64::from(scope.shared)) ^ scope.adapter.wrapping_mul(GOLDEN))
    }

    /// The block that holds `tokens` after `parent`.
    pub(super) fn find(
        &self,
        blocks: &[Block],
        parent: Option<u32>,
        scope: Scope,
        hash: u64,
        tokens: &[u32],
    ) -> Option<u32> {
        let parent = parent.unwrap_or(NONE);
        let mut at = *self.buckets.get(self.bucket(hash))?;
        while at != NONE {
            let block = &blocks[at as usize];
            let alike = (block.hash ^ hash) & self.mask == 0 && block.parent == parent;
            if alike && (parent != NONE || self.scopes[at as usize] == scope) && self.tokens_of(at) == tokens {
                return Some(at);
            }
            at = block.next;
        }
        None
    }

    /// Makes block `at` findable; if another holds the same, gives that one and changes nothing.
    pub(super) fn insert(
        &mut self,
        blocks: &mut [Block],
        parent: Option<u32>,
        scope: Scope,
        hash: u64,
        tokens: &[u32],
        at: u32,
    ) -> Option<u32> {
        assert!(tokens.len() == self.block_size, "a block of {} tokens is not full", tokens.len());
        if let Some(other) = self.find(blocks, parent, scope, hash, tokens) {
            return Some(other);
        }
        assert!(!blocks[at as usize].is_indexed(), "block {at} is indexed twice");
        if self.buckets.is_empty() {
            self.buckets = vec![NONE; blocks.len().next_power_of_two()];
            self.tokens = vec![0; blocks.len() * self.block_size];
            self.scopes = vec![Scope::default(); blocks.len()];
            self.ghosts = vec![0; self.buckets.len()];
        }
        match parent {
            Some(parent) => {
                let parent = &mut blocks[parent as usize];
                assert!(parent.is_indexed(), "block {at} follows one that is not indexed");
                parent.children += 1;
            }
            None => self.scopes[at as usize] = scope,
        }
        let start = at as usize * self.block_size;
        self.tokens[start..start + self.block_size].copy_from_slice(tokens);
        let bucket = self.bucket(hash);
        let next = std::mem::replace(&mut self.buckets[bucket], at);
        let block = &mut blocks[at as usize];
        *block = Block { hash, parent: parent.unwrap_or(NONE), children: 0, next, ..*block };
        None
    }

    /// Forgets block `at`, which nothing follows.
    pub(super) fn evict(&mut self, blocks: &mut [Block], at: u32) {
        let Block { hash, parent, children, next, .. } = blocks[at as usize];
        assert!(parent != ABSENT, "block {at} is cached and not indexed");
        assert!(children == 0, "block {at} makes room before the {children} that follow it");
        blocks[at as usize].parent = ABSENT;
        if parent != NONE {
            blocks[parent as usize].children -= 1;
        }
        let bucket = self.bucket(hash);
        if self.buckets[bucket] == at {
            self.buckets[bucket] = next;
        } else {
            let mut before = self.buckets[bucket];
            while blocks[before as usize].next != at {
                before = blocks[before as usize].next;
            }
            blocks[before as usize].next = next;
        }
        let slot = hash as usize & (self.ghosts.len() - 1);
        self.ghosts[slot] = hash;
    }

    /// Whether a block with this hash made room for others not long ago.
    pub(super) fn was_evicted(&self, hash: u64) -> bool {
        !self.ghosts.is_empty() && self.ghosts[hash as usize & (self.ghosts.len() - 1)] == hash
    }

    /// Recounts children and entries; a block whose prefix is not all there is found.
    pub(super) fn audit(&self, blocks: &[Block]) {
        let mut children = vec![0; blocks.len()];
        let mut indexed = 0;
        for (at, block) in blocks.iter().enumerate().filter(|(_, block)| block.is_indexed()) {
            indexed += 1;
            if block.parent != NONE {
                let parent = &blocks[block.parent as usize];
                children[block.parent as usize] += 1;
                assert!(parent.is_indexed(), "block {at} follows one that is not there");
                assert!(parent.owners > 0 || block.owners == 0, "block {at} is held and the one before it is not");
            }
        }
        let mut reached = 0;
        for &first in &self.buckets {
            let mut at = first;
            while at != NONE {
                reached += 1;
                let block = &blocks[at as usize];
                assert!(block.is_indexed() && reached <= indexed, "a chain leads nowhere, or in a ring");
                assert!(self.buckets[self.bucket(block.hash)] == first, "block {at} is in another's chain");
                at = block.next;
            }
        }
        assert!(reached == indexed, "{indexed} blocks are indexed and {reached} can be found");
        for (at, block) in blocks.iter().enumerate().filter(|(_, block)| block.is_indexed()) {
            assert!(block.children == children[at], "block {at} has {} children", children[at]);
        }
    }

    /// Lets all hashes be equal.
    #[cfg(test)]
    pub(super) fn blunt(&mut self) {
        self.mask = 0;
    }

    fn bucket(&self, hash: u64) -> usize {
        (hash & self.mask) as usize & self.buckets.len().wrapping_sub(1)
    }

    fn tokens_of(&self, block: u32) -> &[u32] {
        let start = block as usize * self.block_size;
        &self.tokens[start..start + self.block_size]
    }
}

#[cfg(test)]
mod tests {
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
}
