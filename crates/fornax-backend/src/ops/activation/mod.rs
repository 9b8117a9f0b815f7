//! The non-linearities of feed-forward layers, and the gated product of two branches
//! (Shazeer, 2020, <https://arxiv.org/abs/2002.05202>). The linear maps around them are not here.

pub mod cases;
pub mod reference;

use burn::tensor::Tensor;
pub use fornax_cpu::rows::Activation;
use fornax_cpu::rows::{self, Rows};
use fornax_cpu::{Isa, Pool};

use crate::values::{cpu_tensor, into_values};
use crate::{Values, buffers};

/// Applies a non-linearity to every element.
pub fn activate<const D: usize>(x: Tensor<D>, activation: Activation) -> Tensor<D> {
    let dims = x.dims();
    let x = match into_values(x) {
        Ok(x) => x,
        Err(x) => return reference::activate(x, activation),
    };
    let mut y = buffers::take(x.len());
    y.copy_from_slice(&x);
    buffers::recycle(x);
    rows::activate(Pool::global(), Isa::active(), &mut y, activation);
    cpu_tensor(y, dims)
}

/// `activation(gate) · up`, elementwise; both of the same shape.
///
/// # Panics
/// When the shapes differ.
pub fn gated<const D: usize>(gate: Tensor<D>, up: Tensor<D>, activation: Activation) -> Tensor<D> {
    assert_eq!(gate.dims(), up.dims(), "gated: the two branches");
    let dims = gate.dims();
    let (gate, up) = match (into_values(gate), into_values(up)) {
        (Ok(gate), Ok(up)) => (gate, up),
        (gate, up) => {
            let [gate, up] = [gate, up].map(|operand| operand.map_or_else(|tensor| tensor, Values::into_tensor));
            return reference::activate(gate, activation) * up;
        }
    };
    let columns = *dims.last().unwrap_or(&1);
    let count = gate.len().checked_div(columns).unwrap_or(0);
    let both = [&gate, &up].map(|values| Rows::new(values, columns));
    let mut y = buffers::take(gate.len());
    rows::gated(Pool::global(), Isa::active(), both[0], both[1], count, columns, activation, &mut y);
    buffers::recycle(gate);
    buffers::recycle(up);
    cpu_tensor(y, dims)
}
