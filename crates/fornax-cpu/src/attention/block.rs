//! Attention for a block of query rows over the key/value blocks of one head, with a running softmax (Dao et al., 2022,
//! <https://arxiv.org/abs/2205.14135>). It knows nothing of threads.
//!
//! What a row gets is fixed by the row and the keys it sees alone. Keys come block by block, and blocks in spans of
//! [`SPAN`] tokens whose sums are merged in order; blocks and spans begin at fixed positions. A row whose keys begin or
//! end within a block takes no part of what lies outside, not even times zero.

use std::ops::Range;

use half::{bf16, f16};

use super::scratch::{BLOCK, Scratch};
use super::tile::{self, CHUNK};
use super::{HeadNorm, Mask, Rope, Rows, heads};
use crate::cache::{BLOCK_TOKENS, CacheType, KvArena};
use crate::simd::{Element, Kernel, Simd, exp2, tanh};

/// The number of tokens of a span; different threads may sum different spans.
pub(super) const SPAN: usize = 512;
/// How far, as a power of two, scores may exceed the running maximum before it grows and sums are scaled down.
const SLACK: f32 = 8.0;
/// The least number of rows for which a block of keys and values is converted to `f32` once.
const CONVERT_ROWS: usize = 16;

/// What all blocks of a call have in common.
#[derive(Clone, Copy)]
pub(super) struct Queries<'a> {
    pub q: Rows<'a>,
    pub heads: usize,
    pub group: usize,
    pub head_dim: usize,
    /// The scale, times log₂ e.
    pub factor: f32,
    /// The bound of the scores, times log₂ e.
    pub soft_cap: Option<f32>,
    pub norm: Option<HeadNorm<'a>>,
    pub rope: Option<Rope<'a>>,
    pub mask: Mask,
    /// `[rows, heads * head_dim]`.
    pub out: OutPointer,
}

/// Where blocks write, each to rows and heads of its own.
#[derive(Clone, Copy)]
pub(super) struct OutPointer(pub *mut f32);
// SAFETY: blocks write to different places.
unsafe impl Send for OutPointer {}
// SAFETY: as above.
unsafe impl Sync for OutPointer {}

/// The query rows that are computed together: some consecutive tokens, of each the heads that share keys and values.
#[derive(Clone, Copy)]
pub(super) struct QueryBlock<'a> {
    /// Row of `q`, of the angles and of the output, of the first token.
    pub row: usize,
    pub tokens: usize,
    pub kv_head: usize,
    /// The first token's place among the keys.
    pub position: usize,
    /// How many keys there are.
    pub len: usize,
    pub keys: Keys<'a>,
}

/// The place of a sequence's keys and values.
#[derive(Clone, Copy)]
pub(super) enum Keys<'a> {
    /// In these blocks.
    Arena(&'a KvArena, &'a [u32]),
    /// In `f32`, block after block, for one head.
    Packed(*const f32),
}

impl QueryBlock<'_> {
    fn rows(&self, queries: &Queries<'_>) -> usize {
        self.tokens * queries.group
    }

    /// The keys that the token of a row sees.
    #[inline(always)]
    fn visible(&self, queries: &Queries<'_>, row: usize) -> Range<usize> {
        queries.mask.visible(self.position + row / queries.group, self.len)
    }

    /// The keys that any row sees.
    pub(super) fn all_visible(&self, queries: &Queries<'_>) -> Range<usize> {
        let (first, last) = (self.visible(queries, 0), self.visible(queries, self.rows(queries) - 1));
        first.start..last.end
    }
}

/// Rows of sums: `[head_dim rounded up to 16]` sums of values, then the sum of weights in up to 16 lanes, then what the
/// scores are compared with.
#[derive(Clone, Copy)]
struct Sums {
    start: *mut f32,
    width: usize,
}

/// Numbers of a row of sums.
pub(super) fn sums_stride(head_dim: usize) -> usize {
    head_dim.next_multiple_of(16) + 32
}

impl Sums {
    #[inline(always)]
    fn row(&self, row: usize) -> *mut f32 {
        self.start.wrapping_add(row * (self.width + 32))
    }

    /// # Safety
    /// The rows are there.
    #[inline(always)]
    unsafe fn clear(&self, rows: usize) {
        // SAFETY: the caller's promise.
        unsafe {
            self.start.write_bytes(0, rows * (self.width + 32));
            for row in 0..rows {
                *self.row(row).add(self.width + 16) = f32::NEG_INFINITY;
            }
        }
    }
}

/// Computes a block and writes its output.
pub(super) struct Whole<'a>(pub &'a Queries<'a>, pub QueryBlock<'a>);

