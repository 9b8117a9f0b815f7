//! Memory for keys and values: an arena of equal blocks for each layer. It only stores numbers:
//! [`attention`](crate::attention) writes and reads them, and the scheduler alone decides which sequence owns a block.

mod arena;

use std::fmt;
use std::str::FromStr;

pub use arena::KvArena;

use crate::CpuError;

/// Tokens of a block. Attention reads keys in vectors of this many, so it is fixed.
pub const BLOCK_TOKENS: usize = 32;

/// The numbers that a cache holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum CacheType {
    /// Keys and values exactly as computed.
    F32,
    /// Half the memory, 11 bits of precision, nothing above 65,504.
    #[default]
    F16,
    /// Half the memory, 8 bits of precision, the range of `f32`.
    BF16,
    /// A quarter of the memory: 8-bit integers with an `f32` scale for each key and each value of a head, so that no
    /// number is off by more than 1/254 of the largest beside it.
    I8,
}

impl CacheType {
    /// Every type.
    pub const ALL: [Self; 4] = [Self::F32, Self::F16, Self::BF16, Self::I8];

    /// Bytes of a number, scales not counted.
    pub fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::BF16 => 2,
            Self::I8 => 1,
        }
    }

    /// Bytes of the scales of one head of a block: those of the keys, then those of the values.
    pub(crate) fn scale_bytes(self) -> usize {
        match self {
            Self::I8 => 2 * BLOCK_TOKENS * size_of::<f32>(),
            Self::F32 | Self::F16 | Self::BF16 => 0,
        }
    }
}

impl fmt::Display for CacheType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::BF16 => "bf16",
            Self::I8 => "i8",
        })
    }
}

impl FromStr for CacheType {
    type Err = CpuError;

    fn from_str(name: &str) -> Result<Self, CpuError> {
        let found = Self::ALL.into_iter().find(|one| one.to_string() == name);
        found.ok_or_else(|| CpuError::UnknownCacheType { found: name.to_owned() })
    }
}

/// The shape and type of a layer's blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct KvShape {
    /// Heads of keys and of values.
    pub kv_heads: usize,
    /// Components of a key and of a value.
    pub head_dim: usize,
    /// What they are kept as.
    pub cache_type: CacheType,
}

impl KvShape {
    /// Bytes of a block of [`BLOCK_TOKENS`] tokens.
    pub fn block_bytes(self) -> usize {
        self.kv_heads * self.head_bytes()
    }

    /// Bytes of a head in a block: its keys `[head_dim, BLOCK_TOKENS]`, so that one vector holds the same component of
    /// many keys, its values `[BLOCK_TOKENS, head_dim rounded up to 16]`, and their scales.
    pub(crate) fn head_bytes(self) -> usize {
        self.head_numbers() * self.cache_type.bytes() + self.cache_type.scale_bytes()
    }

    /// Numbers of a head in a block, scales not counted.
    pub(crate) fn head_numbers(self) -> usize {
        BLOCK_TOKENS * (self.head_dim + self.value_stride())
    }

    /// From a token's values to the next one's.
    pub(crate) fn value_stride(self) -> usize {
        self.head_dim.next_multiple_of(16)
    }
}
