//! The blocks of one model: their reference counts, the free blocks, and the cached blocks in the order of their last
//! use.

use std::collections::VecDeque;

use super::KvEvent;
use super::block::{ABSENT, Block};
use super::prefix::{After, PrefixIndex, Scope};
use crate::{BlockId, SchedulerError};

/// The LRU list may have as many empty places as filled ones, and this many more.
const SPARE: usize = 64;

/// The cached beginning of a prompt.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lookup {
    /// The blocks of its beginning, in order.
    pub blocks: Vec<BlockId>,
    /// How many of these blocks no sequence holds. Sharing them makes as many fewer blocks available.
    pub unheld: usize,
    /// Whether the first missing block was here before and was evicted.
    pub evicted: bool,
}

/// Blocks with reference counts, copy-on-write in mind, and an index of prefixes.
///
/// At all times `free + cached + held = total`, which [`KvMemory::audit`] recounts.
#[derive(Clone, Debug)]
pub struct KvMemory {
    block_size: usize,
    blocks: Vec<Block>,
    free: Vec<u32>,
    held: usize,
    index: PrefixIndex,
    /// The cached blocks, the least recently used first. A block that was shared since stays in the list and is skipped
    /// when its turn comes: it has owners, or another place.
    lru: VecDeque<u32>,
    /// The place of the list's first entry.
    first: u64,
    cached: usize,
    evictions: u64,
    /// The events since they were last taken; none if they are not recorded.
    events: Option<Vec<KvEvent>>,
}

impl KvMemory {
    /// `blocks` free blocks of `block_size` tokens. `seed` goes into the hashes of prefixes.
    ///
    /// # Errors
    /// [`SchedulerError::InvalidConfig`] for no blocks, too many, or blocks of no size.
    pub fn new(blocks: usize, block_size: usize, seed: u64) -> Result<Self, SchedulerError> {
        if blocks == 0 || blocks >= ABSENT as usize {
            return Err(SchedulerError::config("blocks", blocks, "give at least one block, and fewer than 2^32 - 2"));
        }
        if block_size == 0 || block_size > 1 << 20 {
            return Err(SchedulerError::config("block_size", block_size, "give 1 to 2^20 tokens, such as 16"));
        }
        Ok(Self {
            block_size,
            blocks: vec![Block::FREE; blocks],
            // The lowest number is taken first.
            free: (0..blocks as u32).rev().collect(),
            held: 0,
            index: PrefixIndex::new(block_size, seed),
            lru: VecDeque::new(),
            first: 0,
            cached: 0,
            evictions: 0,
            events: None,
        })
    }

    /// Tokens in a block.
    pub fn block_size(&self) -> usize {
        self.block_size
    }

    /// How many blocks there are.
    pub fn total(&self) -> usize {
        self.blocks.len()
    }

    /// How many blocks can be allocated: the free and the cached blocks.
    pub fn available(&self) -> usize {
        self.free.len() + self.cached
    }

    /// How many blocks are cached and held by no sequence.
    pub fn cached(&self) -> usize {
        self.cached
    }

    /// How many blocks are held.
    pub fn held(&self) -> usize {
        self.held
    }

    /// How many cached blocks have been evicted so far.
    pub fn evictions(&self) -> u64 {
        self.evictions
    }

    /// How many owners a block has.
    pub fn owners(&self, block: BlockId) -> u32 {
        self.blocks[block.0 as usize].owners
    }

    /// Whether a block can be found by its content. No sequence may write to such a block.
    pub fn is_indexed(&self, block: BlockId) -> bool {
        self.blocks[block.0 as usize].is_indexed()
    }

    /// The parent hash of the first block of a prefix in `scope`.
    pub fn root(&self, scope: Scope) -> u64 {
        self.index.root(scope)
    }

