//! Shapes of linear maps, dense and packed: shapes of known models, and odd shapes that catch a kernel's tails.

use fornax_cpu::WeightType;

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

/// One product with a packed weight.
#[derive(Debug, Clone, Copy)]
pub struct PackedCase {
    /// The type of the weight's numbers.
    pub weight_type: WeightType,
    /// Rows of the input: 1 in decoding, the prompt's length in prefill.
    pub rows: usize,
    /// Input features.
    pub in_features: usize,
    /// Output features.
    pub out_features: usize,
}

impl PackedCase {
    /// Its least work: the weight as a checkpoint holds it, the input and the result in `f32`.
    pub fn cost(&self) -> Cost {
        let Self { weight_type, rows, in_features, out_features } = *self;
        let weight = out_features * weight_type.row_bytes(in_features);
        let values = 4 * rows * (in_features + out_features);
        Cost { bytes: (weight + values) as u64, flops: (2 * rows * in_features * out_features) as u64 }
    }
}

/// Small shapes with every kind of remainder, for tests of packed weights; a type whose blocks do not divide the columns
/// refuses a shape.
pub const PACKED_TESTS: &[[usize; 3]] =
    &[[1, 32, 1], [1, 64, 16], [2, 256, 17], [3, 512, 33], [17, 256, 48], [40, 768, 31]];

/// The matrices of a Llama of 1.1 billion parameters: a token, eight sequences' tokens, a prompt.
pub fn packed_benches() -> Vec<PackedCase> {
    let types =
        [WeightType::Q4_0, WeightType::Q4_K, WeightType::Q6_K, WeightType::Q8_0, WeightType::BF16, WeightType::F16];
    let shapes = [(2048, 5632), (5632, 2048), (2048, 32_000)];
    let mut cases = Vec::new();
    for weight_type in types {
        for (in_features, out_features) in shapes {
            for rows in [1, 8, 512] {
                // Only the last token of a prompt goes through the output layer.
                if rows < 512 || out_features < 32_000 {
                    cases.push(PackedCase { weight_type, rows, in_features, out_features });
                }
            }
        }
    }
    cases
}

/// Types and rows of the benches of fused maps.
fn fused_benches(in_features: usize, out_features: usize) -> Vec<PackedCase> {
    let types = [WeightType::Q4_0, WeightType::Q8_0, WeightType::BF16];
    let of_type = |weight_type| [1, 512].map(|rows| PackedCase { weight_type, rows, in_features, out_features });
    types.into_iter().flat_map(of_type).collect()
}

/// The last map of the same Llama's feed-forward layers, which is added to a residual.
pub fn linear_add_benches() -> Vec<PackedCase> {
    fused_benches(5632, 2048)
}

/// The maps of its attention to queries, keys and values: the features of each. A case has their sum.
pub const LINEARS: [usize; 3] = [2048, 256, 256];

/// The attention's maps side by side.
pub fn linears_benches() -> Vec<PackedCase> {
    fused_benches(2048, LINEARS.iter().sum())
}
