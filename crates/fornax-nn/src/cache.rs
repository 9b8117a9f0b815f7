//! The keys and values of the tokens seen so far: on the CPU in pages that sequences share until they differ, elsewhere
//! written in place into buffers that double up to a known capacity. Sharing pages between requests is the engine's
//! later matter.

use burn::tensor::{Bool, DType, Device, Int, Tensor};
use fornax_cpu::cache::{CacheType, KvLayer, KvShape, PAGE_TOKENS};

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
    /// In which form keys and values are kept.
    pub format: CacheFormat,
}

/// In which form a [`KvCache`] keeps keys and values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CacheFormat {
    /// As tensors of this type, on any device.
    Tensors(DType),
    /// In pages of main memory, for models that run on the CPU in `f32`, without gradients.
    Pages(CacheType),
}

impl KvCacheConfig {
    /// Bytes that the cache takes on the device once it is full.
    pub fn bytes(&self) -> usize {
        let product = |factors: &[usize]| factors.iter().fold(1, |product: usize, &one| product.saturating_mul(one));
        match self.format {
            CacheFormat::Tensors(dtype) => {
                product(&[2, self.layers, self.batch, self.kv_heads, self.capacity, self.head_dim, dtype.size()])
            }
            CacheFormat::Pages(cache_type) => {
                let page = self.page_shape(cache_type).page_bytes();
                product(&[self.layers, self.batch, self.capacity.div_ceil(PAGE_TOKENS), page])
            }
        }
    }

    /// Allocates the cache, empty, with room for the first tokens. The rest is allocated as it is needed, for a long
    /// context may be more than the device has, and few sequences fill it.
    pub fn init(&self, device: &Device) -> KvCache {
        let shape = [self.batch, self.kv_heads, self.capacity.min(FIRST_TOKENS), self.head_dim];
        let layer = || match self.format {
            CacheFormat::Tensors(dtype) => LayerCache::Tensors(TensorCache {
                key: Tensor::zeros(shape, (device, dtype)),
                value: Tensor::zeros(shape, (device, dtype)),
                len: 0,
                capacity: self.capacity,
            }),
            CacheFormat::Pages(_) => LayerCache::Pages(self.pages()),
        };
        KvCache { layers: (0..self.layers).map(|_| layer()).collect(), capacity: self.capacity }
    }

    /// One layer's pages, empty.
    pub(crate) fn pages(&self) -> KvLayer {
        let cache_type = match self.format {
            CacheFormat::Pages(cache_type) => cache_type,
            CacheFormat::Tensors(_) => CacheType::F32,
        };
        KvLayer::new(self.page_shape(cache_type), self.batch)
    }

    fn page_shape(&self, cache_type: CacheType) -> KvShape {
        KvShape { kv_heads: self.kv_heads, head_dim: self.head_dim, cache_type }
    }
}

/// Tokens of each sequence that there is room for at first.
const FIRST_TOKENS: usize = 512;

/// Keys and values of every layer, for sequences of one common length.
#[derive(Debug, Clone)]
pub struct KvCache {
    layers: Vec<LayerCache>,
    capacity: usize,
}

impl KvCache {
    /// Tokens held of each sequence.
    pub fn len(&self) -> usize {
        self.layers.first().map_or(0, LayerCache::len)
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
        let batch = first.sequences();
        if identity && sequences.len() == batch {
            return;
        }
        assert!(sequences.iter().all(|&sequence| sequence < batch), "select_sequences: {sequences:?} of {batch}");
        for layer in &mut self.layers {
            match layer {
                LayerCache::Tensors(layer) => layer.select_sequences(sequences),
                LayerCache::Pages(layer) => layer.select(sequences),
            }
        }
    }

    /// Forgets the tokens from `len` on; what is shorter already stays.
    pub fn truncate(&mut self, len: usize) {
        for layer in &mut self.layers {
            match layer {
                LayerCache::Tensors(layer) => layer.len = layer.len.min(len),
                LayerCache::Pages(layer) => layer.truncate(len),
            }
        }
    }
}

