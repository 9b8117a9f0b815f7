//! Finding the fixtures, reading them, comparing with them.

use std::path::{Path, PathBuf};

use burn::tensor::Tensor;
use fornax_backend::Device;
use fornax_checkpoint::Checkpoint;
use fornax_models::AutoModel;
use fornax_nn::{Batch, BatchSequence, Decoder, KvPoolConfig, Outputs};

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
    "gemma2",
    "gemma2_head_scale",
    "gemma2_no_caps",
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

/// The folder of a case. `FORNAX_TEST_FIXTURES` names the folder of all cases if the tests run on a machine that did not
/// build them.
pub fn folder(case: &str) -> PathBuf {
    let fixtures = std::env::var_os("FORNAX_TEST_FIXTURES").map(PathBuf::from);
    fixtures.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")).join(case)
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

    /// The rows of `input_ids` without the padding.
    pub fn texts(&self) -> Vec<Vec<u32>> {
        self.unpadded("input_ids")
    }

    /// The rows of a tensor of ids without the padding.
    pub fn unpadded(&self, name: &str) -> Vec<Vec<u32>> {
        let width = self.shape("input_ids")[1];
        let mask = if self.contains("attention_mask") { self.ids("attention_mask") } else { Vec::new() };
        let rows = self.ids(name);
        let kept = |row: usize, ids: &[i64]| -> Vec<u32> {
            let seen = |at: usize| mask.get(row * width + at).is_none_or(|&mask| mask == 1);
            ids.iter().enumerate().filter(|&(at, _)| seen(at)).map(|(_, &id)| id as u32).collect()
        };
        rows.chunks_exact(width).enumerate().map(|(row, ids)| kept(row, ids)).collect()
    }

    /// The same as a batch without a pool.
    pub fn batch(&self) -> Batch {
        batch(&self.texts())
    }
}

pub fn batch(texts: &[Vec<u32>]) -> Batch {
    Batch::uncached(&texts.iter().map(Vec::as_slice).collect::<Vec<_>>())
}

/// Logits at every token, `[rows, vocab_size]`.
pub fn logits(decoder: &Decoder, batch: &Batch) -> Vec<f32> {
    values(decoder.logits(decoder.forward(batch, None)))
}

/// Hidden states of texts that are computed in chunks through a pool, text after text. `piece(text, done)` gives the
/// number of tokens of the next chunk; `whole` says whether the full length of the text is known with each chunk.
pub fn in_pieces(
    decoder: &Decoder,
    texts: &[Vec<u32>],
    whole: bool,
    mut piece: impl FnMut(usize, usize) -> usize,
) -> Vec<Tensor<2>> {
    let blocks = |len: usize| len.div_ceil(KvPoolConfig::BLOCK_TOKENS);
    let all: usize = texts.iter().map(|text| blocks(text.len())).sum();
    let mut pool = decoder.kv_config().init(all, &decoder.device()).expect("memory");
    // Blocks are taken from both ends in turn, so that they are in no order.
    let mut free: std::collections::VecDeque<u32> = (0..all as u32).collect();
    let mut take = |count: usize| -> Vec<u32> {
        (0..count).map(|at| if at % 2 == 0 { free.pop_back() } else { free.pop_front() }.expect("enough")).collect()
    };
    let tables: Vec<Vec<u32>> = texts.iter().map(|text| take(blocks(text.len()))).collect();
    let mut done = vec![0; texts.len()];
    let mut states: Vec<Vec<Tensor<2>>> = vec![Vec::new(); texts.len()];
    while done.iter().zip(texts).any(|(&done, text)| done < text.len()) {
        let counts: Vec<usize> = texts
            .iter()
            .enumerate()
            .map(|(index, text)| piece(index, done[index]).min(text.len() - done[index]))
            .collect();
        let fed = |index: usize| counts[index] > 0;
        let sequences = (0..texts.len()).filter(|&index| fed(index)).map(|index| BatchSequence {
            tokens: &texts[index][done[index]..done[index] + counts[index]],
            past: done[index],
            blocks: &tables[index],
            len: if whole { texts[index].len() } else { 0 },
            outputs: Outputs::All,
        });
        let hidden = decoder.forward(&Batch::cached(sequences), Some(&mut pool));
        let mut row = 0;
        for index in (0..texts.len()).filter(|&index| fed(index)) {
            states[index].push(hidden.clone().narrow(0, row, counts[index]));
            row += counts[index];
            done[index] += counts[index];
        }
    }
    states.into_iter().map(|states| Tensor::cat(states, 0)).collect()
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
