//! Memory for one layer's keys and values, in numbered blocks: an arena on the CPU, or tensors on any device. The
//! owners of blocks are not known here.

use burn::tensor::{Bytes, DType, Device, Int, Tensor, TensorData};
use fornax_cpu::attention::Sequences;
pub use fornax_cpu::cache::{BLOCK_TOKENS, CacheType};
use fornax_cpu::cache::{KvArena, KvShape};

/// Why memory for keys and values cannot be allocated or restored.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KvError {
    /// The system refused it.
    #[error(transparent)]
    Memory(#[from] fornax_cpu::CpuError),
    /// This device cannot keep the type.
    #[error("keys and values as {found}: on {device} they can be kept as f32, f16 or bf16")]
    Type {
        /// The type asked for.
        found: CacheType,
        /// The device.
        device: String,
    },
    /// The saved contents of a block do not fit this memory's blocks.
    #[error("kv block: expected {expected} bytes, found {found}")]
    Block {
        /// Bytes of a block of this memory.
        expected: usize,
        /// Bytes given.
        found: usize,
    },
}

/// The form in which a layer keeps keys and values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KvFormat {
    /// In an arena of main memory, for the CPU's kernels.
    Arena(CacheType),
    /// As tensors of this type, on any device.
    Tensors(DType),
}

impl KvFormat {
    /// Bytes of a block of a layer.
    pub fn block_bytes(self, kv_heads: usize, head_dim: usize) -> usize {
        match self {
            Self::Arena(cache_type) => KvShape { kv_heads, head_dim, cache_type }.block_bytes(),
            Self::Tensors(dtype) => 2 * BLOCK_TOKENS * kv_heads * head_dim * dtype.size(),
        }
    }
}

/// The keys and values of one layer.
#[derive(Debug)]
pub struct KvLayer(pub(crate) Store);

// There is one for each layer of a model, so the size of the larger variant does not matter.
#[derive(Debug)]
#[allow(clippy::large_enum_variant)]
pub(crate) enum Store {
    Arena(KvArena),
    Tensors(TensorBlocks),
}

impl KvLayer {
    /// Memory for `blocks` blocks of [`BLOCK_TOKENS`] tokens.
    ///
    /// # Errors
    /// [`KvError`] when there is not that much memory.
    pub fn new(
        format: KvFormat,
        [kv_heads, head_dim]: [usize; 2],
        blocks: usize,
        device: &Device,
    ) -> Result<Self, KvError> {
        Ok(Self(match format {
            KvFormat::Arena(cache_type) => {
                Store::Arena(KvArena::new(KvShape { kv_heads, head_dim, cache_type }, blocks)?)
            }
            KvFormat::Tensors(dtype) => {
                let zeros = || Tensor::zeros([blocks * BLOCK_TOKENS, kv_heads * head_dim], (device, dtype));
                Store::Tensors(TensorBlocks { key: zeros(), value: zeros() })
            }
        }))
    }

    /// How many blocks there are.
    pub fn blocks(&self) -> usize {
        match &self.0 {
            Store::Arena(arena) => arena.blocks(),
            Store::Tensors(tensors) => tensors.key.dims()[0] / BLOCK_TOKENS,
        }
    }

    /// Copies a block over another.
    ///
    /// # Panics
    /// When there is no such block.
    pub fn copy_block(&mut self, from: u32, to: u32) {
        match &mut self.0 {
            Store::Arena(arena) => arena.copy_block(from, to),
            Store::Tensors(tensors) => {
                let key = tensors.key.clone().narrow(0, from as usize * BLOCK_TOKENS, BLOCK_TOKENS);
                let value = tensors.value.clone().narrow(0, from as usize * BLOCK_TOKENS, BLOCK_TOKENS);
                tensors.write(to as usize * BLOCK_TOKENS, key, value);
            }
        }
    }

    /// Appends the bytes of a block to `out`, to be kept elsewhere. Waits for the device.
    ///
    /// # Panics
    /// When there is no such block.
    pub fn save_block(&self, block: u32, out: &mut Vec<u8>) {
        match &self.0 {
            Store::Arena(arena) => out.extend_from_slice(arena.block(block)),
            Store::Tensors(tensors) => {
                for tensor in [&tensors.key, &tensors.value] {
                    let rows = tensor.clone().narrow(0, block as usize * BLOCK_TOKENS, BLOCK_TOKENS);
                    out.extend_from_slice(rows.into_data().as_bytes());
                }
            }
        }
    }

