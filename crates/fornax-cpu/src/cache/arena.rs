//! The blocks of one layer, one after another in one piece of memory. It counts no owners and gives out no blocks.

use std::ptr::NonNull;
use std::sync::atomic::{AtomicUsize, Ordering};

use half::{bf16, f16};

use super::{BLOCK_TOKENS, CacheType, KvShape};
use crate::memory::HUGE_PAGE;
use crate::simd::Element;
use crate::{Buffer, CpuError, Result};

/// Keys and values of one layer in blocks of [`BLOCK_TOKENS`] tokens, which sequences name by number.
///
/// ```
/// use fornax_cpu::cache::{CacheType, KvArena, KvShape};
///
/// # fn main() -> Result<(), fornax_cpu::CpuError> {
/// let shape = KvShape { kv_heads: 2, head_dim: 64, cache_type: CacheType::F16 };
/// let mut arena = KvArena::new(shape, 100)?; // memory is taken when it is first written
/// assert_eq!(arena.bytes(), 100 * 2 * 2 * 32 * 64 * 2);
/// arena.copy_block(3, 7);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct KvArena {
    shape: KvShape,
    blocks: usize,
    /// The first block.
    start: NonNull<u8>,
    /// The first block's place in `memory`.
    first: usize,
    /// Owns what `start` points to.
    memory: Buffer,
}

// SAFETY: an arena owns its memory, and writes to it through `&mut` alone.
unsafe impl Send for KvArena {}
// SAFETY: as above.
unsafe impl Sync for KvArena {}

impl KvArena {
    /// An arena of zeros. Memory is taken when it is first written.
    ///
    /// # Errors
    /// [`CpuError::NoMemory`] when the system refuses that much address space.
    pub fn new(shape: KvShape, blocks: usize) -> Result<Self> {
        let bytes = blocks.checked_mul(shape.block_bytes()).ok_or(CpuError::NoMemory { bytes: usize::MAX })?;
        // A smaller arena has no huge pages.
        let first = if bytes < HUGE_PAGE { 0 } else { next_start() };
        let mut memory = Buffer::try_zeroed(bytes.saturating_add(first))?;
        let start = NonNull::new(memory[first..].as_mut_ptr()).unwrap_or(NonNull::dangling());
        Ok(Self { shape, blocks, start, first, memory })
    }

    /// The shape of its blocks.
    pub fn shape(&self) -> KvShape {
        self.shape
    }

    /// How many blocks there are.
    pub fn blocks(&self) -> usize {
        self.blocks
    }

    /// Bytes of all blocks.
    pub fn bytes(&self) -> usize {
        self.blocks * self.shape.block_bytes()
    }

    /// Copies a block over another.
    ///
    /// # Panics
    /// When there is no such block.
    pub fn copy_block(&mut self, from: u32, to: u32) {
        let (from, to) = (self.range(from), self.range(to));
        self.memory.copy_within(from, to.start);
    }

    /// The bytes of a block, to be kept elsewhere.
    ///
    /// # Panics
    /// When there is no such block.
    pub fn block(&self, block: u32) -> &[u8] {
        &self.memory[self.range(block)]
    }

    /// The bytes of a block, to be put back.
    ///
    /// # Panics
    /// When there is no such block.
    pub fn block_mut(&mut self, block: u32) -> &mut [u8] {
        let range = self.range(block);
        &mut self.memory[range]
    }

    fn range(&self, block: u32) -> std::ops::Range<usize> {
        let (block, blocks) = (block as usize, self.blocks);
        assert!(block < blocks, "kv arena: block {block} of {blocks}");
        let bytes = self.shape.block_bytes();
        let start = self.first + block * bytes;
        start..start + bytes
    }

