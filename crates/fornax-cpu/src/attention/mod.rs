//! Attention of few or many new tokens to themselves and to what a cache holds, and of whole sequences to themselves.
//! The linear maps around it, and the angles of rotary embeddings, are not here.
//!
//! A token's result is the same bit for bit whatever is computed beside it: how many sequences, on how many threads, and
//! in how many pieces a prompt comes.

mod block;
mod heads;
mod ragged;
mod scratch;
mod tile;

use std::ops::Range;

use half::{bf16, f16};

use crate::cache::{CacheType, KvLayer, PAGE_TOKENS};
use crate::rows::Rows;
use crate::simd::{Element, Kernel, Simd, dispatch};
use crate::{Isa, Pool};
use block::{Block, Merge, OutPointer, Pages, Part, Queries, SPAN, Whole};
pub(crate) use heads::rotate;
pub use ragged::{SelfAttention, attend_padded, attend_ragged};
use scratch::{BLOCK, CALL, Scratch};

/// Query rows (tokens times heads that share keys) that are computed together, so that they stay in the fastest cache
/// with a page.
const BLOCK_ROWS: usize = 48;
/// Tokens whose keys and values one task puts into the cache.
const APPEND_TOKENS: usize = 64;
/// Multiplications below which other threads would take longer to come than the work takes.
const WORTH_THREADS: usize = 1 << 17;

/// How attention is done in a layer, and what comes with its new tokens.
#[derive(Debug, Clone, Copy)]
pub struct Attention<'a> {
    /// Query heads, a multiple of the cache's heads.
    pub heads: usize,
    /// What scores are multiplied with, usually 1 / √head_dim.
    pub scale: f32,
    /// How many tokens a token sees, itself included; all before it when `None`.
    pub window: Option<usize>,
    /// Rotation of queries and keys by their positions.
    pub rope: Option<Rope<'a>>,
    /// Norm of each query head, before its rotation.
    pub query_norm: Option<HeadNorm<'a>>,
    /// Norm of each key head, before its rotation.
    pub key_norm: Option<HeadNorm<'a>>,
}

/// A root mean square norm over the components of a head.
#[derive(Debug, Clone, Copy)]
pub struct HeadNorm<'a> {
    /// `[head_dim]`
    pub weight: &'a [f32],
    /// Added to the mean of squares.
    pub epsilon: f32,
}

/// Rotary embedding (Su et al., 2021, <https://arxiv.org/abs/2104.09864>): component `i` of the first half of
/// `rotary_dim` is turned against component `i` of the second, as transformers does; components beyond stay.
#[derive(Debug, Clone, Copy)]
pub struct Rope<'a> {
    /// `[new, rotary_dim / 2]`
    pub cos: &'a [f32],
    /// `[new, rotary_dim / 2]`
    pub sin: &'a [f32],
    /// Components that are turned; even.
    pub rotary_dim: usize,
}

/// Which keys a token sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mask {
    /// All of its sequence.
    Full,
    /// Itself and those before it.
    Causal,
    /// Itself and those before it, this many in all.
    Window(usize),
    /// Those at most this far from itself on either side.
    Local(usize),
}

impl Mask {
    /// The keys seen from `position`, of `keys`.
    #[inline(always)]
    fn visible(self, position: usize, keys: usize) -> Range<usize> {
        match self {
            Self::Full => 0..keys,
            Self::Causal => 0..position + 1,
            Self::Window(window) => (position + 1).saturating_sub(window)..position + 1,
            Self::Local(reach) => position.saturating_sub(reach)..keys.min((position + 1).saturating_add(reach)),
        }
    }
}

