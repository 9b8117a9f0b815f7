//! The first half of a feed-forward layer: a linear map with its activation, or two with their gated product
//! (Shazeer, 2020, <https://arxiv.org/abs/2002.05202>). On the CPU, the whole result of neither map is held in memory.

pub mod cases;

use burn::tensor::Tensor;

use super::activation::{Activation, activate, gated};
use super::linear::{LinearRef, Maps, reference};
use crate::buffers;
use crate::values::{cpu_tensor, into_values};

/// `activation(gate(x)) · up(x)`, or `activation(up(x))` without a gate.
///
/// - `x`: `[rows, in]`
/// - returns `[rows, out]`; both maps have the same `out`
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
    let in_tensors = |x: Tensor<2>| {
        let inner = reference::linear(x.clone(), up);
        match gate {
            Some(gate) => gated(reference::linear(x, gate), inner, activation),
            None => activate(inner, activation),
        }
    };
    let kernels = match gate {
        Some(gate) => Maps::of([gate, up]).map(Kernels::Gated),
        None => Maps::of([up]).map(Kernels::Plain),
    };
    let Some(kernels) = kernels else { return in_tensors(x) };
    let x = match into_values(x) {
        Ok(x) => x,
        Err(x) => return in_tensors(x),
    };
    let mut y = buffers::take(rows * columns);
    match kernels {
        Kernels::Gated(maps) => maps.gated(&x, rows, activation, &mut y),
        Kernels::Plain(maps) => maps.activated(&x, rows, activation, &mut y),
    }
    buffers::recycle(x);
    cpu_tensor(y, [rows, columns])
}

// It lives for a call.
#[allow(clippy::large_enum_variant)]
enum Kernels<'a> {
    Gated(Maps<'a, 2>),
    Plain(Maps<'a, 1>),
}
