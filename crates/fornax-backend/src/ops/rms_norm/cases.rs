//! Shapes of root mean square norms.

use crate::ops::Cost;

/// One call over `[rows, features]`.
#[derive(Debug, Clone, Copy)]
pub struct Case {
    /// Rows normalized independently.
    pub rows: usize,
    /// Length of each.
    pub features: usize,
}

impl Case {
    /// Its least work.
    pub fn cost(&self) -> Cost {
        let elements = self.rows * self.features;
        Cost::f32(2 * elements + self.features, 4 * elements)
    }
}

/// Small shapes with remainders, for tests.
pub const TESTS: &[Case] = &[case(1, 1), case(1, 16), case(3, 17), case(5, 40), case(2, 768)];

/// Shapes of real models, for benches.
pub const BENCHES: &[Case] = &[case(1, 576), case(1, 2048), case(512, 2048)];

const fn case(rows: usize, features: usize) -> Case {
    Case { rows, features }
}