/// Adds `new` tokens to each sequence of the cache, and attends from them to all that they see of it.
///
/// `q: [sequences * new, heads * head_dim]`, `k` and `v: [sequences * new, kv_heads * head_dim]` and
/// `out: [sequences * new, heads * head_dim]`, each sequence's tokens one after another. Query head `h` reads head
/// `h / (heads / kv_heads)` of keys and values. Keys and values are rounded to the cache's type before anything is made
/// of them.
///
/// ```
/// use fornax_cpu::attention::{Attention, attend};
/// use fornax_cpu::cache::{CacheType, KvLayer, KvShape};
/// use fornax_cpu::rows::Rows;
/// use fornax_cpu::{Isa, Pool};
///
/// let mut cache = KvLayer::new(KvShape { kv_heads: 1, head_dim: 2, cache_type: CacheType::F32 }, 1);
/// let attention =
///     Attention { heads: 2, scale: 1.0, window: None, rope: None, query_norm: None, key_norm: None };
/// let (q, k, v) = ([1.0, 0.0, 0.0, 1.0], [1.0, 1.0], [3.0, 4.0]);
/// let mut out = [0.0; 4];
/// attend(
///     Pool::global(), Isa::active(), &mut cache, 1,
///     Rows::new(&q, 4), Rows::new(&k, 2), Rows::new(&v, 2), &attention, &mut out,
/// );
/// assert_eq!(out, [3.0, 4.0, 3.0, 4.0]); // a token that sees only itself gets its own value
/// assert_eq!(cache.len(), 1);
/// ```
///
/// # Panics
/// When a slice has not the length that its shape asks for, `heads` is not a multiple of the cache's, the window is 0, or
/// `rotary_dim` is odd or more than `head_dim`.
#[allow(clippy::too_many_arguments, reason = "the three inputs and the output of attention, and where it runs")]
pub fn attend(
    pool: &Pool,
    isa: Isa,
    cache: &mut KvLayer,
    new: usize,
    q: Rows<'_>,
    k: Rows<'_>,
    v: Rows<'_>,
    attention: &Attention<'_>,
    out: &mut [f32],
) {
    let (shape, sequences, past) = (cache.shape(), cache.sequences(), cache.len());
    let (heads, kv_heads, head_dim) = (attention.heads, shape.kv_heads, shape.head_dim);
    let rows = sequences * new;
    attention.check(new, kv_heads, head_dim);
    q.check("queries", rows, heads * head_dim);
    k.check("keys", rows, kv_heads * head_dim);
    v.check("values", rows, kv_heads * head_dim);
    assert_eq!(out.len(), rows * heads * head_dim, "attend: values of the output");
    cache.grow(new);
    if out.is_empty() {
        return;
    }
    let cache = &*cache;
    let group = heads / kv_heads;
    let queries = Queries {
        q,
        heads,
        group,
        head_dim,
        factor: attention.scale * std::f32::consts::LOG2_E,
        norm: attention.query_norm,
        rope: attention.rope,
        mask: attention.window.map_or(Mask::Causal, Mask::Window),
        out: OutPointer(out.as_mut_ptr()),
    };
    let append = |sequence: usize, head: usize, tokens: Range<usize>| {
        let (norm, rope) = (attention.key_norm, attention.rope);
        dispatch(isa, Append { cache, k, v, norm, rope, past, new, sequence, head, tokens });
    };
    let tokens = (BLOCK_ROWS / group).max(1);
    let blocks = new.div_ceil(tokens);
    let block = |sequence: usize, kv_head: usize, block: usize| {
        let first = block * tokens;
        Block {
            row: sequence * new + first,
            tokens: tokens.min(new - first),
            turn: first,
            kv_head,
            position: past + first,
            keys: past + new,
            pages: Pages::Cached(cache.pages(sequence)),
        }
    };
    let pairs = sequences * kv_heads;
    let visible = block(0, 0, 0).all_visible(&queries).len() + new / 2;
    let serial = pool.threads() == 1 || rows * heads * visible * head_dim < WORTH_THREADS;
    let run = |tasks: usize, task: &(dyn Fn(usize) + Sync)| {
        if serial { (0..tasks).for_each(task) } else { pool.run(tasks, task) }
    };
    if blocks > 1 {
        let pieces = new.div_ceil(APPEND_TOKENS);
        run(pairs * pieces, &|task| {
            let (pair, piece) = (task / pieces, task % pieces);
            append(pair / kv_heads, pair % kv_heads, piece * APPEND_TOKENS..new.min((piece + 1) * APPEND_TOKENS));
        });
        // The blocks that see most come first, so that no thread is left with a long one.
        run(pairs * blocks, &|task| {
            let (pair, index) = (task % pairs, blocks - 1 - task / pairs);
            dispatch(isa, Whole(&queries, block(pair / kv_heads, pair % kv_heads, index)));
        });
        return;
    }
    let seen = block(0, 0, 0).all_visible(&queries);
    let spans = seen.start / SPAN..seen.end.div_ceil(SPAN);
    if serial || spans.len() == 1 || pairs >= 2 * pool.threads() {
        run(pairs, &|pair| {
            let (sequence, head) = (pair / kv_heads, pair % kv_heads);
            append(sequence, head, 0..new);
            dispatch(isa, Whole(&queries, block(sequence, head, 0)));
        });
        return;
    }
    for pair in 0..pairs {
        append(pair / kv_heads, pair % kv_heads, 0..new);
    }
    let part = new * group * block::sums_stride(head_dim);
    let mut scratch = Scratch::take(&CALL, pairs * spans.len() * part);
    let parts = OutPointer(scratch.as_mut_ptr());
    let parts = &parts;
    pool.run(pairs * spans.len(), |task| {
        let (pair, span) = (task / spans.len(), spans.start + task % spans.len());
        // SAFETY: inside of the scratch, and this task's alone.
        let out = unsafe { std::slice::from_raw_parts_mut(parts.0.add(task * part), part) };
        dispatch(isa, Part(&queries, block(pair / kv_heads, pair % kv_heads, 0), span, out));
    });
    pool.run(pairs, |pair| {
        let len = spans.len() * part;
        // SAFETY: as above; the parts are done.
        let parts = unsafe { std::slice::from_raw_parts_mut(parts.0.add(pair * len), len) };
        dispatch(isa, Merge(&queries, block(pair / kv_heads, pair % kv_heads, 0), parts));
    });
}

