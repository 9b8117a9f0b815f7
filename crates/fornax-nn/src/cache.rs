//! The keys and values of the tokens seen so far, allocated once for a known capacity and written in place.
//! Pages shared between requests are the engine's later matter; here each sequence owns its row.

use burn::tensor::{Bool, DType, Device, Int, Tensor};

/// Sizes of a [`KvCache`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct KvCacheConfig {
    /// Layers of the model.
    pub layers: usize,
    /// Key and value heads of each.
    pub kv_heads: usize,
    /// Size of a head.
    pub head_dim: usize,
    /// Sequences held side by side.
    pub batch: usize,
    /// Tokens that each can grow to.
    pub capacity: usize,
    /// Type of the keys and values.
    pub dtype: DType,
}

impl KvCacheConfig {
    /// Bytes that the cache will take on the device.
    pub fn bytes(&self) -> usize {
        2 * self.layers * self.batch * self.kv_heads * self.capacity * self.head_dim * self.dtype.size()
    }

    /// Allocates the cache, empty.
    pub fn init(&self, device: &Device) -> KvCache {
        let shape = [self.batch, self.kv_heads, self.capacity, self.head_dim];
        let layer = || LayerCache {
            key: Tensor::zeros(shape, (device, self.dtype)),
            value: Tensor::zeros(shape, (device, self.dtype)),
            len: 0,
        };
        KvCache { layers: (0..self.layers).map(|_| layer()).collect(), capacity: self.capacity }
    }
}

/// Keys and values of every layer, for sequences of one common length.
#[derive(Debug, Clone)]
pub struct KvCache {
    layers: Vec<LayerCache>,
    capacity: usize,
}

impl KvCache {
    /// Tokens held of each sequence.
    pub fn len(&self) -> usize {
        self.layers.first().map_or(0, |layer| layer.len)
    }

    /// Whether nothing was fed yet.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Tokens that each sequence can grow to.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// The layers' caches, the first layer's first.
    pub fn layers_mut(&mut self) -> &mut [LayerCache] {
        &mut self.layers
    }

    /// Makes sequence `i` continue from what sequence `sequences[i]` was, as beam search needs. The number of
    /// sequences may change: `[0, 0, 0]` makes three of one.
    ///
    /// # Panics
    /// When an index is not a sequence of the cache.
    pub fn select_sequences(&mut self, sequences: &[usize]) {
        let identity = sequences.iter().copied().eq(0..sequences.len());
        let Some(first) = self.layers.first() else { return };
        let batch = first.key.dims()[0];
        if identity && sequences.len() == batch {
            return;
        }
        assert!(sequences.iter().all(|&sequence| sequence < batch), "select_sequences: {sequences:?} of {batch}");
        let ids: Vec<i64> = sequences.iter().map(|&sequence| sequence as i64).collect();
        let indices = Tensor::<1, Int>::from_data(ids.as_slice(), &first.key.device());
        for layer in &mut self.layers {
            layer.key.inplace(|key| key.select(0, indices.clone()));
            layer.value.inplace(|value| value.select(0, indices.clone()));
        }
    }

    /// Forgets the tokens from `len` on; what is shorter already stays.
    pub fn truncate(&mut self, len: usize) {
        for layer in &mut self.layers {
            layer.len = layer.len.min(len);
        }
    }
}

/// Keys and values of one layer.
#[derive(Debug, Clone)]
pub struct LayerCache {
    /// `[batch, kv_heads, capacity, head_dim]`
    key: Tensor<4>,
    value: Tensor<4>,
    len: usize,
}

impl LayerCache {
    /// Appends `key` and `value` (`[batch, kv_heads, new, head_dim]`) and returns all held so far as views.
    ///
    /// # Panics
    /// When the capacity is exceeded; the engine admits only what fits.
    pub fn append(&mut self, key: Tensor<4>, value: Tensor<4>) -> (Tensor<4>, Tensor<4>) {
        let [batch, heads, new, dim] = key.dims();
        let [held, _, capacity, _] = self.key.dims();
        assert_eq!(batch, held, "kv cache: sequences fed and held");
        let end = self.len + new;
        assert!(end <= capacity, "kv cache: {end} tokens exceed the capacity of {capacity}");
        let place = [0..batch, 0..heads, self.len..end, 0..dim];
        // In place because nobody else holds the buffer: the views given out before are gone by now.
        self.key.inplace(|buffer| buffer.slice_assign(place.clone(), key));
        self.value.inplace(|buffer| buffer.slice_assign(place, value));
        self.len = end;
        (self.key.clone().narrow(2, 0, end), self.value.clone().narrow(2, 0, end))
    }
}

/// Which positions of right-padded sequences hold tokens: `lengths` → `[batch, longest]`, true before each length.
///
/// ```
/// let device = fornax_backend::Device::cpu();
/// let visible = fornax_nn::visible_positions(&[2, 3], device.as_burn());
/// assert_eq!(visible.into_data().iter::<bool>().collect::<Vec<_>>(), [true, true, false, true, true, true]);
/// ```
pub fn visible_positions(lengths: &[usize], device: &Device) -> Tensor<2, Bool> {
    let longest = lengths.iter().copied().max().unwrap_or(0);
    let rows: Vec<bool> = lengths.iter().flat_map(|&length| (0..longest).map(move |at| at < length)).collect();
    Tensor::from_data(burn::tensor::TensorData::new(rows, [lengths.len(), longest]), device)
}
