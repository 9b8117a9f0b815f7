//! The non-linearities of feed-forward layers, and the gated product of two branches
//! (Shazeer, 2020, <https://arxiv.org/abs/2002.05202>). The linear maps around them are not here.

pub mod cases;

use std::fmt;
use std::str::FromStr;

use burn::tensor::{Tensor, activation};

/// A non-linearity by the name that a `config.json` gives it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Activation {
    /// `max(x, 0)`.
    Relu,
    /// `max(x, 0)²`.
    ReluSquared,
    /// `x · Φ(x)` with the exact error function.
    Gelu,
    /// GELU by its tanh approximation.
    GeluTanh,
    /// `x · sigmoid(1.702 x)`.
    QuickGelu,
    /// `x · sigmoid(x)`, also called swish.
    Silu,
    /// Hyperbolic tangent.
    Tanh,
    /// Logistic sigmoid.
    Sigmoid,
}

/// The name of an activation that this crate does not know.
#[derive(Debug, thiserror::Error)]
#[error(
    "activation {found:?} is unknown; expected one of relu, relu2, gelu, gelu_new, gelu_pytorch_tanh, gelu_fast, quick_gelu, silu, swish, tanh, sigmoid"
)]
pub struct UnknownActivation {
    /// The name as it was given.
    pub found: String,
}

impl Activation {
    /// Applies it to every element.
    pub fn apply<const D: usize>(self, x: Tensor<D>) -> Tensor<D> {
        match self {
            Self::Relu => activation::relu(x),
            Self::ReluSquared => activation::relu(x).square(),
            Self::Gelu => activation::gelu(x),
            Self::GeluTanh => activation::gelu_approximate(x),
            Self::QuickGelu => x.clone() * activation::sigmoid(x.mul_scalar(1.702)),
            Self::Silu => activation::silu(x),
            Self::Tanh => x.tanh(),
            Self::Sigmoid => activation::sigmoid(x),
        }
    }

    /// Every activation.
    pub const ALL: [Self; 8] = [
        Self::Relu,
        Self::ReluSquared,
        Self::Gelu,
        Self::GeluTanh,
        Self::QuickGelu,
        Self::Silu,
        Self::Tanh,
        Self::Sigmoid,
    ];
}

impl From<Activation> for fornax_cpu::rows::Activation {
    fn from(activation: Activation) -> Self {
        match activation {
            Activation::Relu => Self::Relu,
            Activation::ReluSquared => Self::ReluSquared,
            Activation::Gelu => Self::Gelu,
            Activation::GeluTanh => Self::GeluTanh,
            Activation::QuickGelu => Self::QuickGelu,
            Activation::Silu => Self::Silu,
            Activation::Tanh => Self::Tanh,
            Activation::Sigmoid => Self::Sigmoid,
        }
    }
}

/// `activation(gate) · up`, elementwise; both of the same shape.
///
/// # Panics
/// When the shapes differ.
pub fn gated<const D: usize>(gate: Tensor<D>, up: Tensor<D>, activation: Activation) -> Tensor<D> {
    assert_eq!(gate.dims(), up.dims(), "gated: the two branches");
    activation.apply(gate) * up
}

impl fmt::Display for Activation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Relu => "relu",
            Self::ReluSquared => "relu2",
            Self::Gelu => "gelu",
            Self::GeluTanh => "gelu_new",
            Self::QuickGelu => "quick_gelu",
            Self::Silu => "silu",
            Self::Tanh => "tanh",
            Self::Sigmoid => "sigmoid",
        })
    }
}

impl FromStr for Activation {
    type Err = UnknownActivation;

    fn from_str(name: &str) -> Result<Self, UnknownActivation> {
        match name {
            "relu" => Ok(Self::Relu),
            "relu2" => Ok(Self::ReluSquared),
            "gelu" => Ok(Self::Gelu),
            "gelu_new" | "gelu_pytorch_tanh" | "gelu_fast" => Ok(Self::GeluTanh),
            "quick_gelu" => Ok(Self::QuickGelu),
            "silu" | "swish" => Ok(Self::Silu),
            "tanh" => Ok(Self::Tanh),
            "sigmoid" => Ok(Self::Sigmoid),
            _ => Err(UnknownActivation { found: name.to_owned() }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip() {
        for activation in Activation::ALL {
            assert_eq!(activation.to_string().parse::<Activation>().expect("its own name"), activation);
        }
        assert!("gelu_old".parse::<Activation>().expect_err("no such name").to_string().contains("gelu_old"));
    }
}
