//! Filling a network from a checkpoint, tensor by tensor. A tensor that lies in the file as the device wants it is used
//! where it lies; otherwise one tensor at a time is converted, so that loading never needs the model's size twice.

use std::collections::HashSet;

use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::{AllocationProperty, Bytes, DType, Device, Tensor, TensorData};
use fornax_backend::FloatDtype;
use fornax_checkpoint::{Checkpoint, Dtype, TensorView};
use fornax_nn::{Weight, Weights};

use crate::packing::{self, WeightFormat};
use crate::path::ParameterPath;
use crate::repacked::Repacked;
use crate::weights::{Layout, WeightMap};
use crate::{ModelError, Network, TensorMismatch};

/// The network with its weights from the checkpoint, as `dtype` on `device`, its matrices in `format`.
///
/// # Errors
/// [`ModelError::Tensors`] with every tensor that is missing, left over or misshapen; errors of the file.
pub(crate) fn load_weights(
    mut network: Network,
    checkpoint: &Checkpoint,
    map: &WeightMap,
    device: &Device,
    dtype: FloatDtype,
    format: WeightFormat,
    repacked: &mut Repacked,
) -> Result<Network, ModelError> {
    let mut loader = Loader {
        checkpoint,
        map,
        device,
        dtype,
        head_dim: network.head_dim(),
        path: ParameterPath::default(),
        used: HashSet::new(),
        mismatch: TensorMismatch::default(),
        error: None,
    };
    if format != WeightFormat::Dense {
        network.for_each_weight("", &mut |parameter, weight| loader.pack(parameter, weight, format, repacked));
    }
    let network = network.map(&mut loader);
    let Loader { used, mut mismatch, error, .. } = loader;
    if let Some(error) = error {
        return Err(error);
    }
    let unexpected = checkpoint.tensors().map(|info| &info.name);
    mismatch.unexpected = unexpected.filter(|&name| !used.contains(name) && !map.ignores(name)).cloned().collect();
    if mismatch.is_empty() { Ok(network) } else { Err(mismatch.into()) }
}

/// The type that most of a checkpoint's numbers have, as far as a device can compute in it.
pub(crate) fn stored_dtype(checkpoint: &Checkpoint) -> FloatDtype {
    let largest = checkpoint.tensors().max_by_key(|info| info.elements());
    match largest.map(|info| info.dtype) {
        Some(Dtype::F16) => FloatDtype::F16,
        Some(Dtype::BF16) => FloatDtype::Bf16,
        _ => FloatDtype::F32,
    }
}

/// The two parameters of a decoder that may be one.
const EMBEDDING: &str = "embedding.weight";
const OUTPUT: &str = "output.weight";

/// Whether the checkpoint holds an output layer that differs from its embedding. Such a model is not tied, whatever its
/// configuration says.
pub(crate) fn is_untied(checkpoint: &Checkpoint, map: &WeightMap) -> Result<bool, ModelError> {
    let find = |parameter| map.names(parameter)?.0.into_iter().find(|name| checkpoint.contains(name));
    let (Some(embedding), Some(output)) = (find(EMBEDDING), find(OUTPUT)) else { return Ok(false) };
    let (embedding, output) = (checkpoint.tensor(&embedding)?, checkpoint.tensor(&output)?);
    let same_kind = embedding.info.shape == output.info.shape && embedding.info.dtype == output.info.dtype;
    Ok(!same_kind || embedding.bytes != output.bytes)
}

struct Loader<'a> {
    checkpoint: &'a Checkpoint,
    map: &'a WeightMap,
    device: &'a Device,
    dtype: FloatDtype,
    head_dim: usize,
    path: ParameterPath,
    used: HashSet<String>,
    mismatch: TensorMismatch,
    error: Option<ModelError>,
}

