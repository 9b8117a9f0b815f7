//! Plain number types to `f32`, in loops that the compiler turns into vector code. It deliberately checks nothing:
//! lengths and types are checked by `TensorView` before it is called.

use crate::{dtype::Dtype, gguf::dequant};

/// Converts `bytes` to `out`, which has one place for each element. Types without a conversion leave `out` as it is;
/// callers refuse them before (`Dtype::converts_to_f32`).
pub(crate) fn to_f32(dtype: Dtype, bytes: &[u8], out: &mut [f32]) {
    match dtype {
        Dtype::F64 => each(bytes, out, |b| f64::from_le_bytes(b) as f32),
        Dtype::F32 => each(bytes, out, f32::from_le_bytes),
        Dtype::F16 => each(bytes, out, |b| f16_to_f32(u16::from_le_bytes(b))),
        Dtype::BF16 => each(bytes, out, |b| f32::from_bits(u32::from(u16::from_le_bytes(b)) << 16)),
        Dtype::I64 => each(bytes, out, |b| i64::from_le_bytes(b) as f32),
        Dtype::I32 => each(bytes, out, |b| i32::from_le_bytes(b) as f32),
        Dtype::I16 => each(bytes, out, |b| f32::from(i16::from_le_bytes(b))),
        Dtype::I8 => each(bytes, out, |b| f32::from(i8::from_le_bytes(b))),
        Dtype::U64 => each(bytes, out, |b| u64::from_le_bytes(b) as f32),
        Dtype::U32 => each(bytes, out, |b| u32::from_le_bytes(b) as f32),
        Dtype::U16 => each(bytes, out, |b| f32::from(u16::from_le_bytes(b))),
        Dtype::U8 => each(bytes, out, |[b]: [u8; 1]| f32::from(b)),
        Dtype::Bool => each(bytes, out, |[b]: [u8; 1]| f32::from(u8::from(b != 0))),
        Dtype::F8E4M3 => each(bytes, out, |[b]: [u8; 1]| f8e4m3_to_f32(b)),
        // Five exponent and two mantissa bits are the upper half of an f16.
        Dtype::F8E5M2 => each(bytes, out, |[b]: [u8; 1]| f16_to_f32(u16::from(b) << 8)),
        _ => dequant::blocks(dtype, bytes, out),
    }
}

/// Applies `convert` to each `N` bytes.
fn each<const N: usize>(bytes: &[u8], out: &mut [f32], convert: impl Fn([u8; N]) -> f32) {
    let (elements, _) = bytes.as_chunks::<N>();
    for (value, element) in out.iter_mut().zip(elements) {
        *value = convert(*element);
    }
}

/// Half precision to single, exactly, without branches and without subnormal operands, which processors take long over;
/// the payload of a NaN is kept.
#[inline]
pub(crate) fn f16_to_f32(bits: u16) -> f32 {
    const TWO_TO_THE_MINUS_24: f32 = f32::from_bits((127 - 24) << 23);
    let sign = u32::from(bits & 0x8000) << 16;
    let magnitude = u32::from(bits & 0x7fff);
    let subnormal = (magnitude as f32 * TWO_TO_THE_MINUS_24).to_bits();
    // The biases differ by 112; infinities and NaN go from the largest exponent of the one to that of the other.
    let rebase = if magnitude >= 0x7c00 { 2 * 112 } else { 112 };
    let normal = (magnitude << 13) + (rebase << 23);
    f32::from_bits(sign | if magnitude < 0x400 { subnormal } else { normal })
}

/// OCP's E4M3: bias 7, no infinities, one NaN a sign.
#[inline]
fn f8e4m3_to_f32(byte: u8) -> f32 {
    const TWO_TO_THE_MINUS_9: f32 = f32::from_bits((127 - 9) << 23);
    let sign = u32::from(byte & 0x80) << 24;
    let magnitude = u32::from(byte & 0x7f);
    let subnormal = (magnitude as f32 * TWO_TO_THE_MINUS_9).to_bits();
    let normal = if magnitude == 0x7f { 0x7fc0_0000 } else { (magnitude << 20) + (120 << 23) };
    f32::from_bits(sign | if magnitude < 8 { subnormal } else { normal })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_half_converts_as_the_half_crate_says() {
        for bits in 0..=u16::MAX {
            let (ours, theirs) = (f16_to_f32(bits), half::f16::from_bits(bits).to_f32());
            if theirs.is_nan() {
                assert!(ours.is_nan(), "{bits:#x}");
            } else {
                assert_eq!(ours.to_bits(), theirs.to_bits(), "{bits:#x}");
            }
        }
    }

    #[test]
    fn eight_bit_floats_have_the_values_of_their_definition() {
        for byte in 0..=u8::MAX {
            let (exponent, mantissa) = (i32::from(byte >> 3 & 15), f32::from(byte & 7));
            let magnitude = match exponent {
                15 if byte & 7 == 7 => f32::NAN,
                0 => mantissa / 8.0 * 2f32.powi(-6),
                _ => (1.0 + mantissa / 8.0) * 2f32.powi(exponent - 7),
            };
            let expected = if byte & 0x80 == 0 { magnitude } else { -magnitude };
            let found = f8e4m3_to_f32(byte);
            assert!(found.to_bits() == expected.to_bits() || (found.is_nan() && expected.is_nan()), "{byte:#x}");
        }
    }
}
