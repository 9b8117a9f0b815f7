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
    /// `x: [..., hidden_size]` → the same shape.
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        let inner = match &self.gate {
            Some(gate) => ops::gated(gate.forward(x.clone()), self.up.forward(x), self.activation),
            None => self.activation.apply(self.up.forward(x)),
        };
        self.down.forward(inner)
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

    fn all_packed(&self) -> bool {
        self.gate.iter().chain([&self.up, &self.down]).all(Linear::all_packed)
    }
}
