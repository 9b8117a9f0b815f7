//! The first half of a feed-forward layer: a linear map with its activation, or two with their gated product
//! (Shazeer, 2020, <https://arxiv.org/abs/2002.05202>). On the CPU neither map's result is held in memory whole.

pub mod cases;

use burn::tensor::Tensor;

use super::activation::{Activation, activate, gated};
use super::linear::{LinearRef, Maps, reference};
use crate::{buffers, from_values};

/// `activation(gate(x)) · up(x)`, or `activation(up(x))` without a gate.
///
/// - `x`: `[rows, in]`
/// - returns `[rows, out]`, of which both maps have as many
///
/// # Panics
/// When the operands do not fit, as [`linear`](super::linear()), or the maps differ in their output features.
pub fn gated_linear(
    x: Tensor<2>,
    gate: Option<&LinearRef<'_>>,
    up: &LinearRef<'_>,
    activation: Activation,
) -> Tensor<2> {
    let dims @ [rows, _] = x.dims();
    let columns = up.check(&dims);
    if let Some(gate) = gate {
        assert_eq!(gate.check(&dims), columns, "gated_linear: output features of gate and up");
    }
    if rows == 0 || columns == 0 {
        return Tensor::zeros([rows, columns], (&x.device(), x.dtype()));
    }
    match on_cpu(&x, gate, up, activation, [rows, columns]) {
        Some(y) => {
            let device = x.device();
            buffers::recycle(x);
            from_values(y, [rows, columns], &device)
        }
        None => {
            let inner = reference::linear(x.clone(), up);
            match gate {
                Some(gate) => gated(reference::linear(x, gate), inner, activation),
                None => activate(inner, activation),
            }
        }
    }
}

fn on_cpu(
    x: &Tensor<2>,
    gate: Option<&LinearRef<'_>>,
    up: &LinearRef<'_>,
    activation: Activation,
    [rows, columns]: [usize; 2],
) -> Option<Vec<f32>> {
    match gate {
        Some(gate) => {
            let (values, maps) = Maps::of(x, [gate, up])?;
            let mut y = buffers::take(rows * columns);
            maps.gated(&values, rows, activation, &mut y);
            Some(y)
        }
        None => {
            let (values, maps) = Maps::of(x, [up])?;
            let mut y = buffers::take(rows * columns);
            maps.activated(&values, rows, activation, &mut y);
            Some(y)
        }
    }
}
