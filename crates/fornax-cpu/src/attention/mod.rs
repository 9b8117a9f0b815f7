//! Attention of a ragged batch: each sequence's new tokens attend to each other and to the sequence's tokens in the
//! cache, or whole sequences to themselves. The linear maps around it, and the angles of rotary embeddings, are not
//! here.
//!
//! A token's result is the same bit for bit whichever other sequences are computed, on any number of threads, and in
//! however many chunks a prompt comes.

mod block;
mod cached;
mod heads;
mod own;
mod scratch;
mod sequences;
mod tile;

use std::ops::Range;

use crate::cache::{BLOCK_TOKENS, KvArena};
use crate::rows::Rows;
use crate::{Isa, Pool};
use block::{OutPointer, Queries};
use heads::NewKeys;
pub use sequences::Sequences;

/// Query rows (tokens times heads that share keys) that are computed together, so that they stay in the fastest cache
/// with a block of keys and values.
const TILE_ROWS: usize = 48;
/// Below this many multiplications one thread does all: waking another would take longer than the work.
const WORTH_THREADS: usize = 1 << 17;

/// The parameters of a layer's attention, and the angles of its batch.
#[derive(Debug, Clone, Copy)]
pub struct Attention<'a> {
    /// Query heads, a multiple of `kv_heads`.
    pub heads: usize,
    /// Heads of keys and of values.
    pub kv_heads: usize,
    /// Components of a head.
    pub head_dim: usize,
    /// Factor of the scores, usually 1 / √head_dim.
    pub scale: f32,
    /// Which keys a token sees.
    pub mask: Mask,
    /// Bounds scores smoothly: `cap · tanh(score / cap)` (Gemma 2).
    pub soft_cap: Option<f32>,
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
/// `rotary_dim` is rotated against component `i` of the second, as transformers does; components beyond stay.
#[derive(Debug, Clone, Copy)]
pub struct Rope<'a> {
    /// `[rows, rotary_dim / 2]`
    pub cos: &'a [f32],
    /// `[rows, rotary_dim / 2]`
    pub sin: &'a [f32],
    /// Components that are rotated; even.
    pub rotary_dim: usize,
}

/// Which keys of its sequence a token sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mask {
    /// All of them.
    Full,
    /// Its own key and those before it.
    Causal,
    /// Its own key and those before it, this many in all.
    Window(usize),
    /// The keys at most this far from its own on either side.
    Local(usize),
}

impl Mask {
    /// The keys seen from `position`, of `keys`.
    #[inline(always)]
    pub fn visible(self, position: usize, keys: usize) -> Range<usize> {
        match self {
            Self::Full => 0..keys,
            Self::Causal => 0..position + 1,
            Self::Window(window) => (position + 1).saturating_sub(window)..position + 1,
            Self::Local(reach) => position.saturating_sub(reach)..keys.min((position + 1).saturating_add(reach)),
        }
    }
}

