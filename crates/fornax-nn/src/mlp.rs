//! The feed-forward part of a transformer layer, plain (two linear maps) or gated (three).

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use fornax_backend::ops::{self, Activation};

use crate::{Linear, LinearConfig, Weight, Weights};

/// Configuration of an [`Mlp`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct MlpConfig {
    /// Size of input and output.
    pub hidden_size: usize,
    /// Size between the maps.
    pub intermediate_size: usize,
    /// The non-linearity.
    pub activation: Activation,
    /// Whether a second branch is multiplied with the activated one (SwiGLU and its kin).
    pub gated: bool,
    /// Whether the linear maps have biases.
    pub bias: bool,
    /// Standard deviation of the initial weights.
    pub initializer_range: f64,
}

impl MlpConfig {
    /// Makes the layer; its weights are drawn when they are first used.
    pub fn init(&self, device: &Device) -> Mlp {
        let linear = |in_features, out_features| {
            LinearConfig { in_features, out_features, bias: self.bias, initializer_range: self.initializer_range }
                .init(device)
        };
        Mlp {
            gate: self.gated.then(|| linear(self.hidden_size, self.intermediate_size)),
            up: linear(self.hidden_size, self.intermediate_size),
            down: linear(self.intermediate_size, self.hidden_size),
            activation: self.activation,
        }
    }
}

/// `down(activation(gate(x)) · up(x))` with a gate, `down(activation(up(x)))` without.
#[derive(Module, Debug)]
pub struct Mlp {
    /// The activated branch of a gated MLP.
    pub gate: Option<Linear>,
    /// Hidden to intermediate size.
    pub up: Linear,
    /// Intermediate to hidden size.
    pub down: Linear,
    /// The non-linearity.
    #[module(skip)]
    pub activation: Activation,
}

impl Mlp {
    /// `x: [rows, hidden_size]` → the same shape.
    pub fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        self.down.forward(self.inner(x))
    }

    /// The layer added to a residual: `residual + mlp(x)`, all `[rows, hidden_size]`.
    pub fn forward_add(&self, x: Tensor<2>, residual: Tensor<2>) -> Tensor<2> {
        self.down.forward_add(self.inner(x), residual)
    }

    /// `[rows, hidden_size]` → `[rows, intermediate_size]`
    fn inner(&self, x: Tensor<2>) -> Tensor<2> {
        let gate = self.gate.as_ref().map(Linear::as_ref);
        ops::gated_linear(x, gate.as_ref(), &self.up.as_ref(), self.activation)
    }
}

impl Weights for Mlp {
    fn for_each_weight(&mut self, path: &str, visit: &mut dyn FnMut(&str, &mut Weight)) {
        if let Some(gate) = &mut self.gate {
            gate.for_each_weight(&format!("{path}.gate"), visit);
        }
        self.up.for_each_weight(&format!("{path}.up"), visit);
        self.down.for_each_weight(&format!("{path}.down"), visit);
    }
}
