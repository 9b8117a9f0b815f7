//! Shapes of linear maps: those of known models, and those that catch a kernel's tails.

use crate::ops::Cost;

/// One product `[rows, in] × [out, in]ᵀ`.
#[derive(Debug, Clone, Copy)]
pub struct Case {
    /// Rows of the input: 1 in decoding, the prompt's length in prefill.
    pub rows: usize,
    /// Input features.
    pub in_features: usize,
    /// Output features.
    pub out_features: usize,
}

impl Case {
    /// Its least work.
    pub fn cost(&self) -> Cost {
        let Self { rows, in_features, out_features } = *self;
        Cost::f32(
            rows * in_features + in_features * out_features + rows * out_features,
            2 * rows * in_features * out_features,
        )
    }
}

/// Small shapes with every kind of remainder, for tests.
pub const TESTS: &[Case] = &[
    case(1, 1, 1),
    case(1, 16, 4),
    case(1, 17, 5),
    case(1, 100, 33),
    case(2, 31, 7),
    case(3, 64, 64),
    case(4, 65, 130),
    case(7, 15, 3),
    case(8, 129, 66),
    case(9, 40, 20),
    case(64, 96, 80),
    case(1, 768, 2304),
    // More than one task of the CPU's kernel, the last one short.
    case(3, 1000, 101),
];

/// Shapes of real models, for benches.
pub const BENCHES: &[Case] = &[
    case(1, 576, 1536),
    case(1, 2048, 2048),
    case(1, 2048, 5632),
    case(8, 2048, 5632),
    case(128, 2048, 2048),
    case(512, 2048, 5632),
];

const fn case(rows: usize, in_features: usize, out_features: usize) -> Case {
    Case { rows, in_features, out_features }
}
