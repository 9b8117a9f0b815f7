//! Linear maps on slices, by the kernels of `fornax-cpu`.

use fornax_cpu::linear::{self, LinearMap, Matrix};
use fornax_cpu::{Isa, PackedWeight, Pool, rows};

use super::{LinearRef, WeightRef};
use crate::ops::Activation;
use crate::{Values, values};

/// Linear maps whose numbers the kernels can read.
pub(crate) struct Maps<'a, const N: usize>([(MapWeight<'a>, Option<Values>); N]);

enum MapWeight<'a> {
    Packed(&'a PackedWeight),
    Dense(Values, [usize; 2]),
}

impl<'a, const N: usize> Maps<'a, N> {
    /// The maps, if each is packed, or plain `f32` on the CPU without gradients.
    pub(crate) fn of(maps: [&'a LinearRef<'a>; N]) -> Option<Self> {
        let mut found = [const { None }; N];
        for (found, map) in found.iter_mut().zip(maps) {
            let weight = match &map.weight {
                WeightRef::Packed(weight) => MapWeight::Packed(weight),
                WeightRef::Dense(weight) => MapWeight::Dense(values(weight)?, weight.dims()),
            };
            let bias = match &map.bias {
                Some(bias) => Some(values(bias)?),
                None => None,
            };
            *found = Some((weight, bias));
        }
        Some(Self(found.map(|map| map.expect("filled above"))))
    }

    fn maps(&self) -> [LinearMap<'_>; N] {
        self.0.each_ref().map(|(weight, bias)| LinearMap {
            weight: match weight {
                MapWeight::Packed(weight) => Matrix::Packed(weight),
                MapWeight::Dense(values, [out_features, in_features]) => {
                    Matrix::Dense { values, out_features: *out_features, in_features: *in_features }
                }
            },
            bias: bias.as_deref(),
        })
    }

    /// `y: [rows, out of all maps]`, side by side.
    pub(crate) fn linear(&self, x: &[f32], rows: usize, y: &mut [f32]) {
        linear::linear(Pool::global(), Isa::active(), x, rows, &self.maps(), y, |_, _, _, _| {});
    }
}

impl Maps<'_, 1> {
    /// `y = residual + x Wᵀ + b`, all `[rows, out]`.
    pub(crate) fn linear_add(&self, x: &[f32], rows: usize, residual: &[f32], y: &mut [f32]) {
        let (maps, isa) = (self.maps(), Isa::active());
        let columns = maps[0].weight.out_features();
        linear::linear(Pool::global(), isa, x, rows, &maps, y, |_, row, range, values| {
            rows::add_in_place(isa, values, &residual[row * columns..][range]);
        });
    }

    /// `y = activation(x Wᵀ + b)`.
    pub(crate) fn activated(&self, x: &[f32], rows: usize, activation: Activation, y: &mut [f32]) {
        let (pool, isa) = (Pool::global(), Isa::active());
        linear::linear(pool, isa, x, rows, &self.maps(), y, |_, _, _, values| {
            rows::activate(pool, isa, values, activation);
        });
    }
}

impl Maps<'_, 2> {
    /// `y = activation(x W₀ᵀ + b₀) · (x W₁ᵀ + b₁)`.
    pub(crate) fn gated(&self, x: &[f32], rows: usize, activation: Activation, y: &mut [f32]) {
        let (pool, isa) = (Pool::global(), Isa::active());
        linear::gated_linear(pool, isa, x, rows, self.maps(), y, |gate, up| {
            rows::activate(pool, isa, gate, activation);
            rows::multiply_in_place(isa, gate, up);
        });
    }
}
