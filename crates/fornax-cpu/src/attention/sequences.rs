//! How the rows of a ragged batch fall into sequences, and in which blocks of an arena each sequence's keys and values lie.
//! Plain numbers, checked once for all layers of a pass.

/// The sequences of a batch: rows one after another without padding, each sequence continuing from the tokens that it has
/// in the cache.
///
/// ```
/// use fornax_cpu::attention::Sequences;
///
/// // Three tokens of a new sequence, and the token at position 40 of another.
/// let sequences = Sequences::cached([(3, 0, &[5][..]), (1, 40, &[2, 9])]);
/// assert_eq!((sequences.len(), sequences.rows()), (2, 4));
/// assert_eq!((sequences.past(1), sequences.blocks(1)), (40, &[2, 9][..]));
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sequences {
    /// `[sequences + 1]`, the row at which each begins.
    starts: Vec<usize>,
    /// `[sequences]`, the number of tokens of each sequence whose keys and values are in the cache.
    past: Vec<usize>,
    blocks: Vec<u32>,
    /// `[sequences + 1]` into `blocks`.
    block_starts: Vec<usize>,
    /// One more than the highest block number.
    arena_blocks: usize,
}

impl Default for Sequences {
    fn default() -> Self {
        Self { starts: vec![0], past: Vec::new(), blocks: Vec::new(), block_starts: vec![0], arena_blocks: 0 }
    }
}

impl Sequences {
    /// Whole sequences of these lengths, without a cache.
    pub fn uncached(lengths: &[usize]) -> Self {
        let mut sequences = Self::default();
        for &rows in lengths {
            sequences.push(rows, 0, &[]);
        }
        sequences
    }

    /// Sequences with a cache: for each, the number of its new rows, the number of tokens before them, and the blocks
    /// of all its tokens, so that position `p` lies in block `p / BLOCK_TOKENS`. Further blocks are ignored.
    ///
    /// # Panics
    /// When a sequence has too few blocks, or a block that one sequence writes to is named by another.
    pub fn cached<'a>(sequences: impl IntoIterator<Item = (usize, usize, &'a [u32])>) -> Self {
        let mut all = Self::default();
        for (rows, past, blocks) in sequences {
            let needed = (past + rows).div_ceil(super::BLOCK_TOKENS);
            assert!(needed <= blocks.len(), "sequences: {} blocks for {} tokens", blocks.len(), past + rows);
            all.push(rows, past, &blocks[..needed]);
        }
        all.check();
        all
    }

    fn push(&mut self, rows: usize, past: usize, blocks: &[u32]) {
        self.starts.push(self.rows() + rows);
        self.past.push(past);
        self.blocks.extend_from_slice(blocks);
        self.block_starts.push(self.blocks.len());
        let highest = blocks.iter().map(|&block| block as usize + 1).max().unwrap_or(0);
        self.arena_blocks = self.arena_blocks.max(highest);
    }

    /// Threads write to the blocks of different sequences at once, so no other sequence may name a block that is
    /// written.
    fn check(&self) {
        const READ: u8 = 1;
        const WRITTEN: u8 = 2;
        let mut named = vec![0u8; self.arena_blocks];
        for sequence in 0..self.len() {
            let written = if self.rows_of(sequence).is_empty() { usize::MAX } else { self.past[sequence] };
            for (index, &block) in self.blocks(sequence).iter().enumerate() {
                let now = if index >= written / super::BLOCK_TOKENS { WRITTEN } else { READ };
                let before = &mut named[block as usize];
                assert!(*before | now == READ || *before == 0, "sequences: block {block} is written by one of several");
                *before |= now;
            }
        }
    }

    /// How many sequences there are.
    pub fn len(&self) -> usize {
        self.past.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.past.is_empty()
    }

    /// Rows of all sequences together.
    pub fn rows(&self) -> usize {
        self.starts[self.len()]
    }

    /// The rows of a sequence.
    pub fn rows_of(&self, sequence: usize) -> std::ops::Range<usize> {
        self.starts[sequence]..self.starts[sequence + 1]
    }

    /// Tokens of a sequence before its rows, whose keys and values are in the cache.
    pub fn past(&self, sequence: usize) -> usize {
        self.past[sequence]
    }

    /// Tokens of a sequence, its rows included.
    pub fn tokens(&self, sequence: usize) -> usize {
        self.past[sequence] + self.rows_of(sequence).len()
    }

    /// The blocks of a sequence, in order; none without a cache.
    pub fn blocks(&self, sequence: usize) -> &[u32] {
        &self.blocks[self.block_starts[sequence]..self.block_starts[sequence + 1]]
    }

    /// Whether keys and values are kept in blocks.
    pub fn is_cached(&self) -> bool {
        !self.blocks.is_empty()
    }

    /// How many blocks an arena needs for these sequences.
    pub fn arena_blocks(&self) -> usize {
        self.arena_blocks
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_may_be_shared_where_they_are_only_read() {
        let shared = Sequences::cached([(1, 40, &[7, 1][..]), (2, 32, &[7, 2])]);
        assert_eq!((shared.arena_blocks(), shared.tokens(0), shared.rows_of(1)), (8, 41, 1..3));
    }

    #[test]
    #[should_panic(expected = "block 1 is written")]
    fn two_sequences_do_not_write_to_one_block() {
        Sequences::cached([(1, 40, &[7, 1][..]), (1, 33, &[8, 1])]);
    }

    #[test]
    #[should_panic(expected = "block 1 is written")]
    fn no_sequence_reads_a_block_that_another_writes() {
        Sequences::cached([(1, 40, &[7, 1][..]), (1, 64, &[8, 1, 2])]);
    }

    #[test]
    #[should_panic(expected = "1 blocks for 33 tokens")]
    fn every_position_needs_a_block() {
        Sequences::cached([(1, 32, &[0][..])]);
    }
}
