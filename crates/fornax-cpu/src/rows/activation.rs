//! The non-linearities of feed-forward layers, and the gated product of two branches
//! (Shazeer, 2020, <https://arxiv.org/abs/2002.05202>).

use std::fmt;
use std::ops::Range;
use std::str::FromStr;

use super::{Rows, SharedRows, in_pieces};
use crate::simd::{Kernel, Simd, dispatch, erfc_positive, sigmoid, tanh};
use crate::{CpuError, Isa, Pool};

/// A non-linearity, by the name that a `config.json` gives it.
///
/// ```
/// use fornax_cpu::rows::Activation;
///
/// let activation: Activation = "gelu_pytorch_tanh".parse().expect("a known name");
/// assert_eq!(activation, Activation::GeluTanh);
/// ```
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

impl Activation {
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

    #[inline(always)]
    fn apply<S: Simd>(self, s: S, x: S::V) -> S::V {
        let zero = s.splat(0.0);
        match self {
            // Not a number comes through as the second argument.
            Self::Relu => s.max(zero, x),
            Self::ReluSquared => {
                let x = s.max(zero, x);
                s.mul(x, x)
            }
            Self::Gelu => {
                let tail = s.mul(s.splat(0.5), erfc_positive(s, s.abs(x)));
                s.mul(x, s.if_less(x, zero, tail, s.sub(s.splat(1.0), tail)))
            }
            Self::GeluTanh => {
                // (1 + tanh(y)) / 2 is sigmoid(2 y), which loses nothing where tanh(y) is close to -1.
                let slope = s.fma(s.mul(x, x), s.splat(2.0 * 0.797_884_6 * 0.044_715), s.splat(2.0 * 0.797_884_6));
                s.mul(x, sigmoid(s, s.mul(x, slope)))
            }
            Self::QuickGelu => s.mul(x, sigmoid(s, s.mul(x, s.splat(1.702)))),
            Self::Silu => s.mul(x, sigmoid(s, x)),
            Self::Tanh => tanh(s, x),
            Self::Sigmoid => sigmoid(s, x),
        }
    }
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
    type Err = CpuError;

    fn from_str(name: &str) -> Result<Self, CpuError> {
        match name {
            "relu" => Ok(Self::Relu),
            "relu2" => Ok(Self::ReluSquared),
            "gelu" => Ok(Self::Gelu),
            "gelu_new" | "gelu_pytorch_tanh" | "gelu_fast" => Ok(Self::GeluTanh),
            "quick_gelu" => Ok(Self::QuickGelu),
            "silu" | "swish" => Ok(Self::Silu),
            "tanh" => Ok(Self::Tanh),
            "sigmoid" => Ok(Self::Sigmoid),
            _ => Err(CpuError::UnknownActivation { found: name.to_owned() }),
        }
    }
}

/// `out = activation(gate) · up` for each number; `gate`, `up` and `out: [rows, columns]`.
///
/// # Panics
/// When one has not `rows` of `columns` numbers.
#[allow(clippy::too_many_arguments, reason = "the two inputs, their shape, and where it runs")]
pub fn gated(
    pool: &Pool,
    isa: Isa,
    gate: Rows<'_>,
    up: Rows<'_>,
    rows: usize,
    columns: usize,
    activation: Activation,
    out: &mut [f32],
) {
    gate.check("gate", rows, columns);
    up.check("up", rows, columns);
    assert_eq!(out.len(), rows * columns, "gated: values of the output");
    if out.is_empty() {
        return;
    }
    let out = SharedRows(out.as_mut_ptr());
    let (pieces, columns_of_piece) = cut(rows, columns);
    in_pieces(pool, rows * pieces, columns_of_piece, &|parts| {
        for part in parts {
            let (row, from) = (part / pieces, part % pieces * columns_of_piece);
            let part = from..columns.min(from + columns_of_piece);
            dispatch(isa, Gated { gate: gate.row(row), up: up.row(row), part, activation, out: &out, row, columns });
        }
    });
}

/// `x = activation(x)` for each number.
pub fn activate(pool: &Pool, isa: Isa, x: &mut [f32], activation: Activation) {
    let len = x.len();
    let x = SharedRows(x.as_mut_ptr());
    let x = &x;
    let (pieces, columns) = cut(1, len);
    in_pieces(pool, pieces, columns, &|parts| {
        for part in parts {
            let part = part * columns..len.min((part + 1) * columns);
            // SAFETY: the range is this task's alone, and each number is overwritten in its place after it is read.
            dispatch(isa, InPlace { x: unsafe { x.0.add(part.start) }, len: part.len(), activation });
        }
    });
}

/// Into how many pieces of how many columns a row is cut, so that one long row can be shared by threads.
fn cut(rows: usize, columns: usize) -> (usize, usize) {
    let piece = if rows >= 64 { columns } else { columns.min(2048) }.max(1);
    (columns.div_ceil(piece), piece)
}

struct Gated<'a> {
    gate: &'a [f32],
    up: &'a [f32],
    part: Range<usize>,
    activation: Activation,
    out: &'a SharedRows,
    row: usize,
    columns: usize,
}

impl Kernel for Gated<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        for at in self.part.clone().step_by(S::LANES) {
            let count = S::LANES.min(self.part.end - at);
            // SAFETY: the rows were checked to be this long.
            unsafe {
                let v = self.activation.apply(s, s.load_some(self.gate.as_ptr().add(at), count));
                let v = s.mul(v, s.load_some(self.up.as_ptr().add(at), count));
                s.store_some(self.out.0.add(self.row * self.columns + at), v, count);
            }
        }
    }
}

struct InPlace {
    x: *mut f32,
    len: usize,
    activation: Activation,
}

impl Kernel for InPlace {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        for at in (0..self.len).step_by(S::LANES) {
            let count = S::LANES.min(self.len - at);
            // SAFETY: there are `len` numbers.
            unsafe {
                let x = self.x.add(at);
                s.store_some(x, self.activation.apply(s, s.load_some(x, count)), count);
            }
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
