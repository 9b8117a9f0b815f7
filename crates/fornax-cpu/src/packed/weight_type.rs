//! The types of numbers that weights are held in, by the names that GGUF files and llama.cpp use.

use std::fmt;
use std::str::FromStr;

use crate::{CpuError, Result};

/// What the numbers of a weight are.
///
/// Quantized types hold blocks of 32 or 256 weights of a row with common scales, as GGUF defines them.
///
/// ```
/// use fornax_cpu::WeightType;
///
/// assert_eq!("q4_0".parse::<WeightType>()?, WeightType::Q4_0);
/// assert_eq!(WeightType::Q4_0.row_bytes(64), 36); // two blocks of a 16-bit scale and 32 half bytes
/// # Ok::<(), fornax_cpu::CpuError>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
#[allow(non_camel_case_types, reason = "the field writes Q4_K")]
pub enum WeightType {
    /// IEEE half precision.
    F16,
    /// The upper half of an `f32`.
    BF16,
    /// 8 bits, one scale for 32 weights.
    Q8_0,
    /// 4 bits, one scale for 32 weights.
    Q4_0,
    /// 4 bits, a scale and a minimum for 32 weights.
    Q4_1,
    /// 5 bits, one scale for 32 weights.
    Q5_0,
    /// 5 bits, a scale and a minimum for 32 weights.
    Q5_1,
    /// 2 bits, 4-bit scales and minima for 16 weights each in blocks of 256.
    Q2_K,
    /// 3 bits, 6-bit scales for 16 weights each in blocks of 256.
    Q3_K,
    /// 4 bits, 6-bit scales and minima for 32 weights each in blocks of 256.
    Q4_K,
    /// 5 bits, 6-bit scales and minima for 32 weights each in blocks of 256.
    Q5_K,
    /// 6 bits, 8-bit scales for 16 weights each in blocks of 256.
    Q6_K,
}

impl WeightType {
    /// Every type.
    pub const ALL: [WeightType; 12] = [
        Self::F16,
        Self::BF16,
        Self::Q8_0,
        Self::Q4_0,
        Self::Q4_1,
        Self::Q5_0,
        Self::Q5_1,
        Self::Q2_K,
        Self::Q3_K,
        Self::Q4_K,
        Self::Q5_K,
        Self::Q6_K,
    ];

    /// Whether it is a float type, without blocks.
    pub fn is_float(self) -> bool {
        matches!(self, Self::F16 | Self::BF16)
    }

    /// Weights of a block; a weight's columns must be a multiple of it.
    pub fn block(self) -> usize {
        self.block_size().0
    }

    /// Bytes of a row of `in_features` weights in a checkpoint.
    pub fn row_bytes(self, in_features: usize) -> usize {
        let (weights, bytes) = self.block_size();
        in_features / weights * bytes
    }

    /// Weights and bytes of a block.
    fn block_size(self) -> (usize, usize) {
        match self {
            Self::F16 | Self::BF16 => (1, 2),
            Self::Q8_0 => (32, 34),
            Self::Q4_0 => (32, 18),
            Self::Q4_1 => (32, 20),
            Self::Q5_0 => (32, 22),
            Self::Q5_1 => (32, 24),
            Self::Q2_K => (256, 84),
            Self::Q3_K => (256, 110),
            Self::Q4_K => (256, 144),
            Self::Q5_K => (256, 176),
            Self::Q6_K => (256, 210),
        }
    }

    /// Whether floats can be quantized to it, rather than only read from files.
    pub fn is_quantizable(self) -> bool {
        matches!(self, Self::F16 | Self::BF16 | Self::Q8_0 | Self::Q4_0 | Self::Q4_K | Self::Q6_K)
    }

    pub(crate) fn check_quantizable(self) -> Result<()> {
        if self.is_quantizable() {
            return Ok(());
        }
        Err(CpuError::CannotQuantize { weight_type: self, expected: names(Self::is_quantizable) })
    }
}

/// The names of the types that `choose` picks.
fn names(choose: impl Fn(WeightType) -> bool) -> String {
    let names: Vec<String> =
        WeightType::ALL.into_iter().filter(|&one| choose(one)).map(|one| one.to_string()).collect();
    names.join(", ")
}

impl fmt::Display for WeightType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{self:?}").to_lowercase())
    }
}

impl FromStr for WeightType {
    type Err = CpuError;

    fn from_str(name: &str) -> Result<Self> {
        let lower = name.to_lowercase();
        let known = Self::ALL.into_iter().find(|one| one.to_string() == lower);
        known.ok_or_else(|| CpuError::UnknownWeightType { found: name.to_owned(), expected: names(|_| true) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_parse_back() {
        for one in WeightType::ALL {
            assert_eq!(one.to_string().parse::<WeightType>().unwrap(), one);
        }
        assert!("q9".parse::<WeightType>().unwrap_err().to_string().contains("q8_0, q4_0"));
    }
}