    /// A block for one owner: a free block, or else the least recently used cached block, which is evicted.
    pub fn allocate(&mut self) -> Option<BlockId> {
        let block = match self.free.pop() {
            Some(block) => block,
            None => {
                let block = self.lru_pop()?;
                let hash = self.blocks[block as usize].hash;
                self.record(|| KvEvent::Removed { block: BlockId(block), hash });
                self.index.evict(&mut self.blocks, block);
                self.evictions += 1;
                block
            }
        };
        let owners = &mut self.blocks[block as usize].owners;
        assert!(*owners == 0, "block {block} was free and has {owners} owners");
        *owners = 1;
        self.held += 1;
        Some(BlockId(block))
    }

    /// Adds an owner to a block that is held or cached.
    pub fn share(&mut self, block: BlockId) {
        let at = block.0 as usize;
        if self.blocks[at].owners == 0 {
            assert!(self.blocks[at].is_indexed(), "block {block} is free and cannot be shared");
            self.cached -= 1;
            self.held += 1;
        }
        self.blocks[at].owners += 1;
    }

    /// Removes an owner from a block. A block without owners becomes cached if it is indexed, and free otherwise.
    /// Release the blocks of a prefix from its end, so that no block is evicted before the blocks that follow it.
    pub fn release(&mut self, block: BlockId) {
        let kept = &mut self.blocks[block.0 as usize];
        assert!(kept.owners > 0, "block {block} is released and has no owner");
        kept.owners -= 1;
        if kept.owners > 0 {
            return;
        }
        self.held -= 1;
        if kept.is_indexed() {
            self.lru_push(block.0);
        } else {
            self.free.push(block.0);
        }
    }

    /// Removes an owner from each block of a table, from the end.
    pub fn release_all(&mut self, table: &[BlockId]) {
        table.iter().rev().for_each(|&block| self.release(block));
    }

    /// The indexed blocks that hold the beginning of `tokens`, at most `most` of them. `hashes` has the hash of each
    /// full block. Tokens are compared one by one, so that equal hashes of different tokens are no hit.
    pub fn lookup(&self, scope: Scope, hashes: &[u64], tokens: &[u32], most: usize) -> Lookup {
        let mut found = Lookup::default();
        let mut after = After::Nothing(scope);
        for (hash, content) in hashes.iter().zip(tokens.chunks_exact(self.block_size)).take(most) {
            let Some(block) = self.index.find(&self.blocks, after, *hash, content) else {
                found.evicted = self.index.was_evicted(*hash);
                break;
            };
            found.unheld += usize::from(self.blocks[block as usize].owners == 0);
            found.blocks.push(BlockId(block));
            after = After::Block(BlockId(block));
        }
        found
    }

    /// Makes a full block findable after `after`. If another block with the same content is there, returns that block
    /// instead; the caller should use it in the place of its own.
    pub fn commit(&mut self, after: After, hash: u64, tokens: &[u32], block: BlockId) -> Option<BlockId> {
        assert!(self.blocks[block.0 as usize].owners > 0, "block {block} is committed and has no owner");
        let other = self.index.insert(&mut self.blocks, after, hash, tokens, block.0).map(BlockId);
        if other.is_none() && self.events.is_some() {
            let parent = match after {
                After::Block(before) => self.blocks[before.0 as usize].hash,
                After::Nothing(scope) => self.index.root(scope),
            };
            self.record(|| KvEvent::Stored { block, hash, parent, tokens: tokens.to_vec() });
        }
        other
    }

    /// Whether events are recorded from now on.
    pub fn record_events(&mut self, on: bool) {
        self.events = on.then(Vec::new);
    }

    /// The events recorded since they were last taken.
    pub fn take_events(&mut self) -> impl Iterator<Item = KvEvent> {
        self.events.iter_mut().flat_map(|events| events.drain(..))
    }

    fn record(&mut self, event: impl FnOnce() -> KvEvent) {
        if let Some(events) = &mut self.events {
            events.push(event());
        }
    }

