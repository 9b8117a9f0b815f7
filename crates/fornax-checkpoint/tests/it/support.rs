//! What several tests need: the fixtures, expected values, and files made by hand. It deliberately reads expected values
//! by the `safetensors` crate and not by the code under test.

use std::{collections::BTreeMap, path::PathBuf};

use fornax_checkpoint::{Checkpoint, Dtype};

/// A file of the fixtures.
pub fn fixture(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

/// A fixture's bytes.
pub fn bytes_of(name: &str) -> Vec<u8> {
    std::fs::read(fixture(name)).expect("the fixtures belong to the repository")
}

/// Name to shape and values.
pub type Expected = BTreeMap<String, (Vec<usize>, Vec<f32>)>;

/// Reads a file of f32 tensors by the independent reader.
pub fn expected(name: &str) -> Expected {
    let bytes = bytes_of(name);
    let tensors = ::safetensors::SafeTensors::deserialize(&bytes).expect("a fixture of the Python library");
    tensors
        .iter()
        .map(|(name, view)| {
            assert_eq!(view.dtype(), ::safetensors::Dtype::F32, "{name}");
            let (values, _) = view.data().as_chunks::<4>();
            let values = values.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
            (name.to_owned(), (view.shape().to_vec(), values))
        })
        .collect()
}

/// Holds a checkpoint's convertible tensors against expected ones, bit for bit; any NaN equals any other.
pub fn assert_same(checkpoint: &Checkpoint, expected: &Expected, skipped: &[&str]) {
    let names: Vec<&str> = checkpoint.tensors().map(|info| info.name.as_str()).collect();
    for name in &names {
        assert!(expected.contains_key(*name) || skipped.contains(name), "{name} is not expected");
    }
    for (name, (shape, values)) in expected {
        let view = checkpoint.tensor(name).expect(name);
        assert_eq!(&view.info.shape, shape, "{name}");
        assert_eq!(view.bytes.len(), view.info.nbytes(), "{name}");
        let found = view.to_f32().expect(name);
        assert_eq!(found.len(), values.len(), "{name}");
        for (at, (found, expected)) in found.iter().zip(values).enumerate() {
            let same = found.to_bits() == expected.to_bits() || (found.is_nan() && expected.is_nan());
            assert!(same, "{name}[{at}]: {found:e} is not {expected:e}");
        }
    }
}

/// A safetensors file with this header and this many bytes of data.
pub fn safetensors(header: &str, data: usize) -> Vec<u8> {
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header.bytes());
    file.extend((0..data).map(|at| at as u8));
    file
}

/// Builds GGUF files that no library would write.
pub struct GgufBuilder {
    version: u32,
    pairs: Vec<(Vec<u8>, u32, Vec<u8>)>,
    tensors: Vec<(Vec<u8>, Vec<u64>, u32, u64)>,
    pub tensor_count: Option<u64>,
    pub pair_count: Option<u64>,
    pub alignment: usize,
    pub data: usize,
}

impl GgufBuilder {
    /// An empty file of version 3.
    pub fn new() -> Self {
        Self {
            version: 3,
            pairs: Vec::new(),
            tensors: Vec::new(),
            tensor_count: None,
            pair_count: None,
            alignment: 32,
            data: 0,
        }
    }

    pub fn version(mut self, version: u32) -> Self {
        self.version = version;
        self
    }

    /// Adds a metadata pair: the value's type and its bytes.
    pub fn pair(mut self, key: impl AsRef<[u8]>, kind: u32, value: impl AsRef<[u8]>) -> Self {
        self.pairs.push((key.as_ref().to_vec(), kind, value.as_ref().to_vec()));
        self
    }

    /// Adds a tensor: sizes from the innermost, the type's number, the offset.
    pub fn tensor(mut self, name: impl AsRef<[u8]>, sizes: &[u64], kind: u32, offset: u64) -> Self {
        self.tensors.push((name.as_ref().to_vec(), sizes.to_vec(), kind, offset));
        self
    }

    pub fn data(mut self, bytes: usize) -> Self {
        self.data = bytes;
        self
    }

    pub fn build(&self) -> Vec<u8> {
        let mut file = b"GGUF".to_vec();
        file.extend(self.version.to_le_bytes());
        file.extend(self.tensor_count.unwrap_or(self.tensors.len() as u64).to_le_bytes());
        file.extend(self.pair_count.unwrap_or(self.pairs.len() as u64).to_le_bytes());
        for (key, kind, value) in &self.pairs {
            file.extend(string(key));
            file.extend(kind.to_le_bytes());
            file.extend(value);
        }
        for (name, sizes, kind, offset) in &self.tensors {
            file.extend(string(name));
            file.extend((sizes.len() as u32).to_le_bytes());
            file.extend(sizes.iter().flat_map(|size| size.to_le_bytes()));
            file.extend(kind.to_le_bytes());
            file.extend(offset.to_le_bytes());
        }
        file.resize(file.len().next_multiple_of(self.alignment), 0);
        file.extend((0..self.data).map(|at| at as u8));
        file
    }
}

/// A string as GGUF writes it.
pub fn string(text: impl AsRef<[u8]>) -> Vec<u8> {
    let text = text.as_ref();
    [&(text.len() as u64).to_le_bytes()[..], text].concat()
}

/// A small, seeded source of numbers (SplitMix64).
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ bits >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ bits >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^ bits >> 31
    }

    /// A number below `bound`, which is not 0.
    pub fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }
}

/// Opens bytes and says what was wrong with them.
pub fn error_of(bytes: impl Into<Vec<u8>>) -> String {
    match Checkpoint::from_bytes("hostile", bytes.into()) {
        Ok(checkpoint) => panic!("opened, with {} tensors", checkpoint.len()),
        Err(error) => error.to_string(),
    }
}

/// The dtype of a tensor.
pub fn dtype(checkpoint: &Checkpoint, name: &str) -> Dtype {
    checkpoint.info(name).expect(name).dtype
}