impl Kernel for Whole<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self(queries, block) = self;
        let rows = block.rows(queries);
        let visible = block.all_visible(queries);
        let layout = Layout::new::<S>(queries.head_dim, rows);
        let mut scratch = Scratch::take(&BLOCK, layout.len);
        let scratch = scratch.as_mut_ptr();
        let (sums, part) = (layout.sums(scratch, 0), layout.sums(scratch, 1));
        let spans = visible.start / SPAN..visible.end.div_ceil(SPAN);
        let alone = spans.len() == 1;
        // SAFETY: the scratch is laid out for this many rows, and the output's rows and heads are this block's.
        unsafe {
            prepare_queries(s, queries, &block, layout, scratch);
            for span in spans {
                attend_span(s, queries, &block, layout, scratch, span, if alone { sums } else { part });
                if !alone {
                    for row in 0..rows {
                        let visible = block.visible(queries, row);
                        add_span(s, &visible, span, sums.width, part.row(row), sums.row(row));
                    }
                }
            }
            for row in 0..rows {
                finish(s, queries, &block, row, sums.row(row));
            }
        }
    }
}

/// Computes what one span of keys brings, as rows of sums of [`sums_stride`] numbers each.
pub(super) struct Part<'a>(pub &'a Queries<'a>, pub QueryBlock<'a>, pub usize, pub &'a mut [f32]);

impl Kernel for Part<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self(queries, block, span, out) = self;
        let rows = block.rows(queries);
        let layout = Layout::new::<S>(queries.head_dim, rows);
        let mut scratch = Scratch::take(&BLOCK, layout.len);
        let scratch = scratch.as_mut_ptr();
        let sums = layout.sums(scratch, 0);
        // SAFETY: as for the whole.
        unsafe {
            prepare_queries(s, queries, &block, layout, scratch);
            attend_span(s, queries, &block, layout, scratch, span, sums);
            out.copy_from_slice(std::slice::from_raw_parts(sums.start, rows * sums_stride(queries.head_dim)));
        }
    }
}

/// Merges the spans' sums of a block, `[spans, rows, sums_stride]`, in order, and writes its output.
pub(super) struct Merge<'a>(pub &'a Queries<'a>, pub QueryBlock<'a>, pub &'a mut [f32]);

impl Kernel for Merge<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self(queries, block, parts) = self;
        let (rows, stride) = (block.rows(queries), sums_stride(queries.head_dim));
        let first = block.all_visible(queries).start / SPAN;
        for row in 0..rows {
            let visible = block.visible(queries, row);
            // The first span that a row sees anything of becomes its sum.
            let own = visible.start / SPAN - first;
            let (sum, others) = parts[(own * rows + row) * stride..].split_at_mut(stride);
            for span in first + own + 1..visible.end.div_ceil(SPAN) {
                let at = ((span - first - own) * rows - 1) * stride;
                // SAFETY: both are rows of sums.
                unsafe {
                    add_span(s, &visible, span, stride - 32, others[at..at + stride].as_mut_ptr(), sum.as_mut_ptr());
                }
            }
            // SAFETY: as for the whole.
            unsafe { finish(s, queries, &block, row, sum.as_mut_ptr()) };
        }
    }
}

/// Where things lie in a thread's scratch memory, counted in numbers.
#[derive(Clone, Copy)]
struct Layout {
    width: usize,
    /// Numbers of a tile of queries.
    tile: usize,
    weights: usize,
    converted: usize,
    sums: usize,
    sums_len: usize,
    len: usize,
}

impl Layout {
    #[inline(always)]
    fn new<S: Simd>(head_dim: usize, rows: usize) -> Self {
        let width = head_dim.next_multiple_of(16);
        let tiles = rows.div_ceil(S::TILE_ROWS);
        let tile = head_dim.div_ceil(CHUNK) * S::TILE_ROWS * CHUNK;
        let weights = tiles * tile;
        let converted = weights + S::TILE_ROWS * CHUNK;
        let sums = converted + BLOCK_TOKENS * (head_dim + width);
        let sums_len = tiles * S::TILE_ROWS * (width + 32);
        Self { width, tile, weights, converted, sums, sums_len, len: sums + 2 * sums_len }
    }

    #[inline(always)]
    fn sums(&self, scratch: *mut f32, index: usize) -> Sums {
        Sums { start: scratch.wrapping_add(self.sums + index * self.sums_len), width: self.width }
    }
}

