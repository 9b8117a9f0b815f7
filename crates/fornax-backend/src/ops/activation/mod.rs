//! The non-linearities of feed-forward layers, and the gated product of two branches
//! (Shazeer, 2020, <https://arxiv.org/abs/2002.05202>). The linear maps around them are not here.

pub mod cases;
pub mod reference;

use burn::tensor::Tensor;
pub use fornax_cpu::rows::Activation;
use fornax_cpu::rows::{self, Rows};
use fornax_cpu::{Isa, Pool};

use crate::{buffers, from_values, values};

/// Applies a non-linearity to every element.
pub fn activate<const D: usize>(x: Tensor<D>, activation: Activation) -> Tensor<D> {
    if let Some(x_values) = values(&x) {
        let mut y = buffers::take(x_values.len());
        y.copy_from_slice(&x_values);
        rows::activate(Pool::global(), Isa::active(), &mut y, activation);
        drop(x_values);
        let (dims, device) = (x.dims(), x.device());
        buffers::recycle(x);
        return from_values(y, dims, &device);
    }
    reference::activate(x, activation)
}

/// `activation(gate) · up`, elementwise; both of the same shape.
///
/// # Panics
/// When the shapes differ.
pub fn gated<const D: usize>(gate: Tensor<D>, up: Tensor<D>, activation: Activation) -> Tensor<D> {
    assert_eq!(gate.dims(), up.dims(), "gated: the two branches");
    if let (Some(gate_values), Some(up_values)) = (values(&gate), values(&up)) {
        let columns = *gate.dims().last().unwrap_or(&1);
        let count = gate_values.len().checked_div(columns).unwrap_or(0);
        let both = [&gate_values, &up_values].map(|values| Rows::new(values, columns));
        let mut y = buffers::take(gate_values.len());
        rows::gated(Pool::global(), Isa::active(), both[0], both[1], count, columns, activation, &mut y);
        drop((gate_values, up_values));
        let (dims, device) = (gate.dims(), gate.device());
        buffers::recycle(gate);
        buffers::recycle(up);
        return from_values(y, dims, &device);
    }
    reference::activate(gate, activation) * up
}
