//! Finding the fixtures, reading them, comparing with them.

use std::path::{Path, PathBuf};

use burn::tensor::{Int, Tensor};
use fornax_backend::Device;
use fornax_checkpoint::Checkpoint;
use fornax_models::AutoModel;

/// The device under test.
pub fn device() -> Device {
    let name = std::env::var("FORNAX_TEST_DEVICE").unwrap_or_else(|_| "cpu".into());
    name.parse().expect("FORNAX_TEST_DEVICE names a device of this machine and build")
}

/// How far a logit may lie from transformers' one.
pub fn tolerance(device: &Device) -> f32 {
    if device.is_gpu() { 1e-3 } else { 1e-4 }
}

/// Every case that is a causal language model.
pub const DECODERS: &[&str] = &[
    "gpt2",
    "gpt2_options",
    "llama",
    "llama_gqa_tied",
    "llama3_rope",
    "llama_linear_rope",
    "llama_dynamic_rope",
    "llama_yarn",
    "llama_yarn_options",
    "llama_longrope",
    "mistral",
    "mistral_no_window",
    "qwen2",
    "qwen2_window",
    "qwen3",
    "qwen3_tied",
];

pub fn folder(case: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(case)
}

/// Loads a case in f32, whatever it is stored in: the expectations were computed so.
pub fn load(path: &Path, device: &Device) -> AutoModel {
    let path = path.to_str().expect("fixture paths are UTF-8");
    let options = fornax_models::LoadOptions {
        dtype: Some(fornax_backend::FloatDtype::F32),
        ..fornax_models::LoadOptions::default()
    };
    AutoModel::load_with(path, device, &options).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// What transformers was given and gave.
pub struct Expected(Checkpoint);

impl Expected {
    pub fn of(case: &str) -> Self {
        Self(Checkpoint::open(folder(case).join("expected.safetensors")).expect("the fixture opens"))
    }

    pub fn contains(&self, name: &str) -> bool {
        self.0.contains(name)
    }

    pub fn names(&self) -> Vec<String> {
        self.0.tensors().map(|info| info.name.clone()).collect()
    }

    pub fn shape(&self, name: &str) -> Vec<usize> {
        self.0.tensor(name).expect(name).info.shape
    }

    pub fn floats(&self, name: &str) -> Vec<f32> {
        self.0.tensor(name).expect(name).to_f32().expect("floats")
    }

    /// 64-bit integers, which token ids are stored as.
    pub fn ids(&self, name: &str) -> Vec<i64> {
        let bytes = self.0.tensor(name).expect(name).bytes;
        bytes.chunks_exact(8).map(|b| i64::from_le_bytes(b.try_into().expect("8 bytes"))).collect()
    }

    pub fn id_tensor(&self, name: &str, device: &Device) -> Tensor<2, Int> {
        let shape = self.shape(name);
        Tensor::<1, Int>::from_data(self.ids(name).as_slice(), device.as_burn()).reshape([shape[0], shape[1]])
    }
}

pub fn values<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data().convert::<f32>().iter::<f32>().collect()
}

/// Fails with the place and the size of the largest difference.
pub fn assert_close(what: &str, found: &[f32], expected: &[f32], tolerance: f32) {
    assert_eq!(found.len(), expected.len(), "{what}: number of values");
    let difference = |i: usize| (found[i] - expected[i]).abs();
    assert!(found.iter().all(|value| value.is_finite()), "{what}: a value is not finite");
    let worst = (0..found.len()).max_by(|&a, &b| difference(a).total_cmp(&difference(b))).expect("values");
    assert!(
        difference(worst) <= tolerance,
        "{what}: at {worst} found {}, expected {}, which is {:.2e} apart (allowed {tolerance:.0e})",
        found[worst],
        expected[worst],
        difference(worst),
    );
}