/// Fills the tiles of queries: `[tile, chunk, S::TILE_ROWS, CHUNK]`, rows that there are not with zeros.
///
/// # Safety
/// `scratch` is laid out by `layout`.
#[inline(always)]
unsafe fn prepare_queries<S: Simd>(
    s: S,
    queries: &Queries<'_>,
    block: &QueryBlock<'_>,
    layout: Layout,
    scratch: *mut f32,
) {
    let rows = block.rows(queries);
    let head_dim = queries.head_dim;
    // SAFETY: the caller's promise. The place of converted blocks serves for one head at a time.
    unsafe {
        scratch.write_bytes(0, layout.weights + S::TILE_ROWS * CHUNK);
        let prepared = scratch.add(layout.converted);
        for row in 0..rows {
            let (token, member) = (row / queries.group, row % queries.group);
            let from = queries.q.row(block.row + token);
            let head = block.kv_head * queries.group + member;
            let from = &from[head * head_dim..];
            // Whole rows of a group lie together, so the processor sees more coming than one head.
            let ahead = heads::AHEAD.div_ceil(queries.group);
            heads::prefetch(s, from, ahead * queries.q.stride(), head_dim);
            let out = queries.out.0.wrapping_add(((block.row + token) * queries.heads + head) * head_dim);
            for at in (0..head_dim).step_by(16) {
                s.prefetch_write(out.wrapping_add(at).cast());
            }
            let from = from.as_ptr();
            let rope = queries.rope.map(|rope| (rope, block.row + token));
            heads::prepare(s, from, head_dim, queries.norm, rope, queries.factor, prepared);
            let to = scratch.add(row / S::TILE_ROWS * layout.tile + row % S::TILE_ROWS * CHUNK);
            for (chunk, at) in (0..head_dim).step_by(CHUNK).enumerate() {
                let to = to.add(chunk * S::TILE_ROWS * CHUNK);
                // Whole vectors; what lies behind the head is never read.
                for at in (at..head_dim.min(at + CHUNK)).step_by(S::LANES) {
                    s.store(to.add(at % CHUNK), s.load(prepared.add(at)));
                }
            }
        }
    }
}

/// Clears `sums` and adds what the keys of one span bring to each row.
///
/// # Safety
/// As [`prepare_queries`], which came before.
#[inline(always)]
unsafe fn attend_span<S: Simd>(
    s: S,
    queries: &Queries<'_>,
    block: &QueryBlock<'_>,
    layout: Layout,
    scratch: *mut f32,
    span: usize,
    sums: Sums,
) {
    let visible = block.all_visible(queries);
    let keys = visible.start.max(span * SPAN)..visible.end.min((span + 1) * SPAN);
    let rows = block.rows(queries);
    // SAFETY: the caller's promise; blocks hold what their type says.
    unsafe {
        sums.clear(rows.next_multiple_of(S::TILE_ROWS));
        for index in keys.start / BLOCK_TOKENS..keys.end.div_ceil(BLOCK_TOKENS) {
            let numbers = BLOCK_TOKENS * (queries.head_dim + layout.width);
            let (start, kind, ahead) = match block.keys {
                Keys::Arena(arena, blocks) => {
                    let start = arena.head(blocks[index], block.kv_head);
                    let next = blocks.get(index + 1).map_or(start, |&next| arena.head(next, block.kv_head));
                    let ahead = next.addr().wrapping_sub(start.addr()) as isize;
                    (start.cast_const(), arena.shape().cache_type, ahead)
                }
                Keys::Packed(start) => (start.add(index * numbers).cast(), CacheType::F32, 0),
            };
            let scales = if kind == CacheType::I8 { start.add(numbers).cast() } else { std::ptr::null() };
            let here = OnBlock { queries, block, layout, scratch, index, ahead, scales, sums };
            match kind {
                CacheType::F32 => s.call(OfType(here, start.cast::<f32>())),
                CacheType::F16 if rows < CONVERT_ROWS => s.call(OfType(here, start.cast::<f16>())),
                CacheType::BF16 if rows < CONVERT_ROWS => s.call(OfType(here, start.cast::<bf16>())),
                CacheType::I8 if rows < CONVERT_ROWS => s.call(OfType(here, start.cast::<i8>())),
                _ => {
                    let converted = scratch.add(layout.converted);
                    match kind {
                        CacheType::F16 => convert::<S, f16>(s, start.cast(), converted, numbers),
                        CacheType::BF16 => convert::<S, bf16>(s, start.cast(), converted, numbers),
                        _ => convert::<S, i8>(s, start.cast(), converted, numbers),
                    }
                    s.call(OfType(here, converted.cast_const()));
                }
            }
        }
    }
}

