//! Shapes of linear maps with packed weights, for each type of weight.

use fornax_cpu::WeightType;

use crate::ops::Cost;

/// One product `[rows, in] × [out, in]ᵀ`.
#[derive(Debug, Clone, Copy)]
pub struct Case {
    /// What the weight's numbers are.
    pub weight_type: WeightType,
    /// Rows of the input: 1 in decoding, the prompt's length in prefill.
    pub rows: usize,
    /// Input features.
    pub in_features: usize,
    /// Output features.
    pub out_features: usize,
}

impl Case {
    /// Its least work: the weight as a checkpoint holds it, the input and the result in `f32`.
    pub fn cost(&self) -> Cost {
        let Self { weight_type, rows, in_features, out_features } = *self;
        let weight = out_features * weight_type.row_bytes(in_features);
        let values = 4 * rows * (in_features + out_features);
        Cost { bytes: (weight + values) as u64, flops: (2 * rows * in_features * out_features) as u64 }
    }
}

/// Small shapes with every kind of remainder, for tests; those whose columns a type's blocks do not divide are refused.
pub const TESTS: &[[usize; 3]] = &[[1, 32, 1], [1, 64, 16], [2, 256, 17], [3, 512, 33], [17, 256, 48], [40, 768, 31]];

/// The matrices of a Llama of 1.1 billion parameters: a token, eight sequences' tokens, a prompt.
pub fn benches() -> Vec<Case> {
    let types =
        [WeightType::Q4_0, WeightType::Q4_K, WeightType::Q6_K, WeightType::Q8_0, WeightType::BF16, WeightType::F16];
    let shapes = [(2048, 5632), (5632, 2048), (2048, 32_000)];
    let mut cases = Vec::new();
    for weight_type in types {
        for (in_features, out_features) in shapes {
            for rows in [1, 8, 512] {
                // Of a prompt only the last token meets the output layer.
                if rows < 512 || out_features < 32_000 {
                    cases.push(Case { weight_type, rows, in_features, out_features });
                }
            }
        }
    }
    cases
}
