//! Writing a model as a Hugging Face folder that transformers loads: configuration, weights, tokenizer.

use std::collections::HashMap;
use std::fs;
use std::io::Write;
use std::path::Path;

use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::{DType, Tensor, TensorData};
use fornax_checkpoint::{Dtype, SaveOptions, TensorInfo, save_safetensors};
use fornax_cpu::{PackedWeight, WeightType};
use fornax_nn::Weights;
use serde_json::{Value, json};

use crate::load::transposed;
use crate::path::ParameterPath;
use crate::weights::{Layout, WeightMap};
use crate::{AutoModel, ModelError, TensorMismatch};

impl AutoModel {
    /// Writes `config.json`, `generation_config.json`, the weights as safetensors (in shards above 5 GB) and the
    /// tokenizer into `folder`, which is made if need be. Each file appears only when it is complete.
    ///
    /// Quantized weights are written as the `f32` that they stand for, packed 16-bit floats as they are.
    ///
    /// # Errors
    /// [`ModelError::Io`] and [`ModelError::Checkpoint`], naming the file.
    pub fn save(&self, folder: impl AsRef<Path>) -> Result<(), ModelError> {
        let folder = folder.as_ref();
        fs::create_dir_all(folder).map_err(ModelError::io("make the folder", folder))?;
        let map = &self.family().weights;
        // A checkpoint of a bare model, such as `BertModel`, leaves the prefix out that those with heads have.
        let bare = self.config()["architectures"][0].as_str() == Some("BertModel");
        let prefix = if bare { map.optional_prefix } else { "" };
        let mut collector = Collector {
            map,
            prefix,
            path: ParameterPath::default(),
            order: Vec::new(),
            stored: HashMap::new(),
            unnamed: TensorMismatch::default(),
        };
        self.network().visit(&mut collector);
        // Cloning shares the weights; only a walk that could change them shows the packed ones.
        self.network().clone().for_each_weight("", &mut |parameter, weight| {
            if let Some(packed) = weight.packed() {
                collector.add(parameter, packed.into());
            }
        });
        let Collector { order, mut stored, unnamed, .. } = collector;
        if !unnamed.is_empty() {
            return Err(unnamed.into());
        }
        // The configuration goes first and comes last: a folder that has one is whole.
        let config_path = folder.join("config.json");
        if config_path.exists() {
            fs::remove_file(&config_path).map_err(ModelError::io("replace", &config_path))?;
        }
        let infos: Vec<TensorInfo> = order.iter().map(|name| stored[name].info(name)).collect();
        let largest = infos.iter().max_by_key(|info| info.elements());
        let dtype = largest.map_or("float32", |info| torch_name(info.dtype));
        save_safetensors(folder, infos, &SaveOptions::default(), |info| -> Result<_, ModelError> {
            // Taken out, so that a tensor brought to the host is given back before the next.
            let tensor = stored.remove(&info.name);
            Ok(tensor.map(|tensor| tensor.bytes()).transpose()?.unwrap_or_default().into())
        })?;
        if let Some(tokenizer) = self.tokenizer() {
            tokenizer.save(folder)?;
        }
        let mut config = self.config().clone();
        if let Some(object) = config.as_object_mut() {
            // Both spellings, for transformers before and after version 5.
            object.insert("dtype".into(), dtype.into());
            object.insert("torch_dtype".into(), dtype.into());
            for (key, value) in self.token_ids() {
                object.insert(key.into(), value);
            }
        }
        let mut generation = self.generation_defaults().raw.clone().unwrap_or_else(|| json!({}));
        if let Some(object) = generation.as_object_mut() {
            object.extend(self.token_ids().into_iter().map(|(key, value)| (key.to_owned(), value)));
        }
        write_json(&folder.join("generation_config.json"), &generation)?;
        write_json(&config_path, &config)
    }

    fn token_ids(&self) -> Vec<(&'static str, Value)> {
        let defaults = self.generation_defaults();
        let eos = match defaults.eos_token_ids.as_slice() {
            [] => None,
            [one] => Some(json!(one)),
            several => Some(json!(several)),
        };
        [
            ("bos_token_id", defaults.bos_token_id.map(|id| json!(id))),
            ("eos_token_id", eos),
            ("pad_token_id", defaults.pad_token_id.map(|id| json!(id))),
        ]
        .into_iter()
        .filter_map(|(key, value)| Some((key, value?)))
        .collect()
    }
}

/// Gathers the parameters by the tensors that they are stored in.
struct Collector<'a> {
    map: &'a WeightMap,
    /// Left out of names.
    prefix: &'static str,
    path: ParameterPath,
    order: Vec<String>,
    stored: HashMap<String, Stored>,
    /// Parameters that the family has no name for.
    unnamed: TensorMismatch,
}

/// A tensor to be written, of one parameter or of several side by side.
struct Stored {
    layout: Layout,
    /// In order, of one dtype and shape.
    parts: Vec<Part>,
}

/// One parameter's numbers.
struct Part {
    dtype: DType,
    shape: Vec<usize>,
    numbers: Numbers,
}

enum Numbers {
    /// Flat.
    Tensor(Tensor<1>),
    Packed(PackedWeight),
}

