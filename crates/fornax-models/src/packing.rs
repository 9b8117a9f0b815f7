//! In which form a model's matrices are held: as numbers, or packed for the CPU's kernels; and the packing of one
//! tensor of a checkpoint. The loader decides when, and for which parameters.

use std::fmt;
use std::str::FromStr;

use fornax_backend::{Device, FloatDtype};
use fornax_checkpoint::{Dtype, TensorView};
use fornax_cpu::{CpuError, PackedWeight, WeightType};

use crate::ModelError;
use crate::weights::Layout;

/// In which form the matrices of a model are held.
///
/// ```
/// use fornax_models::WeightFormat;
///
/// assert_eq!("q4_0".parse::<WeightFormat>()?, WeightFormat::Packed("q4_0".parse()?));
/// assert_eq!("auto".parse::<WeightFormat>()?, WeightFormat::Auto);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum WeightFormat {
    /// On the CPU, what a file holds in 16 bits or fewer is packed as it is, without loss, unless a dtype is asked for.
    /// Everything else, and everything on other devices, is dense.
    #[default]
    Auto,
    /// Numbers of the dtype that the model computes in, which can be trained.
    Dense,
    /// Packed as this type; weights of another type are rounded or quantized. For the CPU only.
    Packed(WeightType),
}

impl fmt::Display for WeightFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.pad("auto"),
            Self::Dense => f.pad("dense"),
            Self::Packed(weight_type) => weight_type.fmt(f),
        }
    }
}

impl FromStr for WeightFormat {
    type Err = ModelError;

    fn from_str(name: &str) -> Result<Self, ModelError> {
        match name {
            "auto" => Ok(Self::Auto),
            "dense" => Ok(Self::Dense),
            _ => name
                .parse()
                .map(Self::Packed)
                .map_err(|_| ModelError::WeightFormat { found: name.to_owned(), expected: quantizable() }),
        }
    }
}

impl WeightFormat {
    /// What this means on a device, for a model whose dtype was asked for or not.
    ///
    /// # Errors
    /// [`ModelError::PackedDevice`] when packed weights are asked for where no kernel takes them.
    pub(crate) fn on(self, device: &Device, dtype: Option<FloatDtype>) -> Result<Self, ModelError> {
        let takes_packed = device.is_plain_cpu();
        match self {
            Self::Auto if !takes_packed || dtype.is_some() => Ok(Self::Dense),
            Self::Packed(weight_type) if !takes_packed => {
                Err(ModelError::PackedDevice { weight_type: weight_type.to_string(), device: device.to_string() })
            }
            _ => match dtype {
                Some(dtype) if dtype != FloatDtype::F32 && self != Self::Dense => Err(ModelError::config(
                    "dtype",
                    format!(
                        "f32 beside weights {self}, which are computed with in it; leave the dtype out, or take weights dense"
                    ),
                    dtype,
                )),
                _ => Ok(self),
            },
        }
    }

    /// The type to pack a tensor as; `None` to leave it dense.
    pub(crate) fn of(self, stored: Dtype) -> Option<WeightType> {
        match self {
            Self::Auto => weight_type(stored),
            Self::Dense => None,
            Self::Packed(weight_type) => Some(weight_type),
        }
    }
}

/// The names of the types that anything can be packed as.
fn quantizable() -> String {
    let types = WeightType::ALL.into_iter().filter(|one| one.is_quantizable());
    types.map(|one| one.to_string()).collect::<Vec<_>>().join(", ")
}

/// The packed type that holds what a checkpoint's type does.
fn weight_type(dtype: Dtype) -> Option<WeightType> {
    Some(match dtype {
        Dtype::F16 => WeightType::F16,
        Dtype::BF16 => WeightType::BF16,
        Dtype::Q8_0 => WeightType::Q8_0,
        Dtype::Q4_0 => WeightType::Q4_0,
        Dtype::Q4_1 => WeightType::Q4_1,
        Dtype::Q5_0 => WeightType::Q5_0,
        Dtype::Q5_1 => WeightType::Q5_1,
        Dtype::Q2_K => WeightType::Q2_K,
        Dtype::Q3_K => WeightType::Q3_K,
        Dtype::Q4_K => WeightType::Q4_K,
        Dtype::Q5_K => WeightType::Q5_K,
        Dtype::Q6_K => WeightType::Q6_K,
        _ => return None,
    })
}

/// Packs the parameter `[out_features, in_features]` that a tensor holds in this layout.
///
/// # Errors
/// [`ModelError::Pack`] naming the tensor when its columns do not fit the type's blocks, or the type is read only.
pub(crate) fn pack(
    view: &TensorView,
    layout: Layout,
    [out_features, in_features]: [usize; 2],
    head_dim: usize,
    target: WeightType,
) -> Result<PackedWeight, ModelError> {
    let named = |source: CpuError| ModelError::Pack { tensor: view.info.name.clone(), source };
    if weight_type(view.info.dtype) == Some(target) {
        let row_bytes = target.row_bytes(in_features);
        let pack = |rows: &[u8]| PackedWeight::pack(target, out_features, in_features, rows).map_err(named);
        match layout {
            Layout::Same => return pack(&view.bytes),
            Layout::Part { index, .. } => {
                let len = out_features * row_bytes;
                return pack(&view.bytes[index * len..(index + 1) * len]);
            }
            Layout::PairedRows => return pack(&halved_rows(&view.bytes, row_bytes, head_dim)),
            // The rows or the numbers of these tensors are not those of the file.
            Layout::Transposed | Layout::TransposedPart { .. } | Layout::OneAdded => {}
        }
    }
    let values = layout.unpack(view.to_f32()?, &[out_features, in_features], head_dim);
    PackedWeight::quantize(target, out_features, in_features, &values).map_err(named)
}

/// Rows of each head from `(0, d/2), (1, d/2 + 1), …` to `0, 1, …, d − 1`; a row is `row_len` of anything.
pub(crate) fn halved_rows<T: Copy>(stored: &[T], row_len: usize, head_dim: usize) -> Vec<T> {
    let mut values = Vec::with_capacity(stored.len());
    for head in stored.chunks(head_dim * row_len) {
        for half in 0..2 {
            for pair in 0..head_dim / 2 {
                let row = 2 * pair + half;
                values.extend_from_slice(&head[row * row_len..(row + 1) * row_len]);
            }
        }
    }
    values
}