    /// Restores the saved contents of a block from the start of `bytes`, and returns the bytes after them.
    ///
    /// # Errors
    /// [`KvError::Block`] when there are too few bytes for a block.
    ///
    /// # Panics
    /// When there is no such block.
    pub fn restore_block<'a>(&mut self, block: u32, bytes: &'a [u8]) -> Result<&'a [u8], KvError> {
        let expected = match &self.0 {
            Store::Arena(arena) => arena.shape().block_bytes(),
            Store::Tensors(tensors) => 2 * tensors.half_bytes(),
        };
        let found = bytes.len();
        let (own, rest) = bytes.split_at_checked(expected).ok_or(KvError::Block { expected, found })?;
        match &mut self.0 {
            Store::Arena(arena) => arena.block_mut(block).copy_from_slice(own),
            Store::Tensors(tensors) => {
                let (device, dtype, columns) = (tensors.key.device(), tensors.key.dtype(), tensors.key.dims()[1]);
                let [key, value] = [0, 1].map(|half| {
                    let bytes = own[half * expected / 2..(half + 1) * expected / 2].to_vec();
                    let data = TensorData::from_bytes(Bytes::from_bytes_vec(bytes), vec![BLOCK_TOKENS, columns], dtype);
                    Tensor::from_data(data, (&device, dtype))
                });
                tensors.write(block as usize * BLOCK_TOKENS, key, value);
            }
        }
        Ok(rest)
    }
}

/// Keys and values as tensors `[blocks · BLOCK_TOKENS, kv_heads · head_dim]`.
#[derive(Debug)]
pub(crate) struct TensorBlocks {
    key: Tensor<2>,
    value: Tensor<2>,
}

impl TensorBlocks {
    pub(crate) fn dtype(&self) -> DType {
        self.key.dtype()
    }

    /// Checks that keys have this many numbers, that the sequences' blocks exist, and that they are enough.
    pub(crate) fn check(&self, sequences: &Sequences, columns: usize) {
        let [slots, own] = self.key.dims();
        assert_eq!(own, columns, "attention: numbers of a kept key, and of the batch's");
        let (named, blocks) = (sequences.arena_blocks(), slots / BLOCK_TOKENS);
        assert!(named <= blocks, "attention: {named} blocks are named, there are {blocks}");
        for sequence in 0..sequences.len() {
            let (tokens, room) = (sequences.tokens(sequence), sequences.blocks(sequence).len() * BLOCK_TOKENS);
            assert!(tokens <= room, "attention: {tokens} tokens of a sequence, its blocks hold {room}");
        }
    }

    fn half_bytes(&self) -> usize {
        BLOCK_TOKENS * self.key.dims()[1] * self.key.dtype().size()
    }

    /// Writes rows from `at` on, in place: nobody else holds the buffers, as views given out before are dropped by
    /// then.
    fn write(&mut self, at: usize, key: Tensor<2>, value: Tensor<2>) {
        let [rows, columns] = key.dims();
        self.key.inplace(|buffer| buffer.slice_assign([at..at + rows, 0..columns], key));
        self.value.inplace(|buffer| buffer.slice_assign([at..at + rows, 0..columns], value));
    }

    /// Puts the keys and values of a batch's rows into their sequences' blocks.
    pub(crate) fn append(&mut self, sequences: &Sequences, key: &Tensor<2>, value: &Tensor<2>) {
        for sequence in 0..sequences.len() {
            let (rows, past) = (sequences.rows_of(sequence), sequences.past(sequence));
            let mut row = rows.start;
            while row < rows.end {
                let position = past + row - rows.start;
                let (index, offset) = (position / BLOCK_TOKENS, position % BLOCK_TOKENS);
                let count = (BLOCK_TOKENS - offset).min(rows.end - row);
                let at = sequences.blocks(sequence)[index] as usize * BLOCK_TOKENS + offset;
                self.write(at, key.clone().narrow(0, row, count), value.clone().narrow(0, row, count));
                row += count;
            }
        }
    }

    /// The keys and values of a sequence, `[tokens, kv_heads · head_dim]` each.
    pub(crate) fn gather(&self, sequences: &Sequences, sequence: usize) -> [Tensor<2>; 2] {
        let (tokens, blocks) = (sequences.tokens(sequence), sequences.blocks(sequence));
        let slot =
            |token: usize| blocks[token / BLOCK_TOKENS] as i32 * BLOCK_TOKENS as i32 + (token % BLOCK_TOKENS) as i32;
        let slots: Vec<i32> = (0..tokens).map(slot).collect();
        let slots = Tensor::<1, Int>::from_data(slots.as_slice(), &self.key.device());
        [self.key.clone().select(0, slots.clone()), self.value.clone().select(0, slots)]
    }
}
