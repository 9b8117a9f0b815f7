//! Sizes of gated activations.

use crate::ops::Cost;

/// One call over `[rows, features]`.
#[derive(Debug, Clone, Copy)]
pub struct Case {
    /// Rows.
    pub rows: usize,
    /// Features of each branch.
    pub features: usize,
}

impl Case {
    /// Its least work, an exponential counted as one operation.
    pub fn cost(&self) -> Cost {
        let elements = self.rows * self.features;
        Cost::f32(3 * elements, 5 * elements)
    }
}

/// Small sizes, for tests.
pub const TESTS: &[Case] = &[case(1, 1), case(3, 17), case(2, 64)];

/// Sizes of real models, for benches.
pub const BENCHES: &[Case] = &[case(1, 5632), case(512, 5632)];

const fn case(rows: usize, features: usize) -> Case {
    Case { rows, features }
}