/// # Safety
/// Both have `len` numbers, a multiple of the vector.
#[inline(always)]
unsafe fn convert<S: Simd, T: Element>(s: S, from: *const T, to: *mut f32, len: usize) {
    for at in (0..len).step_by(S::LANES) {
        // SAFETY: the caller's promise.
        unsafe { s.store(to.add(at), T::load(s, from.add(at))) };
    }
}

/// A block of keys and values that some row of a block of rows sees. All its pointers are valid, as for
/// [`attend_span`].
struct OnBlock<'a> {
    queries: &'a Queries<'a>,
    block: &'a QueryBlock<'a>,
    layout: Layout,
    scratch: *mut f32,
    index: usize,
    /// The distance from this block to the next in bytes.
    ahead: isize,
    /// The scales of the keys, then those of the values; null for types without scales.
    scales: *const f32,
    sums: Sums,
}

/// Adds the contribution of a block's keys to each row. The pointer is to the head of the block, with numbers of this
/// type.
struct OfType<'a, T>(OnBlock<'a>, *const T);

impl<T: Element> Kernel for OfType<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self(OnBlock { queries, block, layout, scratch, index, ahead, scales, sums }, keys) = self;
        let head_dim = queries.head_dim;
        let rows = block.rows(queries);
        let width = layout.width;
        let values = keys.wrapping_add(head_dim * BLOCK_TOKENS);
        let weights = scratch.wrapping_add(layout.weights);
        for first in (0..rows).step_by(S::TILE_ROWS) {
            let count = S::TILE_ROWS.min(rows - first);
            // The range of the block's tokens that each row sees, and the range that every row sees.
            let mut seen = [(0, 0); 12];
            let (mut from, mut to, mut any) = (0, BLOCK_TOKENS, 0);
            for (row, seen) in seen.iter_mut().enumerate().take(count) {
                let visible = block.visible(queries, first + row);
                let start = visible.start.saturating_sub(index * BLOCK_TOKENS).min(BLOCK_TOKENS);
                let end = visible.end.saturating_sub(index * BLOCK_TOKENS).min(BLOCK_TOKENS);
                *seen = (start, end);
                from = from.max(start);
                to = to.min(end);
                any |= usize::from(start < end);
            }
            if any == 0 {
                continue;
            }
            // SAFETY: promised by the code that made this.
            unsafe {
                let q = scratch.add(first / S::TILE_ROWS * layout.tile);
                tile::multiply::<S, T, false>(
                    s,
                    count,
                    head_dim,
                    q,
                    (keys, BLOCK_TOKENS, ahead),
                    BLOCK_TOKENS,
                    (weights, CHUNK),
                );
                for (row, &seen) in seen.iter().enumerate().take(count) {
                    if seen.0 < seen.1 {
                        let kept = (width, sums.row(first + row));
                        weigh(s, weights.add(row * CHUNK), seen, scales, queries.soft_cap, kept);
                    }
                }
                let value = |token: usize| (values.wrapping_add(token * width), width, ahead);
                let (from, to) = if from < to { (from, to) } else { (BLOCK_TOKENS, BLOCK_TOKENS) };
                if from > 0 {
                    for (row, seen) in seen.iter().enumerate().take(count) {
                        let to = seen.1.min(from);
                        if seen.0 < to {
                            let weights = weights.add(row * CHUNK + seen.0);
                            let sums = (sums.row(first + row), 0);
                            tile::multiply::<S, T, true>(s, 1, to - seen.0, weights, value(seen.0), width, sums);
                        }
                    }
                }
                if from < to {
                    let sums = (sums.row(first), width + 32);
                    tile::multiply::<S, T, true>(s, count, to - from, weights.add(from), value(from), width, sums);
                }
                if to < BLOCK_TOKENS {
                    for (row, seen) in seen.iter().enumerate().take(count) {
                        if to < seen.1 {
                            let weights = weights.add(row * CHUNK + to);
                            let sums = (sums.row(first + row), 0);
                            tile::multiply::<S, T, true>(s, 1, seen.1 - to, weights, value(to), width, sums);
                        }
                    }
                }
            }
        }
    }
}

