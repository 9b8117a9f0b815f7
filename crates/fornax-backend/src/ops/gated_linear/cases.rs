//! Shapes of the first half of a gated feed-forward layer.

use fornax_cpu::WeightType;

use crate::ops::Cost;

/// One call: two products `[rows, in] × [out, in]ᵀ`, one activated, multiplied with each other.
#[derive(Debug, Clone, Copy)]
pub struct Case {
    /// The type of both weights; `None` for dense ones.
    pub weight_type: Option<WeightType>,
    /// Rows of the input: 1 in decoding, the prompt's length in prefill.
    pub rows: usize,
    /// Input features.
    pub in_features: usize,
    /// Output features of each map.
    pub out_features: usize,
}

impl Case {
    /// Bytes of one of the weights.
    pub fn weight_bytes(&self) -> usize {
        let row = self.weight_type.map_or(4 * self.in_features, |weight_type| weight_type.row_bytes(self.in_features));
        self.out_features * row
    }

    /// Its least work, an exponential counted as one operation.
    pub fn cost(&self) -> Cost {
        let Self { rows, in_features, out_features, .. } = *self;
        let values = 4 * rows * (in_features + out_features);
        let flops = rows * out_features * (4 * in_features + 5);
        Cost { bytes: (2 * self.weight_bytes() + values) as u64, flops: flops as u64 }
    }
}

/// Small shapes with remainders, for tests.
pub const TESTS: &[[usize; 3]] = &[[1, 1, 1], [1, 64, 16], [3, 33, 17], [9, 256, 40], [2, 1000, 101], [40, 96, 31]];

/// The shape of a Llama of 1.1 billion parameters: a token, and a prompt.
pub const BENCHES: &[Case] = &[
    case(None, 1),
    case(None, 512),
    case(Some(WeightType::Q4_0), 1),
    case(Some(WeightType::Q4_0), 512),
    case(Some(WeightType::Q8_0), 1),
    case(Some(WeightType::Q8_0), 512),
    case(Some(WeightType::BF16), 1),
    case(Some(WeightType::BF16), 512),
];

const fn case(weight_type: Option<WeightType>, rows: usize) -> Case {
    Case { weight_type, rows, in_features: 2048, out_features: 5632 }
}
