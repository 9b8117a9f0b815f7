//! Fixtures and test data.

use std::path::{Path, PathBuf};

use fornax_backend::{Device, FloatDtype};
use fornax_checkpoint::Checkpoint;
use fornax_models::{AutoModel, LoadOptions};

pub fn device() -> Device {
    let name = std::env::var("FORNAX_TEST_DEVICE").unwrap_or_else(|_| "cpu".into());
    name.parse().expect("FORNAX_TEST_DEVICE names a device of this machine and build")
}

pub fn fixture(case: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../fornax-models/tests/fixtures").join(case)
}

/// A file of the test data, or a notice that it is not there.
pub fn test_data(file: &str) -> Option<PathBuf> {
    let found = std::env::var_os("FORNAX_TEST_DATA")
        .map(|folder| PathBuf::from(folder).join(file))
        .filter(|path| path.exists());
    if found.is_none() {
        notice(&format!("FORNAX_TEST_DATA does not name a folder with {file}: this test checks nothing"));
    }
    found
}

#[allow(clippy::print_stderr)]
pub fn notice(text: &str) {
    eprintln!("{text}");
}

/// In f32, which the expectations were computed in.
pub fn load(path: &Path) -> AutoModel {
    let options = LoadOptions { dtype: Some(FloatDtype::F32), ..LoadOptions::default() };
    let path = path.to_str().expect("UTF-8");
    AutoModel::load_with(path, &device(), &options).unwrap_or_else(|error| panic!("{path}: {error}"))
}

pub struct Expected(Checkpoint);

impl Expected {
    pub fn of(case: &str) -> Self {
        Self(Checkpoint::open(fixture(case).join("expected.safetensors")).expect("the fixture opens"))
    }

    pub fn floats(&self, name: &str) -> Vec<f32> {
        self.0.tensor(name).expect(name).to_f32().expect("floats")
    }

    /// Rows of token ids.
    pub fn rows(&self, name: &str) -> Vec<Vec<u32>> {
        let view = self.0.tensor(name).expect(name);
        let ids = view.bytes.chunks_exact(8).map(|b| i64::from_le_bytes(b.try_into().expect("8 bytes")) as u32);
        ids.collect::<Vec<_>>().chunks(view.info.shape[1]).map(<[u32]>::to_vec).collect()
    }
}
