//! Attention of whole sequences to themselves, as encoders do it: nothing is kept.

use super::block::{Block, OutPointer, Pages, Queries, Whole};
use super::scratch::{CALL, Scratch};
use super::{BLOCK_ROWS, Mask, Rope, Rows, WORTH_THREADS, heads};
use crate::cache::PAGE_TOKENS;
use crate::simd::{Kernel, Simd, dispatch};
use crate::{Isa, Pool};

/// Tokens whose queries one task takes; it packs all keys and values of its sequence.
const TASK_TOKENS: usize = 512;

/// How sequences attend to themselves.
#[derive(Debug, Clone, Copy)]
pub struct SelfAttention<'a> {
    /// Query heads, a multiple of `kv_heads`.
    pub heads: usize,
    /// Heads of keys and of values.
    pub kv_heads: usize,
    /// Components of a head.
    pub head_dim: usize,
    /// What scores are multiplied with, usually 1 / √head_dim.
    pub scale: f32,
    /// What a token sees of its sequence.
    pub mask: Mask,
    /// Rotation by position in the sequence; as many rows as the longest sequence has tokens, or more.
    pub rope: Option<Rope<'a>>,
}

/// Attends within each of several sequences that lie one after another: sequence `i` is the rows from `starts[i]` to
/// `starts[i + 1]`.
///
/// `q: [rows, heads * head_dim]`, `k` and `v: [rows, kv_heads * head_dim]`, `out: [rows, heads * head_dim]`. Rows of the
/// output outside of every sequence are left as they are.
///
/// # Panics
/// When a slice has not the length that its shape asks for, `starts` goes down or beyond the rows, `heads` is not a
/// multiple of `kv_heads`, or a window is 0.
#[allow(clippy::too_many_arguments, reason = "the three inputs and the output of attention, and where it runs")]
pub fn attend_ragged(
    pool: &Pool,
    isa: Isa,
    q: Rows<'_>,
    k: Rows<'_>,
    v: Rows<'_>,
    starts: &[usize],
    attention: &SelfAttention<'_>,
    out: &mut [f32],
) {
    let rows = starts.last().copied().unwrap_or(0);
    assert!(starts.is_sorted(), "attend: the sequences' starts go down");
    let sequences = starts.windows(2).map(|pair| (pair[0], pair[1] - pair[0]));
    attend_sequences(pool, isa, (q, k, v), rows, sequences, attention, out);
}

/// Attends within each of several sequences of `seq` rows, of which only the first `lengths[i]` are tokens: the others are
/// not seen, and their outputs are zeros.
///
/// Shapes as for [`attend_ragged`], with `lengths.len() * seq` rows.
///
/// # Panics
/// As there, and when a length is more than `seq`.
#[allow(clippy::too_many_arguments, reason = "the three inputs and the output of attention, and where it runs")]
pub fn attend_padded(
    pool: &Pool,
    isa: Isa,
    q: Rows<'_>,
    k: Rows<'_>,
    v: Rows<'_>,
    seq: usize,
    lengths: &[usize],
    attention: &SelfAttention<'_>,
    out: &mut [f32],
) {
    let width = attention.heads * attention.head_dim;
    assert_eq!(out.len(), lengths.len() * seq * width, "attend: values of the output");
    if out.is_empty() {
        return;
    }
    for (out, &length) in out.chunks_exact_mut(seq * width).zip(lengths) {
        assert!(length <= seq, "attend: a length of {length} in {seq} rows");
        out[length * width..].fill(0.0);
    }
    let sequences = lengths.iter().enumerate().map(|(index, &length)| (index * seq, length));
    attend_sequences(pool, isa, (q, k, v), lengths.len() * seq, sequences, attention, out);
}