    /// Recounts everything. `holders` lists each block once for each of its owners.
    ///
    /// # Panics
    /// If the books do not balance, which is a fault of this crate.
    pub fn audit(&self, holders: impl IntoIterator<Item = BlockId>) {
        let mut owners = vec![0u32; self.total()];
        for block in holders {
            owners[block.0 as usize] += 1;
        }
        let counted = self.blocks.iter().map(|kept| kept.owners);
        assert!(counted.eq(owners.iter().copied()), "reference counts are not the owners {owners:?}");
        let held = owners.iter().filter(|&&owners| owners > 0).count();
        let mut seen = vec![false; self.total()];
        let mut cached = 0;
        for block in self.lru_blocks() {
            assert!(!std::mem::replace(&mut seen[block as usize], true), "block {block} is cached twice");
            assert!(self.blocks[block as usize].is_indexed(), "block {block} is cached and cannot be found");
            cached += 1;
        }
        // The list is compacted only when a block is added, so its length is bounded by the total, not by the cached
        // blocks.
        assert!(self.lru.len() <= 2 * self.total() + SPARE, "{} places for {cached} blocks", self.lru.len());
        for &block in &self.free {
            assert!(!std::mem::replace(&mut seen[block as usize], true), "block {block} is free twice, or cached");
            assert!(
                owners[block as usize] == 0 && !self.is_indexed(BlockId(block)),
                "block {block} is free and in use"
            );
        }
        let books = (self.free.len(), self.cached, self.held);
        assert!(books == (self.free.len(), cached, held), "{books:?} free, cached and held; found {cached}, {held}");
        assert!(self.free.len() + cached + held == self.total(), "{books:?} do not make up {}", self.total());
        self.index.audit(&self.blocks);
    }

    /// Checks that the counts add up, which costs next to nothing.
    pub(crate) fn check_counts(&self) {
        assert!(
            self.free.len() + self.cached + self.held == self.total(),
            "{} free, {} cached and {} held blocks do not make up {}",
            self.free.len(),
            self.cached,
            self.held,
            self.total()
        );
    }

    /// Hashes all that later calls depend on.
    #[cfg(test)]
    pub(crate) fn hash_state(&self, hasher: &mut impl std::hash::Hasher) {
        use std::hash::Hash as _;
        self.free.hash(hasher);
        for block in &self.blocks {
            (block.owners, block.parent, if block.is_indexed() { block.hash } else { 0 }).hash(hasher);
        }
        self.lru_blocks().for_each(|block| block.hash(hasher));
    }

    /// Puts a block at the end of the LRU list.
    fn lru_push(&mut self, block: u32) {
        self.cached += 1;
        if self.lru.len() >= 2 * self.cached + SPARE {
            self.lru_compact();
        }
        self.blocks[block as usize].place = self.first + self.lru.len() as u64;
        self.lru.push_back(block);
    }

    /// Takes the least recently used block out of the LRU list.
    fn lru_pop(&mut self) -> Option<u32> {
        while let Some(block) = self.lru.pop_front() {
            let place = self.first;
            self.first += 1;
            if self.stands(block, place) {
                self.cached -= 1;
                return Some(block);
            }
        }
        None
    }

    /// Whether a block is in this place of the LRU list.
    fn stands(&self, block: u32, place: u64) -> bool {
        let kept = &self.blocks[block as usize];
        kept.owners == 0 && kept.place == place
    }

    /// The cached blocks, the least recently used first.
    fn lru_blocks(&self) -> impl Iterator<Item = u32> {
        let places = self.lru.iter().copied().zip(self.first..);
        places.filter(|&(block, place)| self.stands(block, place)).map(|(block, _)| block)
    }

    /// Removes the empty places from the LRU list. There are as many as filled places, so that the cost for each added
    /// block is constant.
    fn lru_compact(&mut self) {
        let lru: VecDeque<u32> = self.lru_blocks().collect();
        for (&block, place) in lru.iter().zip(self.first..) {
            self.blocks[block as usize].place = place;
        }
        self.lru = lru;
    }
}

#[cfg(test)]
mod tests {
    use super::super::block_hash;
    use super::*;
    use crate::{Random, TenantId};