/// Keys and values of one layer.
// One for each layer of a model, so the size of the larger kind is no matter.
#[derive(Debug, Clone)]
#[allow(clippy::large_enum_variant)]
pub enum LayerCache {
    /// As tensors.
    Tensors(TensorCache),
    /// In pages.
    Pages(KvLayer),
}

impl LayerCache {
    fn len(&self) -> usize {
        match self {
            Self::Tensors(layer) => layer.len,
            Self::Pages(layer) => layer.len(),
        }
    }

    fn sequences(&self) -> usize {
        match self {
            Self::Tensors(layer) => layer.key.dims()[0],
            Self::Pages(layer) => layer.sequences(),
        }
    }

    /// The tensors.
    ///
    /// # Panics
    /// When it is pages, which models on the CPU take.
    pub(crate) fn tensors(&mut self) -> &mut TensorCache {
        match self {
            Self::Tensors(layer) => layer,
            Self::Pages(_) => panic!(
                "kv cache: pages, where a layer is called over tensors; make the cache with CacheFormat::Tensors"
            ),
        }
    }

    /// The pages.
    ///
    /// # Panics
    /// When it is tensors, which models on the CPU do not take.
    pub(crate) fn pages(&mut self) -> &mut KvLayer {
        match self {
            Self::Pages(layer) => layer,
            Self::Tensors(_) => {
                panic!("kv cache: tensors for a model that keeps pages; take the model's own new_cache")
            }
        }
    }
}

/// Keys and values of one layer as tensors.
#[derive(Debug, Clone)]
pub struct TensorCache {
    /// `[batch, kv_heads, allocated, head_dim]`
    key: Tensor<4>,
    value: Tensor<4>,
    len: usize,
    capacity: usize,
}

impl TensorCache {
    fn select_sequences(&mut self, sequences: &[usize]) {
        let ids: Vec<i64> = sequences.iter().map(|&sequence| sequence as i64).collect();
        let indices = Tensor::<1, Int>::from_data(ids.as_slice(), &self.key.device());
        self.key.inplace(|key| key.select(0, indices.clone()));
        self.value.inplace(|value| value.select(0, indices.clone()));
    }

    /// Appends `key` and `value` (`[batch, kv_heads, new, head_dim]`) and returns all held so far as views.
    ///
    /// # Panics
    /// When the capacity is exceeded; the engine admits only what fits.
    pub fn append(&mut self, key: Tensor<4>, value: Tensor<4>) -> (Tensor<4>, Tensor<4>) {
        let [batch, heads, new, dim] = key.dims();
        let [held, _, allocated, _] = self.key.dims();
        assert_eq!(batch, held, "kv cache: sequences fed and held");
        let end = self.len + new;
        assert!(end <= self.capacity, "kv cache: {end} tokens exceed the capacity of {}", self.capacity);
        if end > allocated {
            self.grow(end.max(2 * allocated).min(self.capacity));
        }
        let place = [0..batch, 0..heads, self.len..end, 0..dim];
        // In place because nobody else holds the buffer: the views given out before are gone by now.
        self.key.inplace(|buffer| buffer.slice_assign(place.clone(), key));
        self.value.inplace(|buffer| buffer.slice_assign(place, value));
        self.len = end;
        (self.key.clone().narrow(2, 0, end), self.value.clone().narrow(2, 0, end))
    }
}

