//! A table of vectors, looked up by token id or position. Checking that ids are inside it is the caller's part.

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use fornax_backend::ops::{self, LinearRef};

use crate::{Weight, Weights};

/// Configuration of an [`Embedding`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct EmbeddingConfig {
    /// Rows of the table.
    pub num_embeddings: usize,
    /// Length of each.
    pub dim: usize,
    /// Standard deviation of the initial weights, which are normal around 0.
    pub initializer_range: f64,
}

impl EmbeddingConfig {
    /// With weights of standard deviation 0.02.
    pub fn new(num_embeddings: usize, dim: usize) -> Self {
        Self { num_embeddings, dim, initializer_range: 0.02 }
    }

    /// Makes the table; its weights are drawn when they are first used.
    pub fn init(&self, device: &Device) -> Embedding {
        Embedding { weight: Weight::init([self.num_embeddings, self.dim], self.initializer_range, device) }
    }
}

/// A table of vectors.
#[derive(Module, Debug)]
pub struct Embedding {
    /// `[num_embeddings, dim]`.
    pub weight: Weight,
}

impl Embedding {
    /// The vectors of `ids`, on `device`: `[ids, dim]`.
    ///
    /// # Panics
    /// When an id is not in the table.
    pub fn forward(&self, ids: &[u32], device: &Device) -> Tensor<2> {
        ops::embedding(ids, &self.weight.as_ref(), device)
    }

    /// The table as an output layer, for models that tie the two: `x: [..., dim]` → `[..., num_embeddings]`.
    pub fn project<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        ops::linear(x, &LinearRef { weight: self.weight.as_ref(), bias: None })
    }
}

impl Weights for Embedding {
    fn for_each_weight(&mut self, path: &str, visit: &mut dyn FnMut(&str, &mut Weight)) {
        visit(&format!("{path}.weight"), &mut self.weight);
    }
}