/// Turns a row of scores of a block into weights: two to the power of the score less the row's running maximum, and
/// zero for masked tokens. If the maximum grows, the row's sums are scaled down. Where keys and values have scales,
/// scores are first multiplied by the scales of the keys, and weights in the end by those of the values.
///
/// # Safety
/// `scores` are those of a block, `scales` are null or those of a block, `sums` is a row of sums.
#[inline(always)]
unsafe fn weigh<S: Simd>(
    s: S,
    scores: *mut f32,
    (from, to): (usize, usize),
    scales: *const f32,
    soft_cap: Option<f32>,
    (width, sums): (usize, *mut f32),
) {
    let vectors = BLOCK_TOKENS / S::LANES;
    let mut v = [s.splat(0.0); BLOCK_TOKENS / 4];
    let v = &mut v[..vectors];
    // SAFETY: the caller's promise.
    unsafe {
        for (i, v) in v.iter_mut().enumerate() {
            *v = s.load(scores.add(i * S::LANES));
            if !scales.is_null() {
                *v = s.mul(*v, s.load(scales.add(i * S::LANES)));
            }
            if let Some(cap) = soft_cap {
                *v = s.mul(s.splat(cap), tanh(s, s.div(*v, s.splat(cap))));
            }
        }
        if (from, to) != (0, BLOCK_TOKENS) {
            for (i, v) in v.iter_mut().enumerate() {
                let inside = |bound: usize| bound.saturating_sub(i * S::LANES).min(S::LANES);
                *v = s.in_lanes(inside(from), inside(to), *v, s.splat(f32::NEG_INFINITY));
            }
        }
        let comparison = sums.add(width + 16);
        let limit = s.splat(*comparison + SLACK);
        let mut highest = v[0];
        for v in &v[1..] {
            highest = s.max(*v, highest);
        }
        if s.any_greater(highest, limit) {
            let before = *comparison;
            let now = s.largest(highest);
            if before != f32::NEG_INFINITY {
                let factor = exp2(s, s.splat(before - now));
                for at in (0..width + 16).step_by(S::LANES) {
                    s.store(sums.add(at), s.mul(s.load(sums.add(at)), factor));
                }
            }
            *comparison = now;
        }
        // As long as all scores are minus infinity, so are their differences to anything finite.
        let center = s.splat(if *comparison == f32::NEG_INFINITY { 0.0 } else { *comparison });
        let total = sums.add(width);
        let mut sum = s.load(total);
        for (i, &v) in v.iter().enumerate() {
            let weight = exp2(s, s.sub(v, center));
            sum = s.add(sum, weight);
            let weight = match scales.is_null() {
                true => weight,
                false => s.mul(weight, s.load(scales.add(BLOCK_TOKENS + i * S::LANES))),
            };
            s.store(scores.add(i * S::LANES), weight);
        }
        s.store(total, sum);
    }
}

/// Adds a span's row of sums to a row's, unless the row sees nothing of the span; takes it over if it is its first.
///
/// # Safety
/// Both are rows of sums of this width.
#[inline(always)]
unsafe fn add_span<S: Simd>(s: S, visible: &Range<usize>, span: usize, width: usize, part: *const f32, sum: *mut f32) {
    if visible.end <= span * SPAN || visible.start >= (span + 1) * SPAN {
        return;
    }
    // SAFETY: the caller's promise.
    unsafe {
        if visible.start / SPAN == span {
            sum.copy_from_nonoverlapping(part, width + 32);
            return;
        }
        let (a, b) = (*sum.add(width + 16), *part.add(width + 16));
        let comparison = a.max(b);
        let center = if comparison == f32::NEG_INFINITY { 0.0 } else { comparison };
        let (a, b) = (exp2(s, s.splat(a - center)), exp2(s, s.splat(b - center)));
        for at in (0..width + 16).step_by(S::LANES) {
            let scaled = s.mul(s.load(part.add(at)), b);
            s.store(sum.add(at), s.fma(s.load(sum.add(at)), a, scaled));
        }
        *sum.add(width + 16) = comparison;
    }
}

/// Writes the output of a row: its sum of values over its sum of weights.
///
/// # Safety
/// `sums` is its row of sums, and its place in the output this block's to write.
#[inline(always)]
unsafe fn finish<S: Simd>(s: S, queries: &Queries<'_>, block: &QueryBlock<'_>, row: usize, sums: *const f32) {
    let head_dim = queries.head_dim;
    let (token, member) = (row / queries.group, row % queries.group);
    let head = block.kv_head * queries.group + member;
    let out = queries.out.0.wrapping_add(((block.row + token) * queries.heads + head) * head_dim);
    // SAFETY: the caller's promise.
    unsafe {
        let total = s.sum(s.load(sums.add(head_dim.next_multiple_of(16))));
        let factor = s.splat(1.0 / total);
        for at in (0..head_dim).step_by(S::LANES) {
            let count = S::LANES.min(head_dim - at);
            s.store_some(out.add(at), s.mul(s.load_some(sums.add(at), count), factor), count);
        }
    }
}
