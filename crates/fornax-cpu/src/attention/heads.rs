//! What happens to one head of a query or key before it is compared: its norm, its rotation, and for keys and values
//! the way into a block.

use super::{HeadNorm, Rope, Rows};
use crate::cache::BLOCK_TOKENS;
use crate::simd::{Element, Simd};

/// How many tokens ahead memory is asked for. A head of the next token lies too far off for the processor to guess.
pub(super) const AHEAD: usize = 8;

/// Prefetches the head that lies `ahead` numbers after the beginning of `row`.
#[inline(always)]
pub(super) fn prefetch<S: Simd>(s: S, row: &[f32], ahead: usize, head_dim: usize) {
    for at in (0..head_dim).step_by(16) {
        s.prefetch(row.as_ptr().wrapping_add(ahead + at).cast());
    }
}

/// The keys and values of a batch's rows, and the norm and rotation of keys.
#[derive(Clone, Copy)]
pub(super) struct NewKeys<'a> {
    pub k: Rows<'a>,
    pub v: Rows<'a>,
    pub norm: Option<HeadNorm<'a>>,
    pub rope: Option<Rope<'a>>,
    pub head_dim: usize,
}

impl NewKeys<'_> {
    /// Writes the key of a head of a row to `key`, normed and rotated, and returns where its value is.
    ///
    /// # Safety
    /// The row has the head, and `head_dim` values, rounded up to 16, are writable at `key`.
    #[inline(always)]
    pub(super) unsafe fn prepare<S: Simd>(&self, s: S, row: usize, head: usize, key: *mut f32) -> *const f32 {
        let head_dim = self.head_dim;
        let (k, v) = (&self.k.row(row)[head * head_dim..], &self.v.row(row)[head * head_dim..]);
        prefetch(s, k, AHEAD * self.k.stride(), head_dim);
        prefetch(s, v, AHEAD * self.v.stride(), head_dim);
        // SAFETY: the caller's promise.
        unsafe { prepare(s, k.as_ptr(), head_dim, self.norm, self.rope.map(|rope| (rope, row)), 1.0, key) };
        v.as_ptr()
    }
}

/// Writes the head at `from` to `to`, normed, rotated by the angles of row `row`, and multiplied.
///
/// # Safety
/// `head_dim` values are readable at `from` and as many, rounded up to 16, writable at `to`.
#[inline(always)]
pub(super) unsafe fn prepare<S: Simd>(
    s: S,
    from: *const f32,
    head_dim: usize,
    norm: Option<HeadNorm<'_>>,
    rope: Option<(Rope<'_>, usize)>,
    factor: f32,
    to: *mut f32,
) {
    let mut scale = s.splat(factor);
    let mut weight = std::ptr::null();
    if let Some(norm) = norm {
        let mut squares = s.splat(0.0);
        for at in (0..head_dim).step_by(S::LANES) {
            // SAFETY: no more than what there is from `at` on.
            let v = unsafe { s.load_some(from.add(at), S::LANES.min(head_dim - at)) };
            squares = s.fma(v, v, squares);
        }
        let mean = s.sum(squares) / head_dim as f32;
        scale = s.splat(factor / (mean + norm.epsilon).sqrt());
        weight = norm.weight.as_ptr();
    }
    for at in (0..head_dim).step_by(S::LANES) {
        let count = S::LANES.min(head_dim - at);
        // SAFETY: as above; the weight has `head_dim` values as well.
        unsafe {
            let mut v = s.mul(s.load_some(from.add(at), count), scale);
            if !weight.is_null() {
                v = s.mul(v, s.load_some(weight.add(at), count));
            }
            s.store(to.add(at), v);
        }
    }
    if let Some((rope, row)) = rope {
        let half = rope.rotary_dim / 2;
        let (cos, sin) = (&rope.cos[row * half..][..half], &rope.sin[row * half..][..half]);
        // SAFETY: `2 * half ≤ head_dim`.
        unsafe { rotate(s, to, cos, sin) };
    }
}

/// Rotates the first `2 * half` values, the first half of them against the second.
///
/// # Safety
/// They are there, `half` being the length of `cos` and of `sin`.
#[inline(always)]
unsafe fn rotate<S: Simd>(s: S, head: *mut f32, cos: &[f32], sin: &[f32]) {
    let half = cos.len().min(sin.len());
    for at in (0..half).step_by(S::LANES) {
        let count = S::LANES.min(half - at);
        // SAFETY: no more than `half` values of each are touched.
        unsafe {
            let (cos, sin) = (s.load_some(cos.as_ptr().add(at), count), s.load_some(sin.as_ptr().add(at), count));
            let (first, second) = (s.load_some(head.add(at), count), s.load_some(head.add(half + at), count));
            s.store_some(head.add(at), s.neg_fma(second, sin, s.mul(first, cos)), count);
            s.store_some(head.add(half + at), s.fma(first, sin, s.mul(second, cos)), count);
        }
    }
}

/// Writes a key and a value to their places in a head of a block, as numbers of type `T`.
///
/// # Safety
/// `block` is the head of such a block with values `value_stride` apart; `key` has `head_dim` readable values, rounded up
/// to 16, and `value` has `head_dim`; nobody else reads or writes this token's places.
#[inline(always)]
pub(super) unsafe fn put<S: Simd, T: Element>(
    s: S,
    block: *mut T,
    token: usize,
    head_dim: usize,
    value_stride: usize,
    key: *const f32,
    value: *const f32,
) {
    // SAFETY: inside of the block: the keys' rows are `BLOCK_TOKENS` long, the values' rows a multiple of any vector.
    unsafe {
        let values = block.add(head_dim * BLOCK_TOKENS + token * value_stride);
        let mut converted = [std::mem::MaybeUninit::<T>::uninit(); 16];
        for at in (0..head_dim).step_by(S::LANES) {
            let count = S::LANES.min(head_dim - at);
            T::store(s, values.add(at), s.load_some(value.add(at), count));
            T::store(s, converted.as_mut_ptr().cast(), s.load(key.add(at)));
            for (lane, converted) in converted.iter().enumerate().take(count) {
                block.add((at + lane) * BLOCK_TOKENS + token).write(converted.assume_init());
            }
        }
    }
}

/// Divides a head by a 127th of its largest component, so that it fits into 8-bit integers, and returns the divisor.
///
/// # Safety
/// `head_dim` values are readable at `from` and as many, rounded up to 16, writable at `to`, which may be `from`.
#[inline(always)]
pub(super) unsafe fn scale_to_i8<S: Simd>(s: S, from: *const f32, head_dim: usize, to: *mut f32) -> f32 {
    let mut largest = s.splat(0.0);
    for at in (0..head_dim).step_by(S::LANES) {
        // SAFETY: no more than what there is from `at` on.
        let v = unsafe { s.load_some(from.add(at), S::LANES.min(head_dim - at)) };
        largest = s.max(s.abs(v), largest);
    }
    let scale = s.largest(largest) / 127.0;
    let factor = if scale > 0.0 { 1.0 / scale } else { 0.0 };
    for at in (0..head_dim).step_by(S::LANES) {
        // SAFETY: as above.
        unsafe { s.store(to.add(at), s.mul(s.load_some(from.add(at), S::LANES.min(head_dim - at)), s.splat(factor))) };
    }
    scale
}
