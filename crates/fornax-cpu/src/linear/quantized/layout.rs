//! How a panel of quantized weights is laid out in bytes. Every type is packed as it is in the file, bit for bit, only in
//! another order; the single thing widened is the 6-bit scales and minima of the K types, to bytes.
//!
//! A panel is a sequence of *supers* of 64 weights of each of its 16 columns, or of 256 for the K types. A super is first
//! its blocks of 32 weights, then their scales. A *line* is 64 bytes, four consecutive weights (a quad) of each of the 16
//! columns: what one instruction multiplies with four activations. Blocks are bit planes of lines:
//!
//! - 8 bits: line `i` of 8 is quad `i`;
//! - 4 bits: line `i` of 4 has quad `i` in its low halves, quad `i + 4` in its high halves;
//! - 2 bits: line `i` of 2 has quad `i + 2 t` in bits `2 t`;
//! - 1 bit: bit `t` of the line is quad `t`.
//!
//! 6 bits are planes of 4 and 2, 5 of 4 and 1, 3 of 2 and 1, the low bits first. A row whose last super is incomplete is
//! filled up with zero weights of zero scale.

use crate::packed::{PANEL, WeightType};

/// Weights of a block.
pub const BLOCK: usize = 32;

/// Weights of a super of a K type.
pub const SUPER: usize = 256;

/// Bytes of a line.
pub const LINE: usize = 4 * PANEL;

/// What follows the blocks of a super.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scales {
    /// For each block, 16 f16 scales.
    Half,
    /// For each block, 16 f16 scales, then 16 f16 minima, to be added.
    HalfMin,
    /// For each block, 16 u8 scales; likewise the minima; then 16 f16 factors of the scales, 16 of the minima, to be
    /// subtracted.
    ByteMin,
    /// For each half block, 16 i8 scales; then 16 f16 factors, then nothing up to a full line.
    Byte,
    /// For each half block, 16 bytes, scales in the low halves and minima in the high ones; then the factors as in
    /// `ByteMin`.
    NibbleMin,
}

/// A type's layout.
#[derive(Debug, Clone, Copy)]
pub struct Layout {
    /// Bits of a weight.
    pub bits: usize,
    /// Binary logarithm of what is added to a weight to make it unsigned. `None` when it is unsigned, and for 8 bits,
    /// which stay signed.
    pub offset: Option<u32>,
    /// What the scales are.
    pub scales: Scales,
}

impl Layout {
    /// The layout of a quantized type.
    pub const fn of(weight_type: WeightType) -> Self {
        let (bits, offset, scales) = match weight_type {
            WeightType::Q4_0 => (4, Some(3), Scales::Half),
            WeightType::Q4_1 => (4, None, Scales::HalfMin),
            WeightType::Q5_0 => (5, Some(4), Scales::Half),
            WeightType::Q5_1 => (5, None, Scales::HalfMin),
            WeightType::Q2_K => (2, None, Scales::NibbleMin),
            WeightType::Q3_K => (3, Some(2), Scales::Byte),
            WeightType::Q4_K => (4, None, Scales::ByteMin),
            WeightType::Q5_K => (5, None, Scales::ByteMin),
            WeightType::Q6_K => (6, Some(5), Scales::Byte),
            // The float types have other kernels and never come here.
            WeightType::Q8_0 | WeightType::F16 | WeightType::BF16 => (8, None, Scales::Half),
        };
        Self { bits, offset, scales }
    }

    /// What is added to a weight to make it unsigned.
    pub const fn bias(self) -> i32 {
        match self.offset {
            Some(shift) => 1 << shift,
            None => 0,
        }
    }

    /// Weights of a super.
    pub const fn super_len(self) -> usize {
        match self.scales {
            Scales::Half | Scales::HalfMin => 64,
            Scales::ByteMin | Scales::Byte | Scales::NibbleMin => SUPER,
        }
    }