    const MINE: Scope = Scope::of(TenantId(0), None, None);

    fn memory(blocks: usize) -> KvMemory {
        KvMemory::new(blocks, 2, 7).expect("a few blocks of two tokens")
    }

    fn hashes(memory: &KvMemory, scope: Scope, tokens: &[u32]) -> Vec<u64> {
        let mut hash = memory.root(scope);
        let chunks = tokens.chunks_exact(memory.block_size());
        chunks
            .map(|chunk| {
                hash = block_hash(hash, chunk);
                hash
            })
            .collect()
    }

    fn after(scope: Scope, table: &[BlockId]) -> After {
        table.last().map_or(After::Nothing(scope), |&block| After::Block(block))
    }

    /// Writes `tokens` to new blocks and commits them, as a sequence without a cached prefix does.
    fn write(memory: &mut KvMemory, scope: Scope, tokens: &[u32]) -> Vec<BlockId> {
        let hashes = hashes(memory, scope, tokens);
        let mut table: Vec<BlockId> = Vec::new();
        for (hash, chunk) in hashes.iter().zip(tokens.chunks_exact(2)) {
            let mut block = memory.allocate().expect("room");
            if let Some(other) = memory.commit(after(scope, &table), *hash, chunk, block) {
                memory.share(other);
                memory.release(block);
                block = other;
            }
            table.push(block);
        }
        table
    }

    fn find(memory: &KvMemory, scope: Scope, tokens: &[u32]) -> Lookup {
        memory.lookup(scope, &hashes(memory, scope, tokens), tokens, usize::MAX)
    }

    #[test]
    fn sizes_are_checked() {
        assert!(KvMemory::new(0, 16, 0).is_err());
        assert!(KvMemory::new(4, 0, 0).is_err());
        assert!(KvMemory::new(4, (1 << 20) + 1, 0).is_err());
        assert!(KvMemory::new(usize::MAX, 16, 0).is_err());
        let memory = KvMemory::new(1, 1 << 20, 0).expect("one large block");
        assert_eq!((memory.total(), memory.available(), memory.block_size()), (1, 1, 1 << 20));
    }

    #[test]
    fn a_prefix_is_found_by_its_tokens() {
        let mut memory = memory(8);
        let table = write(&mut memory, MINE, &[1, 2, 3, 4, 5, 6]);
        let found = find(&memory, MINE, &[1, 2, 3, 4, 9, 9, 5, 6]);
        assert_eq!((found.blocks.as_slice(), found.unheld), (&table[..2], 0));
        assert_eq!(find(&memory, MINE, &[3, 4]).blocks, []);
        let most = memory.lookup(MINE, &hashes(&memory, MINE, &[1, 2, 3, 4]), &[1, 2, 3, 4], 1);
        assert_eq!(most.blocks, table[..1]);
        for other in [Scope::of(TenantId(1), None, None), Scope::of(TenantId(0), Some(0), None)] {
            assert_eq!(find(&memory, other, &[1, 2]).blocks, []);
        }
        for &block in table.iter().rev() {
            memory.release(block);
        }
        assert_eq!((memory.cached(), memory.held(), memory.available()), (3, 0, 8));
        assert_eq!(find(&memory, MINE, &[1, 2, 3, 4]).unheld, 2);
        memory.audit([]);
    }

    #[test]
    fn the_longest_unused_makes_room_and_is_remembered() {
        let mut memory = memory(4);
        for tokens in [[1, 1, 1, 1], [2, 2, 2, 2]] {
            for &block in write(&mut memory, MINE, &tokens).iter().rev() {
                memory.release(block);
            }
        }
        // The first prefix is used again, so that the second goes first, its end before its beginning.
        let again = find(&memory, MINE, &[1, 1, 1, 1]).blocks;
        again.iter().for_each(|&block| memory.share(block));
        again.iter().rev().for_each(|&block| memory.release(block));
        let new = memory.allocate().expect("a cached block makes room");
        assert_eq!(find(&memory, MINE, &[2, 2, 2, 2]).blocks.len(), 1);
        assert!(find(&memory, MINE, &[2, 2, 2, 2]).evicted);
        assert!(!find(&memory, MINE, &[2, 2, 3, 3]).evicted);
        assert_eq!(find(&memory, MINE, &[1, 1, 1, 1]).blocks.len(), 2);
        assert_eq!(memory.evictions(), 1);
        memory.audit([new]);
    }