impl ModuleMapper for Loader<'_> {
    fn enter_module(&mut self, name: &str, container: &str) {
        self.path.enter(name, container);
    }

    fn exit_module(&mut self, _name: &str, container: &str) {
        self.path.exit(container);
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        if self.error.is_some() {
            return param;
        }
        let shape: Vec<usize> = param.lazy_shape().to_vec();
        match self.read(&self.path.name(), &shape) {
            Ok(Some(data)) => {
                let dtype: DType = self.dtype.into();
                Param::from_tensor(Tensor::from_data(data, (self.device, dtype)))
            }
            Ok(None) => param,
            Err(error) => {
                self.error = Some(error);
                param
            }
        }
    }
}

impl Loader<'_> {
    /// Packs a matrix if its tensor is of a type to be packed; else leaves it as it is, to be read as numbers.
    fn pack(&mut self, parameter: &str, weight: &mut Weight, format: WeightFormat, repacked: &mut Repacked) {
        if self.error.is_some() {
            return;
        }
        match self.try_pack(parameter, weight.dims(), format, repacked) {
            Ok(Some(packed)) => *weight = packed,
            Ok(None) => {}
            Err(error) => self.error = Some(error),
        }
    }

    fn try_pack(
        &mut self,
        parameter: &str,
        shape: [usize; 2],
        format: WeightFormat,
        repacked: &mut Repacked,
    ) -> Result<Option<Weight>, ModelError> {
        // What is wrong with a tensor is noted when it is asked for as numbers.
        let Some((name, layout)) = self.locate(parameter) else { return Ok(None) };
        let view = self.checkpoint.tensor(&name)?;
        if view.info.shape != layout.stored_shape(&shape) || !is_number(view.info.dtype) {
            return Ok(None);
        }
        let Some(target) = format.of(view.info.dtype) else { return Ok(None) };
        let packed = match repacked.take(parameter, shape) {
            Some(packed) => packed,
            None => {
                let packed = packing::pack(&view, layout, shape, self.head_dim, target)?;
                repacked.keep(parameter, &packed);
                self.checkpoint.release(&name);
                packed
            }
        };
        self.used.insert(name);
        Ok(Some(packed.into()))
    }

    /// The tensor that holds a parameter, and how; `None` when there is none.
    fn locate(&self, parameter: &str) -> Option<(String, Layout)> {
        let (names, layout) = self.map.names(parameter)?;
        let there = |names: &[String]| names.iter().find(|name| self.checkpoint.contains(name)).cloned();
        // Tied models are sometimes stored with the output layer alone.
        let stand_in = || (parameter == EMBEDDING).then(|| there(&self.map.names(OUTPUT)?.0)).flatten();
        Some((there(&names).or_else(stand_in)?, layout))
    }

    /// The numbers of a parameter, or `None` once their absence is noted.
    fn read(&mut self, parameter: &str, shape: &[usize]) -> Result<Option<TensorData>, ModelError> {
        let Some((name, layout)) = self.locate(parameter) else {
            let missing = self.map.name(parameter).map(|(name, _)| name);
            self.mismatch.missing.push(missing.unwrap_or(format!("{parameter} (the family has no rule for it)")));
            return Ok(None);
        };
        let view = self.checkpoint.tensor(&name)?;
        self.used.insert(name.clone());
        let expected = layout.stored_shape(shape);
        if view.info.shape != expected {
            self.mismatch.misshapen.push(format!("{name}: expected {expected:?}, found {:?}", view.info.shape));
            return Ok(None);
        }
        if !is_number(view.info.dtype) {
            self.mismatch.misshapen.push(format!("{name}: expected floating-point numbers, found {}", view.info.dtype));
            return Ok(None);
        }
        if layout == Layout::Same
            && let Some(data) = self.borrowed(&view, shape)
        {
            return Ok(Some(data));
        }
        let values = layout.unpack(view.to_f32()?, shape, self.head_dim);
        // What was copied need not stay in memory as a page of the file too.
        self.checkpoint.release(&name);
        Ok(Some(TensorData::new(values, shape.to_vec()).convert_dtype(self.dtype.into())))
    }

    /// The tensor's own bytes, when they are of the right type and aligned for it.
    fn borrowed(&self, view: &TensorView, shape: &[usize]) -> Option<TensorData> {
        let same = matches!(
            (view.info.dtype, self.dtype),
            (Dtype::F32, FloatDtype::F32) | (Dtype::F16, FloatDtype::F16) | (Dtype::BF16, FloatDtype::Bf16)
        );
        if !same || !view.bytes.as_ptr().addr().is_multiple_of(self.dtype.bytes()) {
            return None;
        }
        let bytes = Bytes::from_shared(view.bytes.clone(), AllocationProperty::File);
        Some(TensorData::from_bytes(bytes, shape.to_vec(), self.dtype.into()))
    }
}

