//! Attention over an arena: writes the new keys and values to their blocks, then attends, one block of queries after
//! another. This file decides how the work is cut into tasks, which changes no result.

use std::ops::Range;

use half::{bf16, f16};

use super::block::{self, Keys, Merge, OutPointer, Part, Queries, QueryBlock, SPAN, Whole};
use super::heads::NewKeys;
use super::scratch::{BLOCK, CALL, Scratch};
use super::{BLOCK_TOKENS, Sequences, TILE_ROWS, WORTH_THREADS, heads, run};
use crate::cache::{CacheType, KvArena, KvShape};
use crate::simd::{Element, Kernel, Simd, dispatch};
use crate::{Isa, Pool};

/// The number of tokens whose keys and values one task writes to the arena.
const APPEND_TOKENS: usize = 64;

/// Some queries of a sequence that are computed together: `first..first + tokens` of its rows.
struct Piece {
    sequence: usize,
    first: usize,
    tokens: usize,
}

/// [`super::attend`] with an arena. The caller has checked the arguments.
pub(super) fn attend(
    pool: &Pool,
    isa: Isa,
    sequences: &Sequences,
    arena: &mut KvArena,
    keys: &NewKeys<'_>,
    kv_heads: usize,
    queries: &Queries<'_>,
) {
    let (KvShape { kv_heads: kept, head_dim, .. }, needed) = (arena.shape(), (kv_heads, keys.head_dim));
    assert_eq!((kept, head_dim), needed, "attend: heads of the arena");
    let (needed, blocks) = (sequences.arena_blocks(), arena.blocks());
    assert!(needed <= blocks, "attend: {needed} blocks are named, the arena has {blocks}");
    let arena = &*arena;

    let step = (TILE_ROWS / queries.group).max(1);
    let (mut pieces, mut work, mut longest) = (Vec::with_capacity(sequences.len()), 0, 0);
    for sequence in 0..sequences.len() {
        let rows = sequences.rows_of(sequence).len();
        assert!(sequences.blocks(sequence).len() * BLOCK_TOKENS >= sequences.tokens(sequence), "attend: blocks");
        pieces.extend((0..rows).step_by(step).map(|first| Piece { sequence, first, tokens: step.min(rows - first) }));
        let seen = queries.mask.visible(sequences.past(sequence) + rows / 2, sequences.tokens(sequence)).len();
        work += rows * seen * queries.heads * head_dim;
        longest = longest.max(rows);
    }
    let query_block = |piece: &Piece, kv_head: usize| QueryBlock {
        row: sequences.rows_of(piece.sequence).start + piece.first,
        tokens: piece.tokens,
        kv_head,
        position: sequences.past(piece.sequence) + piece.first,
        len: sequences.tokens(piece.sequence),
        keys: Keys::Arena(arena, sequences.blocks(piece.sequence)),
    };
    let append = |sequence: usize, head: usize, tokens: Range<usize>| {
        dispatch(isa, Append { arena, sequences, keys, sequence, head, tokens });
    };
    let serial = pool.threads() == 1 || work < WORTH_THREADS;
    // The pieces with the most keys come first, so that no thread has a long one left at the end.
    let seen = |piece: &Piece| query_block(piece, 0).all_visible(queries);
    if pieces.len() > 1 {
        pieces.sort_by_key(|piece| std::cmp::Reverse(seen(piece).len()));
    }

    if longest > step {
        let parts: Vec<(usize, Range<usize>)> = (0..sequences.len())
            .flat_map(|sequence| {
                let rows = sequences.rows_of(sequence).len();
                let part = move |from: usize| (sequence, from..rows.min(from + APPEND_TOKENS));
                (0..rows).step_by(APPEND_TOKENS).map(part)
            })
            .collect();
        run(pool, serial, parts.len() * kv_heads, |task| {
            let (sequence, tokens) = parts[task / kv_heads].clone();
            append(sequence, task % kv_heads, tokens);
        });
        run(pool, serial, pieces.len() * kv_heads, |task| {
            dispatch(isa, Whole(queries, query_block(&pieces[task / kv_heads], task % kv_heads)));
        });
        return;
    }
    // Every sequence is one piece.
    let spans = |piece: &Piece| {
        let seen = seen(piece);
        seen.start / SPAN..seen.end.div_ceil(SPAN)
    };
    let pairs = pieces.len() * kv_heads;
    if serial || pairs >= 2 * pool.threads() || pieces.iter().all(|piece| spans(piece).len() == 1) {
        run(pool, serial, pairs, |pair| {
            let (piece, head) = (&pieces[pair / kv_heads], pair % kv_heads);
            append(piece.sequence, head, 0..piece.tokens);
            dispatch(isa, Whole(queries, query_block(piece, head)));
        });
        return;
    }
    // Fewer pairs than threads: spans of keys are summed by different tasks.
    for pair in 0..pairs {
        let piece = &pieces[pair / kv_heads];
        append(piece.sequence, pair % kv_heads, 0..piece.tokens);
    }
    let stride = block::sums_stride(head_dim);
    let mut tasks = Vec::new();
    let (mut places, mut len) = (Vec::with_capacity(pairs), 0);
    for pair in 0..pairs {
        let piece = &pieces[pair / kv_heads];
        let part = piece.tokens * queries.group * stride;
        let from = len;
        for span in spans(piece) {
            tasks.push((pair, span, len..len + part));
            len += part;
        }
        places.push(from..len);
    }
    let mut scratch = Scratch::take(&CALL, len);
    let parts = OutPointer(scratch.as_mut_ptr());
    let parts = &parts;
    let slice = |place: &Range<usize>| {
        // SAFETY: inside of the scratch, and of one task at a time, as places do not overlap.
        unsafe { std::slice::from_raw_parts_mut(parts.0.add(place.start), place.len()) }
    };
    pool.run(tasks.len(), |task| {
        let (pair, span, place) = &tasks[task];
        let block = query_block(&pieces[pair / kv_heads], pair % kv_heads);
        dispatch(isa, Part(queries, block, *span, slice(place)));
    });
    pool.run(pairs, |pair| {
        let block = query_block(&pieces[pair / kv_heads], pair % kv_heads);
        dispatch(isa, Merge(queries, block, slice(&places[pair])));
    });
}

