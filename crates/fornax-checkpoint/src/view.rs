//! One tensor: its description and its bytes. It deliberately owns no file (the bytes keep their mapping alive) and
//! computes nothing but the conversion to `f32`.

use bytes::Bytes;

use crate::{
    convert,
    dtype::Dtype,
    error::{CheckpointError, Result, shorten},
};

/// A tensor's name, element type and shape.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorInfo {
    /// The name, unique in its checkpoint.
    pub name: String,
    /// How the elements are encoded.
    pub dtype: Dtype,
    /// The size of each dimension, outermost first and row-major; empty for a scalar. GGUF's reversed order is turned
    /// round on reading, so that a linear layer's weight is `[out, in]` from every format.
    pub shape: Vec<usize>,
}

impl TensorInfo {
    /// Describes a tensor that is to be written.
    pub fn new(name: impl Into<String>, dtype: Dtype, shape: impl Into<Vec<usize>>) -> Self {
        Self { name: name.into(), dtype, shape: shape.into() }
    }

    /// The number of elements: 1 for a scalar. Saturates where a shape made by hand overflows; tensors of an opened
    /// checkpoint never do.
    pub fn elements(&self) -> usize {
        checked_elements(&self.shape).unwrap_or(usize::MAX)
    }

    /// The number of bytes of the encoded elements. Saturates where a shape made by hand overflows or is not a whole
    /// number of blocks; tensors of an opened checkpoint never do.
    pub fn nbytes(&self) -> usize {
        self.checked_nbytes().unwrap_or(usize::MAX)
    }

    /// The size in bytes, or `None` where the shape overflows or the elements are not a whole number of blocks.
    pub(crate) fn checked_nbytes(&self) -> Option<usize> {
        let bytes = self.dtype.bytes_for(checked_elements(&self.shape)?)?;
        // An allocation, and so a slice, holds at most this many.
        (bytes <= isize::MAX as usize).then_some(bytes)
    }
}

/// The product of the sizes. Zeros count as ones for the overflow check, so that no later product of a part of the
/// shape overflows either.
pub(crate) fn checked_elements(shape: &[usize]) -> Option<usize> {
    let mut product = 1usize;
    for &size in shape {
        product = product.checked_mul(size.max(1))?;
    }
    // Strides are computed with signs in many a library, so the product must leave room for one.
    isize::try_from(product).ok()?;
    Some(if shape.contains(&0) { 0 } else { product })
}

/// One tensor of a checkpoint: its description and its encoded elements.
#[derive(Debug, Clone)]
pub struct TensorView {
    /// Name, dtype and shape.
    pub info: TensorInfo,
    /// The encoded elements, little-endian, row-major, without gaps: `info.nbytes()` of them. A slice of the mapped
    /// file wherever the file stores the tensor so, which keeps the mapping alive and copies nothing; no alignment is
    /// promised.
    pub bytes: Bytes,
}

impl TensorView {
    /// Puts a view together from parts.
    ///
    /// # Errors
    /// [`CheckpointError::WrongLength`] where `bytes` is not `info.nbytes()` long.
    pub fn new(info: TensorInfo, bytes: Bytes) -> Result<Self> {
        if info.checked_nbytes() != Some(bytes.len()) {
            return Err(CheckpointError::WrongLength {
                tensor: shorten(&info.name),
                what: "bytes",
                expected: info.nbytes(),
                found: bytes.len(),
            });
        }
        Ok(Self { info, bytes })
    }

    /// All elements as `f32`, row-major.
    ///
    /// # Errors
    /// [`CheckpointError::UnsupportedDtype`] for types without a conversion (see [`Dtype::converts_to_f32`]).
    pub fn to_f32(&self) -> Result<Vec<f32>> {
        self.check_convertible()?;
        let mut values = vec![0.0; self.info.elements()];
        self.dequantize_into(&mut values)?;
        Ok(values)
    }

