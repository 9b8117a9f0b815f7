//! A page of the cache: the memory of a few consecutive tokens. It knows where numbers lie, not whose they are.

use std::alloc::{Layout, alloc_zeroed, handle_alloc_error};
use std::ptr::NonNull;

use half::{bf16, f16};

use super::{CacheType, KvShape};
use crate::simd::Element;

/// Tokens of a page.
pub const PAGE_TOKENS: usize = 32;

/// Keys and values of [`PAGE_TOKENS`] consecutive tokens of one sequence in one layer, for every head.
///
/// A head has its keys, then its values: `keys: [head_dim, PAGE_TOKENS]`, so that one vector holds the same component
/// of many keys, and `values: [PAGE_TOKENS, head_dim rounded up to 16]`.
pub struct KvPage {
    start: NonNull<u8>,
    shape: KvShape,
}

// SAFETY: a page owns its memory, which is written only through what holds the page alone.
unsafe impl Send for KvPage {}
// SAFETY: as above.
unsafe impl Sync for KvPage {}

impl KvPage {
    /// A page of zeros.
    pub fn new(shape: KvShape) -> Self {
        let layout = layout(shape);
        // SAFETY: the layout is never empty.
        let start = unsafe { alloc_zeroed(layout) };
        let Some(start) = NonNull::new(start) else { handle_alloc_error(layout) };
        Self { start, shape }
    }

    /// What it holds.
    pub fn shape(&self) -> KvShape {
        self.shape
    }

    /// Its memory in bytes.
    pub fn bytes(&self) -> usize {
        self.shape.page_bytes()
    }

    /// Where the keys of a head are.
    #[inline(always)]
    pub(crate) fn head(&self, head: usize) -> *mut u8 {
        debug_assert!(head < self.shape.kv_heads);
        self.start.as_ptr().wrapping_add(head * self.shape.head_bytes())
    }

    /// Component `index` of the key, and of the value, of a token.
    pub(super) fn read(&self, head: usize, token: usize, index: usize) -> (f32, f32) {
        assert!(head < self.shape.kv_heads && token < PAGE_TOKENS && index < self.shape.head_dim);
        // SAFETY: inside of the page, by the assertion.
        unsafe {
            match self.shape.cache_type {
                CacheType::F32 => read_at::<f32>(self.head(head), self.shape, token, index),
                CacheType::F16 => read_at::<f16>(self.head(head), self.shape, token, index),
                CacheType::BF16 => read_at::<bf16>(self.head(head), self.shape, token, index),
            }
        }
    }
}

/// # Safety
/// `head` is a head of a page of `shape`, whose numbers are of type `T`, and the indices are inside of it.
unsafe fn read_at<T: Element>(head: *const u8, shape: KvShape, token: usize, index: usize) -> (f32, f32) {
    let keys = head.cast::<T>();
    let value = shape.head_dim * PAGE_TOKENS + token * shape.value_stride() + index;
    // SAFETY: the caller's promise.
    unsafe { (keys.add(index * PAGE_TOKENS + token).read().to_f32(), keys.add(value).read().to_f32()) }
}

/// Aligned to a page of the processor, so that none is touched in vain.
fn layout(shape: KvShape) -> Layout {
    let bytes = shape.page_bytes().max(1);
    Layout::from_size_align(bytes, if bytes >= 4096 { 4096 } else { 64 }).expect("a page is smaller than memory")
}

impl Clone for KvPage {
    fn clone(&self) -> Self {
        let page = Self::new(self.shape);
        // SAFETY: both are `bytes()` long and apart.
        unsafe { page.start.as_ptr().copy_from_nonoverlapping(self.start.as_ptr(), self.bytes()) };
        page
    }
}

impl Drop for KvPage {
    fn drop(&mut self) {
        // SAFETY: allocated in `new` with the same layout.
        unsafe { std::alloc::dealloc(self.start.as_ptr(), layout(self.shape)) };
    }
}

impl std::fmt::Debug for KvPage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KvPage").field("shape", &self.shape).finish_non_exhaustive()
    }
}
