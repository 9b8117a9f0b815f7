//! A table of vectors, looked up by token id or position. Checking that ids are inside it is the caller's part.

use burn::module::Module;
use burn::tensor::{Device, Int, Tensor};
use fornax_backend::from_values;

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
    /// `ids: [batch, seq]` → `[batch, seq, dim]`.
    pub fn forward(&self, ids: Tensor<2, Int>) -> Tensor<3> {
        match &self.weight {
            Weight::Dense(param) => burn::tensor::module::embedding(param.val(), ids),
            Weight::Packed(_) => {
                let ([batch, seq], device) = (ids.dims(), ids.device());
                let ids: Vec<usize> = ids.into_data().iter::<i64>().map(|id| id as usize).collect();
                from_values(self.rows(&ids), [batch, seq, self.weight.dims()[1]], &device)
            }
        }
    }

    /// The vectors of these ids from a packed table, one after the other.
    ///
    /// # Panics
    /// When the table is not packed, or an id is outside of it.
    pub(crate) fn rows(&self, ids: &[usize]) -> Vec<f32> {
        let weight = self.weight.packed().expect("asked of packed tables alone");
        let mut rows = vec![0.0; ids.len() * weight.in_features()];
        for (row, &id) in rows.chunks_exact_mut(weight.in_features().max(1)).zip(ids) {
            weight.read_row(id, row);
        }
        rows
    }

    /// The table as an output layer, for models that tie the two: `x: [..., dim]` → `[..., num_embeddings]`.
    pub fn project<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        self.weight.linear(x, None)
    }
}

impl Weights for Embedding {
    fn for_each_weight(&mut self, path: &str, visit: &mut dyn FnMut(&str, &mut Weight)) {
        visit(&format!("{path}.weight"), &mut self.weight);
    }

    fn all_packed(&self) -> bool {
        self.weight.packed().is_some()
    }
}
