//! The element types of all formats, with their sizes: plain numbers, and GGUF's quantized blocks. It deliberately does
//! not convert values (see `convert` and `gguf::dequant`) nor know which types a device can compute with.

use std::fmt;

/// How the elements of a tensor are encoded.
///
/// Plain types store one element at a time; block types store [`block_len`](Dtype::block_len) consecutive elements of
/// a row in [`block_bytes`](Dtype::block_bytes) bytes.
///
/// ```
/// use fornax_checkpoint::Dtype;
///
/// assert_eq!(Dtype::BF16.bytes_for(10), Some(20));
/// assert_eq!(Dtype::Q4_0.bytes_for(64), Some(36));
/// assert_eq!(Dtype::Q4_0.bytes_for(33), None); // not a whole number of blocks
/// assert_eq!(Dtype::Q4_K.to_string(), "Q4_K");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(non_camel_case_types)] // The variants are spelt as the formats spell them.
#[allow(missing_docs)] // Their meaning is the name; each family is described where it starts.
#[non_exhaustive]
pub enum Dtype {
    // IEEE 754 floats, and bfloat16.
    F64,
    F32,
    F16,
    BF16,
    // Signed and unsigned integers, and one byte a truth value.
    I64,
    I32,
    I16,
    I8,
    U64,
    U32,
    U16,
    U8,
    Bool,
    /// Two `f32`, real then imaginary.
    C64,
    // Floats of eight bits and fewer (four and six bits are packed).
    F8E4M3,
    F8E5M2,
    F8E4M3FNUZ,
    F8E5M2FNUZ,
    F8E8M0,
    F6E2M3,
    F6E3M2,
    F4,
    // GGUF blocks of 32 elements.
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q8_1,
    // GGUF super-blocks of 256 elements.
    Q2_K,
    Q3_K,
    Q4_K,
    Q5_K,
    Q6_K,
    Q8_K,
    // GGUF's codebook, ternary and one-bit blocks, and the block floats of four bits.
    IQ1_S,
    IQ1_M,
    IQ2_XXS,
    IQ2_XS,
    IQ2_S,
    IQ3_XXS,
    IQ3_S,
    IQ4_NL,
    IQ4_XS,
    TQ1_0,
    TQ2_0,
    MXFP4,
    NVFP4,
    Q1_0,
}

/// One row: the type, its name here and in GGUF, its name in safetensors, its number in GGUF, elements and bytes a block.
type Row = (Dtype, &'static str, Option<&'static str>, Option<u32>, usize, usize);

#[rustfmt::skip]
const TABLE: &[Row] = &[
    (Dtype::F64,        "F64",         Some("F64"),         Some(28), 1, 8),
    (Dtype::F32,        "F32",         Some("F32"),         Some(0),  1, 4),
    (Dtype::F16,        "F16",         Some("F16"),         Some(1),  1, 2),
    (Dtype::BF16,       "BF16",        Some("BF16"),        Some(30), 1, 2),
    (Dtype::I64,        "I64",         Some("I64"),         Some(27), 1, 8),
    (Dtype::I32,        "I32",         Some("I32"),         Some(26), 1, 4),
    (Dtype::I16,        "I16",         Some("I16"),         Some(25), 1, 2),
    (Dtype::I8,         "I8",          Some("I8"),          Some(24), 1, 1),
    (Dtype::U64,        "U64",         Some("U64"),         None,     1, 8),
    (Dtype::U32,        "U32",         Some("U32"),         None,     1, 4),
    (Dtype::U16,        "U16",         Some("U16"),         None,     1, 2),
    (Dtype::U8,         "U8",          Some("U8"),          None,     1, 1),
    (Dtype::Bool,       "BOOL",        Some("BOOL"),        None,     1, 1),
    (Dtype::C64,        "C64",         Some("C64"),         None,     1, 8),
    (Dtype::F8E4M3,     "F8_E4M3",     Some("F8_E4M3"),     None,     1, 1),
    (Dtype::F8E5M2,     "F8_E5M2",     Some("F8_E5M2"),     None,     1, 1),
    (Dtype::F8E4M3FNUZ, "F8_E4M3FNUZ", Some("F8_E4M3FNUZ"), None,     1, 1),
    (Dtype::F8E5M2FNUZ, "F8_E5M2FNUZ", Some("F8_E5M2FNUZ"), None,     1, 1),
    (Dtype::F8E8M0,     "F8_E8M0",     Some("F8_E8M0"),     None,     1, 1),
    (Dtype::F6E2M3,     "F6_E2M3",     Some("F6_E2M3"),     None,     4, 3),
    (Dtype::F6E3M2,     "F6_E3M2",     Some("F6_E3M2"),     None,     4, 3),
    (Dtype::F4,         "F4",          Some("F4"),          None,     2, 1),
    (Dtype::Q4_0,       "Q4_0",        None,                Some(2),  32, 18),
    (Dtype::Q4_1,       "Q4_1",        None,                Some(3),  32, 20),
    (Dtype::Q5_0,       "Q5_0",        None,                Some(6),  32, 22),
    (Dtype::Q5_1,       "Q5_1",        None,                Some(7),  32, 24),
    (Dtype::Q8_0,       "Q8_0",        None,                Some(8),  32, 34),
    (Dtype::Q8_1,       "Q8_1",        None,                Some(9),  32, 40),
    (Dtype::Q2_K,       "Q2_K",        None,                Some(10), 256, 84),
    (Dtype::Q3_K,       "Q3_K",        None,                Some(11), 256, 110),
    (Dtype::Q4_K,       "Q4_K",        None,                Some(12), 256, 144),
    (Dtype::Q5_K,       "Q5_K",        None,                Some(13), 256, 176),
    (Dtype::Q6_K,       "Q6_K",        None,                Some(14), 256, 210),
    (Dtype::Q8_K,       "Q8_K",        None,                Some(15), 256, 292),
    (Dtype::IQ1_S,      "IQ1_S",       None,                Some(19), 256, 50),
    (Dtype::IQ1_M,      "IQ1_M",       None,                Some(29), 256, 56),
    (Dtype::IQ2_XXS,    "IQ2_XXS",     None,                Some(16), 256, 66),
    (Dtype::IQ2_XS,     "IQ2_XS",      None,                Some(17), 256, 74),
    (Dtype::IQ2_S,      "IQ2_S",       None,                Some(22), 256, 82),
    (Dtype::IQ3_XXS,    "IQ3_XXS",     None,                Some(18), 256, 98),
    (Dtype::IQ3_S,      "IQ3_S",       None,                Some(21), 256, 110),
    (Dtype::IQ4_NL,     "IQ4_NL",      None,                Some(20), 32, 18),
    (Dtype::IQ4_XS,     "IQ4_XS",      None,                Some(23), 256, 136),
    (Dtype::TQ1_0,      "TQ1_0",       None,                Some(34), 256, 54),
    (Dtype::TQ2_0,      "TQ2_0",       None,                Some(35), 256, 66),
    (Dtype::MXFP4,      "MXFP4",       None,                Some(39), 32, 17),
    (Dtype::NVFP4,      "NVFP4",       None,                Some(40), 64, 36),
    (Dtype::Q1_0,       "Q1_0",        None,                Some(41), 128, 18),
];