/// Writes the keys and values of one head of some new tokens of a sequence to their blocks.
struct Append<'a> {
    arena: &'a KvArena,
    sequences: &'a Sequences,
    keys: &'a NewKeys<'a>,
    sequence: usize,
    head: usize,
    tokens: Range<usize>,
}

impl Kernel for Append<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        match self.arena.shape().cache_type {
            CacheType::F32 => self.put::<S, f32>(s),
            CacheType::F16 => self.put::<S, f16>(s),
            CacheType::BF16 => self.put::<S, bf16>(s),
            CacheType::I8 => self.put_scaled(s),
        }
    }
}

impl Append<'_> {
    /// Calls `put` for each token with its place in the head's block, its prepared key and its value.
    #[inline(always)]
    fn each<S: Simd>(self, s: S, mut put: impl FnMut(*mut u8, usize, *mut f32, *const f32)) {
        let mut scratch = Scratch::take(&BLOCK, 2 * self.arena.shape().value_stride());
        let key = scratch.as_mut_ptr();
        let blocks = self.sequences.blocks(self.sequence);
        let (start, past) = (self.sequences.rows_of(self.sequence).start, self.sequences.past(self.sequence));
        for token in self.tokens {
            let position = past + token;
            let head = self.arena.head(blocks[position / BLOCK_TOKENS], self.head);
            // SAFETY: the rows hold the head, by the checks before, and the scratch holds two.
            let value = unsafe { self.keys.prepare(s, start + token, self.head, key) };
            put(head, position % BLOCK_TOKENS, key, value);
        }
    }

    #[inline(always)]
    fn put<S: Simd, T: Element>(self, s: S) {
        let shape = self.arena.shape();
        let (head_dim, stride) = (shape.head_dim, shape.value_stride());
        self.each(s, |head, token, key, value| {
            // SAFETY: blocks that are written belong to one sequence, by the check of the sequences, and no task but this
            // one touches these tokens' places of this head before it is done.
            unsafe { heads::put::<S, T>(s, head.cast(), token, head_dim, stride, key, value) };
        });
    }

    /// As integers, with a scale for the key and one for the value.
    #[inline(always)]
    fn put_scaled<S: Simd>(self, s: S) {
        let shape = self.arena.shape();
        let (head_dim, stride, numbers) = (shape.head_dim, shape.value_stride(), shape.head_numbers());
        self.each(s, |head, token, key, value| {
            // SAFETY: as above; the scales lie behind the numbers of the head, aligned, as those are a multiple of 32. The
            // scratch has room for a value behind the key.
            unsafe {
                let scales = head.add(numbers).cast::<f32>();
                let scaled = key.add(stride);
                scales.add(token).write(heads::scale_to_i8(s, key, head_dim, key));
                scales.add(BLOCK_TOKENS + token).write(heads::scale_to_i8(s, value, head_dim, scaled));
                heads::put::<S, i8>(s, head.cast(), token, head_dim, stride, key, scaled);
            }
        });
    }
}
