//! The two normalizations of transformers, and a choice between them for stacks that take either.

use burn::module::{Initializer, Module, Param};
use burn::tensor::{DType, Device, Tensor};
use fornax_backend::ops::{self, RmsNormOptions};
use fornax_backend::values;

/// Which normalization, and its ε.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum NormConfig {
    /// [`RmsNorm`].
    Rms {
        /// Added to the mean square.
        epsilon: f64,
        /// Added to the weights: 1 for models that keep them around 0 (Gemma), else 0.
        offset: f64,
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
            Self::Rms { epsilon, offset } => Norm::Rms(RmsNorm::with_offset(features, epsilon, offset, device)),
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

    /// Whether it is on the CPU, in `f32` without gradients, so that its layer is computed by the CPU's kernels.
    pub(crate) fn is_plain(&self) -> bool {
        values(&self.weight().val()).is_some()
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

    /// The norm added to a residual: `residual + norm(x)`, both `[..., features]`.
    pub fn forward_add<const D: usize>(&self, x: Tensor<D>, residual: Tensor<D>) -> Tensor<D> {
        match self {
            Self::Rms(norm) => ops::rms_norm(x, norm.weight.val(), Some(residual), norm.options()),
            Self::Layer(norm) => residual + norm.forward(x),
        }
    }
}

/// `x / sqrt(mean(x²) + ε) · (offset + weight)` (<https://arxiv.org/abs/1910.07467>).
#[derive(Module, Debug)]
pub struct RmsNorm {
    /// `[features]`.
    pub weight: Param<Tensor<1>>,
    /// Added to the mean square.
    #[module(skip)]
    pub epsilon: f64,
    /// Added to the weight.
    #[module(skip)]
    pub offset: f64,
}

impl RmsNorm {
    /// A norm of vectors of this length, with weights of 1 and no offset.
    pub fn init(features: usize, epsilon: f64, device: &Device) -> Self {
        Self::with_offset(features, epsilon, 0.0, device)
    }

    /// A norm that adds `offset` to its weights, which start at `1 - offset`.
    pub fn with_offset(features: usize, epsilon: f64, offset: f64, device: &Device) -> Self {
        let value = 1.0 - offset;
        Self { weight: Initializer::Constant { value }.init([features], device), epsilon, offset }
    }

    /// `x: [..., features]` → the same shape.
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        ops::rms_norm(x, self.weight.val(), None, self.options())
    }

    fn options(&self) -> RmsNormOptions {
        RmsNormOptions { epsilon: self.epsilon, offset: self.offset }
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