/// Attends from each row of a batch to the keys that it sees of its sequence.
///
/// - `qkv`: queries `[rows, heads · head_dim]`, keys and values `[rows, kv_heads · head_dim]`, before norms and rotation.
///   Query head `h` reads head `h / (heads / kv_heads)` of keys and values.
/// - `arena`: holds the sequences' earlier keys and values; the keys and values of these rows are written to it. They
///   are rounded to the arena's type before they are used. Without an arena nothing is kept, and nothing is rounded.
/// - `out`: `[rows, heads · head_dim]`
///
/// ```
/// use fornax_cpu::attention::{Attention, Mask, Sequences, attend};
/// use fornax_cpu::cache::{CacheType, KvArena, KvShape};
/// use fornax_cpu::rows::Rows;
/// use fornax_cpu::{Isa, Pool};
///
/// # fn main() -> Result<(), fornax_cpu::CpuError> {
/// let mut arena = KvArena::new(KvShape { kv_heads: 1, head_dim: 2, cache_type: CacheType::F32 }, 4)?;
/// let attention = Attention {
///     heads: 2, kv_heads: 1, head_dim: 2, scale: 1.0, mask: Mask::Causal,
///     soft_cap: None, rope: None, query_norm: None, key_norm: None,
/// };
/// let (q, k, v) = ([1.0, 0.0, 0.0, 1.0], [1.0, 1.0], [3.0, 4.0]);
/// let qkv = [Rows::new(&q, 4), Rows::new(&k, 2), Rows::new(&v, 2)];
/// let mut out = [0.0; 4];
/// let one_token = Sequences::cached([(1, 0, &[3][..])]); // in block 3 of the arena
/// attend(Pool::global(), Isa::active(), &one_token, Some(&mut arena), qkv, &attention, &mut out);
/// assert_eq!(out, [3.0, 4.0, 3.0, 4.0]); // a token that sees only itself gets its own value
/// # Ok(())
/// # }
/// ```
///
/// # Panics
/// When a slice has not the length that its shape asks for, the arena has another shape or fewer blocks than the sequences
/// name, sequences continue without an arena, `heads` is not a multiple of `kv_heads`, the window is 0, or `rotary_dim` is odd
/// or more than `head_dim`.
pub fn attend(
    pool: &Pool,
    isa: Isa,
    sequences: &Sequences,
    arena: Option<&mut KvArena>,
    qkv: [Rows<'_>; 3],
    attention: &Attention<'_>,
    out: &mut [f32],
) {
    let (heads, head_dim, rows) = (attention.heads, attention.head_dim, sequences.rows());
    attention.check(rows);
    let [q, k, v] = qkv;
    q.check("queries", rows, heads * head_dim);
    k.check("keys", rows, attention.kv_heads * head_dim);
    v.check("values", rows, attention.kv_heads * head_dim);
    assert_eq!(out.len(), rows * heads * head_dim, "attend: values of the output");
    if out.is_empty() {
        return;
    }
    let queries = Queries {
        q,
        heads,
        group: heads / attention.kv_heads,
        head_dim,
        factor: attention.scale * std::f32::consts::LOG2_E,
        soft_cap: attention.soft_cap.map(|cap| cap * std::f32::consts::LOG2_E),
        norm: attention.query_norm,
        rope: attention.rope,
        mask: attention.mask,
        out: OutPointer(out.as_mut_ptr()),
    };
    let keys = NewKeys { k, v, norm: attention.key_norm, rope: attention.rope, head_dim };
    match arena {
        Some(arena) => cached::attend(pool, isa, sequences, arena, &keys, attention.kv_heads, &queries),
        None => own::attend(pool, isa, sequences, &keys, attention.kv_heads, &queries),
    }
}

impl Attention<'_> {
    fn check(&self, rows: usize) {
        let Self { heads, kv_heads, head_dim, .. } = *self;
        assert!(kv_heads > 0 && heads.is_multiple_of(kv_heads), "attend: {heads} heads for {kv_heads} of keys");
        assert_ne!(self.mask, Mask::Window(0), "attend: a window holds at least the token itself");
        for norm in [self.query_norm, self.key_norm].into_iter().flatten() {
            assert_eq!(norm.weight.len(), head_dim, "attend: weights of a head's norm");
        }
        if let Some(rope) = self.rope {
            let dim = rope.rotary_dim;
            assert!(dim.is_multiple_of(2) && dim <= head_dim, "attend: {dim} of {head_dim} components rotated");
            assert_eq!(rope.cos.len(), rows * dim / 2, "attend: cosines of {rows} rows");
            assert_eq!(rope.sin.len(), rows * dim / 2, "attend: sines of {rows} rows");
        }
    }
}

/// Runs tasks on all threads, or on this one where the work is not worth it.
fn run(pool: &Pool, serial: bool, tasks: usize, task: impl Fn(usize) + Sync) {
    if serial { (0..tasks).for_each(task) } else { pool.run(tasks, task) }
}