impl Dtype {
    /// Every type this crate knows.
    pub fn all() -> impl Iterator<Item = Self> {
        TABLE.iter().map(|row| row.0)
    }

    /// How many consecutive elements of a row are stored together; 1 for plain types.
    pub const fn block_len(self) -> usize {
        self.row().4
    }

    /// How many bytes one block (for plain types: one element) takes.
    pub const fn block_bytes(self) -> usize {
        self.row().5
    }

    /// How many bytes `elements` take; `None` where they are not a whole number of blocks or the size overflows.
    pub const fn bytes_for(self, elements: usize) -> Option<usize> {
        if !elements.is_multiple_of(self.block_len()) {
            return None;
        }
        (elements / self.block_len()).checked_mul(self.block_bytes())
    }

    /// The name, as the formats write it ("F32", "BOOL", "Q4_K").
    pub const fn name(self) -> &'static str {
        self.row().1
    }

    /// Whether this is one of GGUF's block types.
    pub const fn is_quantized(self) -> bool {
        self.row().2.is_none()
    }

    /// Whether [`TensorView::to_f32`](crate::TensorView::to_f32) can convert it.
    pub const fn converts_to_f32(self) -> bool {
        use Dtype::*;
        matches!(
            self,
            F64 | F32
                | F16
                | BF16
                | I64
                | I32
                | I16
                | I8
                | U64
                | U32
                | U16
                | U8
                | Bool
                | F8E4M3
                | F8E5M2
                | Q4_0
                | Q4_1
                | Q5_0
                | Q5_1
                | Q8_0
                | Q2_K
                | Q3_K
                | Q4_K
                | Q5_K
                | Q6_K
        )
    }

    /// The type's name in a safetensors header; `None` for GGUF's block types.
    pub const fn safetensors_name(self) -> Option<&'static str> {
        self.row().2
    }

    /// The type of this name in a safetensors header.
    pub fn from_safetensors_name(name: &str) -> Option<Self> {
        TABLE.iter().find(|row| row.2 == Some(name)).map(|row| row.0)
    }

    /// The type of this number in a GGUF file.
    pub fn from_ggml_type(number: u32) -> Option<Self> {
        TABLE.iter().find(|row| row.3 == Some(number)).map(|row| row.0)
    }

    /// The alignment in bytes that its elements want in memory.
    pub(crate) const fn alignment(self) -> usize {
        match self {
            Dtype::C64 => 4,
            _ if self.is_quantized() || self.block_len() != 1 => 1,
            _ => self.block_bytes(),
        }
    }

    /// The table stands in the order of the variants (a test holds it), so that the row is an index away.
    const fn row(self) -> &'static Row {
        &TABLE[self as usize]
    }
}

impl fmt::Display for Dtype {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_stands_in_the_order_of_the_variants() {
        for (index, row) in TABLE.iter().enumerate() {
            assert_eq!(row.0 as usize, index, "{}", row.1);
        }
        assert_eq!(TABLE.len(), Dtype::Q1_0 as usize + 1);
    }

    #[test]
    fn names_and_numbers_lead_back_to_their_type() {
        for dtype in Dtype::all() {
            if let Some(name) = dtype.safetensors_name() {
                assert_eq!(Dtype::from_safetensors_name(name), Some(dtype));
            }
            if let Some(number) = dtype.row().3 {
                assert_eq!(Dtype::from_ggml_type(number), Some(dtype));
            }
        }
        assert_eq!(Dtype::from_ggml_type(4), None);
        assert_eq!(Dtype::from_safetensors_name("Q4_0"), None);
    }

    #[test]
    fn sizes_refuse_partial_blocks_and_overflow() {
        assert_eq!(Dtype::Q6_K.bytes_for(512), Some(420));
        assert_eq!(Dtype::Q6_K.bytes_for(128), None);
        assert_eq!(Dtype::F64.bytes_for(usize::MAX), None);
        assert_eq!(Dtype::F4.bytes_for(3), None);
    }
}
