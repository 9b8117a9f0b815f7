//! The index of prefixes: a radix tree whose nodes are full blocks, found by hash and compared token by token.
//!
//! A node is known by its parent and its tokens, and a first node by its scope too, so that what one tenant or adapter has
//! computed is never found by another, not even by a hash that two share. It keeps no time and no counts of owners; which
//! block makes room is the memory's choice.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use crate::random::{GOLDEN, mix};
use crate::{AdapterId, TenantId};

/// No block.
const NONE: u32 = u32::MAX;

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

/// What is hashed is a hash already.
#[derive(Clone, Debug, Default)]
struct AsIs(u64);

impl Hasher for AsIs {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.0 = mix(self.0 ^ u64::from(byte));
        }
    }

    fn write_u64(&mut self, value: u64) {
        self.0 = value;
    }
}

/// A block that can be found.
#[derive(Clone, Copy, Debug)]
struct Node {
    hash: u64,
    scope: Scope,
    parent: u32,
    children: u32,
    /// The next block of the same hash.
    next: u32,
    present: bool,
}

const ABSENT: Node = Node {
    hash: 0,
    scope: Scope { who: 0, shared: false, adapter: 0 },
    parent: NONE,
    children: 0,
    next: NONE,
    present: false,
};

/// Blocks by content.
#[derive(Clone, Debug)]
pub(super) struct PrefixIndex {
    block_size: usize,
    seed: u64,
    /// Which bits of a hash count: all, but for tests.
    mask: u64,
    nodes: Vec<Node>,
    /// The tokens of each block; made room for when the first block comes.
    tokens: Vec<u32>,
    /// The first block of each hash. Never iterated, so that its order does not matter.
    first: HashMap<u64, u32, BuildHasherDefault<AsIs>>,
    /// Hashes that made room for others, the newer over the older: to tell why something is missing.
    ghosts: Vec<u64>,
}

impl PrefixIndex {
    pub(super) fn new(blocks: usize, block_size: usize, seed: u64) -> Self {
        Self {
            block_size,
            seed: mix(seed ^ GOLDEN),
            mask: u64::MAX,
            nodes: vec![ABSENT; blocks],
            tokens: Vec::new(),
            first: HashMap::default(),
            ghosts: Vec::new(),
        }
    }

    /// The hash of nothing, in `scope`.
    pub(super) fn root(&self, scope: Scope) -> u64 {
        mix(mix(self.seed ^ scope.who).wrapping_add(u64::from(scope.shared)) ^ scope.adapter.wrapping_mul(GOLDEN))
    }

    pub(super) fn contains(&self, block: u32) -> bool {
        self.nodes[block as usize].present
    }

    /// The block that holds `tokens` after `parent`.
    pub(super) fn find(&self, parent: Option<u32>, scope: Scope, hash: u64, tokens: &[u32]) -> Option<u32> {
        let parent = parent.unwrap_or(NONE);
        let mut block = *self.first.get(&(hash & self.mask))?;
        while block != NONE {
            let node = &self.nodes[block as usize];
            if node.parent == parent && node.scope == scope && self.tokens_of(block) == tokens {
                return Some(block);
            }
            block = node.next;
        }
        None
    }

    /// Makes `block` findable; if another holds the same, gives that one and changes nothing.
    pub(super) fn insert(
        &mut self,
        parent: Option<u32>,
        scope: Scope,
        hash: u64,
        tokens: &[u32],
        block: u32,
    ) -> Option<u32> {
        assert!(tokens.len() == self.block_size, "a block of {} tokens is not full", tokens.len());
        if let Some(other) = self.find(parent, scope, hash, tokens) {
            return Some(other);
        }
        assert!(!self.contains(block), "block {block} is indexed twice");
        if let Some(parent) = parent {
            let parent = &mut self.nodes[parent as usize];
            assert!(parent.present, "block {block} follows one that is not indexed");
            parent.children += 1;
        }
        if self.tokens.is_empty() {
            self.tokens = vec![0; self.nodes.len() * self.block_size];
            self.ghosts = vec![0; self.nodes.len().next_power_of_two()];
        }
        let start = block as usize * self.block_size;
        self.tokens[start..start + self.block_size].copy_from_slice(tokens);
        let next = self.first.insert(hash & self.mask, block).unwrap_or(NONE);
        let parent = parent.unwrap_or(NONE);
        self.nodes[block as usize] = Node { hash, scope, parent, children: 0, next, present: true };
        None
    }

