//! A model defined from the layers: one attention and one MLP over embedded tokens.

#![allow(clippy::print_stdout, reason = "an example shows what it has")]

use fornax::burn::module::Module;
use fornax::burn::tensor::{Device as BurnDevice, Int, Tensor};
use fornax::nn::{Activation, Attention, AttentionConfig, Embedding, EmbeddingConfig, Mlp, MlpConfig, RmsNorm};
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

    /// `tokens: [batch, seq]` → logits `[batch, seq, vocab_size]`.
    fn forward(&self, tokens: Tensor<2, Int>) -> Tensor<3> {
        let x = self.embedding.forward(tokens);
        let x = x.clone() + self.attention.forward(self.norm.forward(x), None, None, None);
        self.embedding.project(x.clone() + self.mlp.forward(x))
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let device = Device::best()?;
    let model = TinyModel::init(100, 64, &device);
    let logits = model.forward(Tensor::from_ints([[1, 2, 3, 4]], &device));
    println!("{} parameters, logits {:?}", model.num_params(), logits.dims());
    Ok(())
}
