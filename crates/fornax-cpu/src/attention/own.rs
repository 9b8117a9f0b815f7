//! Attention of whole sequences to themselves, for encoders, training and scoring: no keys and values are kept. A task
//! packs the keys and values of one head of a sequence into blocks of its thread's scratch memory.

use super::block::{Keys, Queries, QueryBlock, Whole};
use super::heads::NewKeys;
use super::scratch::{CALL, Scratch};
use super::{BLOCK_TOKENS, Sequences, TILE_ROWS, WORTH_THREADS, heads, run};
use crate::simd::{Kernel, Simd, dispatch};
use crate::{Isa, Pool};

/// The number of queries of a task.
const TASK_TOKENS: usize = 512;

/// [`super::attend`] without an arena. The caller has checked the arguments.
pub(super) fn attend(
    pool: &Pool,
    isa: Isa,
    sequences: &Sequences,
    keys: &NewKeys<'_>,
    kv_heads: usize,
    queries: &Queries<'_>,
) {
    let head_dim = keys.head_dim;
    // Long sequences are cut so that all threads have work; a token's result does not depend on it.
    let (mut work, mut tasks) = (0, Vec::new());
    for sequence in 0..sequences.len() {
        let (rows, past) = (sequences.rows_of(sequence), sequences.past(sequence));
        assert_eq!(past, 0, "attend: a sequence that continues from {past} tokens needs an arena");
        let (start, len) = (rows.start, rows.len());
        work += len * len * queries.heads * head_dim;
        tasks.extend((0..len).step_by(TASK_TOKENS).map(|first| (start, len, first, len.min(first + TASK_TOKENS))));
    }
    run(pool, work < WORTH_THREADS, tasks.len() * kv_heads, |index| {
        let (start, len, first, end) = tasks[index / kv_heads];
        let kv_head = index % kv_heads;
        let block = BLOCK_TOKENS * (head_dim + head_dim.next_multiple_of(16));
        let mut blocks = Scratch::take(&CALL, len.div_ceil(BLOCK_TOKENS) * block + head_dim.next_multiple_of(16));
        let blocks = blocks.as_mut_ptr();
        dispatch(isa, Pack { keys, kv_head, start, len, blocks });
        let step = (TILE_ROWS / queries.group).max(1);
        for at in (first..end).step_by(step) {
            let tokens = step.min(end - at);
            let keys = Keys::Packed(blocks);
            dispatch(isa, Whole(queries, QueryBlock { row: start + at, tokens, kv_head, position: at, len, keys }));
        }
    });
}

/// Packs the keys and values of one head of a sequence into blocks, and needs room for one head behind them.
struct Pack<'a> {
    keys: &'a NewKeys<'a>,
    kv_head: usize,
    start: usize,
    len: usize,
    blocks: *mut f32,
}

impl Kernel for Pack<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let head_dim = self.keys.head_dim;
        let width = head_dim.next_multiple_of(16);
        let block = BLOCK_TOKENS * (head_dim + width);
        let key = self.blocks.wrapping_add(self.len.div_ceil(BLOCK_TOKENS) * block);
        for token in 0..self.len {
            let block = self.blocks.wrapping_add(token / BLOCK_TOKENS * block);
            // SAFETY: the rows hold the head by the checks before, and the scratch the blocks and one head.
            unsafe {
                let value = self.keys.prepare(s, self.start + token, self.kv_head, key);
                heads::put(s, block, token % BLOCK_TOKENS, head_dim, width, key, value);
            }
        }
    }
}