impl From<&PackedWeight> for Part {
    fn from(weight: &PackedWeight) -> Self {
        let dtype = match weight.weight_type() {
            WeightType::F16 => DType::F16,
            WeightType::BF16 => DType::BF16,
            _ => DType::F32,
        };
        let shape = vec![weight.out_features(), weight.in_features()];
        Self { dtype, shape, numbers: Numbers::Packed(weight.clone()) }
    }
}

impl Part {
    fn data(self) -> Result<TensorData, ModelError> {
        match self.numbers {
            Numbers::Tensor(tensor) => {
                tensor.try_into_data().map_err(|error| ModelError::Device { reason: error.to_string() })
            }
            Numbers::Packed(weight) => Ok(TensorData::new(weight.to_f32(), self.shape).convert_dtype(self.dtype)),
        }
    }
}

impl ModuleVisitor for Collector<'_> {
    fn enter_module(&mut self, name: &str, container: &str) {
        self.path.enter(name, container);
    }

    fn exit_module(&mut self, _name: &str, container: &str) {
        self.path.exit(container);
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let value = param.val();
        let shape = value.dims().to_vec();
        let elements = shape.iter().product::<usize>();
        let part = Part { dtype: value.dtype(), shape, numbers: Numbers::Tensor(value.reshape([elements])) };
        self.add(&self.path.name(), part);
    }
}

impl Collector<'_> {
    fn add(&mut self, parameter: &str, part: Part) {
        let Some((name, layout)) = self.map.name(parameter) else {
            self.unnamed.missing.push(format!("{parameter} (the family has no rule for it)"));
            return;
        };
        let name = name.strip_prefix(self.prefix).map_or(name.clone(), str::to_owned);
        match self.stored.get_mut(&name) {
            // A network lists its parts in the order in which they are stored.
            Some(stored) => stored.parts.push(part),
            None => {
                self.order.push(name.clone());
                self.stored.insert(name, Stored { layout, parts: vec![part] });
            }
        }
    }
}

impl Stored {
    fn info(&self, name: &str) -> TensorInfo {
        let dtype = match self.parts[0].dtype {
            DType::F16 => Dtype::F16,
            DType::BF16 => Dtype::BF16,
            _ => Dtype::F32,
        };
        let mut shape = self.parts[0].shape.clone();
        shape[0] *= self.parts.len();
        if matches!(self.layout, Layout::Transposed | Layout::TransposedPart { .. }) {
            shape.reverse();
        }
        TensorInfo::new(name, dtype, shape)
    }

    fn bytes(self) -> Result<Vec<u8>, ModelError> {
        let is_transposed = matches!(self.layout, Layout::Transposed | Layout::TransposedPart { .. });
        let (dtype, shape) = (self.parts[0].dtype, self.parts[0].shape.clone());
        let data: Vec<TensorData> = self.parts.into_iter().map(Part::data).collect::<Result<_, _>>()?;
        if !is_transposed || shape.len() == 1 {
            return Ok(data.iter().flat_map(TensorData::as_bytes).copied().collect());
        }
        let rows = shape[0] * data.len();
        let values: Vec<f32> =
            data.into_iter().flat_map(|part| part.convert::<f32>().iter::<f32>().collect::<Vec<_>>()).collect();
        let values = transposed(&values, shape[1], rows);
        let shape = [values.len()];
        Ok(TensorData::new(values, shape).convert_dtype(dtype).as_bytes().to_vec())
    }
}

fn torch_name(dtype: Dtype) -> &'static str {
    match dtype {
        Dtype::F16 => "float16",
        Dtype::BF16 => "bfloat16",
        _ => "float32",
    }
}

/// Writes beside the final place and renames.
fn write_json(path: &Path, value: &Value) -> Result<(), ModelError> {
    let folder = path.parent().unwrap_or(Path::new("."));
    let mut builder = tempfile::Builder::new();
    // A temporary file is readable by its owner alone; a saved one has the permissions that the user's mask leaves.
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    let write = || -> std::io::Result<()> {
        let mut file = builder.tempfile_in(folder)?;
        serde_json::to_writer_pretty(&mut file, value)?;
        file.write_all(b"\n")?;
        file.as_file().sync_all()?;
        file.persist(path)?;
        Ok(())
    };
    write().map_err(ModelError::io("write", path))
}

#[cfg(test)]
mod tests {
    use fornax_backend::{Device, FloatDtype};

    use super::*;

    #[test]
    fn parts_are_written_as_they_are_read() {
        let device = Device::cpu();
        let part = |values: [f32; 4]| Part {
            dtype: FloatDtype::F32.into(),
            shape: vec![2, 2],
            numbers: Numbers::Tensor(Tensor::<1>::from_floats(values, device.as_burn())),
        };
        let stored = Stored {
            layout: Layout::TransposedPart { index: 0, of: 2 },
            parts: vec![part([1.0, 2.0, 3.0, 4.0]), part([5.0, 6.0, 7.0, 8.0])],
        };
        assert_eq!(stored.info("x").shape, [2, 4]);
        let bytes = stored.bytes().expect("on the host already");
        let values: Vec<f32> = bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
        assert_eq!(values, [1.0, 3.0, 5.0, 7.0, 2.0, 4.0, 6.0, 8.0]);
    }
}