    /// Writes all elements as `f32` into `out`, which must have `info.elements()` places.
    ///
    /// Block types are expanded exactly as their format defines; `F64` and the wide integers are rounded to nearest.
    ///
    /// # Errors
    /// [`CheckpointError::UnsupportedDtype`] for types without a conversion, [`CheckpointError::WrongLength`] where
    /// `out` has another length.
    pub fn dequantize_into(&self, out: &mut [f32]) -> Result<()> {
        self.check_convertible()?;
        if out.len() != self.info.elements() || self.info.checked_nbytes() != Some(self.bytes.len()) {
            return Err(CheckpointError::WrongLength {
                tensor: shorten(&self.info.name),
                what: "elements",
                expected: self.info.elements(),
                found: out.len(),
            });
        }
        convert::to_f32(self.info.dtype, &self.bytes, out);
        Ok(())
    }

    fn check_convertible(&self) -> Result<()> {
        if self.info.dtype.converts_to_f32() {
            return Ok(());
        }
        Err(CheckpointError::UnsupportedDtype {
            tensor: shorten(&self.info.name),
            dtype: self.info.dtype,
            operation: "converted to f32",
            help: "convert the model to F32, F16, BF16, Q8_0 or another type that is read",
        })
    }
}

/// Converts encoded elements to `f32`, for callers that split a tensor among threads: `bytes` is any whole number of
/// blocks of a tensor of type `dtype`, `out` has one place for each element in them.
///
/// ```
/// use fornax_checkpoint::{Dtype, dequantize};
///
/// let mut out = [0.0; 2];
/// dequantize(Dtype::BF16, &[0x80, 0x3f, 0x00, 0xc0], &mut out)?;
/// assert_eq!(out, [1.0, -2.0]);
/// # Ok::<(), fornax_checkpoint::CheckpointError>(())
/// ```
///
/// # Errors
/// As [`TensorView::dequantize_into`].
pub fn dequantize(dtype: Dtype, bytes: &[u8], out: &mut [f32]) -> Result<()> {
    let info = TensorInfo::new("(part of a tensor)", dtype, [out.len()]);
    if !dtype.converts_to_f32() {
        // The view's check makes the error; it holds no bytes.
        return TensorView { info, bytes: Bytes::new() }.check_convertible();
    }
    if dtype.bytes_for(out.len()) != Some(bytes.len()) {
        return Err(CheckpointError::WrongLength {
            tensor: info.name,
            what: "bytes",
            expected: dtype.bytes_for(out.len()).unwrap_or(usize::MAX),
            found: bytes.len(),
        });
    }
    convert::to_f32(dtype, bytes, out);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_zero_does_not_hide_an_overflow() {
        assert_eq!(checked_elements(&[]), Some(1));
        assert_eq!(checked_elements(&[3, 0, 2]), Some(0));
        assert_eq!(checked_elements(&[0, usize::MAX, 2]), None);
        assert_eq!(checked_elements(&[usize::MAX]), None);
    }

    #[test]
    fn lengths_that_do_not_fit_are_refused() {
        let info = TensorInfo::new("w", Dtype::F32, [2, 2]);
        let error = TensorView::new(info.clone(), Bytes::from_static(&[0; 15])).unwrap_err();
        assert!(matches!(error, CheckpointError::WrongLength { expected: 16, found: 15, .. }));
        let view = TensorView::new(info, Bytes::from_static(&[0; 16])).unwrap();
        assert!(view.dequantize_into(&mut [0.0; 3]).is_err());
        assert_eq!(view.to_f32().unwrap(), [0.0; 4]);
    }

    #[test]
    fn types_without_a_conversion_are_named() {
        let view = TensorView::new(TensorInfo::new("w", Dtype::IQ4_XS, [256]), Bytes::from(vec![0; 136])).unwrap();
        assert!(view.to_f32().unwrap_err().to_string().contains("IQ4_XS"));
        assert!(dequantize(Dtype::C64, &[0; 8], &mut [0.0]).is_err());
    }
}
