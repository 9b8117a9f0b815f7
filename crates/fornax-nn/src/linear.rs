//! A linear map with its weights, of whatever kind. Adapted weights will be a kind of weight too, not another layer.

use burn::module::{Initializer, Module, Param};
use burn::tensor::{Device, Tensor};
use fornax_backend::ops::{self, LinearRef};

use crate::{Weight, Weights};

/// Configuration of a [`Linear`].
///
/// ```
/// use burn::tensor::Tensor;
/// use fornax_nn::LinearConfig;
///
/// let device = fornax_backend::Device::cpu();
/// let linear = LinearConfig::new(4, 6).init(&device);
/// let y = linear.forward(Tensor::<3>::ones([2, 3, 4], device.as_burn()));
/// assert_eq!(y.dims(), [2, 3, 6]);
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LinearConfig {
    /// Size of the input's last dimension.
    pub in_features: usize,
    /// Size of the output's last dimension.
    pub out_features: usize,
    /// Whether a bias is added.
    pub bias: bool,
    /// Standard deviation of the initial weights, which are normal around 0; the bias starts at 0.
    pub initializer_range: f64,
}

impl LinearConfig {
    /// Without bias, with weights of standard deviation 0.02.
    pub fn new(in_features: usize, out_features: usize) -> Self {
        Self { in_features, out_features, bias: false, initializer_range: 0.02 }
    }

    /// With or without bias.
    #[must_use]
    pub fn with_bias(self, bias: bool) -> Self {
        Self { bias, ..self }
    }

    /// Makes the layer; its weights are drawn when they are first used.
    pub fn init(&self, device: &Device) -> Linear {
        let shape = [self.out_features, self.in_features];
        Linear {
            weight: Weight::init(shape, self.initializer_range, device),
            bias: self.bias.then(|| Initializer::Zeros.init([self.out_features], device)),
        }
    }
}

/// `y = x Wᵀ + b`.
#[derive(Module, Debug)]
pub struct Linear {
    /// `[out_features, in_features]`, as checkpoints hold it.
    pub weight: Weight,
    /// `[out_features]`.
    pub bias: Option<Param<Tensor<1>>>,
}

impl Linear {
    /// `x: [..., in_features]` → `[..., out_features]`.
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        ops::linear(x, &self.as_ref())
    }

    /// The map added to a residual: `x: [rows, in_features]`, `residual: [rows, out_features]` → the residual's shape.
    pub fn forward_add(&self, x: Tensor<2>, residual: Tensor<2>) -> Tensor<2> {
        ops::linear_add(x, &self.as_ref(), residual)
    }

    /// The map as an operand.
    pub fn as_ref(&self) -> LinearRef<'_> {
        LinearRef { weight: self.weight.as_ref(), bias: self.bias.as_ref().map(Param::val) }
    }
}

impl Weights for Linear {
    fn for_each_weight(&mut self, path: &str, visit: &mut dyn FnMut(&str, &mut Weight)) {
        visit(&format!("{path}.weight"), &mut self.weight);
    }
}
