//! The matrix of a linear map or of a table of vectors: numbers that can be trained, or packed ones that are only read.
//! Which of the two, and of what type, is the loader's choice; layers do not ask.

use burn::module::{Initializer, Module, Param};
use burn::tensor::{Device, Tensor};
use fornax_backend::ops::WeightRef;
use fornax_cpu::PackedWeight;

/// A matrix `[out_features, in_features]`.
#[derive(Module, Debug)]
pub enum Weight {
    /// A tensor on any device, which gradients can be recorded for.
    Dense(Param<Tensor<2>>),
    /// Packed for the CPU's kernels, in main memory. It is no parameter: optimizers, and walks over a module's parameters,
    /// pass it by.
    Packed(Packed),
}

/// A packed weight as part of a module.
#[derive(Module, Debug)]
pub struct Packed {
    /// The weight.
    #[module(skip)]
    pub weight: PackedWeight,
}

impl Weight {
    /// A matrix drawn from a normal distribution when it is first used.
    pub(crate) fn init([out_features, in_features]: [usize; 2], initializer_range: f64, device: &Device) -> Self {
        let initializer = Initializer::Normal { mean: 0.0, std: initializer_range };
        Self::Dense(initializer.init([out_features, in_features], device))
    }

    /// `[out_features, in_features]`.
    pub fn dims(&self) -> [usize; 2] {
        match self {
            Self::Dense(param) => param.lazy_shape().dims(),
            Self::Packed(Packed { weight }) => [weight.out_features(), weight.in_features()],
        }
    }

    /// The tensor, where it is one.
    pub fn dense(&self) -> Option<&Param<Tensor<2>>> {
        match self {
            Self::Dense(param) => Some(param),
            Self::Packed(_) => None,
        }
    }

    /// The packed weight, where it is one.
    pub fn packed(&self) -> Option<&PackedWeight> {
        match self {
            Self::Dense(_) => None,
            Self::Packed(Packed { weight }) => Some(weight),
        }
    }

    /// The matrix as an operand.
    pub fn as_ref(&self) -> WeightRef<'_> {
        match self {
            Self::Dense(param) => WeightRef::Dense(param.val()),
            Self::Packed(Packed { weight }) => WeightRef::Packed(weight),
        }
    }
}

impl From<PackedWeight> for Weight {
    fn from(weight: PackedWeight) -> Self {
        Self::Packed(Packed { weight })
    }
}

/// Layers that hold weights which can be packed.
pub trait Weights {
    /// Calls `visit` with each of them and the name of its parameter, such as `layers.3.mlp.up.weight`, below `path`.
    fn for_each_weight(&mut self, path: &str, visit: &mut dyn FnMut(&str, &mut Weight));
}
