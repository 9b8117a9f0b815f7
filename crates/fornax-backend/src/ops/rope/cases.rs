//! Shapes of rotary embeddings.

use crate::ops::Cost;

/// One call over `[batch, heads, seq, head_dim]`.
#[derive(Debug, Clone, Copy)]
pub struct Case {
    /// `[batch, heads, seq, head_dim]`.
    pub shape: [usize; 4],
    /// How many of a head's dimensions turn; even.
    pub rotary_dim: usize,
}

impl Case {
    /// Its least work.
    pub fn cost(&self) -> Cost {
        let [batch, heads, seq, head_dim] = self.shape;
        let elements = batch * heads * seq * head_dim;
        Cost::f32(2 * elements + seq * self.rotary_dim, 3 * batch * heads * seq * self.rotary_dim)
    }
}

/// Small shapes, whole and partial rotation, for tests.
pub const TESTS: &[Case] =
    &[case([1, 1, 1, 2], 2), case([2, 3, 5, 8], 8), case([1, 2, 7, 12], 6), case([2, 4, 1, 64], 64)];

/// Shapes of real models, for benches.
pub const BENCHES: &[Case] = &[case([1, 32, 1, 64], 64), case([1, 32, 512, 64], 64)];

const fn case(shape: [usize; 4], rotary_dim: usize) -> Case {
    Case { shape, rotary_dim }
}