    /// The place of the keys of a head of a block. Only a holder of `&mut` of the arena may write there.
    #[inline(always)]
    pub(crate) fn head(&self, block: u32, head: usize) -> *mut u8 {
        debug_assert!((block as usize) < self.blocks && head < self.shape.kv_heads);
        let offset = block as usize * self.shape.block_bytes() + head * self.shape.head_bytes();
        self.start.as_ptr().wrapping_add(offset)
    }

    /// Reads the key and the value of a token of a block, as they are kept, into slices of `head_dim`.
    ///
    /// # Panics
    /// When there is no such block, token or head, or a slice has another length.
    pub fn read(&self, block: u32, token: usize, head: usize, key: &mut [f32], value: &mut [f32]) {
        let KvShape { kv_heads, head_dim, cache_type } = self.shape;
        let range = self.range(block);
        assert!(token < BLOCK_TOKENS && head < kv_heads, "kv arena: token {token} of head {head}");
        assert_eq!((key.len(), value.len()), (head_dim, head_dim), "components");
        let bytes = &self.memory[range.start + head * self.shape.head_bytes()..][..self.shape.head_bytes()];
        let scales = &bytes[self.shape.head_numbers() * cache_type.bytes()..];
        let scale = |index: usize| match scales.chunks_exact(4).nth(index) {
            Some(bytes) => f32::from_le_bytes(bytes.try_into().expect("4 bytes")),
            None => 1.0,
        };
        let (key_scale, value_scale) = (scale(token), scale(BLOCK_TOKENS + token));
        for (index, (key, value)) in key.iter_mut().zip(value).enumerate() {
            let key_at = index * BLOCK_TOKENS + token;
            let value_at = head_dim * BLOCK_TOKENS + token * self.shape.value_stride() + index;
            *key = number(bytes, cache_type, key_at) * key_scale;
            *value = number(bytes, cache_type, value_at) * value_scale;
        }
    }
}

/// The place of the first block of the next arena in its memory.
///
/// The system clears a huge page when something is first written to it, which takes a millisecond or more. The arenas of a
/// model's layers fill at the same pace, so they begin at different places of their first page: otherwise a single token
/// would wait for the pages of all layers. The places are spread evenly, whatever the number of arenas (multiples of a number
/// near the golden ratio).
fn next_start() -> usize {
    const PLACES: usize = 64;
    static ARENAS: AtomicUsize = AtomicUsize::new(0);

    ARENAS.fetch_add(1, Ordering::Relaxed).wrapping_mul(39) % PLACES * (HUGE_PAGE / PLACES)
}

/// The number at an index of a slice of numbers of a type.
fn number(bytes: &[u8], cache_type: CacheType, index: usize) -> f32 {
    let bytes = &bytes[index * cache_type.bytes()..];
    match cache_type {
        CacheType::F32 => f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]),
        CacheType::F16 => Element::to_f32(f16::from_le_bytes([bytes[0], bytes[1]])),
        CacheType::BF16 => Element::to_f32(bf16::from_le_bytes([bytes[0], bytes[1]])),
        CacheType::I8 => f32::from(bytes[0].cast_signed()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_lie_apart_wherever_an_arena_begins() {
        let shape = KvShape { kv_heads: 2, head_dim: 64, cache_type: CacheType::F16 };
        let blocks = (HUGE_PAGE / shape.block_bytes() + 3) as u32;
        let mut starts = Vec::new();
        for _ in 0..8 {
            let mut arena = KvArena::new(shape, blocks as usize).expect("memory");
            starts.push(arena.first);
            for block in 0..blocks {
                arena.block_mut(block).fill(block as u8);
            }
            assert!((0..blocks).all(|block| arena.block(block).iter().all(|&byte| byte == block as u8)));
            // SAFETY: the block is there.
            assert!((0..blocks).all(|block| unsafe { arena.head(block, 1).read() } == block as u8));
            assert_eq!(arena.bytes(), blocks as usize * shape.block_bytes());
        }
        starts.sort_unstable();
        starts.dedup();
        assert!(starts.len() > 4, "{starts:?}");
    }
}
