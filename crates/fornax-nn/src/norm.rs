//! The two normalizations of transformers, and a choice between them for stacks that take either.

use burn::module::{Initializer, Module, Param};
use burn::tensor::{DType, Device, Tensor};
use fornax_backend::ops;

/// Which normalization, and its ε.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum NormConfig {
    /// [`RmsNorm`].
    Rms {
        /// Added to the mean square.
        epsilon: f64,
    },
    /// [`LayerNorm`].
    Layer {
        /// Added to the variance.
        epsilon: f64,
    },
}

impl NormConfig {
    /// Makes the layer for vectors of this length, with weights of 1 and biases of 0.
    pub fn init(&self, features: usize, device: &Device) -> Norm {
        match *self {
            Self::Rms { epsilon } => Norm::Rms(RmsNorm::init(features, epsilon, device)),
            Self::Layer { epsilon } => Norm::Layer(LayerNorm::init(features, epsilon, device)),
        }
    }
}

/// Either normalization.
#[derive(Module, Debug)]
pub enum Norm {
    /// Root mean square.
    Rms(RmsNorm),
    /// Mean and variance.
    Layer(LayerNorm),
}

impl Norm {
    /// Where its weights are.
    pub fn device(&self) -> Device {
        self.weight().lazy_device()
    }

    /// The type that it computes in.
    pub fn dtype(&self) -> DType {
        self.weight().val().dtype()
    }

    fn weight(&self) -> &Param<Tensor<1>> {
        match self {
            Self::Rms(norm) => &norm.weight,
            Self::Layer(norm) => &norm.weight,
        }
    }

    /// `x: [..., features]` → the same shape.
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        match self {
            Self::Rms(norm) => norm.forward(x),
            Self::Layer(norm) => norm.forward(x),
        }
    }
}

/// `x / sqrt(mean(x²) + ε) · weight` (<https://arxiv.org/abs/1910.07467>).
#[derive(Module, Debug)]
pub struct RmsNorm {
    /// `[features]`.
    pub weight: Param<Tensor<1>>,
    /// Added to the mean square.
    #[module(skip)]
    pub epsilon: f64,
}

impl RmsNorm {
    /// A norm of vectors of this length, with weights of 1.
    pub fn init(features: usize, epsilon: f64, device: &Device) -> Self {
        Self { weight: Initializer::Ones.init([features], device), epsilon }
    }

    /// `x: [..., features]` → the same shape.
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        ops::rms_norm(x, self.weight.val(), self.epsilon)
    }
}

/// `(x − mean) / sqrt(var + ε) · weight + bias` (<https://arxiv.org/abs/1607.06450>).
#[derive(Module, Debug)]
pub struct LayerNorm {
    /// `[features]`.
    pub weight: Param<Tensor<1>>,
    /// `[features]`.
    pub bias: Param<Tensor<1>>,
    /// Added to the variance.
    #[module(skip)]
    pub epsilon: f64,
}

impl LayerNorm {
    /// A norm of vectors of this length, with weights of 1 and biases of 0.
    pub fn init(features: usize, epsilon: f64, device: &Device) -> Self {
        Self {
            weight: Initializer::Ones.init([features], device),
            bias: Initializer::Zeros.init([features], device),
            epsilon,
        }
    }

    /// `x: [..., features]` → the same shape.
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        ops::layer_norm(x, self.weight.val(), Some(self.bias.val()), self.epsilon)
    }
}
