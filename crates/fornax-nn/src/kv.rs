//! The keys and values of all sequences of a model, in blocks. A block has the same number in all layers. Blocks are
//! copied and moved here; only the scheduler counts their owners.

use burn::tensor::{DType, Device};
use fornax_backend::kv::{BLOCK_TOKENS, CacheType, KvError, KvFormat, KvLayer};

/// The shape of a [`KvPool`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KvPoolConfig {
    /// `[kv_heads, head_dim]` of each layer, the first layer's first.
    pub layers: Vec<[usize; 2]>,
    /// The form in which keys and values are kept.
    pub format: KvFormat,
}

impl KvPoolConfig {
    /// Tokens of a block. The scheduler needs the same number.
    pub const BLOCK_TOKENS: usize = BLOCK_TOKENS;

    /// Bytes of a block, in all layers together.
    pub fn block_bytes(&self) -> usize {
        self.layers.iter().map(|&[kv_heads, head_dim]| self.format.block_bytes(kv_heads, head_dim)).sum()
    }

    /// The same with keys and values of another type.
    ///
    /// # Errors
    /// [`KvError::Type`] for 8-bit keys and values on another device than the CPU.
    pub fn with_type(self, cache_type: CacheType, device: &Device) -> Result<Self, KvError> {
        let format = match (self.format, cache_type) {
            (KvFormat::Arena(_), cache_type) => KvFormat::Arena(cache_type),
            (KvFormat::Tensors(_), CacheType::F32) => KvFormat::Tensors(DType::F32),
            (KvFormat::Tensors(_), CacheType::F16) => KvFormat::Tensors(DType::F16),
            (KvFormat::Tensors(_), CacheType::BF16) => KvFormat::Tensors(DType::BF16),
            (KvFormat::Tensors(_), found @ CacheType::I8) => {
                return Err(KvError::Type { found, device: format!("{device:?}") });
            }
        };
        Ok(Self { format, ..self })
    }

    /// Takes memory for `blocks` blocks. On the CPU, a page of it is allocated when it is first written.
    ///
    /// # Errors
    /// [`KvError::Memory`] when there is not that much memory.
    pub fn init(&self, blocks: usize, device: &Device) -> Result<KvPool, KvError> {
        let layer = |&shape: &[usize; 2]| KvLayer::new(self.format, shape, blocks, device);
        Ok(KvPool { layers: self.layers.iter().map(layer).collect::<Result<_, _>>()? })
    }
}

/// Blocks for the keys and values of every layer of a model.
#[derive(Debug)]
pub struct KvPool {
    layers: Vec<KvLayer>,
}

impl KvPool {
    /// The memory of a layer.
    ///
    /// # Panics
    /// When there is no such layer.
    pub fn layer_mut(&mut self, layer: usize) -> &mut KvLayer {
        &mut self.layers[layer]
    }

    /// Copies a block over another, in all layers.
    ///
    /// # Panics
    /// When there is no such block.
    pub fn copy_block(&mut self, from: u32, to: u32) {
        self.layers.iter_mut().for_each(|layer| layer.copy_block(from, to));
    }

    /// The contents of a block in all layers, to be kept in host memory.
    ///
    /// # Panics
    /// When there is no such block.
    pub fn save_block(&self, block: u32) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.layers.iter().for_each(|layer| layer.save_block(block, &mut bytes));
        bytes
    }

    /// Restores the saved contents of a block, to the same or another block of this pool.
    ///
    /// # Errors
    /// [`KvError::Block`] when the number of bytes is not that of a block of this pool.
    ///
    /// # Panics
    /// When there is no such block.
    pub fn restore_block(&mut self, block: u32, mut bytes: &[u8]) -> Result<(), KvError> {
        for layer in &mut self.layers {
            bytes = layer.restore_block(block, bytes)?;
        }
        if bytes.is_empty() { Ok(()) } else { Err(KvError::Block { expected: 0, found: bytes.len() }) }
    }
}