impl Attention<'_> {
    fn check(&self, new: usize, kv_heads: usize, head_dim: usize) {
        let heads = self.heads;
        assert!(kv_heads > 0 && heads.is_multiple_of(kv_heads), "attend: {heads} heads for {kv_heads} of the cache");
        assert_ne!(self.window, Some(0), "attend: a window holds at least the token itself");
        for norm in [self.query_norm, self.key_norm].into_iter().flatten() {
            assert_eq!(norm.weight.len(), head_dim, "attend: weights of a head's norm");
        }
        if let Some(rope) = self.rope {
            let dim = rope.rotary_dim;
            assert!(dim.is_multiple_of(2) && dim <= head_dim, "attend: {dim} of {head_dim} components turned");
            assert_eq!(rope.cos.len(), new * dim / 2, "attend: cosines of {new} tokens");
            assert_eq!(rope.sin.len(), new * dim / 2, "attend: sines of {new} tokens");
        }
    }
}

/// Puts the keys and values of one head of some new tokens of a sequence into their pages.
struct Append<'a> {
    cache: &'a KvLayer,
    k: Rows<'a>,
    v: Rows<'a>,
    norm: Option<HeadNorm<'a>>,
    rope: Option<Rope<'a>>,
    past: usize,
    new: usize,
    sequence: usize,
    head: usize,
    tokens: Range<usize>,
}

impl Kernel for Append<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        match self.cache.shape().cache_type {
            CacheType::F32 => self.put::<S, f32>(s),
            CacheType::F16 => self.put::<S, f16>(s),
            CacheType::BF16 => self.put::<S, bf16>(s),
        }
    }
}

impl Append<'_> {
    #[inline(always)]
    fn put<S: Simd, T: Element>(self, s: S) {
        let shape = self.cache.shape();
        let (head_dim, stride) = (shape.head_dim, shape.value_stride());
        let mut scratch = Scratch::take(&BLOCK, stride);
        let key = scratch.as_mut_ptr();
        let pages = self.cache.pages(self.sequence);
        for token in self.tokens {
            let row = self.sequence * self.new + token;
            let (k, v) = (&self.k.row(row)[self.head * head_dim..], &self.v.row(row)[self.head * head_dim..]);
            let position = self.past + token;
            let page = pages[position / PAGE_TOKENS].head(self.head).cast::<T>();
            let rope = self.rope.map(|rope| (rope, token));
            heads::expect(s, k, heads::AHEAD * self.k.stride(), head_dim);
            heads::expect(s, v, heads::AHEAD * self.v.stride(), head_dim);
            // SAFETY: the rows hold the heads, by the checks before; the cache grew by these tokens, which made their
            // pages its own, and no task but this one touches their places before it is done.
            unsafe {
                heads::prepare(s, k.as_ptr(), head_dim, self.norm, rope, 1.0, key);
                heads::put::<S, T>(s, page, position % PAGE_TOKENS, head_dim, stride, key, v.as_ptr());
            }
        }
    }
}