impl TensorCache {
    /// Moves what is held to buffers for `allocated` tokens.
    fn grow(&mut self, allocated: usize) {
        let [batch, heads, _, dim] = self.key.dims();
        let len = self.len;
        let larger = |held: Tensor<4>| {
            let empty = Tensor::zeros([batch, heads, allocated, dim], (&held.device(), held.dtype()));
            if len == 0 {
                return empty;
            }
            empty.slice_assign([0..batch, 0..heads, 0..len, 0..dim], held.narrow(2, 0, len))
        };
        self.key.inplace(larger);
        self.value.inplace(larger);
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

#[cfg(test)]
mod tests {
    use fornax_backend::Device;

    use super::*;

    fn cache(batch: usize, capacity: usize) -> KvCache {
        let format = CacheFormat::Tensors(DType::F32);
        let config = KvCacheConfig { layers: 1, kv_heads: 1, head_dim: 2, batch, capacity, format };
        assert_eq!(config.bytes(), 2 * batch * capacity * 2 * 4);
        config.init(Device::cpu().as_burn())
    }

    /// `[batch, 1, new, 2]`, each sequence filled with its number.
    fn rows(values: &[f32], new: usize) -> Tensor<4> {
        let data: Vec<f32> = values.iter().flat_map(|&value| vec![value; 2 * new]).collect();
        Tensor::<1>::from_floats(data.as_slice(), Device::cpu().as_burn()).reshape([values.len(), 1, new, 2])
    }

    fn firsts(tensor: Tensor<4>) -> Vec<f32> {
        let [_, _, len, _] = tensor.dims();
        tensor.into_data().iter::<f32>().step_by(2 * len.max(1)).collect()
    }

    #[test]
    fn what_is_appended_comes_back_in_order() {
        let mut cache = cache(2, 3);
        cache.layers_mut()[0].tensors().append(rows(&[1.0, 2.0], 2), rows(&[1.0, 2.0], 2));
        let (key, value) = cache.layers_mut()[0].tensors().append(rows(&[3.0, 4.0], 1), rows(&[5.0, 6.0], 1));
        assert_eq!(key.into_data().iter::<f32>().collect::<Vec<_>>(), [1., 1., 1., 1., 3., 3., 2., 2., 2., 2., 4., 4.]);
        assert_eq!(value.dims(), [2, 1, 3, 2]);
        assert_eq!((cache.len(), cache.capacity()), (3, 3));
    }

    #[test]
    fn sequences_are_chosen_and_repeated() {
        let mut cache = cache(2, 4);
        cache.layers_mut()[0].tensors().append(rows(&[1.0, 2.0], 1), rows(&[1.0, 2.0], 1));
        cache.select_sequences(&[1, 1, 0]);
        let (key, _) = cache.layers_mut()[0].tensors().append(rows(&[0.0; 3], 1), rows(&[0.0; 3], 1));
        assert_eq!(firsts(key), [2.0, 2.0, 1.0]);
        cache.select_sequences(&[2]);
        let (key, _) = cache.layers_mut()[0].tensors().append(rows(&[0.0], 1), rows(&[0.0], 1));
        assert_eq!(firsts(key), [1.0]);
    }

    #[test]
    fn buffers_grow_up_to_the_capacity() {
        let mut cache = cache(1, FIRST_TOKENS + 7);
        for start in (0..FIRST_TOKENS).step_by(FIRST_TOKENS / 2) {
            let piece = rows(&[start as f32 + 1.0], FIRST_TOKENS / 2);
            cache.layers_mut()[0].tensors().append(piece.clone(), piece);
        }
        let (key, value) = cache.layers_mut()[0].tensors().append(rows(&[9.0], 7), rows(&[8.0], 7));
        assert_eq!((key.dims(), cache.len()), ([1, 1, FIRST_TOKENS + 7, 2], FIRST_TOKENS + 7));
        let (key, value): (Vec<f32>, Vec<f32>) = (key.into_data().iter().collect(), value.into_data().iter().collect());
        assert_eq!((key[0], key[FIRST_TOKENS], key[2 * FIRST_TOKENS], value[2 * FIRST_TOKENS]), (1.0, 257.0, 9.0, 8.0));
    }

    #[test]
    fn forgotten_tokens_are_overwritten() {
        let mut cache = cache(1, 2);
        cache.layers_mut()[0].tensors().append(rows(&[1.0], 2), rows(&[1.0], 2));
        cache.truncate(0);
        assert!(cache.is_empty());
        let (key, _) = cache.layers_mut()[0].tensors().append(rows(&[9.0], 1), rows(&[9.0], 1));
        assert_eq!(key.into_data().iter::<f32>().collect::<Vec<_>>(), [9.0, 9.0]);
    }

    #[test]
    #[should_panic(expected = "exceed the capacity of 1")]
    fn more_than_the_capacity_is_refused() {
        cache(1, 1).layers_mut()[0].tensors().append(rows(&[1.0], 2), rows(&[1.0], 2));
    }
}
