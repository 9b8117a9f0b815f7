//! A table of vectors, looked up by token id or position. Checking that ids are inside it is the caller's part.

use burn::module::{Initializer, Module, Param};
use burn::tensor::{Device, Int, Tensor};
use fornax_backend::ops;

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
        let initializer = Initializer::Normal { mean: 0.0, std: self.initializer_range };
        Embedding { weight: initializer.init([self.num_embeddings, self.dim], device) }
    }
}

/// A table of vectors.
#[derive(Module, Debug)]
pub struct Embedding {
    /// `[num_embeddings, dim]`.
    pub weight: Param<Tensor<2>>,
}

impl Embedding {
    /// `ids: [batch, seq]` → `[batch, seq, dim]`.
    pub fn forward(&self, ids: Tensor<2, Int>) -> Tensor<3> {
        burn::tensor::module::embedding(self.weight.val(), ids)
    }

    /// The table as an output layer, for models that tie the two: `x: [..., dim]` → `[..., num_embeddings]`.
    pub fn project<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        ops::linear(x, self.weight.val(), None)
    }
}