    #[test]
    fn a_held_block_is_never_taken() {
        let mut memory = memory(3);
        let table = write(&mut memory, MINE, &[1, 1, 2, 2]);
        let third = memory.allocate().expect("one is free");
        assert_eq!(memory.allocate(), None);
        memory.release(table[1]);
        assert_eq!(memory.allocate(), Some(table[1]));
        assert_eq!(memory.allocate(), None);
        memory.audit([table[0], table[1], third]);
    }

    #[test]
    fn the_same_content_is_kept_once() {
        let mut memory = memory(6);
        let one = write(&mut memory, MINE, &[1, 2, 3, 4]);
        let two = write(&mut memory, MINE, &[1, 2, 3, 4]);
        assert_eq!(one, two);
        assert_eq!((memory.owners(one[0]), memory.held()), (2, 2));
        assert!(memory.is_indexed(one[1]));
        memory.audit(one.into_iter().chain(two));
    }

    #[test]
    fn equal_hashes_are_told_apart() {
        let mut memory = memory(8);
        memory.index.degrade();
        let one = write(&mut memory, MINE, &[1, 2, 3, 4]);
        let two = write(&mut memory, MINE, &[5, 6, 7, 8]);
        let other = Scope::of(TenantId(1), None, None);
        let three = write(&mut memory, other, &[1, 2, 3, 4]);
        assert_eq!(find(&memory, MINE, &[1, 2, 3, 4]).blocks, one);
        assert_eq!(find(&memory, MINE, &[5, 6, 7, 8]).blocks, two);
        assert_eq!(find(&memory, other, &[1, 2, 3, 4]).blocks, three);
        assert_eq!(find(&memory, MINE, &[1, 2, 7, 8]).blocks, one[..1]);
        assert_eq!(find(&memory, MINE, &[3, 4]).blocks, []);
        for table in [&one, &two, &three] {
            table.iter().rev().for_each(|&block| memory.release(block));
        }
        memory.audit([]);
        // Four of the eight blocks are taken: the rest of each chain is still found.
        let taken: Vec<BlockId> = (0..4).map(|_| memory.allocate().expect("room")).collect();
        assert_eq!(find(&memory, MINE, &[1, 2, 3, 4]).blocks, []);
        assert_eq!(find(&memory, MINE, &[5, 6, 7, 8]).blocks, two);
        assert_eq!(find(&memory, other, &[1, 2, 3, 4]).blocks, three);
        memory.audit(taken);
    }

    /// All blocks that follow one block are found, also when some of them are gone.
    #[test]
    fn prefixes_that_part_are_all_found() {
        let mut memory = memory(16);
        let prompts = [5, 6, 7, 8].map(|end| [1, 2, end, end]);
        let found = |memory: &KvMemory| prompts.map(|prompt| find(memory, MINE, &prompt).blocks.len());
        let table = write(&mut memory, MINE, &prompts[0]);
        let mut ends = vec![table[1]];
        for prompt in &prompts[1..3] {
            let block = memory.allocate().expect("room");
            let hashes = hashes(&memory, MINE, prompt);
            assert_eq!(memory.commit(after(MINE, &table[..1]), hashes[1], &prompt[2..], block), None);
            ends.push(block);
        }
        assert_eq!(found(&memory), [2, 2, 2, 1]);
        // The same content once more is told, wherever the first stands.
        for (prompt, end) in prompts.iter().zip(&ends) {
            let block = memory.allocate().expect("room");
            let hashes = hashes(&memory, MINE, prompt);
            assert_eq!(memory.commit(after(MINE, &table[..1]), hashes[1], &prompt[2..], block), Some(*end));
            memory.release(block);
        }
        memory.release(ends[0]);
        let mut taken: Vec<BlockId> = (0..13).map(|_| memory.allocate().expect("room")).collect();
        assert_eq!(found(&memory), [1, 2, 2, 1]);
        memory.release(ends[1]);
        taken.push(memory.allocate().expect("it is cached"));
        assert_eq!(found(&memory), [1, 1, 2, 1]);
        let block = taken.pop().expect("some were taken");
        let hashes = hashes(&memory, MINE, &prompts[3]);
        assert_eq!(memory.commit(after(MINE, &table[..1]), hashes[1], &prompts[3][2..], block), None);
        assert_eq!(found(&memory), [1, 1, 2, 2]);
        memory.audit(taken.into_iter().chain([table[0], ends[2], block]));
    }

