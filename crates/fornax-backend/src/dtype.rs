//! The floating-point types that weights and arithmetic use, and which of them a device takes.
//! Packed (quantized) weights are not floating-point types and are not listed here.

use std::fmt;
use std::str::FromStr;

use burn::tensor::DType;

use crate::Device;

/// A floating-point type that a device can hold weights in and compute with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FloatDtype {
    /// IEEE 754 single precision, 4 bytes.
    F32,
    /// IEEE 754 half precision, 2 bytes.
    F16,
    /// bfloat16: the upper half of an `f32`, 2 bytes.
    Bf16,
}

/// Why a floating-point type could not be had.
#[derive(Debug, thiserror::Error)]
pub enum DtypeError {
    /// No type of this name.
    #[error("dtype {found:?} is unknown; expected one of f32, f16, bf16")]
    Unknown {
        /// The name as it was given.
        found: String,
    },
    /// The device does not compute in this type.
    #[error("{device} does not compute in {dtype}; it takes {supported}")]
    Unsupported {
        /// The device asked.
        device: String,
        /// The type asked for.
        dtype: FloatDtype,
        /// The types it takes, separated by commas.
        supported: String,
    },
}

impl FloatDtype {
    /// Every type, the widest first.
    pub const ALL: [Self; 3] = [Self::F32, Self::F16, Self::Bf16];

    /// Bytes an element takes.
    pub fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
        }
    }

    /// The type that `device` holds weights in and computes with.
    ///
    /// `requested` wins where the device supports it. Otherwise a GPU takes the type of the checkpoint
    /// (`stored`) where it supports that one, and a CPU takes `f32`, in which its kernels are fastest and
    /// closest to the reference.
    ///
    /// # Errors
    /// [`DtypeError::Unsupported`] when the requested type is not one of the device's.
    pub fn for_device(device: &Device, requested: Option<Self>, stored: Self) -> Result<Self, DtypeError> {
        if let Some(dtype) = requested {
            if device.supports(dtype) {
                return Ok(dtype);
            }
            let supported: Vec<_> =
                Self::ALL.into_iter().filter(|&other| device.supports(other)).map(|other| other.to_string()).collect();
            return Err(DtypeError::Unsupported { device: device.to_string(), dtype, supported: supported.join(", ") });
        }
        Ok(if device.is_gpu() && device.supports(stored) { stored } else { Self::F32 })
    }
}

impl From<FloatDtype> for DType {
    fn from(dtype: FloatDtype) -> Self {
        match dtype {
            FloatDtype::F32 => DType::F32,
            FloatDtype::F16 => DType::F16,
            FloatDtype::Bf16 => DType::BF16,
        }
    }
}

impl fmt::Display for FloatDtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
        })
    }
}

impl FromStr for FloatDtype {
    type Err = DtypeError;

    fn from_str(name: &str) -> Result<Self, DtypeError> {
        match name.to_ascii_lowercase().as_str() {
            "f32" | "float32" | "float" => Ok(Self::F32),
            "f16" | "float16" | "half" => Ok(Self::F16),
            "bf16" | "bfloat16" => Ok(Self::Bf16),
            _ => Err(DtypeError::Unknown { found: name.to_owned() }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip() {
        for dtype in FloatDtype::ALL {
            assert_eq!(dtype.to_string().parse::<FloatDtype>().expect("its own name"), dtype);
        }
        let error = "int3".parse::<FloatDtype>().expect_err("no such type").to_string();
        assert!(error.contains("int3") && error.contains("bf16"), "{error}");
    }

    #[cfg(feature = "cpu")]
    #[test]
    fn the_cpu_computes_in_f32_unless_asked() {
        let cpu = Device::cpu();
        assert_eq!(FloatDtype::for_device(&cpu, None, FloatDtype::Bf16).expect("always there"), FloatDtype::F32);
        assert_eq!(
            FloatDtype::for_device(&cpu, Some(FloatDtype::Bf16), FloatDtype::F32).expect("flex takes bf16"),
            FloatDtype::Bf16
        );
    }
}