    /// Weights with a common scale.
    pub const fn group(self) -> usize {
        match self.scales {
            Scales::Half | Scales::HalfMin | Scales::ByteMin => BLOCK,
            Scales::Byte | Scales::NibbleMin => BLOCK / 2,
        }
    }

    /// Activations with a common scale: those of a block of 32 where weights are scaled in blocks of 32, and those of a
    /// super where it has factors.
    pub const fn run(self) -> usize {
        match self.scales {
            Scales::Half | Scales::HalfMin => BLOCK,
            Scales::ByteMin | Scales::Byte | Scales::NibbleMin => SUPER,
        }
    }

    /// Whether a super has one scale of the activations, and one factor of the weights.
    pub const fn by_super(self) -> bool {
        self.run() == SUPER
    }

    /// Whether there are minima.
    pub const fn has_min(self) -> bool {
        matches!(self.scales, Scales::HalfMin | Scales::ByteMin | Scales::NibbleMin)
    }

    /// Bytes of a block, without its scales.
    pub const fn block_bytes(self) -> usize {
        self.bits * LINE
    }

    /// Where the scales of a super begin.
    pub const fn scales_at(self) -> usize {
        self.super_len() / BLOCK * self.block_bytes()
    }

    /// Where the f16 factors of a super of a K type begin.
    pub const fn factors_at(self) -> usize {
        self.scales_at() + 256
    }

    /// Bytes of a super; whole lines.
    pub const fn super_bytes(self) -> usize {
        let scales = match self.scales {
            Scales::Half => 2 * 32,
            Scales::HalfMin => 2 * 64,
            Scales::ByteMin | Scales::Byte | Scales::NibbleMin => 256 + 64,
        };
        self.scales_at() + scales
    }

    /// Supers of a row.
    pub const fn supers(self, in_features: usize) -> usize {
        in_features.div_ceil(self.super_len())
    }
}

/// Bytes of one panel.
pub fn panel_bytes(weight_type: WeightType, in_features: usize) -> usize {
    let layout = Layout::of(weight_type);
    layout.supers(in_features) * layout.super_bytes()
}

/// A type with its layout known to the compiler.
pub trait Format {
    /// The layout.
    const LAYOUT: Layout;
}

macro_rules! formats {
    ($($name:ident $weight_type:ident,)*) => {
        $(
            #[doc = concat!("[`WeightType::", stringify!($weight_type), "`]")]
            pub struct $name;

            impl Format for $name {
                const LAYOUT: Layout = Layout::of(WeightType::$weight_type);
            }
        )*

        /// Something to do for a type that the compiler shall know.
        pub trait ForFormat {
            /// Does it.
            fn with<F: Format>(self);
        }

        /// Does `task` for the format of `weight_type`.
        pub fn for_format(weight_type: WeightType, task: impl ForFormat) {
            match weight_type {
                $(WeightType::$weight_type => task.with::<$name>(),)*
                WeightType::F16 | WeightType::BF16 => unreachable!("{weight_type} has its own kernels"),
            }
        }
    };
}

formats! {
    Q8Zero Q8_0, Q4Zero Q4_0, Q4One Q4_1, Q5Zero Q5_0, Q5One Q5_1,
    Q2K Q2_K, Q3K Q3_K, Q4K Q4_K, Q5K Q5_K, Q6K Q6_K,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn supers_are_whole_lines_and_hardly_larger_than_in_the_file() {
        for weight_type in WeightType::ALL {
            if matches!(weight_type, WeightType::F16 | WeightType::BF16) {
                continue;
            }
            let (packed, file) = (panel_bytes(weight_type, 256), PANEL * weight_type.row_bytes(256));
            assert_eq!(Layout::of(weight_type).super_bytes() % LINE, 0);
            assert!(packed >= file && packed * 100 <= file * 106, "{weight_type}: {packed} for {file}");
        }
    }
}