    /// Forgets a block that nothing follows.
    pub(super) fn evict(&mut self, block: u32) {
        let node = std::mem::replace(&mut self.nodes[block as usize], ABSENT);
        assert!(node.present, "block {block} is cached and not indexed");
        assert!(node.children == 0, "block {block} makes room before the {} that follow it", node.children);
        if node.parent != NONE {
            self.nodes[node.parent as usize].children -= 1;
        }
        let key = node.hash & self.mask;
        let first = *self.first.get(&key).expect("an indexed block has an entry");
        if first == block {
            if node.next == NONE {
                self.first.remove(&key);
            } else {
                self.first.insert(key, node.next);
            }
        } else {
            let mut at = first;
            while self.nodes[at as usize].next != block {
                at = self.nodes[at as usize].next;
            }
            self.nodes[at as usize].next = node.next;
        }
        let slot = node.hash as usize & (self.ghosts.len() - 1);
        self.ghosts[slot] = node.hash;
    }

    /// Whether a block with this hash made room for others not long ago.
    pub(super) fn was_evicted(&self, hash: u64) -> bool {
        !self.ghosts.is_empty() && self.ghosts[hash as usize & (self.ghosts.len() - 1)] == hash
    }

    /// Recounts children and entries; a node whose prefix is not all there is found.
    pub(super) fn audit(&self, owners: &[u32]) {
        let mut children = vec![0; self.nodes.len()];
        let mut present = 0;
        for (block, node) in self.nodes.iter().enumerate().filter(|(_, node)| node.present) {
            present += 1;
            if node.parent != NONE {
                let parent = node.parent as usize;
                children[parent] += 1;
                assert!(self.nodes[parent].present, "block {block} follows one that is not there");
                assert!(owners[parent] > 0 || owners[block] == 0, "block {block} is held and the one before it is not");
            }
        }
        for (block, node) in self.nodes.iter().enumerate() {
            assert!(node.children == children[block], "block {block} has {} children", children[block]);
        }
        let mut reached = 0;
        for &first in self.first.values() {
            let mut block = first;
            while block != NONE {
                reached += 1;
                assert!(
                    self.nodes[block as usize].present && reached <= present,
                    "a chain leads nowhere, or in a ring"
                );
                block = self.nodes[block as usize].next;
            }
        }
        assert!(reached == present, "{present} blocks are indexed and {reached} can be found");
    }

    /// What the future depends on.
    #[cfg(test)]
    pub(super) fn hash_state(&self, hasher: &mut impl Hasher) {
        use std::hash::Hash as _;
        for node in &self.nodes {
            (node.present, node.hash, node.parent).hash(hasher);
        }
    }

    /// Lets all hashes be equal.
    #[cfg(test)]
    pub(super) fn blunt(&mut self) {
        self.mask = 0;
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
        let index = PrefixIndex::new(4, 2, 1);
        let root = index.root(Scope::default());
        let one = block_hash(root, &[1, 2]);
        let others = [
            block_hash(root, &[2, 1]),
            block_hash(one, &[1, 2]),
            block_hash(root, &[1]),
            block_hash(root, &[1, 2, 0]),
            block_hash(PrefixIndex::new(4, 2, 2).root(Scope::default()), &[1, 2]),
            block_hash(index.root(Scope::of(TenantId(1), None, None)), &[1, 2]),
            block_hash(index.root(Scope::of(TenantId(0), Some(0), None)), &[1, 2]),
            block_hash(index.root(Scope::of(TenantId(0), None, Some(AdapterId(0)))), &[1, 2]),
        ];
        assert!(others.iter().all(|&other| other != one), "{one} {others:?}");
    }
}
