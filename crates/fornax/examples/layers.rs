//! A model defined from the layers: one attention and one MLP over the embedded tokens of two sequences.

#![allow(clippy::print_stdout, reason = "an example shows what it has")]

use fornax::burn::module::Module;
use fornax::burn::tensor::{Device as BurnDevice, Tensor};
use fornax::nn::{Activation, Attention, AttentionConfig, Batch, Embedding, EmbeddingConfig, Mlp, MlpConfig, RmsNorm};
use fornax::prelude::*;

#[derive(Module, Debug)]
struct TinyModel {
    embedding: Embedding,
    norm: RmsNorm,
    attention: Attention,
    mlp: Mlp,
}

impl TinyModel {
    fn init(vocab_size: usize, size: usize, device: &BurnDevice) -> Self {
        let mlp = MlpConfig {
            hidden_size: size,
            intermediate_size: 4 * size,
            activation: Activation::Silu,
            gated: true,
            bias: false,
            initializer_range: 0.02,
        };
        Self {
            embedding: EmbeddingConfig::new(vocab_size, size).init(device),
            norm: RmsNorm::init(size, 1e-6, device),
            attention: AttentionConfig::causal(size, 4, 2).init(device),
            mlp: mlp.init(device),
        }
    }

    /// The tokens of a batch → logits `[rows, vocab_size]`.
    fn forward(&self, batch: &Batch, device: &BurnDevice) -> Tensor<2> {
        let x = self.embedding.forward(batch.tokens(), device);
        let x = x.clone() + self.attention.forward(self.norm.forward(x), batch.sequences(), None, None);
        self.embedding.project(self.mlp.forward_add(x.clone(), x))
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let device = Device::best()?;
    let model = TinyModel::init(100, 64, &device);
    let logits = model.forward(&Batch::uncached(&[&[1, 2, 3, 4], &[5, 6]]), &device);
    println!("{} parameters, logits {:?}", model.num_params(), logits.dims());
    Ok(())
}