fn attend_sequences(
    pool: &Pool,
    isa: Isa,
    (q, k, v): (Rows<'_>, Rows<'_>, Rows<'_>),
    rows: usize,
    sequences: impl Iterator<Item = (usize, usize)>,
    attention: &SelfAttention<'_>,
    out: &mut [f32],
) {
    let SelfAttention { heads, kv_heads, head_dim, .. } = *attention;
    attention.check();
    q.check("queries", rows, heads * head_dim);
    k.check("keys", rows, kv_heads * head_dim);
    v.check("values", rows, kv_heads * head_dim);
    assert!(out.len() >= rows * heads * head_dim, "attend: the output has {} values for {rows} rows", out.len());
    let group = heads / kv_heads;
    let queries = Queries {
        q,
        heads,
        group,
        head_dim,
        factor: attention.scale * std::f32::consts::LOG2_E,
        norm: None,
        rope: attention.rope,
        mask: attention.mask,
        out: OutPointer(out.as_mut_ptr()),
    };
    // Long sequences are cut for the threads' sake; what a token gets does not depend on it.
    let mut work = 0;
    let mut tasks = Vec::new();
    for (start, len) in sequences {
        work += len * len * heads * head_dim;
        tasks.extend((0..len).step_by(TASK_TOKENS).map(|first| (start, len, first, len.min(first + TASK_TOKENS))));
    }
    let longest = tasks.iter().map(|task| task.1).max().unwrap_or(0);
    if let Some(rope) = attention.rope {
        let (dim, needed) = (rope.rotary_dim, longest * rope.rotary_dim / 2);
        assert!(dim.is_multiple_of(2) && dim <= head_dim, "attend: {dim} of {head_dim} components turned");
        assert!(rope.cos.len() >= needed && rope.sin.len() >= needed, "attend: angles of {longest} tokens");
    }
    let run = |index: usize| {
        let (start, len, first, end) = tasks[index / kv_heads];
        let kv_head = index % kv_heads;
        let page = PAGE_TOKENS * (head_dim + head_dim.next_multiple_of(16));
        let mut pages = Scratch::take(&CALL, len.div_ceil(PAGE_TOKENS) * page + head_dim.next_multiple_of(16));
        let pages = pages.as_mut_ptr();
        dispatch(isa, Pack { k, v, rope: attention.rope, head_dim, kv_head, start, len, pages });
        let step = (BLOCK_ROWS / group).max(1);
        for at in (first..end).step_by(step) {
            let tokens = step.min(end - at);
            let pages = Pages::Packed(pages);
            let block = Block { row: start + at, tokens, turn: at, kv_head, position: at, keys: len, pages };
            dispatch(isa, Whole(&queries, block));
        }
    };
    let count = tasks.len() * kv_heads;
    if work < WORTH_THREADS { (0..count).for_each(run) } else { pool.run(count, run) }
}

impl SelfAttention<'_> {
    fn check(&self) {
        let (heads, kv_heads) = (self.heads, self.kv_heads);
        assert!(kv_heads > 0 && heads.is_multiple_of(kv_heads), "attend: {heads} heads for {kv_heads} of keys");
        assert_ne!(self.mask, Mask::Window(0), "attend: a window holds at least the token itself");
    }
}

/// Packs the keys and values of one head of a sequence into pages, and needs room for one head behind them.
struct Pack<'a> {
    k: Rows<'a>,
    v: Rows<'a>,
    rope: Option<Rope<'a>>,
    head_dim: usize,
    kv_head: usize,
    start: usize,
    len: usize,
    pages: *mut f32,
}

impl Kernel for Pack<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let head_dim = self.head_dim;
        let width = head_dim.next_multiple_of(16);
        let page = PAGE_TOKENS * (head_dim + width);
        let key = self.pages.wrapping_add(self.len.div_ceil(PAGE_TOKENS) * page);
        for token in 0..self.len {
            let (k, v) = (self.k.row(self.start + token), self.v.row(self.start + token));
            let (k, v) = (&k[self.kv_head * head_dim..], &v[self.kv_head * head_dim..]);
            let page = self.pages.wrapping_add(token / PAGE_TOKENS * page);
            let rope = self.rope.map(|rope| (rope, token));
            heads::expect(s, k, heads::AHEAD * self.k.stride(), head_dim);
            heads::expect(s, v, heads::AHEAD * self.v.stride(), head_dim);
            // SAFETY: the rows hold the head by the checks before, and the scratch the pages and one head.
            unsafe {
                heads::prepare(s, k.as_ptr(), head_dim, None, rope, 1.0, key);
                heads::put(s, page, token % PAGE_TOKENS, head_dim, width, key, v.as_ptr());
            }
        }
    }
}