    #[test]
    #[should_panic(expected = "has no owner")]
    fn a_double_release_is_caught() {
        let mut memory = memory(2);
        let block = memory.allocate().expect("room");
        memory.release(block);
        memory.release(block);
    }

    #[test]
    #[should_panic(expected = "cannot be shared")]
    fn a_free_block_is_not_shared() {
        memory(2).share(BlockId(1));
    }

    #[test]
    #[should_panic(expected = "are not the owners")]
    fn an_audit_finds_a_leak() {
        let mut memory = memory(2);
        memory.allocate().expect("room");
        memory.audit([]);
    }

    #[test]
    #[should_panic(expected = "do not make up")]
    fn counts_that_do_not_add_up_are_caught() {
        let mut memory = memory(2);
        memory.allocate().expect("room");
        memory.held += 1;
        memory.check_counts();
    }

    #[test]
    fn every_block_that_makes_room_is_counted() {
        let mut memory = memory(2);
        for (evictions, token) in (0..4).enumerate() {
            let table = write(&mut memory, MINE, &[token, 0, token, 1]);
            assert_eq!(memory.evictions(), 2 * evictions as u64);
            memory.release_all(&table);
        }
    }

    /// A block that is used again and again does not lengthen the LRU list.
    #[test]
    fn empty_places_of_the_lru_list_are_closed() {
        let mut memory = memory(1);
        let table = write(&mut memory, MINE, &[1, 2]);
        memory.release(table[0]);
        for _ in 0..300 {
            memory.share(table[0]);
            memory.release(table[0]);
            memory.audit([]);
        }
        assert_eq!(memory.allocate(), Some(table[0]), "it is still in the list");
    }

    /// Sequences over a small alphabet, so that many share prefixes, come and go at random.
    #[test]
    fn the_books_balance_whatever_happens() {
        for seed in 0..50 {
            let mut random = Random::new(seed);
            let mut memory = memory(12);
            if seed % 5 == 0 {
                memory.index.degrade();
            }
            let mut tables: Vec<Vec<BlockId>> = Vec::new();
            for _ in 0..400 {
                if random.chance(0.5) || tables.is_empty() {
                    let tokens: Vec<u32> = (0..2 * random.between(1, 4)).map(|_| random.below(2) as u32).collect();
                    let scope = Scope::of(TenantId(random.below(2) as u32), None, None);
                    let hashes = hashes(&memory, scope, &tokens);
                    let mut table = memory.lookup(scope, &hashes, &tokens, usize::MAX).blocks;
                    table.iter().for_each(|&block| memory.share(block));
                    for at in table.len()..hashes.len() {
                        let Some(block) = memory.allocate() else { break };
                        let content = &tokens[2 * at..2 * at + 2];
                        let after = after(scope, &table);
                        assert_eq!(memory.commit(after, hashes[at], content, block), None, "seed {seed}");
                        table.push(block);
                    }
                    tables.push(table);
                } else {
                    let table = tables.swap_remove(random.below(tables.len() as u64) as usize);
                    table.iter().rev().for_each(|&block| memory.release(block));
                }
                memory.audit(tables.iter().flatten().copied());
            }
        }
    }
}