fn is_number(dtype: Dtype) -> bool {
    use Dtype::{Bool, I8, I16, I32, I64, U8, U16, U32, U64};
    !matches!(dtype, Bool | I8 | I16 | I32 | I64 | U8 | U16 | U32 | U64)
}

impl Layout {
    /// The shape of the stored tensor that holds a parameter of `shape`.
    fn stored_shape(self, shape: &[usize]) -> Vec<usize> {
        let mut stored = shape.to_vec();
        match self {
            Self::Same | Self::PairedRows | Self::OneAdded => {}
            Self::Transposed => stored.reverse(),
            Self::Part { of, .. } => stored[0] *= of,
            Self::TransposedPart { of, .. } => {
                stored[0] *= of;
                stored.reverse();
            }
        }
        stored
    }

    /// The parameter's numbers, in the network's order, out of the stored tensor's.
    pub(crate) fn unpack(self, stored: Vec<f32>, shape: &[usize], head_dim: usize) -> Vec<f32> {
        let columns = shape.get(1).copied().unwrap_or(1);
        let part = |all: Vec<f32>, index: usize| {
            let len: usize = shape.iter().product();
            all[index * len..(index + 1) * len].to_vec()
        };
        match self {
            Self::Same => stored,
            Self::Transposed => transposed(&stored, shape[0], columns),
            Self::Part { index, .. } => part(stored, index),
            Self::TransposedPart { index, of } => part(transposed(&stored, shape[0] * of, columns), index),
            Self::PairedRows => packing::halved_rows(&stored, columns, head_dim),
            Self::OneAdded => stored.into_iter().map(|value| value - 1.0).collect(),
        }
    }
}

/// `[columns, rows]` → `[rows, columns]`.
pub(crate) fn transposed(stored: &[f32], rows: usize, columns: usize) -> Vec<f32> {
    if columns == 1 {
        return stored.to_vec();
    }
    let mut values = Vec::with_capacity(stored.len());
    for row in 0..rows {
        values.extend((0..columns).map(|column| stored[column * rows + row]));
    }
    values
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(count: usize) -> Vec<f32> {
        (0..count).map(|i| i as f32).collect()
    }

    #[test]
    fn parts_of_a_transposed_matrix() {
        // Stored [in = 2, 3 · out = 6]; the second part is columns 2 and 3.
        let layout = Layout::TransposedPart { index: 1, of: 3 };
        assert_eq!(layout.stored_shape(&[2, 2]), [2, 6]);
        assert_eq!(layout.unpack(numbers(12), &[2, 2], 1), [2.0, 8.0, 3.0, 9.0]);
        // Of a bias, a plain piece.
        assert_eq!(layout.stored_shape(&[2]), [6]);
        assert_eq!(layout.unpack(numbers(6), &[2], 1), [2.0, 3.0]);
    }

    #[test]
    fn paired_rows_become_halves() {
        // Two heads of four rows of one column each.
        let stored = [0.0, 2.0, 1.0, 3.0, 10.0, 12.0, 11.0, 13.0];
        assert_eq!(
            Layout::PairedRows.unpack(stored.to_vec(), &[8, 1], 4),
            [0.0, 1.0, 2.0, 3.0, 10.0, 11.0, 12.0, 13.0]
        );
    }
}
